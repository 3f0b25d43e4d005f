package ststest

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/octo-sts/appliance/signer/signertest"
)

// ServiceConfig says how to run the appliance. BinDir is needed; the rest has
// defaults.
type ServiceConfig struct {
	// BinDir is where `make build` put octo-stsd and octo-sts-signer.
	BinDir string
	// Domain, which is also the default audience of the issuer's tokens.
	// Default: sts.example.com.
	Domain string
	// Apps to serve as. Default: one, DefaultApp.
	Apps []ServiceApp
	// TLS serves https with a throw-away certificate (tls.mode: files; see
	// Service.CAPEM). Default: tls.mode: off.
	TLS bool
	// GitHub and Issuer configure the two fakes. Issuer.Audience is the domain
	// where it is empty.
	GitHub GitHubConfig
	Issuer IssuerConfig
	// Edit changes the daemon's configuration, as octo-stsd.yaml nests it,
	// before it is written.
	Edit func(config map[string]any)
	// Wrap is a command that octo-stsd is run under, as strace with its flags.
	Wrap []string
	// Env is added to the daemon's environment, as NAME=value.
	Env []string
	// Prepare changes the command that each start of octo-stsd is, as a service
	// manager does that passes sockets.
	Prepare func(*exec.Cmd)
	// Webhook configures a webhook secret (Service.WebhookSecret) and, after each
	// start, has the fake GitHub deliver every App's events to /webhook.
	Webhook bool
	// Probe is the scope of the probe, OWNER/NAME: where it is set, the signer makes ID
	// tokens for probes, and octo-stsd is configured to probe itself.
	Probe string
	// HSMs is how many tokens the signer has. Default: one.
	HSMs int
	// Shim stands before the first of them, and does wrong what it is told to.
	Shim *signertest.Shim
	// Unready returns from Start and Restart once the daemon listens. Default:
	// once /readyz says that it serves exchanges.
	Unready bool
}

// ServiceApp is a GitHub App that the appliance serves as. Its key is made,
// imported into the signer's token, and known nowhere else.
type ServiceApp struct {
	ID            int64
	Organizations []string          // default: ["*"]
	Permissions   map[string]string // default: DefaultPermissions
}

// DefaultApp is the ID of the App where ServiceConfig names none.
const DefaultApp int64 = 1234

// DefaultPermissions are those of an App that names none.
func DefaultPermissions() map[string]string {
	return map[string]string{"contents": "write", "issues": "write", "pull_requests": "write", "checks": "write", "merge_queues": "read", "workflows": "write"}
}

// Service is a whole appliance: octo-stsd and octo-sts-signer as processes,
// with SoftHSM, a fake GitHub and an issuer. Stop, Kill, Restart and Close
// belong to one goroutine at a time; the other methods may be called from any.
type Service struct {
	GitHub *GitHub
	Issuer *Issuer
	Signer *signertest.Signer
	// Dir holds all files and is removed at Close; AuditDir and ConfigFile are
	// the daemon's.
	Dir, AuditDir, ConfigFile string
	// WebhookSecret is what deliveries are signed with; "" without Webhook.
	WebhookSecret string

	config ServiceConfig
	ca     *authority // behind the daemon's certificate; nil without TLS
	client *http.Client
	logs   *logs
	cancel context.CancelFunc // ends the fakes and the signer

	mu     sync.Mutex // guards the rest
	daemon *daemon    // nil while stopped
}

