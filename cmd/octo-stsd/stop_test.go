package main

import (
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/ststest"
)

// A stop lets exchanges under way finish, refuses new connections at once, and
// ends with status 0 and a log that is complete: for both signals, in the clear
// and over TLS.
func TestStopFinishesWhatIsUnderWay(t *testing.T) {
	for _, c := range []struct {
		name   string
		signal os.Signal
		config ststest.ServiceConfig
	}{
		{"SIGTERM", syscall.SIGTERM, ststest.ServiceConfig{}},
		{"SIGINT, TLS", syscall.SIGINT, ststest.ServiceConfig{TLS: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, c.config)
			r.granted("acme/app", "reader")
			address := r.Address()
			answers := make(chan wireAnswer, 64)
			asked, release := r.holdExchanges(answers)
			if err := r.Signal(c.signal); err != nil {
				t.Fatal(err)
			}
			r.eventually("new connections are refused", func() bool {
				conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
				if err == nil {
					_ = conn.Close() // only whether it opens counts
				}
				return err != nil
			})
			if r.PID() == 0 || len(answers) > 0 {
				t.Errorf("%d of %d exchanges were answered before GitHub answered", len(answers), asked)
			}
			release()
			for range asked {
				if a := <-answers; a.Code != codes.OK || !r.GitHub.IsLive(a.Token) {
					t.Errorf("an exchange that was under way: %+v", a)
				} else if lines := r.audited(audit.Filter{RequestID: a.RequestID}); len(lines) != 2 || lines[1].TokenSHA256 != tokenSHA256(a.Token) {
					t.Errorf("an exchange that was under way: audit log: %+v", lines)
				}
			}
			if err := r.Wait(); err != nil {
				t.Errorf("octo-stsd ended with %v, want status 0", err)
			}
			r.account()
			if n := len(r.audited(audit.Filter{Kind: audit.Outcome, Decision: audit.DecisionGranted})); n != asked+1 {
				t.Errorf("%d grants in the audit log, want %d", n, asked+1)
			}
		})
	}
}

// holdExchanges asks for exchanges over every wire and returns once all of them
// wait for GitHub to mint, until release is called.
func (r *rig) holdExchanges(answers chan<- wireAnswer) (asked int, release func()) {
	r.t.Helper()
	held := make(chan struct{})
	var minting atomic.Int64
	r.GitHub.Fail(ststest.Fault{Route: ststest.MintRoute, Match: func(*http.Request) bool {
		minting.Add(1)
		<-held
		return false
	}})
	once := sync.OnceFunc(func() { close(held) })
	r.t.Cleanup(once)
	for range 3 {
		for _, w := range r.wires() {
			asked++
			idToken := r.job(nil)
			go func() { answers <- w.ask(r.t, "acme/app", "reader", idToken) }()
		}
	}
	r.eventually("all exchanges wait for GitHub", func() bool { return minting.Load() == int64(asked) })
	return asked, once
}

// A stop under load loses nobody who was let in: each connection is either
// refused or served.
func TestStopUnderLoad(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{Issuer: ststest.IssuerConfig{Alg: "ES256"}})
	l := r.startLoad(8, "issues", "acme/app")
	for range 5 {
		enough := l.granted() + 30
		r.eventually("load", func() bool { return l.granted() >= enough })
		if err := r.Restart(t.Context()); err != nil { // a status other than 0 is an error
			t.Fatal(err)
		}
	}
	l.end()
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	a := r.account()
	a.checkHeld(t, l)
	a.checkMinted(t, r.GitHub.Mints())
	if a.open != 0 || len(l.refused) != 0 || len(a.byToken) != l.granted() {
		t.Errorf("after nothing but graceful stops: %d intents without an outcome, %d tokens granted and %d received; refused: %v",
			a.open, len(a.byToken), l.granted(), l.refused)
	}
	t.Logf("5 restarts: %d granted, %d not let in", l.granted(), len(l.lost))
}

