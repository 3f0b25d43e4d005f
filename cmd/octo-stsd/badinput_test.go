package main

import (
	"context"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/octo-sts/appliance/sts/ststest"
)

// TestBadInputs is the list of what a stranger, a CI job, the writer of a policy
// and an issuer can do wrong or on purpose, and of what each gets: one subtest a
// row, against the real daemon with a real signer, over HTTP and over gRPC.
//
// A row is refused unless it says otherwise, and that means: the right code, one
// masked text with a request ID, no token, nothing minted, a reason that the
// operator finds by that ID, and a daemon that serves the next caller.
//
// Some rows need an hour, a quarter of one, or a clock that steps. They are held
// where a test owns the clock:
//
//	a key that was rotated out, refused within 15 minutes   sts/idtoken TestStaleKeysAreNotUsed, TestKeyRotation
//	a new key, accepted within 10 s                         sts/idtoken TestKeyRotation (and here)
//	a flood of random kids: at most one fetch in 10 s       sts/idtoken TestFloodOfUnknownKeys (and here)
//	a flood of random kids: good callers do not wait        sts/idtoken TestGoodCallersDoNotWaitForAFetch
//	the host's clock stepping                               sts/idtoken TestVerifyClockSteps
//	the skew and the lifetime, to the second                sts/idtoken TestVerifyClaims
//	issuer URLs that are refused in the configuration       testdata/script/issuers.txtar
//	configuration of this daemon                            testdata/script/configuration.txtar
//	configuration of the signer                             cmd/octo-sts-signer testdata/script/config.txtar
//	credentials with a trailing newline, empty ones         signer TestReadCredential, cmd/octo-sts-signer testdata/script/pin.txtar
func TestBadInputs(t *testing.T) {
	w := startWorld(t)
	defer w.finalChecks(t) // while the daemon still runs
	for _, section := range []struct {
		name string
		run  func(*testing.T, *world)
	}{
		{"Token structure", tokenStructure},
		{"Signature and keys", signatureAndKeys},
		{"Time and replay", timeAndReplay},
		{"Claims", claimsRows},
		{"Policy", policyRows},
		{"Request", requestRows},
		{"Request, raw", socketRows},
		{"Issuers", issuerRows},
	} {
		t.Run(section.name, func(t *testing.T) {
			section.run(t, w)
			w.checkReasons(t)
			w.checkServing(t)
			time.Sleep(1100 * time.Millisecond) // the daemon logs so many lines a second: the next section begins a new one
		})
	}
}

const (
	domain  = "sts.example.com"
	subject = "repo:acme/app:ref:refs/heads/main"

	// anyone is an identity whose policy takes every subject of every issuer on
	// this machine: who is refused there is refused for the ID token alone.
	anyone       = "anyone"
	anyonePolicy = `
issuer_pattern: https?://(127\.0\.0\.1|localhost):[0-9]+(/[A-Za-z0-9%/]*)?
subject_pattern: (?s).*
permissions: {issues: write}
`
)

// world is the real appliance, the outside that it meets, and what was done to
// it so far.
type world struct {
	*ststest.Service
	conn    *grpc.ClientConn
	pid     int
	began   time.Time
	lines   *rate.Limiter // below what the daemon logs of unverified callers in a second
	issuers map[string]*ststest.Issuer
	keys    *oddKeys

	// unlisted and unguarded are listeners that no packet may ever reach.
	unlisted  *ststest.Issuer
	unguarded *silentListener

	mu       sync.Mutex // guards the rest
	secrets  map[string]bool
	refusals []refusal
}