// Start makes everything and starts it. Where octo-stsd ends by itself, the
// error wraps an *exec.ExitError and holds what it said. All of it ends with
// ctx, too.
func Start(ctx context.Context, c ServiceConfig) (_ *Service, err error) {
	if c.Domain == "" {
		c.Domain = "sts.example.com"
	}
	if c.Apps == nil {
		c.Apps = []ServiceApp{{ID: DefaultApp}}
	}
	if c.Issuer.Audience == "" {
		c.Issuer.Audience = c.Domain
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &Service{config: c, logs: newLogs(), cancel: cancel}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := s.makeDir(); err != nil {
		return nil, err
	}
	if s.GitHub, err = NewGitHub(ctx, c.GitHub); err != nil {
		return nil, err
	}
	if s.Issuer, err = NewIssuer(ctx, c.Issuer); err != nil {
		return nil, err
	}
	if err := s.startSigner(ctx); err != nil {
		return nil, err
	}
	if err := s.writeConfig(); err != nil {
		return nil, err
	}
	s.client = newClient(nil)
	if s.ca != nil {
		s.client = newClient(s.ca.pool())
	}
	if err := s.startDaemon(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// makeDir makes the directories. A unix socket's path has at most 107 bytes,
// so where the temporary directory is deep, /tmp serves.
func (s *Service) makeDir() error {
	parent := os.TempDir()
	if len(parent) > 60 {
		parent = "/tmp"
	}
	dir, err := os.MkdirTemp(parent, "octo-sts-")
	if err != nil {
		return fmt.Errorf("making a directory for the service: %w", err)
	}
	s.Dir, s.AuditDir, s.ConfigFile = dir, filepath.Join(dir, "audit"), filepath.Join(dir, "octo-stsd.yaml")
	for _, name := range []string{"audit", "state", "signer"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			return fmt.Errorf("making a directory for the service: %w", err)
		}
	}
	return nil
}

// startSigner starts the signer and makes its Apps known to the fake GitHub.
func (s *Service) startSigner(ctx context.Context) error {
	var ids []int64
	for _, a := range s.config.Apps {
		ids = append(ids, a.ID)
	}
	signer, err := signertest.Start(ctx, signertest.Config{
		Binary: filepath.Join(s.config.BinDir, "octo-sts-signer"), Dir: filepath.Join(s.Dir, "signer"), AppIDs: ids,
		Origin: s.config.Domain + "/audit", HSMs: s.config.HSMs, Shim: s.config.Shim, ProbeIssuer: s.probeIssuer(),
	})
	if err != nil {
		return err
	}
	s.Signer = signer
	for _, a := range s.config.Apps {
		permissions := a.Permissions
		if permissions == nil {
			permissions = DefaultPermissions()
		}
		s.GitHub.AddApp(a.ID, signer.PublicKey(a.ID), permissions)
	}
	return nil
}

// URL is where the exchange is served, without a trailing slash. Each start of
// the daemon has another.
func (s *Service) URL() string {
	scheme := "http://"
	if s.ca != nil {
		scheme = "https://"
	}
	return scheme + s.address("https")
}

// Address is host:port of the exchange, for gRPC clients.
func (s *Service) Address() string { return s.address("https") }

// AdminURL is where health and metrics are served, without a trailing slash.
func (s *Service) AdminURL() string { return "http://" + s.address("admin") }

// address of a listener of the daemon's last start.
func (s *Service) address(listener string) string { return s.logs.address(listener) }

// CAPEM is the certificate of the authority behind the daemon's certificate;
// nil without TLS.
func (s *Service) CAPEM() []byte {
	if s.ca == nil {
		return nil
	}
	return s.ca.pem
}

// Roots is CAPEM as a pool; nil without TLS.
func (s *Service) Roots() *x509.CertPool {
	if s.ca == nil {
		return nil
	}
	return s.ca.pool()
}

// Logs is everything that the daemon has written to its standard output and
// error so far, over all restarts.
func (s *Service) Logs() string { return s.logs.String() }

// PID is the daemon's process ID (of the wrapper with ServiceConfig.Wrap), 0
// while it does not run.
func (s *Service) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.daemon == nil {
		return 0
	}
	return s.daemon.cmd.Process.Pid
}

// errNotRunning is what Stop and Kill say of a daemon that does not run.
var errNotRunning = errors.New("octo-stsd is not running")

// Signal sends the daemon a signal and does not wait.
func (s *Service) Signal(sig os.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.daemon == nil {
		return errNotRunning
	}
	return s.daemon.cmd.Process.Signal(sig)
}

// Wait waits for the daemon to end by itself, or after Signal, and returns
// how: nil for exit status 0.
func (s *Service) Wait() error {
	s.mu.Lock()
	d := s.daemon
	s.mu.Unlock()
	if d == nil {
		return errNotRunning
	}
	<-d.done
	s.mu.Lock()
	s.daemon = nil
	s.mu.Unlock()
	return d.err
}

// stopWait is a safety limit for a graceful stop: longer than the daemon gives
// exchanges under way. After it the daemon is killed.
const stopWait = 60 * time.Second

// Stop sends SIGTERM and waits. It is an error where the daemon ends with
// another status than 0, or had done so by itself.
func (s *Service) Stop() error {
	if err := s.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	limit := time.AfterFunc(stopWait, func() { _ = s.Signal(os.Kill) })
	defer limit.Stop()
	if err := s.Wait(); err != nil {
		return fmt.Errorf("stopping octo-stsd: %w\n%s", err, s.logs.tail())
	}
	return nil
}

// Kill sends SIGKILL and waits. A daemon that ended by itself is no error.
func (s *Service) Kill() error {
	if err := s.Signal(os.Kill); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	_ = s.Wait() // it says that the daemon was killed
	return nil
}

// Restart stops the daemon where it runs and starts it again with the same
// files; so changes of ConfigFile count.
func (s *Service) Restart(ctx context.Context) error {
	if s.PID() != 0 {
		if err := s.Stop(); err != nil {
			return err
		}
	}
	return s.startDaemon(ctx)
}

// Close ends everything at once and removes its files. It can be called more
// than once.
func (s *Service) Close() error {
	err := s.Kill()
	if errors.Is(err, errNotRunning) {
		err = nil
	}
	if s.Signer != nil {
		_ = s.Signer.Kill() // an error says that it does not run, which is what is wanted
	}
	if s.client != nil {
		s.client.CloseIdleConnections()
	}
	s.cancel()
	if s.GitHub != nil {
		s.GitHub.Close()
	}
	if s.Issuer != nil {
		s.Issuer.Close()
	}
	if s.Dir != "" {
		err = errors.Join(err, os.RemoveAll(s.Dir))
	}
	if err != nil {
		return fmt.Errorf("ending the service: %w", err)
	}
	return nil
}