// A second daemon on the same audit log does not start, says why, and does not
// disturb the first.
func TestSecondDaemonOnOneAuditLog(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{})
	r.granted("acme/app", "reader")
	dir, err := rigPrograms()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(dir, "octo-stsd"), "serve", "--config", r.ConfigFile).CombinedOutput()
	last := strings.TrimSpace(string(out))
	last = last[strings.LastIndex(last, "\n")+1:]
	if exitStatus(err) != 1 || !strings.HasPrefix(last, "octo-stsd: opening audit log: ") || !strings.Contains(last, r.AuditDir) || !strings.Contains(last, "the audit log is open in another process") {
		t.Errorf("%v: %s", err, out)
	}
	r.granted("acme/app", "reader")
	if n := len(r.audited(audit.Filter{Kind: audit.Outcome})); n != 2 {
		t.Errorf("%d outcomes, want 2", n)
	}
}

// An exchange whose caller hangs up after the intent is finished and recorded,
// and its token does not stay alive in nobody's hands.
func TestCallerWhoHangsUp(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{})
	r.granted("acme/app", "issues")
	o := r.outcomeOfHangingUp()
	if o.Decision != audit.DecisionFailed || !strings.HasPrefix(o.Reason, "caller_gone: ") || !strings.HasSuffix(o.Reason, "; it was revoked") || o.TokenSHA256 == "" {
		t.Errorf("audited as %+v", o)
	}
	r.checkNothingLeaked()
	for _, m := range r.GitHub.LiveMints() {
		if m.TokenSHA256 == o.TokenSHA256 {
			t.Errorf("the token lives: %+v", m)
		}
	}
}

// Where GitHub does not take such a token back, the log says that it lives.
func TestCallerWhoHangsUpAndGitHubDoesNotRevoke(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{})
	r.granted("acme/app", "issues")
	r.GitHub.Fail(ststest.Fault{Route: ststest.RevokeRoute, Status: http.StatusInternalServerError})
	o := r.outcomeOfHangingUp()
	if o.Decision != audit.DecisionFailed || !strings.Contains(o.Reason, "it could not be revoked") || strings.Contains(o.Reason, "was revoked") {
		t.Errorf("audited as %+v", o)
	}
	lives := slices.ContainsFunc(r.GitHub.LiveMints(), func(m ststest.Mint) bool { return m.TokenSHA256 == o.TokenSHA256 })
	if !lives {
		t.Error("the token does not live: the log's reason would be false")
	}
}

// SIGHUP reloads what can be reloaded. Where there is nothing to reload it does
// nothing, above all not what a process does that never heard of it.
func TestSIGHUPWithNothingToReload(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{})
	pid := r.PID()
	for range 3 {
		if err := r.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		r.granted("acme/app", "reader")
	}
	if r.PID() != pid {
		t.Error("another process answers")
	}
}

// outcomeOfHangingUp is the outcome entry of an exchange whose caller hung up
// while GitHub minted. A daemon that has not noticed yet hands the token out:
// then once more.
func (r *rig) outcomeOfHangingUp() (o audit.Entry) {
	r.t.Helper()
	r.eventually("a daemon that notices", func() bool {
		before := len(r.account().outcomes)
		r.hangUpWhileMinting()
		r.eventually("the outcome", func() bool { return len(r.audited(audit.Filter{Kind: audit.Outcome})) > before })
		lines := r.audited(audit.Filter{Kind: audit.Outcome})
		o = lines[len(lines)-1]
		return o.Decision != audit.DecisionGranted
	})
	return o
}

// hangUpWhileMinting asks for an exchange and goes away while GitHub mints.
func (r *rig) hangUpWhileMinting() {
	r.t.Helper()
	minting, goOn := make(chan struct{}), make(chan struct{})
	fault := r.GitHub.Fail(ststest.Fault{Route: ststest.MintRoute, Count: 1, Match: func(*http.Request) bool {
		close(minting)
		<-goOn
		return true
	}})
	ctx, hangUp := context.WithCancel(r.t.Context())
	gone := make(chan error, 1)
	idToken := r.job(nil)
	go func() {
		_, err := r.Exchange(ctx, "acme/app", "issues", idToken)
		gone <- err
	}()
	<-minting
	fault.Clear()
	hangUp()
	if err := <-gone; err == nil {
		r.t.Error("a caller who went away got an answer")
	}
	time.Sleep(50 * time.Millisecond) // for the daemon to notice
	close(goOn)
}
