package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/ststest"
)

// reload sends SIGHUP and waits until it was taken up, or not. It returns what the
// service manager was told meanwhile.
func (r *rig) reload(m *serviceManager) string {
	r.t.Helper()
	from := len(m.all())
	if err := r.Signal(syscall.SIGHUP); err != nil {
		r.t.Fatal(err)
	}
	began := m.await(from, "RELOADING=1\nMONOTONIC_USEC=")
	m.await(began, "READY=1")
	return strings.Join(m.all()[from:], "\n")
}

// lines is how many lines of the log have that message.
func (r *rig) lines(message string) (n int) {
	for line := range strings.Lines(r.Logs()) {
		var entry struct{ Msg string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == message {
			n++
		}
	}
	return n
}

// What can change does, at once and for new requests; what is known of the rest is
// kept: keys, App JWTs, installations and policies are not asked for again.
func TestReload(t *testing.T) {
	m := newServiceManager(t)
	c := ststest.ServiceConfig{}
	m.manages(&c)
	r := newRig(t, c)
	other, err := ststest.NewIssuer(t.Context(), ststest.IssuerConfig{Audience: "sts.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(other.Close)
	r.GitHub.PutPolicy("acme", "app", "elsewhere", "issuer: "+other.URL()+"\nsubject: someone\npermissions: {issues: write}\n")
	someone, err := other.Sign(map[string]any{"sub": "someone", "aud": "sts.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	if x := r.exchange("acme/app", "elsewhere", someone); x.Status != http.StatusUnauthorized {
		t.Errorf("an issuer that is not listed: %d %s", x.Status, x.Body)
	}
	r.granted("acme/app", "issues")
	signatures := r.signatures()
	r.GitHub.ResetCalls()
	r.rewriteConfig(func(c map[string]any) {
		c["issuers"] = append(c["issuers"].([]any), map[string]any{"url": other.URL(), "networks": []any{"127.0.0.0/8"}})
	})
	r.reload(m)
	if x := r.exchange("acme/app", "elsewhere", someone); x.Status != http.StatusOK {
		t.Errorf("an issuer that a reload lists: %d %s", x.Status, x.Body)
	}
	r.Issuer.Close() // its keys are known, and nobody asks for them again
	job := r.job(nil)
	if x := r.exchange("acme/app", "issues", job); x.Status != http.StatusOK {
		t.Errorf("an issuer that a reload did not change, and that is away: %d %s", x.Status, x.Body)
	}
	calls := r.GitHub.Calls()
	if calls[ststest.AppRoute] != 0 || calls[ststest.RepoInstallRoute] != 0 || r.signatures() != signatures {
		t.Errorf("after a reload that changed neither Apps nor GitHub: calls %v, %d signatures", calls, r.signatures()-signatures)
	}
	r.rewriteConfig(func(c map[string]any) {
		c["ceiling"] = map[string]any{"permissions": map[string]any{"contents": "read"}}
	})
	r.reload(m)
	if x := r.exchange("acme/app", "issues", job); x.Status != http.StatusForbidden {
		t.Errorf("over a ceiling that a reload set: %d %s", x.Status, x.Body)
	}
	r.rewriteConfig(func(c map[string]any) {
		delete(c, "ceiling")
		c["issuers"] = c["issuers"].([]any)[:1]
	})
	r.reload(m)
	if x := r.exchange("acme/app", "elsewhere", someone); x.Status != http.StatusUnauthorized {
		t.Errorf("an issuer that a reload took away: %d %s", x.Status, x.Body)
	}
	if x := r.exchange("acme/app", "issues", job); x.Status != http.StatusOK {
		t.Errorf("without a ceiling again: %d %s", x.Status, x.Body)
	}
	r.rewriteConfig(func(c map[string]any) { // one use each, those from before included
		c["issuers"].([]any)[0].(map[string]any)["single_use"] = true
	})
	r.reload(m)
	if x := r.exchange("acme/app", "issues", job); x.Status != http.StatusUnauthorized {
		t.Errorf("an ID token that was used before its issuer became single_use: %d %s", x.Status, x.Body)
	}
}

// signatures is how many the signer has made.
func (r *rig) signatures() uint64 {
	r.t.Helper()
	status, err := r.Signer.Status(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return uint64(status.Signatures)
}

// What needs a restart is named, and the rest of the file counts; a file with
// mistakes changes nothing, and each of them is said with its line.
func TestReloadOfWhatCannotBeReloaded(t *testing.T) {
	m := newServiceManager(t)
	c := ststest.ServiceConfig{Webhook: true}
	m.manages(&c)
	r := newRig(t, c)
	r.granted("acme/app", "issues")
	m.await(0, "STATUS=serving")
	good, err := os.ReadFile(r.ConfigFile)
	if err != nil {
		t.Fatal(err)
	}
	r.rewriteConfig(func(c map[string]any) {
		c["listen"].(map[string]any)["https"] = "127.0.0.1:9"
		c["audit"].(map[string]any)["directory"] = "/nowhere"
		delete(c, "webhook")
		c["ceiling"] = map[string]any{"permissions": map[string]any{"contents": "read"}}
	})
	if told := r.reload(m); !strings.Contains(told, "STATUS=serving; needs a restart: listen.https, audit.directory, webhook.secrets") {
		t.Errorf("told %q", told)
	}
	if x := r.exchange("acme/app", "issues", r.job(nil)); x.Status != http.StatusForbidden {
		t.Errorf("over the ceiling of the same file: %d %s", x.Status, x.Body)
	}
	for name, broken := range map[string]struct {
		text string
		want []string
	}{
		"two mistakes":      {strings.Replace(string(good), "domain:", "domian:", 1), []string{`domian`, "domain"}},
		"cut in the middle": {string(good[:len(good)/2]), []string{r.ConfigFile}},
		"empty":             {"", []string{"the file is empty"}},
		"an absent credential": {string(good) + "\n# comment\n" + "",
			nil},
	} {
		if broken.want == nil {
			broken.text = strings.Replace(string(good), "- webhook-secret", "- webhook-secret\n  - not-there", 1)
			broken.want = []string{"webhook.secrets[1]", "systemd passes credentials at a start"}
		}
		if err := os.WriteFile(r.ConfigFile, []byte(broken.text), 0o600); err != nil {
			t.Fatal(err)
		}
		before := len(r.Logs())
		told := r.reload(m)
		if !strings.Contains(told, "STATUS=degraded: configuration: the file on disk is not in force") {
			t.Errorf("%s: told %q", name, told)
		}
		line := r.Logs()[before:]
		for _, want := range append(broken.want, "the configuration is not taken up, the one before stays in force", filepath.Base(r.ConfigFile)+":") {
			if !strings.Contains(line, want) {
				t.Errorf("%s: the log does not say %q: %s", name, want, line)
			}
		}
		if x := r.exchange("acme/app", "issues", r.job(nil)); x.Status != http.StatusForbidden {
			t.Errorf("%s: what was in force is not any more: %d %s", name, x.Status, x.Body)
		}
	}
	if _, state, checks := r.readiness(); state != "degraded" || !strings.HasPrefix(checks["configuration"], "degraded: ") {
		t.Errorf("/readyz: %s %v", state, checks)
	}
	if err := os.WriteFile(r.ConfigFile, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if told := r.reload(m); !strings.Contains(told, "STATUS=serving") || strings.Contains(told, "restart") {
		t.Errorf("told %q", told)
	}
	r.granted("acme/app", "issues")
}

// A file that is being written is not believed before it is whole.
func TestReloadWhileTheFileIsWritten(t *testing.T) {
	m := newServiceManager(t)
	c := ststest.ServiceConfig{}
	m.manages(&c)
	r := newRig(t, c)
	whole, err := os.ReadFile(r.ConfigFile)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(r.ConfigFile, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	from := len(m.all())
	if err := r.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for piece := 0; piece < len(whole); piece += 1 + len(whole)/20 {
		if _, err := file.Write(whole[piece:min(len(whole), piece+1+len(whole)/20)]); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	m.await(m.await(from, "RELOADING=1"), "READY=1")
	if n := r.lines("configuration taken up"); n != 1 {
		t.Errorf("taken up %d times: %s", n, r.Logs())
	}
	r.granted("acme/app", "reader")
}

// Reloads under load refuse nobody, leave nothing behind, and may come as they like.
func TestReloadsUnderLoad(t *testing.T) {
	m := newServiceManager(t)
	c := ststest.ServiceConfig{Issuer: ststest.IssuerConfig{Alg: "ES256"}}
	m.manages(&c)
	r := newRig(t, c)
	r.granted("acme/app", "issues")
	l := r.startLoad(4, "issues", "acme/app")
	change := func(i int) {
		r.rewriteConfig(func(c map[string]any) {
			c["github"].(map[string]any)["policy_max_age"] = fmt.Sprintf("%ds", 60+i%2)
			c["ceiling"] = map[string]any{"permissions": map[string]any{"issues": "write", "contents": []string{"read", "write"}[i%2]}}
			c["limits"].(map[string]any)["burst"] = 1_000_000 + i%3
			extra := map[string]any{"url": fmt.Sprintf("http://127.0.0.1:%d", 1+i%5), "networks": []any{"127.0.0.0/8"}}
			c["issuers"] = append(c["issuers"].([]any)[:1], extra)
		})
	}
	for i := range 5 { // what is made once is made now
		change(i)
		r.reload(m)
	}
	quiet := r.held(t)
	n := restarts(t, 20)
	for i := range n {
		change(i)
		if i%5 == 0 { // two at once
			if err := r.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
		}
		r.reload(m)
	}
	l.allGranted(t)
	var after held
	r.eventually("as many goroutines and descriptors as before", func() bool {
		after = r.held(t)
		return after.goroutines <= quiet.goroutines && after.descriptors <= quiet.descriptors
	})
	if n := r.lines("the configuration is not taken up, the one before stays in force"); n > 0 {
		t.Errorf("%d reloads failed: %s", n, r.Logs())
	}
	t.Logf("%d reloads under load: %d exchanges, all granted; held before %+v and after %+v", n, len(l.answers), quiet, after)
}

// A hangup while the daemon starts, or stops, ends nothing and delays nothing. (Before
// its first lines have run, a program that was not told to ignore it is ended by it.)
func TestHangupDuringStartAndStop(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{Wrap: []string{"sh", "-c", `trap "" HUP; exec "$0" "$@"`}})
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				if command, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(r.PID()), "cmdline")); bytes.Contains(command, []byte("octo-stsd\x00serve")) && !bytes.HasPrefix(command, []byte("sh")) {
					_ = r.Signal(syscall.SIGHUP) // there may be no daemon any more
				}
			}
		}
	}()
	for range 5 {
		if err := r.Restart(t.Context()); err != nil {
			t.Error(err)
		}
		r.granted("acme/app", "reader")
	}
	close(stop)
	<-done
	if err := r.Stop(); err != nil {
		t.Error(err)
	}
}
