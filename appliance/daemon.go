package appliance

import (
	"context"
	"crypto/tls"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/signer/systemd"
	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/webhook"
)

// For how long the service manager is told that a start or a stop goes on. A large
// audit log that is not whole takes minutes to be read; a stop has limits of its own
// for everything but the disk.
const (
	startLimit = time.Hour
	stopLimit  = shutdownGrace + time.Minute
)

// What an exchange allocates is short-lived, and what lasts is a few megabytes:
// collecting at every doubling of so little would be a tenth of all the work. So
// the heap may grow to gcPercent of what lasts, until, under an attack, it comes
// near the limit. GOGC and GOMEMLIMIT in the environment go before both.
const (
	gcPercent   = 250
	memoryLimit = 256 << 20 // bytes, soft
)

// Daemon is octo-stsd, wired and listening.
type Daemon struct {
	*parts
	file         string // the configuration's
	copies       *copies
	checkpoints  *checkpoints
	covering     sync.WaitGroup    // Run's part of checkpoints
	finishCopies func()            // nil before Run
	webhook      *webhook.Receiver // nil: none is configured
	edge         *edge
	generations  *generations
	sockets      *sockets
	listeners    []*listener
	stoppable    []*stoppable
	certificates certificates // nil with tls.mode: off
	health       *health
	notify       *systemd.Notifier
	reloads      *reloads
	hangup       <-chan os.Signal
	checking     sync.Mutex         // held by the watchdog's check
	isStuck      atomic.Bool        // what that found
	background   context.Context    // of what runs until the end
	stop         context.CancelFunc // ends that
}

// New opens everything that the configuration names and listens, but serves
// nothing yet. What it starts in the background outlives ctx and ends with Run:
// exchanges under way need it to the last. Each hangup has Run read the
// configuration's file again.
func New(ctx context.Context, c *Config, version string, hangup <-chan os.Signal, logger *zap.Logger) (_ *Daemon, err error) {
	d := &Daemon{
		parts:       &parts{version: version, logger: logger, signer: signer.NewClient(c.Signer.Socket), counts: newMetrics()},
		file:        c.file,
		generations: &generations{began: time.Now()},
		notify:      systemd.NewNotifier(logger),
		reloads:     &reloads{good: time.Now()},
		hangup:      hangup,
	}
	d.background, d.stop = context.WithCancel(context.WithoutCancel(ctx))
	defer d.notify.Busy("starting", startLimit)()
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if d.tracing, err = newTracing(ctx, c, version, logger); err != nil {
		return nil, err
	}
	if err := d.openLog(ctx, c); err != nil {
		return nil, err
	}
	first, err := d.newGeneration(d.background, c)
	if err != nil {
		return nil, err
	}
	d.generations.current.Store(first)
	var deliveries http.Handler
	if len(c.Webhook.Secrets) > 0 {
		config, err := d.webhookConfig(c, first.github)
		if err != nil {
			return nil, err
		}
		if d.webhook, err = webhook.New(ctx, config); err != nil {
			return nil, err
		}
		deliveries = d.webhook
	}
	if d.edge, err = newEdge(c, d.counts, d.tracing.handler(d.generations), d.tracing.handler(deliveries)); err != nil {
		return nil, err
	}
	go recallGrants(d.background, c, first.service, d.edge.connections.guests, logger)
	if d.certificates, err = newCertificates(c, logger); err != nil {
		return nil, err
	}
	if d.certificates != nil {
		measureCertificate(d.certificates, d.counts)
	}
	d.health = &health{d.certificates, d.audit, d.copies, d.checkpoints, d.signer, d.generations, d.webhook, d.reloads, d.tracing}
	d.measureState()
	return d, d.listen(ctx, c)
}

