package systemd

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// Notifier tells the service manager how the service is. It is safe for concurrent
// use. Where $NOTIFY_SOCKET is not set, it tells nobody.
type Notifier struct {
	logger *zap.Logger

	mu     sync.Mutex // guards the rest
	status string     // told last
}

// NewNotifier returns a Notifier that logs what could not be told.
func NewNotifier(logger *zap.Logger) *Notifier { return &Notifier{logger: logger} }

// Ready says that the service serves: after its start, and after a reload.
func (n *Notifier) Ready() { n.send(daemon.SdNotifyReady) }

// Stopping says that the service has begun to stop.
func (n *Notifier) Stopping() { n.send(daemon.SdNotifyStopping) }

// Reloading says that the configuration is being read again. The time is what
// Type=notify-reload wants (systemd.service(5)); older service managers ignore it.
func (n *Notifier) Reloading() {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		n.logger.Warn("reading the monotonic clock failed", zap.Error(err))
	}
	n.send(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/1000))
}

// busyEvery is how often Busy says so, and busyFor for how long each time.
const (
	busyEvery = 5 * time.Second
	busyFor   = 20 * time.Second
)

// Busy says what a start or a stop is at, and that it is not stuck, until done is
// called: for atMost, after which the service manager's own limit counts.
func (n *Notifier) Busy(status string, atMost time.Duration) (done func()) {
	n.Status(status)
	ended := make(chan struct{})
	go func() {
		ticker := time.NewTicker(busyEvery)
		defer ticker.Stop()
		for began := time.Now(); time.Since(began) < atMost; {
			select {
			case <-ended:
				return
			case <-ticker.C:
				n.send(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", busyFor.Microseconds()))
			}
		}
	}()
	return sync.OnceFunc(func() { close(ended) })
}

// Alive answers the watchdog.
func (n *Notifier) Alive() { n.send(daemon.SdNotifyWatchdog) }

// Status tells the one line that systemctl status shows, where it is another than
// before.
func (n *Notifier) Status(line string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if line = strings.ReplaceAll(line, "\n", ", "); line != n.status {
		n.status = line
		n.send("STATUS=" + line)
	}
}

// Watchdog is how often at least Alive has to be called (WatchdogSec=); 0: never.
func (n *Notifier) Watchdog() time.Duration {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		n.logger.Warn("the service manager's watchdog is not served", zap.Error(err))
	}
	return interval
}

func (n *Notifier) send(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		n.logger.Warn("telling the service manager failed", zap.Error(err))
	}
}
