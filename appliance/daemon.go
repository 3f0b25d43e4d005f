package appliance

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/sts"
	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/webhook"
)

// shutdownGrace is how long exchanges under way get to finish.
const shutdownGrace = sts.MaxDuration + 5*time.Second

// What an exchange allocates is short-lived, and what lasts is a few megabytes:
// collecting at every doubling of so little would be a tenth of all the work. So
// the heap may grow to gcPercent of what lasts, until, under an attack, it comes
// near the limit. GOGC and GOMEMLIMIT in the environment go before both.
const (
	gcPercent   = 350
	memoryLimit = 256 << 20 // bytes, soft
)

// Daemon is octo-stsd, wired and listening.
type Daemon struct {
	logger       *zap.Logger
	state        *bbolt.DB
	audit        *audit.Log
	copies       *copies
	checkpoints  *checkpoints
	covering     sync.WaitGroup    // Run's part of checkpoints
	finishCopies func()            // nil before Run
	webhook      *webhook.Receiver // nil: none is configured
	listeners    []*listener
	certificates *certificateFiles  // nil with tls.mode: off
	reload       chan os.Signal     // SIGHUP
	stop         context.CancelFunc // ends what runs in the background
}

// New opens everything that the configuration names and listens, but serves
// nothing yet. What it starts in the background outlives ctx and ends with Run:
// exchanges under way need it to the last.
func New(ctx context.Context, c *Config, version string, logger *zap.Logger) (_ *Daemon, err error) {
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	d := &Daemon{logger: logger, reload: make(chan os.Signal, 1), stop: stop}
	signal.Notify(d.reload, syscall.SIGHUP) // caught in any case: it must not end the daemon
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	d.audit, err = audit.Open(ctx, audit.Config{Directory: c.Audit.Directory, Origin: c.Audit.Origin, Logger: logger})
	if err != nil {
		return nil, err
	}
	if d.state, err = openState(c.StateDirectory); err != nil {
		return nil, err
	}
	counts := newMetrics()
	if d.copies, err = newCopies(ctx, c.Audit, d.audit, d.state, logger); err != nil {
		return nil, err
	}
	d.copies.measure(counts)
	signerClient := signer.NewClient(c.Signer.Socket)
	if d.checkpoints, err = newCheckpoints(ctx, c.Audit, d.audit, signerClient, d.copies.signed, logger); err != nil {
		return nil, err
	}
	d.checkpoints.measure(counts)
	verifier, err := newVerifier(background, c, logger)
	if err != nil {
		return nil, err
	}
	github, err := newGitHub(background, c, d.state, signerClient, version, logger)
	if err != nil {
		return nil, err
	}
	service, err := newService(ctx, c, verifier, github, d.audit, counts, logger)
	if err != nil {
		return nil, err
	}
	go recallGrants(background, c, service, logger)
	exchange, err := newAdmission(c.Limits, counts.shedBy, sts.NewHandler(service))
	if err != nil {
		return nil, err
	}
	public := &edge{exchange: exchange, shed: counts.shedBy}
	if len(c.Webhook.Secrets) > 0 {
		if d.webhook, err = newWebhook(ctx, c, d.state, github, d.audit, counts, logger); err != nil {
			return nil, err
		}
		public.webhook = d.webhook
	}
	return d, d.listen(ctx, c, public, adminHandler(&health{d.audit, d.copies, d.checkpoints, signerClient, github, verifier, d.webhook}, counts))
}

func (d *Daemon) listen(ctx context.Context, c *Config, public, admin http.Handler) error {
	var publicTLS *tls.Config
	if c.TLS.Mode == "files" {
		certificates, err := newCertificateFiles(c.TLS.Files, d.logger)
		if err != nil {
			return err
		}
		d.certificates, publicTLS = certificates, certificates.config()
	}
	for _, l := range []struct {
		name, address string
		handler       http.Handler
		tls           *tls.Config
	}{
		{"https", c.Listen.HTTPS, public, publicTLS},
		{"http", c.Listen.HTTP, redirectToHTTPS(c.Domain), nil},
		{"admin", c.Listen.Admin, admin, nil},
	} {
		if l.address == "" {
			continue
		}
		opened, err := listen(ctx, l.name, l.address, l.handler, l.tls, d.logger)
		if err != nil {
			return err
		}
		d.listeners = append(d.listeners, opened)
	}
	return nil
}

// Run serves until ctx is done, lets exchanges under way finish, and closes the
// audit log and the state last. Its last entries get a checkpoint.
func (d *Daemon) Run(ctx context.Context) error {
	defer d.close()
	d.covering.Go(d.checkpoints.follow)
	serving, ctx := errgroup.WithContext(ctx)
	for _, l := range d.listeners {
		d.logger.Info("listening", zap.String("listener", l.name), zap.String("address", l.net.Addr().String()))
		serving.Go(l.serve)
	}
	if d.certificates != nil {
		serving.Go(func() error { d.certificates.watch(ctx, d.reload); return nil })
	}
	d.finishCopies = d.copies.start()
	if d.webhook != nil {
		serving.Go(func() error { return d.webhook.Run(ctx) })
	}
	serving.Go(func() error {
		<-ctx.Done()
		d.logger.Info("stopping")
		return d.shutdown()
	})
	return serving.Wait()
}

// shutdown refuses new connections at once and waits for requests under way.
func (d *Daemon) shutdown() error {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownGrace)
	defer cancel()
	var errs []error
	for _, l := range d.listeners {
		if err := l.server.Shutdown(ctx); err != nil {
			errs = append(errs, fmt.Errorf("stopping %s: %w", l.name, err))
		}
	}
	return errors.Join(errs...)
}

// CollectLess tells the garbage collector what the constants above say. It is for
// main to call: it is about the whole process.
func CollectLess() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
}

// close releases what New opened.
func (d *Daemon) close() {
	defer d.stop()
	signal.Stop(d.reload)
	for _, l := range d.listeners {
		_ = l.net.Close() // already closed where it was served
	}
	if d.audit != nil {
		if err := d.audit.Close(); err != nil {
			d.logger.Error("closing the audit log", zap.Error(err))
		}
	}
	d.covering.Wait() // before the copies: they take the last checkpoint, too
	if d.finishCopies != nil {
		d.finishCopies()
	}
	if d.state != nil {
		if err := d.state.Close(); err != nil {
			d.logger.Error("closing the state", zap.Error(err))
		}
	}
}