// openLog opens the audit log and the state, and what follows the log.
func (d *Daemon) openLog(ctx context.Context, c *Config) (err error) {
	d.audit, err = audit.Open(ctx, audit.Config{Directory: c.Audit.Directory, Origin: c.Audit.Origin, Logger: d.logger,
		ObserveAppend: d.counts.appended, ObserveWrite: d.counts.written})
	if err != nil {
		return explainOwner(err, c.Audit.Directory)
	}
	if d.state, err = openState(c.StateDirectory); err != nil {
		return err
	}
	if d.copies, err = newCopies(ctx, c.Audit, d.audit, d.state, d.logger); err != nil {
		return err
	}
	d.copies.measure(d.counts)
	if d.checkpoints, err = newCheckpoints(ctx, c.Audit, d.audit, d.signer, d.copies.signed, d.logger); err != nil {
		return err
	}
	d.checkpoints.measure(d.counts)
	return nil
}

func (d *Daemon) listen(ctx context.Context, c *Config) error {
	plain := redirectToHTTPS(c.Domain)
	var publicTLS *tls.Config
	var err error
	if d.sockets, err = openSockets(ctx, c, d.logger); err != nil {
		return err
	}
	if d.certificates != nil {
		publicTLS = d.certificates.config()
		if len(d.sockets.byName["http"]) > 0 {
			plain = d.certificates.challenges(plain)
		}
	}
	for _, l := range []struct {
		name    string
		handler http.Handler
		tls     *tls.Config
	}{
		{"https", d.counts.requests.counting(publicEndpoint, d.edge), publicTLS},
		{"http", plain, nil},
		{"admin", adminHandler(d.health, d.counts, newProbes(d.health, d.parts, d.background)), nil},
	} {
		if nets := d.sockets.byName[l.name]; len(nets) > 0 {
			d.listeners = append(d.listeners, newListener(l.name, nets, l.handler, l.tls, d.logger))
		}
	}
	for _, l := range d.listeners {
		d.stoppable = append(d.stoppable, l.stoppable...)
		if l.name != "admin" {
			d.edge.guard(l)
			continue
		}
		for i, on := range l.nets {
			l.nets[i] = &newest{Listener: on, most: adminConnections}
		}
	}
	return nil
}

// Run serves until ctx is done, lets exchanges under way finish, and closes the
// audit log and the state last. Its last entries get a checkpoint.
func (d *Daemon) Run(ctx context.Context) error {
	defer d.close()
	runtime.GOMAXPROCS(max(2, runtime.GOMAXPROCS(0))) // a write to the disk would otherwise hold the only one
	d.covering.Go(d.checkpoints.follow)
	serving, ctx := errgroup.WithContext(ctx)
	for _, l := range d.listeners {
		for _, on := range l.nets {
			d.logger.Info("listening", zap.String("listener", l.name), zap.String("address", on.Addr().String()), zap.Bool("passed", d.sockets.passed && l.name != "admin"))
			serving.Go(func() error { return l.serve(on) })
		}
	}
	if d.certificates != nil {
		serving.Go(func() error { d.certificates.run(ctx); return nil })
	}
	d.finishCopies = d.copies.start()
	if d.webhook != nil {
		serving.Go(func() error { return d.webhook.Run(ctx) })
	}
	serving.Go(func() error { d.accompany(ctx); return nil })
	serving.Go(func() error {
		<-ctx.Done()
		d.logger.Info("stopping")
		d.notify.Stopping()
		return d.shutdown()
	})
	return serving.Wait()
}

// accompany tells the service manager that the daemon serves, and then how it is,
// and reloads the configuration when it is asked to.
func (d *Daemon) accompany(ctx context.Context) {
	for _, s := range d.stoppable {
		select {
		case <-s.serving:
		case <-ctx.Done():
			return
		}
	}
	d.notify.Ready()
	var all sync.WaitGroup
	all.Go(func() { d.answerWatchdog(ctx) })
	all.Go(func() { d.report(ctx) })
	d.reloadOnHangup(ctx)
	all.Wait()
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
	defer d.notify.Busy("stopping", stopLimit)()
	defer d.tracing.close()
	if d.sockets != nil {
		systemd.CloseAll(d.sockets.byName) // already closed where they were served
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
