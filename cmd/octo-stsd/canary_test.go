package main

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/ststest"
)

// canary is a whole appliance whose secrets are known, so that they can be looked for
// in all that it says and keeps.
type canary struct {
	*rig
	secrets map[string]string // by what they are

	lastGranted string            // the last token that was handed out
	said        map[string]string // by where it was said
}

// patterns find the secrets that nobody knows beforehand: ID tokens, App JWTs and
// installation tokens, whole or cut off.
var patterns = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{8,}|ghs_[A-Za-z0-9]{2,}|PRIVATE KEY`)

// isChance tells what looks like the beginning of a JWT, and is part of a hash or of a
// signature in base64: a JWT begins with the text of a JSON object.
func isChance(found string) bool {
	if !strings.HasPrefix(found, "eyJ") {
		return false
	}
	text, err := base64.RawURLEncoding.DecodeString(found[:len(found)/4*4])
	return err == nil && bytes.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' })
}

// keep remembers what somebody was told.
func (c *canary) keep(where string, what []byte) { c.said[where] += string(what) + "\n" }

// check looks for every secret in everything.
func (c *canary) check() {
	c.t.Helper()
	for where, text := range c.said {
		for _, found := range patterns.FindAllString(text, -1) {
			if !isChance(found) {
				c.t.Errorf("%s has %q", where, found)
			}
		}
		for what, secret := range c.secrets {
			if i := strings.Index(text, secret); i >= 0 {
				c.t.Errorf("%s has %s: …%q", where, what, text[max(0, i-80):i+len(secret)])
			}
		}
		// The PIN has six digits, which may be part of any other number.
		if regexp.MustCompile(`(^|[^0-9.])` + c.pin() + `($|[^0-9])`).MatchString(text) {
			c.t.Errorf("%s has the PIN", where)
		}
	}
}

func (c *canary) pin() string {
	pin, err := os.ReadFile(filepath.Join(c.Signer.Credentials(), "hsm-pin"))
	if err != nil {
		c.t.Fatal(err)
	}
	return strings.TrimSpace(string(pin))
}

// mark makes a secret known: parts of it, since what is cut off is one as well.
func (c *canary) mark(what, secret string) {
	n := len(secret)
	c.secrets["the beginning of "+what], c.secrets["the end of "+what] = secret[:min(n, 24)], secret[max(0, n-24):]
	c.secrets["the middle of "+what] = secret[max(0, n/2-12):min(n, n/2+12)]
}

// idToken is one that is known.
func (c *canary) idToken(changes map[string]any) string {
	signed := c.job(changes)
	_, signature, _ := strings.Cut(signed[strings.Index(signed, ".")+1:], ".")
	c.mark(fmt.Sprintf("the signature of ID token %d", len(c.secrets)), signature)
	return signed
}

// send sends a request, and keeps the answer where it is none with a token.
func (c *canary) send(method, path, body string, header http.Header) {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.URL()+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header = header
	resp, err := c.Client().Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	c.keep("the answer to "+method+" "+strings.SplitN(path, "?", 2)[0], fmt.Appendf(nil, "%s %v %s", resp.Status, resp.Header, answer))
}

func bearer(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }

// granted must be; the token is known from then on.
func (c *canary) granted() {
	c.t.Helper()
	x := c.exchange("acme/app", "reader", c.idToken(nil))
	if x.Status != http.StatusOK {
		c.t.Fatalf("%d %s", x.Status, x.Body)
	}
	c.mark("a token that was handed out", x.Token)
	c.lastGranted = x.Token
}

// use has everything go well, and then everything wrong that can.
func (c *canary) use() {
	c.t.Helper()
	c.granted()
	good := c.idToken(nil)
	for _, claims := range []map[string]any{
		{"sub": "repo:acme/other:ref:refs/heads/main"}, {"exp": 1}, {"aud": "elsewhere.example.com"}, {"iss": "https://stranger.example.com"},
	} {
		c.send("GET", "/sts/exchange?scope=acme/app&identity=reader", "", bearer(c.idToken(claims)))
	}
	for _, identity := range []string{"broken", "nosuch", "admin", "elsewhere", good, good[:190]} {
		c.send("GET", "/sts/exchange?scope=acme/app&identity="+identity, "", bearer(c.idToken(nil)))
	}
	// What people put in the wrong place.
	c.send("GET", "/sts/exchange?scope="+good+"&identity=reader", "", bearer(good[:len(good)-4]+"AAAA"))
	c.send("GET", "/sts/exchange?scope=acme/app&identity=reader&id_token="+good, "", nil)
	c.send("POST", "/sts/exchange", "scope=acme/app&identity=reader&token="+good, http.Header{"Content-Type": {"application/x-www-form-urlencoded"}})
	c.send("GET", "/sts/exchange?scope=acme/app&identity=reader", "", http.Header{"Authorization": {"Basic " + good}, "User-Agent": {good}, "X-Forwarded-For": {good}})
	form := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	c.send("POST", "/sts/token", "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token_type="+good+"&subject_token="+good, form)
	c.send("POST", "/sts/token?subject_token="+good, "", form)
	c.send("POST", "/sts/token", "grant_type=client_credentials&client_secret="+good, form)
	c.send("POST", "/sts/revoke", "token="+good, form)
	c.send("POST", "/sts/revoke?token="+c.lastGranted, "", form)
	c.send("POST", "/sts/revoke", "token="+c.lastGranted, form)
	c.send("POST", "/sts/revoke", "token="+c.lastGranted+"&token="+c.lastGranted, form)
	c.send("GET", "/sts/"+good, "", http.Header{"Traceparent": {good}, "Tracestate": {"a=" + good[:200]}, "Baggage": {"b=" + good}, "X-Request-Id": {good}})
	c.send("POST", "/webhook", c.WebhookSecret, http.Header{"X-Hub-Signature-256": {"sha256=" + c.WebhookSecret}, "X-Github-Event": {c.WebhookSecret}})
	for _, f := range []ststest.Fault{
		{Status: 401}, {Status: 403}, {Status: 422}, {Status: 500}, {Reset: true}, {Garbage: true}, {Truncate: true}, {Lost: true},
		ststest.SecondaryRateLimit(429, time.Second),
	} {
		f.Route = ststest.MintRoute
		fault := c.GitHub.Fail(f)
		c.send("GET", "/sts/exchange?scope=acme/app&identity=issues", "", bearer(c.idToken(nil)))
		fault.Clear()
	}
	c.GitHub.Deliver(ststest.DefaultApp, ststest.Event{Name: "push", Payload: map[string]any{"secret": c.WebhookSecret}})
	c.GitHub.Deliver(ststest.DefaultApp, ststest.Event{Name: "push", Payload: []byte("{"), Secret: "another"})
	c.GitHub.Push("acme", "app", "main", []ststest.Change{{Path: "f", Content: "x"}})
	for _, path := range []string{"/metrics", "/readyz", "/healthz", "/debug/pprof/heap", "/debug/vars"} {
		resp, err := c.Client().Get(c.AdminURL() + path)
		if err != nil {
			c.t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			c.t.Fatal(err)
		}
		c.keep("the admin listener's "+path, body)
	}
}

// importKey shows the signer a private key that it has no place for.
func (c *canary) importKey() {
	c.t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		c.t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "-") && len(line) == 64 {
			c.mark(fmt.Sprintf("the App's private key, %d", len(c.secrets)), line)
		}
	}
	programs, err := rigPrograms()
	if err != nil {
		c.t.Fatal(err)
	}
	for _, input := range [][]byte{text, text[:len(text)/2]} {
		cmd := exec.CommandContext(c.t.Context(), filepath.Join(programs, "octo-sts-signer"), "key", "import", "--app", "1234", "--pem", "-", "--config", c.Signer.ConfigFile())
		cmd.Env = append(os.Environ(), c.Signer.Env()...)
		cmd.Stdin = bytes.NewReader(input)
		out, err := cmd.CombinedOutput()
		if err == nil {
			c.t.Error("a second key was taken for the App")
		}
		c.keep("what key import says", bytes.ReplaceAll(out, []byte("PRIVATE KEY"), nil)) // which is what it expects
	}
}

// keepProcess keeps what is to be seen of a process.
func (c *canary) keepProcess(name string, pid int) {
	c.t.Helper()
	for _, file := range []string{"cmdline", "environ", "status", "comm"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
		if err != nil && !errors.Is(err, fs.ErrPermission) {
			c.t.Fatal(err)
		}
		c.keep("/proc of "+name, text)
	}
}

// powerless is a command to run others with, so that root is a user like another.
func powerless() []string {
	if os.Getuid() != 0 {
		return []string{"env"}
	}
	return []string{"setpriv", "--inh-caps=-all", "--bounding-set=-all"}
}

// checkMemory makes sure that no other process of the daemon's user reads its memory.
func (c *canary) checkMemory() {
	c.t.Helper()
	mayBeRead := func(pid int) bool {
		args := append(powerless(), "sh", "-c", fmt.Sprintf(": </proc/%d/mem", pid))
		return exec.CommandContext(c.t.Context(), args[0], args[1:]...).Run() == nil
	}
	args := append(powerless(), "sleep", "60")
	control := exec.Command(args[0], args[1:]...)
	if err := control.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.eventually("any other process's memory can be read", func() bool { return mayBeRead(control.Process.Pid) })
	_ = control.Process.Kill()
	_ = control.Wait() // it was killed
	if mayBeRead(c.PID()) {
		c.t.Error("the daemon's memory can be read by other processes of its user")
	}
}

// keepFiles keeps every file below a directory.
func (c *canary) keepFiles(dir string) {
	c.t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		c.keep("the file "+strings.TrimPrefix(path, c.Dir), text)
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

// dumped tells how a process ended, and whether it left a core dump.
func dumped(err error) (signal syscall.Signal, core bool) {
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok {
			return status.Signal(), status.CoreDump()
		}
	}
	return 0, false
}

// crash has the daemon end as where it crashed, with core dumps allowed without limit.
func (c *canary) crash() {
	c.t.Helper()
	control := exec.Command("sh", "-c", "ulimit -c unlimited && kill -ABRT $$")
	control.Dir = c.t.TempDir()
	if _, core := dumped(control.Run()); !core {
		c.t.Log("no process leaves a core dump here: that ours does not is not shown")
	}
	if err := c.Signal(syscall.SIGABRT); err != nil {
		c.t.Fatal(err)
	}
	signal, core := dumped(c.Wait())
	if core || signal == 0 {
		c.t.Errorf("the daemon ended with signal %d, and with a core dump: %v", signal, core)
	}
}

// TestNothingSecretIsSaid runs the real programs with secrets that are known, has all go
// well and everything go wrong, and then looks for the secrets in all that the programs
// wrote, sent, showed and left behind.
func TestNothingSecretIsSaid(t *testing.T) {
	for name, form := range map[string]ststest.TokenForm{"opaque tokens": ststest.OpaqueTokens, "JWT tokens": ststest.JWTTokens} {
		t.Run(name, func(t *testing.T) {
			traces, dir := startCollector(t), t.TempDir()
			c := &canary{rig: newRig(t, ststest.ServiceConfig{
				Webhook: true,
				GitHub:  ststest.GitHubConfig{TokenForm: form},
				Env:     []string{"GOTRACEBACK=crash"}, // as the unit has it
				Prepare: func(cmd *exec.Cmd) { cmd.Dir = dir },
				Wrap:    append([]string{"sh", "-c", `ulimit -c unlimited; exec "$@"`, "sh"}, powerless()...),
			}), secrets: map[string]string{}, said: map[string]string{}}
			const credential = "canary-of-the-collector-0123456789"
			if err := os.WriteFile(filepath.Join(c.Dir, "credentials", "collector"), []byte(credential+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			c.mark("the collector's credential", credential)
			c.mark("the webhook secret", c.WebhookSecret)
			c.reconfigure(func(config map[string]any) {
				config["tracing"] = map[string]any{"otlp_endpoint": traces.endpoint, "otlp_credential": "collector"}
			})
			c.use()
			c.importKey()
			c.keepProcess("octo-stsd", c.PID())
			c.keepProcess("octo-sts-signer", c.Signer.PID())
			c.keepProcess("the HSM's worker", c.Signer.WorkerPID(0))
			c.checkMemory()
			c.underJournald()
			if err := c.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			// The signer dies, and GitHub does not take the App JWT any more.
			if err := c.Signer.Kill(); err != nil {
				t.Fatal(err)
			}
			c.GitHub.Fail(ststest.Fault{Route: ststest.MintRoute, Status: http.StatusUnauthorized})
			c.send("GET", "/sts/exchange?scope=acme/app&identity=issues", "", bearer(c.idToken(nil)))
			c.eventually("traces arrive", func() bool { return strings.Contains(traces.all(), "signer App JWT") })
			c.crash()
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("the daemon left %v where it ran: %v", left, err)
			}

			c.keep("the daemon's log", []byte(c.Logs()))
			c.keep("the signer's log", []byte(c.Signer.Logs()))
			c.keep("a trace", []byte(traces.all()))
			c.keepFiles(c.AuditDir)
			c.keepFiles(filepath.Join(c.Dir, "state"))
			c.keepFiles(c.Signer.StateDirectory())
			traces.checkSaid(t)
			if !strings.Contains(c.Logs(), "goroutine ") || len(c.said) < 15 {
				t.Errorf("too little was said to be looked at: %d, and no stack of the crash", len(c.said))
			}
			c.check()
		})
	}
}

func TestChanceIsToldFromJWTs(t *testing.T) {
	for found, want := range map[string]bool{
		"eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9": false,
		"eyJ0eXAiOiJK":                         false, // cut off
		"eyJ3Wb9onfT7YA":                       true,
		"ghs_abc":                              false,
	} {
		if isChance(found) != want {
			t.Errorf("%s is chance: %t, want %t", found, !want, want)
		}
	}
}
