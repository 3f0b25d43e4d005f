package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/audit/checkpoint"
	"github.com/octo-sts/appliance/sts/ststest"
)

// signedSize is the size of the newest checkpoint in the audit directory, which the HSM's key must have signed; 0 where
// there is none.
func (r *rig) signedSize() uint64 {
	r.t.Helper()
	note, err := os.ReadFile(filepath.Join(r.AuditDir, "checkpoint"))
	if os.IsNotExist(err) {
		return 0
	}
	if err != nil {
		r.t.Fatal(err)
	}
	key, err := checkpoint.ParseKey(r.Signer.VerifierKey())
	if err != nil {
		r.t.Fatal(err)
	}
	c, err := checkpoint.Open(note, key)
	if err != nil || c.Origin != "sts.example.com/audit" {
		r.t.Fatalf("%+v, %v", c, err)
	}
	return c.Size
}

// entries counts what is in the audit log.
func (r *rig) entries() uint64 { return uint64(len(r.audited(audit.Filter{}))) }

// Soon after an exchange a checkpoint that the HSM signed covers its entries; a stop leaves none uncovered.
func TestEntriesAreCoveredByCheckpoints(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{})
	r.granted("acme/app", "reader")
	r.eventually("a checkpoint of all entries", func() bool { return r.signedSize() == r.entries() })
	if r.signedSize() < 2 {
		t.Fatalf("it has size %d", r.signedSize())
	}
	for range 3 {
		r.granted("acme/app", "reader")
	}
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	if signed, all := r.signedSize(), r.entries(); signed != all {
		t.Errorf("after a stop, %d of %d entries are covered", signed, all)
	}
	if err := r.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.granted("acme/app", "reader")
	r.eventually("a checkpoint of the entries after a restart", func() bool { return r.signedSize() == r.entries() })
	r.awaitReadiness(http.StatusOK, "ready")
	if _, _, checks := r.readiness(); !strings.HasPrefix(checks["checkpoint"], "ready: size ") {
		t.Errorf("/readyz: %q", checks["checkpoint"])
	}
}

// While the signer is away entries go on, and are covered once it is back.
func TestCheckpointsWaitForTheSigner(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{})
	r.granted("acme/app", "reader")
	if err := r.Signer.Kill(); err != nil {
		t.Fatal(err)
	}
	r.granted("acme/app", "reader")
	r.eventually("/readyz to say that entries wait for their checkpoint", func() bool {
		status, state, checks := r.readiness()
		return status == http.StatusOK && state == "degraded" && strings.HasPrefix(checks["checkpoint"], "degraded: ") && strings.Contains(checks["checkpoint"], "entries are not since")
	})
	if err := r.Signer.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.eventually("a checkpoint of all entries", func() bool { return r.signedSize() == r.entries() })
	r.awaitReadiness(http.StatusOK, "ready")
}

// A log that was put back to an older state, all of it, is not signed again: exchanges go on, and /readyz is loud.
func TestLogThatWasRolledBack(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{})
	r.granted("acme/app", "reader")
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	older := t.TempDir()
	if err := os.CopyFS(older, os.DirFS(r.AuditDir)); err != nil {
		t.Fatal(err)
	}
	if err := r.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.granted("acme/app", "issues")
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	signed := r.signedSize()
	if err := os.RemoveAll(r.AuditDir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(r.AuditDir, os.DirFS(older)); err != nil {
		t.Fatal(err)
	}
	if err := r.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 4 { // past the size that was signed
		r.granted("acme/app", "reader")
	}
	r.eventually("/readyz to say that it is not the log that was signed", func() bool {
		status, state, checks := r.readiness()
		return status == http.StatusOK && state == "degraded" && strings.Contains(checks["checkpoint"], "THE AUDIT LOG IS NOT THE ONE THAT WAS SIGNED")
	})
	r.granted("acme/app", "reader")
	if now := r.signedSize(); now > signed {
		t.Errorf("size %d was signed after a roll-back from size %d", now, signed)
	}
	if r.gauge(t, "octo_sts_audit_checkpoint_contradiction") != 1 {
		t.Error("the metrics do not say so")
	}
}
