package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/signer/systemd"
)

// statusEvery is how often the service manager is told the signer's state, where that has changed.
const statusEvery = 5 * time.Second

// manager tells the service manager how the signer is (sd_notify(3)). Where there is none, it does nothing.
type manager struct {
	*systemd.Notifier

	mu      sync.Mutex
	problem string // why the last reload changed nothing; guarded by mu
}

func newManager(log *zap.Logger) *manager { return &manager{Notifier: systemd.NewNotifier(log)} }

// run says that the signer is ready, then what its status is, and that it is alive as often as the service manager asks
// for (WatchdogSec=), until ctx ends and it says that the signer is stopping. The watchdog is for this process: it watches over its workers itself.
func (m *manager) run(ctx context.Context, status func() signer.Status) {
	m.Ready()
	every := statusEvery
	watchdog := m.Watchdog()
	if watchdog > 0 {
		every = min(every, watchdog/3)
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		m.Status(statusLine(status(), m.lastProblem()))
		if watchdog > 0 {
			m.Alive()
		}
		select {
		case <-ctx.Done():
			m.Stopping()
			return
		case <-ticker.C:
		}
	}
}

func (m *manager) lastProblem() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.problem
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
	return strings.Join(parts, "; ")
}

// reloaded ends what Reloading began.
func (m *manager) reloaded(err error) {
	m.mu.Lock()
	m.problem = ""
	if err != nil {
		m.problem = err.Error()
	}
	m.mu.Unlock()
	m.Ready()
}
