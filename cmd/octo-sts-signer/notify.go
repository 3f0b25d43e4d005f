package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/octo-sts/appliance/signer"
)

// statusEvery is how often the service manager is told the signer's state, where that has changed.
const statusEvery = 5 * time.Second

// manager tells the service manager how the signer is (sd_notify(3)). Where there is none, it does nothing.
type manager struct {
	log *zap.Logger

	mu      sync.Mutex
	problem string // why the last reload changed nothing; guarded by mu
	told    string // the last status; guarded by mu
}

func newManager(log *zap.Logger) *manager { return &manager{log: log} }

// run says that the signer is ready, then what its status is, and that it is alive as often as the service manager asks
// for (WatchdogSec=), until ctx ends and it says that the signer is stopping. The watchdog is for this process: it watches over its workers itself.
func (m *manager) run(ctx context.Context, status func() signer.Status) {
	m.notify(daemon.SdNotifyReady)
	every := statusEvery
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		m.log.Warn("the service manager's watchdog is not served", zap.Error(err))
	}
	if watchdog > 0 {
		every = min(every, watchdog/3)
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		m.tell(status())
		if watchdog > 0 {
			m.notify(daemon.SdNotifyWatchdog)
		}
		select {
		case <-ctx.Done():
			m.notify(daemon.SdNotifyStopping)
			return
		case <-ticker.C:
		}
	}
}

// tell sends the status as one line, where it is another than before.
func (m *manager) tell(s signer.Status) {
	m.mu.Lock()
	defer m.mu.Unlock()
	line := "STATUS=" + statusLine(s, m.problem)
	if line != m.told {
		m.told = line
		m.notify(line)
	}
}

func statusLine(s signer.Status, problem string) string {
	var parts []string
	for i, h := range s.HSMs {
		switch {
		case h.Active:
			parts = append(parts, fmt.Sprintf("HSM %d signs", i))
		case h.Open:
			parts = append(parts, fmt.Sprintf("HSM %d stands by", i))
		default:
			parts = append(parts, fmt.Sprintf("HSM %d is away: %s", i, h.Error))
		}
	}
	for _, a := range s.Apps {
		if !a.Ready {
			parts = append(parts, fmt.Sprintf("App %d is not ready", a.AppID))
		}
	}
	if problem != "" {
		parts = append(parts, "the configuration on disk is not in force: "+problem)
	}
	return strings.ReplaceAll(strings.Join(parts, "; "), "\n", ", ")
}

// reloading says so in the form that Type=notify-reload wants (systemd.service(5)): with the monotonic time.
func (m *manager) reloading() {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		m.log.Warn("reading the monotonic clock failed", zap.Error(err))
	}
	m.notify(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/1000))
}

func (m *manager) reloaded(err error) {
	m.mu.Lock()
	m.problem = ""
	if err != nil {
		m.problem = err.Error()
	}
	m.mu.Unlock()
	m.notify(daemon.SdNotifyReady)
}

func (m *manager) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		m.log.Warn("telling the service manager failed", zap.Error(err))
	}
}