func startWorld(t *testing.T) *world {
	w := &world{
		began: time.Now(), lines: rate.NewLimiter(14, 4),
		issuers: map[string]*ststest.Issuer{}, secrets: map[string]bool{},
	}
	w.unlisted = newIssuer(t, ststest.IssuerConfig{})
	w.unguarded = newSilentListener(t)
	w.keys = newOddKeys(t)
	listed := append(w.goodIssuers(t), w.badIssuers(t)...)
	programs, err := rigPrograms()
	if err != nil {
		t.Fatal(err)
	}
	w.Service, err = ststest.Start(t.Context(), ststest.ServiceConfig{
		BinDir: programs,
		Edit: func(config map[string]any) {
			config["issuers"] = append(config["issuers"].([]any), listed...)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	w.pid = w.PID()
	w.GitHub.AddRepository("acme", "app")
	w.GitHub.AddRepository("acme", ".github")
	w.GitHub.AddRepository("other", "app")
	w.GitHub.Install(ststest.DefaultApp, "acme", ststest.InstallOptions{})
	w.GitHub.PutPolicy("acme", "app", anyone, anyonePolicy)
	w.conn, err = grpc.NewClient(w.Address(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.conn.Close() })
	return w
}

// goodIssuers are those that behave, but for their keys and their use.
func (w *world) goodIssuers(t *testing.T) []any {
	w.issuers["keys"] = w.keys.issuer
	w.issuers["once"] = newIssuer(t, ststest.IssuerConfig{Alg: "ES256"})
	w.issuers["spaced"] = newIssuer(t, ststest.IssuerConfig{Alg: "ES256", Path: "/my%20tenant"})
	w.issuers["flooded"] = newIssuer(t, ststest.IssuerConfig{Alg: "ES256"})
	w.issuers["rotating"] = newIssuer(t, ststest.IssuerConfig{Alg: "ES256"})
	w.issuers["stormy"] = newIssuer(t, ststest.IssuerConfig{Alg: "ES256"})
	var listed []any
	for _, name := range []string{"keys", "once", "spaced", "flooded", "rotating", "stormy"} {
		listed = append(listed, entry(w.issuers[name].URL(), map[string]any{"single_use": name == "once"}))
	}
	return listed
}

// entry is an issuer on loopback, as the configuration lists it.
func entry(url string, more map[string]any) map[string]any {
	e := map[string]any{"url": url, "networks": []any{"127.0.0.0/8", "::1/128"}}
	maps.Copy(e, more)
	return e
}

func newIssuer(t *testing.T, c ststest.IssuerConfig) *ststest.Issuer {
	t.Helper()
	c.Audience = domain
	i, err := ststest.NewIssuer(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.Close)
	return i
}

// silentListener counts the connections that are made to it.
type silentListener struct {
	net.Listener
	connections atomic.Int64
}

func newSilentListener(t *testing.T) *silentListener {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &silentListener{Listener: l}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.connections.Add(1)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close() })
	return s
}

// checkServing is what follows on every section: the same process grants a good
// request on both wires.
func (w *world) checkServing(t *testing.T) {
	t.Helper()
	if err := w.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	w.try(t, row{name: "and the next good request is served", request: ask(w.sign(t, w.Issuer, nil)), want: codes.OK})
	if pid := w.PID(); pid != w.pid {
		t.Errorf("the daemon is process %d, and it was %d", pid, w.pid)
	}
}

// finalChecks are about everything that was done.
func (w *world) finalChecks(t *testing.T) {
	if n := w.unlisted.Connections(); n != 0 {
		t.Errorf("%d connections were made to an issuer that is not listed", n)
	}
	if n := w.unguarded.connections.Load(); n != 0 {
		t.Errorf("%d connections were made to a loopback address that no networks list", n)
	}
	if logs := w.Logs(); strings.Contains(logs, "panic") || strings.Contains(logs, "goroutine ") {
		t.Error("the daemon's log speaks of a panic")
	}
	limit := int64(200 << 20)
	if raceBuilt(t, w.pid) {
		limit *= 4 // the race detector's own memory
	}
	if peak := w.peakMemory(t); peak > limit {
		t.Errorf("the daemon's memory went up to %d MiB", peak>>20)
	}
	w.checkNoSecretIsWritten(t)
	if t.Failed() {
		logs := w.Logs()
		t.Logf("the end of the daemon's log:\n%s", logs[max(0, len(logs)-4096):])
	}
}

// raceBuilt tells whether a process has the race detector in it.
func raceBuilt(t *testing.T, pid int) bool {
	info, err := buildinfo.ReadFile(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		t.Fatal(err)
	}
	return slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// peakMemory is the most that the daemon ever had resident, in bytes (VmHWM,
// proc_pid_status(5)).
func (w *world) peakMemory(t *testing.T) int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	var kilobytes int64
	if _, err := fmt.Sscan(rest, &kilobytes); err != nil {
		t.Fatalf("no VmHWM: %v", err)
	}
	t.Logf("peak memory of the daemon: %d MiB", kilobytes>>10)
	return kilobytes << 10
}

// checkNoSecretIsWritten looks for every ID token and GitHub token that was used,
// and for the part of each that makes it worth something, in the log and in all
// files.
func (w *world) checkNoSecretIsWritten(t *testing.T) {
	written := written(t, w.Service)
	w.mu.Lock()
	defer w.mu.Unlock()
	const telling = 20 // shorter ones prove nothing
	found := 0
	for secret := range w.secrets {
		if strings.HasPrefix(secret, "eyJ") && strings.Count(secret, ".") < 2 {
			continue // a header is no secret
		}
		parts := []string{secret, secret[strings.LastIndex(secret, ".")+1:]}
		for where, text := range written {
			for _, part := range parts {
				if len(part) < telling || !strings.Contains(text, part) {
					continue
				}
				if found++; found <= 5 {
					t.Errorf("%s holds %.60q… of a token", where, part)
				}
			}
		}
	}
	t.Logf("%d tokens were looked for in %d places, and %d were found", len(w.secrets), len(written), found)
}

// sign makes an ID token of issuer that is good but for the given claims.
func (w *world) sign(t *testing.T, issuer *ststest.Issuer, claims map[string]any) string {
	t.Helper()
	return w.signWith(t, issuer, ststest.Signing{Claims: claims})
}

func (w *world) signWith(t *testing.T, issuer *ststest.Issuer, s ststest.Signing) string {
	t.Helper()
	claims := map[string]any{"sub": subject}
	maps.Copy(claims, s.Claims)
	s.Claims = claims
	raw, err := issuer.SignWith(s)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// payload is the claims of a good token of issuer, as text to be tampered with.
func payload(t *testing.T, issuer *ststest.Issuer) string {
	t.Helper()
	now := time.Now().Unix()
	text, err := json.Marshal(map[string]any{
		"iss": issuer.URL(), "sub": subject, "aud": domain, "iat": now, "exp": now + 300, "jti": fmt.Sprint(time.Now().UnixNano()),
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func timeout(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}
