package main

import (
	"crypto/x509"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// stored is the path of a file of the stored certificate: crt, key or json.
func (r *acmeRig) stored(extension string) string {
	r.t.Helper()
	files, err := filepath.Glob(filepath.Join(r.Dir, "state", "acme", "certificates", "*", "sts.example.com", "sts.example.com."+extension))
	if err != nil || len(files) != 1 {
		r.t.Fatalf("%s: %q, %v", extension, files, err)
	}
	return files[0]
}

func truncate(file string) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	return os.Truncate(file, info.Size()/2)
}

func inPlaceOf(file string) error {
	return errors.Join(os.RemoveAll(file), os.WriteFile(file, []byte("garbage"), 0o600))
}

func directoryInPlaceOf(file string) error {
	return errors.Join(os.RemoveAll(file), os.MkdirAll(filepath.Join(file, "deep"), 0o700))
}

// A damaged store mends itself: there is a new certificate where the old one
// cannot be used, and the old one where it can.
func TestDamagedStoreHeals(t *testing.T) {
	ca := newPebble(t, nil)
	r := newACMERig(t, ca, nil)
	leaf := r.obtained(nil)
	acme := filepath.Join(r.Dir, "state", "acme")
	for i, c := range []struct {
		name   string
		damage func() error
		keeps  bool
	}{
		{"a truncated certificate", func() error { return truncate(r.stored("crt")) }, false},
		{"an empty certificate", func() error { return os.Truncate(r.stored("crt"), 0) }, false},
		{"a truncated key", func() error { return truncate(r.stored("key")) }, false},
		{"another key", func() error { return os.WriteFile(r.stored("key"), strangersKey(t), 0o600) }, false},
		{"truncated metadata", func() error { return truncate(r.stored("json")) }, false},
		{"no key", func() error { return os.Remove(r.stored("key")) }, false},
		{"a directory in the certificate's place", func() error { return directoryInPlaceOf(r.stored("crt")) }, false},
		{"a directory in the metadata's place", func() error { return directoryInPlaceOf(r.stored("json")) }, false},
		{"a file in the place of all certificates", func() error { return inPlaceOf(filepath.Join(acme, "certificates")) }, false},
		{"a file in the store's place", func() error { return inPlaceOf(acme) }, false},
		{"what a crash left half-written", func() error {
			return errors.Join(os.WriteFile(filepath.Join(acme, "rw_test_12"), []byte("x"), 0o600), os.WriteFile(filepath.Join(filepath.Dir(r.stored("crt")), "4711"), []byte("x"), 0o600))
		}, true},
		{"locks that nobody wrote", func() error {
			return errors.Join(os.MkdirAll(filepath.Join(acme, "locks", "issue_cert_sts.example.com.lock"), 0o700), os.WriteFile(filepath.Join(acme, "locks", "x.lock"), []byte("{"), 0o600))
		}, true},
		{"a damaged account", func() error {
			files, err := filepath.Glob(filepath.Join(acme, "accounts", "*.json"))
			return errors.Join(err, truncate(files[0]), os.RemoveAll(filepath.Join(acme, "certificates")))
		}, false},
		{"a directory in the account's place", func() error {
			files, err := filepath.Glob(filepath.Join(acme, "accounts", "*.json"))
			return errors.Join(err, directoryInPlaceOf(files[0]), os.RemoveAll(filepath.Join(acme, "certificates")))
		}, false},
	} {
		// Every other one while the daemon runs.
		restart := func() error { r.lookNow(); return nil }
		if i%2 == 0 || c.keeps {
			if err := r.Kill(); err != nil {
				t.Fatal(err)
			}
			restart = func() error { return r.Restart(t.Context()) }
		}
		if err := errors.Join(c.damage(), restart()); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		old := leaf
		if c.keeps {
			leaf = r.obtained(nil)
		} else {
			leaf = r.obtained(old)
		}
		if c.keeps && !leaf.Equal(old) {
			t.Errorf("%s: a new certificate", c.name)
		}
	}
	for _, left := range []string{"rw_test_12", "certificates/*/*/4711"} {
		if files, err := filepath.Glob(filepath.Join(acme, left)); err != nil || len(files) != 0 {
			t.Errorf("left: %q, %v", files, err)
		}
	}

	// What only a person can mend is named, and what is in use stays.
	key := r.stored("key")
	if err := errors.Join(os.Remove(key), os.Symlink(key, key)); err != nil {
		t.Fatal(err)
	}
	r.lookNow()
	r.certificateCheck("a link that leads nowhere", func(status int, check string) bool {
		return status == 200 && strings.HasPrefix(check, "degraded: valid until ") && strings.Contains(check, key) && strings.Contains(check, "too many levels of symbolic links")
	})
	if now := r.inUse(); !now.Equal(leaf) {
		t.Error("another certificate")
	}
}

// On a full disk there is no certificate, and none is asked for; when there is room
// again, it comes.
func TestFullStore(t *testing.T) {
	disk := newSmallDisk(t)
	ca := newPebble(t, nil)
	ca.stop()
	r := newACMERig(t, ca, func(config map[string]any) { config["state_directory"] = disk.directory })
	noRoom := func() {
		t.Helper()
		r.certificateCheck("there is no room", func(_ int, check string) bool {
			return strings.HasPrefix(check, "failing: ") && strings.Contains(check, "no space left on device")
		})
	}
	disk.fill()
	noRoom()
	calls := ca.calls()
	ca.start()
	r.lookNow()
	time.Sleep(100 * time.Millisecond) // where it asked, it would have by now
	noRoom()
	if n := ca.calls() - calls; n != 0 {
		t.Errorf("the CA was asked %d times", n)
	}
	disk.empty()
	r.lookNow()
	r.obtained(nil)
}

// Killed at whatever point of issuing, the daemon starts again and has a
// certificate, with its key.
func TestKillsWhileIssuing(t *testing.T) {
	ca := newPebble(t, nil)
	r := newACMERig(t, ca, nil)
	var leaf *x509.Certificate
	for range kills(t, 4) {
		time.Sleep(rand.N(1200 * time.Millisecond)) // issuing takes most of a second
		if err := errors.Join(r.Kill(), os.RemoveAll(filepath.Join(r.Dir, "state", "acme", "certificates")), r.Restart(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	leaf = r.obtained(nil)
	if err := r.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !r.obtained(nil).Equal(leaf) {
		t.Error("the certificate was not kept")
	}
}
