package githubapp_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/ststest"
)

const (
	appID      = 1234
	policyPath = ".github/chainguard/ci.sts.yaml"
)

// TestMain has more tests wait at a time than there are processors: waiting is what
// they do most.
func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", "12"); err != nil { // the command line has the last word
		panic(err)
	}
	m.Run()
}

// appKey is generated once: it takes long.
var appKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// clock is what both the client and the fake go by.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) advance(d time.Duration) { c.ahead.Add(int64(d)) }

// signer signs App JWTs as octo-sts-signer does, and can break.
type signer struct {
	clock   *clock
	life    time.Duration
	signed  atomic.Int64
	running atomic.Int64
	peak    atomic.Int64
	broken  atomic.Bool
	delay   time.Duration
}

func (s *signer) appJWT(ctx context.Context, id int64) (string, time.Time, error) {
	if n := s.running.Add(1); n > s.peak.Load() {
		s.peak.Store(n)
	}
	defer s.running.Add(-1)
	time.Sleep(s.delay)
	if s.broken.Load() {
		return "", time.Time{}, errors.New("the signer is not there")
	}
	n := s.signed.Add(1)
	now := s.clock.now()
	expiry := now.Add(s.life).Truncate(time.Second)
	b64 := base64.RawURLEncoding.EncodeToString
	input := b64([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." +
		b64(fmt.Appendf(nil, `{"iat":%d,"exp":%d,"iss":"%d","n":%d}`, now.Add(-time.Minute).Unix(), expiry.Unix(), id, n))
	digest := sha256.Sum256([]byte(input))
	signature, err := rsa.SignPKCS1v15(nil, appKey(), crypto.SHA256, digest[:])
	return input + "." + b64(signature), expiry, err
}

// world is a fake GitHub with one App that is installed on acme, and a client.
type world struct {
	*testing.T
	ctx    context.Context
	clock  *clock
	signer *signer
	github *ststest.GitHub
	config githubapp.Config
	client *githubapp.Client
	acme   int64 // installation ID
}

type options struct {
	signer signer
	github ststest.GitHubConfig
	config githubapp.Config
}

func newWorld(t *testing.T, change ...func(*options)) *world {
	t.Helper()
	return newWorldTB(t, t, change...)
}

func newWorldTB(t *testing.T, tb testing.TB, change ...func(*options)) *world {
	tb.Helper()
	w := &world{T: t, ctx: tb.Context(), clock: &clock{}}
	o := options{
		signer: signer{clock: w.clock, life: 9 * time.Minute},
		github: ststest.GitHubConfig{Now: w.clock.now},
		config: githubapp.Config{
			Apps:         []githubapp.App{{ID: appID, Organizations: []string{githubapp.AnyOrganization}}},
			PolicyMaxAge: time.Minute,
			Logger:       zap.NewNop(),
			Now:          w.clock.now,
		},
	}
	for _, f := range change {
		f(&o)
	}
	w.signer = &o.signer
	o.config.AppJWT = w.signer.appJWT
	var err error
	if w.github, err = ststest.NewGitHub(w.ctx, o.github); err != nil {
		tb.Fatal(err)
	}
	permissions := map[string]string{"contents": "write", "issues": "write"}
	w.github.AddApp(appID, &appKey().PublicKey, permissions)
	w.github.AddRepository("acme", "app")
	w.github.AddRepository("acme", ".github")
	w.github.PutFile("acme", "app", policyPath, "issuer: https://issuer.example\n")
	w.acme = w.github.Install(appID, "acme", ststest.InstallOptions{})
	if o.config.APIURL == "" {
		o.config.APIURL = w.github.URL()
	}
	if o.config.CAFile == "" {
		o.config.CAFile = writeFile(tb, "ca.pem", w.github.CAPEM())
	}
	w.config = o.config
	if w.client, err = githubapp.New(w.ctx, w.config); err != nil {
		tb.Fatal(err)
	}
	// What is asked at the start does not get into what a test looks at.
	eventually(tb, "each App was asked about", func() bool {
		return !slices.ContainsFunc(w.client.Status(), func(s githubapp.AppStatus) bool { return s.Proven.IsZero() && s.Problem == nil })
	})
	w.github.ResetCalls()
	return w
}

func writeFile(tb testing.TB, name string, content []byte) string {
	tb.Helper()
	file := filepath.Join(tb.TempDir(), name)
	if err := os.WriteFile(file, content, 0o600); err != nil {
		tb.Fatal(err)
	}
	return file
}

// installation finds acme's, and forgets that it cost a call.
func (w *world) installation() githubapp.Installation {
	w.Helper()
	inst, err := w.client.Installation(w.ctx, "acme", "app")
	if err != nil {
		w.Fatalf("Installation: %v", err)
	}
	w.github.ResetCalls()
	return inst
}

// read reads the policy of acme/app.
func (w *world) read(inst githubapp.Installation) (*githubapp.File, error) {
	return w.client.File(w.ctx, inst, "app", policyPath)
}

var readIssues = githubapp.MintRequest{Repositories: []string{"app"}, Permissions: map[string]string{"issues": "read"}}

// callsMade are the calls that reached the fake, by route, without those that ask
// in the background about an App that is not proven yet.
func (w *world) callsMade() map[string]int {
	made := w.github.Calls()
	delete(made, ststest.AppRoute)
	return made
}

// totalCalls is the sum of callsMade.
func (w *world) totalCalls() (n int) {
	for _, of := range w.callsMade() {
		n += of
	}
	return n
}

// calls compares what reached the fake since the last ResetCalls. Want is
// "route" or "route*N", in any order; nothing else of callsMade may have been
// called.
func (w *world) calls(want ...string) {
	w.Helper()
	wanted := map[string]int{}
	for _, one := range want {
		name, times, found := strings.Cut(one, "*")
		n := 1
		if found {
			fmt.Sscan(times, &n)
		}
		wanted[name] = n
	}
	got := w.callsMade()
	for route, n := range wanted {
		if got[route] != n {
			w.Errorf("%d calls of %q, want %d", got[route], route, n)
		}
		delete(got, route)
	}
	for route, n := range got {
		w.Errorf("%d calls of %q, want none", n, route)
	}
}

const proveRoute = "GET /installation/repositories"

// kinds are all sentinel errors; exactly one must match an error.
var kinds = map[string]error{
	"not installed": githubapp.ErrNotInstalled, "not found": githubapp.ErrNotFound, "not a file": githubapp.ErrNotAFile, "too large": githubapp.ErrTooLarge,
	"refused": githubapp.ErrRefused, "rate limited": githubapp.ErrRateLimited, "unavailable": githubapp.ErrUnavailable, "no App JWT": githubapp.ErrNoAppJWT,
}

func kindOf(err error) string {
	if err == nil {
		return "ok"
	}
	var found []string
	for name, kind := range kinds {
		if errors.Is(err, kind) {
			found = append(found, name)
		}
	}
	return strings.Join(found, " and ")
}

// wants checks an error's kind, and that the operator is told the words.
func (w *world) wants(err error, kind string, words ...string) {
	w.Helper()
	if got := kindOf(err); got != kind {
		w.Errorf("got %q (%v), want %q", got, err, kind)
	}
	for _, word := range words {
		if word != "" && (err == nil || !strings.Contains(err.Error(), word)) {
			w.Errorf("error %q does not say %q", err, word)
		}
	}
}

// eventually waits for what happens in the background.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("still not so after 30 s: %s", what)
		}
	}
}

func containsAny(text string, parts ...string) bool {
	for _, part := range parts {
		if strings.Contains(text, part) {
			return true
		}
	}
	return false
}
