package main

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/ststest"
)

// smallDisk is a file system of a few pages for an audit log, on top of which a
// ballast file takes all the room or gives it back.
type smallDisk struct {
	t         *testing.T
	directory string
}

func newSmallDisk(t *testing.T) *smallDisk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a small file system to fill needs root")
	}
	d := &smallDisk{t, t.TempDir()}
	if err := unix.Mount("tmpfs", d.directory, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=512k"); err != nil {
		t.Skipf("mounting a small file system to fill: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(d.directory, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (d *smallDisk) ballast() string { return filepath.Join(d.directory, "ballast") }

// fill takes every page that is free. May be called from any goroutine.
func (d *smallDisk) fill() {
	f, err := os.OpenFile(d.ballast(), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		d.t.Errorf("filling the disk: %v", err)
		return
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, os.Getpagesize()))
	}
	if !errors.Is(err, unix.ENOSPC) {
		d.t.Errorf("filling the disk: %v", err)
	}
}

func (d *smallDisk) empty() {
	if err := os.Remove(d.ballast()); err != nil && !errors.Is(err, os.ErrNotExist) {
		d.t.Error(err)
	}
}

// A disk that is full refuses exchanges before anything is minted, and they go
// on by themselves when there is room.
func TestFullDiskRefusesAndRecovers(t *testing.T) {
	disk := newSmallDisk(t)
	r := newRig(t, ststest.ServiceConfig{Edit: disk.configure})
	r.AuditDir = disk.log()
	r.granted("acme/app", "issues")
	disk.fill()
	// The last page that the log has may hold a few lines more.
	var x ststest.Exchanged
	r.eventually("a refusal", func() bool {
		x = r.exchange("acme/app", "issues", r.job(nil))
		return x.Status != http.StatusOK
	})
	minted, slowest := len(r.GitHub.Mints()), time.Duration(0)
	for range 20 {
		idToken, began := r.job(nil), time.Now()
		x = r.exchange("acme/app", "issues", idToken)
		slowest = max(slowest, time.Since(began))
		if x.Status != http.StatusServiceUnavailable || x.Token != "" {
			t.Errorf("with a full disk: %d %s", x.Status, x.Body)
		}
	}
	if n := len(r.GitHub.Mints()); n != minted {
		t.Errorf("with a full disk %d tokens were minted", n-minted)
	}
	if status, state, checks := r.readiness(); status != http.StatusServiceUnavailable || state != "failing" || !strings.Contains(checks["audit"], "no room") {
		t.Errorf("/readyz: %d %s %v", status, state, checks)
	}
	disk.empty()
	emptied := time.Now()
	r.eventually("recovery", func() bool { return r.exchange("acme/app", "issues", r.job(nil)).Status == http.StatusOK })
	t.Logf("with a full disk the slowest of 20 refusals took %s; %s after there was room an exchange was granted", slowest, time.Since(emptied))
	if slowest > patience/4 {
		t.Errorf("a refusal took %s", slowest)
	}
	if status, state, checks := r.readiness(); status != http.StatusOK || state != "ready" {
		t.Errorf("/readyz after recovery: %d %s %v", status, state, checks)
	}
	r.checkNothingLeaked()
}

// The disk fills up between an intent and its outcome: the token that was minted
// in between does not leave, and is revoked.
func TestDiskFullBetweenIntentAndOutcome(t *testing.T) {
	disk := newSmallDisk(t)
	r := newRig(t, ststest.ServiceConfig{Edit: disk.configure})
	r.AuditDir = disk.log()
	r.granted("acme/app", "issues")
	r.GitHub.Fail(ststest.Fault{Route: ststest.MintRoute, Match: func(*http.Request) bool {
		disk.fill()
		return false
	}})
	// An outcome that fits into the page that its intent had to take is granted;
	// before long, one does not fit.
	var withheld ststest.Exchanged
	r.eventually("an outcome that does not fit", func() bool {
		x := r.exchange("acme/app", "issues", r.job(nil))
		disk.empty()
		r.eventually("room", func() bool { return r.Ready(t.Context()) == nil })
		withheld = x
		return x.Status != http.StatusOK
	})
	lines := r.audited(audit.Filter{RequestID: withheld.RequestID})
	if withheld.Status != http.StatusServiceUnavailable || len(lines) != 1 || lines[0].Kind != audit.Intent {
		t.Errorf("%d %s, audited as %+v", withheld.Status, withheld.Body, lines)
	}
	mints := r.GitHub.Mints()
	if last := mints[len(mints)-1]; last.Revoked.IsZero() || last.AllRepositories {
		t.Errorf("a token that was minted and withheld lives: %+v", last)
	}
	r.checkNothingLeaked()
}

// checkNothingLeaked stops the daemon and looks at everything: a token that is
// alive at GitHub is the daemon's own for reading policies, or has its outcome.
func (r *rig) checkNothingLeaked() {
	r.t.Helper()
	if err := r.Stop(); err != nil {
		r.t.Fatal(err)
	}
	a := r.account()
	for _, m := range r.GitHub.LiveMints() {
		if _, known := a.byToken[m.TokenSHA256]; !known && !m.AllRepositories {
			r.t.Errorf("alive and in no outcome: %+v", m)
		}
	}
	a.checkMinted(r.t, r.GitHub.Mints())
}

// log is the audit directory on the disk.
func (d *smallDisk) log() string { return filepath.Join(d.directory, "audit") }

func (d *smallDisk) configure(config map[string]any) {
	config["audit"] = map[string]any{"directory": d.log()}
}
