package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"go.etcd.io/bbolt"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/ststest"
	"github.com/octo-sts/appliance/sts/trustpolicy"
)

const testSecret = "It's a Secret to Everybody"

// appKey is generated once: it takes long.
var appKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// signAppJWT signs as octo-sts-signer does.
func signAppJWT(_ context.Context, id int64) (string, time.Time, error) {
	now := time.Now()
	expiry := now.Add(9 * time.Minute).Truncate(time.Second)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: appKey()}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", time.Time{}, err
	}
	raw, err := jwt.Signed(signer).Claims(jwt.Claims{Issuer: fmt.Sprint(id),
		IssuedAt: jwt.NewNumericDate(now.Add(-time.Minute)), Expiry: jwt.NewNumericDate(expiry)}).Serialize()
	return raw, expiry, err
}

// rig is a receiver with a fake GitHub behind it, a real state file and audit
// log, and an endpoint in front of it.
type rig struct {
	testing.TB
	directory string // holds the state and the audit log
	github    *ststest.GitHub
	client    *githubapp.Client
	state     *bbolt.DB
	audit     *audit.Log
	receiver  *Receiver
	server    *httptest.Server
	logs      *observer.ObservedLogs
	config    Config
	acme      int64 // installation

	mu   sync.Mutex
	seen map[Observation]int // guarded by mu
}

func newRig(tb testing.TB, apps ...int64) *rig {
	tb.Helper()
	if len(apps) == 0 {
		apps = []int64{testApp}
	}
	r := &rig{TB: tb, directory: tb.TempDir(), seen: map[Observation]int{}}
	r.github = must(ststest.NewGitHub(tb.Context(), ststest.GitHubConfig{}))(tb)
	var served []githubapp.App
	for _, id := range apps {
		r.github.AddApp(id, &appKey().PublicKey, map[string]string{"contents": "write", "checks": "write", "pull_requests": "read", "merge_queues": "read"})
		served = append(served, githubapp.App{ID: id, Organizations: []string{"acme", "oldname"}})
	}
	r.github.AddRepository("acme", "app")
	for _, id := range apps {
		r.acme = r.github.Install(id, "acme", ststest.InstallOptions{})
	}
	ca := filepath.Join(r.directory, "ca.pem")
	if err := os.WriteFile(ca, r.github.CAPEM(), 0o600); err != nil {
		tb.Fatal(err)
	}
	r.client = must(githubapp.New(tb.Context(), githubapp.Config{APIURL: r.github.URL(), CAFile: ca, Apps: served,
		AppJWT: signAppJWT, PolicyMaxAge: time.Hour}))(tb)
	core, logs := observer.New(zap.DebugLevel)
	r.logs = logs
	r.config = Config{Secrets: []string{"another", testSecret}, GitHub: r.client, AppIDs: apps,
		PolicyRepository: ".github", Permissions: trustpolicy.GitHubPermissions(), Logger: zap.New(core),
		AuditDirectory: filepath.Join(r.directory, "audit"), Observe: r.observe}
	r.open()
	r.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { r.receiver.ServeHTTP(w, req) }))
	tb.Cleanup(r.server.Close)
	for _, id := range apps {
		r.github.SetWebhook(id, ststest.Webhook{URL: r.server.URL, Secret: testSecret})
	}
	return r
}

// open makes a receiver of what is on the disk.
func (r *rig) open() {
	r.Helper()
	r.state = must(bbolt.Open(filepath.Join(r.directory, "state.db"), 0o600, &bbolt.Options{Timeout: 10 * time.Second}))(r.TB)
	r.audit = must(audit.Open(r.Context(), audit.Config{Directory: r.config.AuditDirectory}))(r.TB)
	r.config.State, r.config.Audit = r.state, r.audit
	r.receiver = must(New(r.Context(), r.config))(r.TB)
	state, log := r.state, r.audit
	r.Cleanup(func() { state.Close(); log.Close() })
}

// reopen is what a restart does.
func (r *rig) reopen() {
	r.Helper()
	if err := r.state.Close(); err != nil {
		r.Fatal(err)
	}
	if err := r.audit.Close(); err != nil {
		r.Fatal(err)
	}
	r.open()
}

// run runs the receiver until stop is called.
func (r *rig) run() (stop func()) {
	ctx, cancel := context.WithCancel(r.Context())
	ended := make(chan error, 1)
	receiver := r.receiver
	go func() { ended <- receiver.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			r.Errorf("Run: %v", err)
		}
	})
	r.Cleanup(stop)
	return stop
}

// idle waits until nothing is queued.
func (r *rig) idle() {
	r.Helper()
	eventually(r.TB, "the queue is empty", func() bool { return r.receiver.Status().Queued == 0 })
}

func (r *rig) observe(o Observation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen[o]++
}

func (r *rig) observed(event, outcome string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen[Observation{event, outcome}]
}

// entries are the audit log's of one kind.
func (r *rig) entries(kind audit.Kind) []audit.Entry {
	r.Helper()
	var all []audit.Entry
	for record, err := range audit.Read(r.config.AuditDirectory) {
		if err != nil {
			r.Fatal(err)
		}
		if record.Entry.Kind == kind {
			all = append(all, record.Entry)
		}
	}
	return all
}

// guid is a delivery's, made of a number.
func guid(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012x", n) }

// request is a good delivery, to be spoilt.
func (r *rig) request(event string, id int, payload any) *http.Request {
	body, ok := payload.([]byte)
	if !ok {
		body = must(json.Marshal(payload))(r.TB)
	}
	req := must(http.NewRequestWithContext(r.Context(), http.MethodPost, r.server.URL+"/webhook", bytes.NewReader(body)))(r.TB)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-GitHub-Event", event)
	req.Header.Set("X-GitHub-Delivery", guid(id))
	req.Header.Set("X-GitHub-Hook-Installation-Target-Type", "integration")
	req.Header.Set("X-GitHub-Hook-Installation-Target-ID", fmt.Sprint(r.config.AppIDs[0]))
	req.Header.Set("X-Hub-Signature-256", sign(testSecret, body))
	return req
}

func sign(secret string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

// send returns the answer's status and body.
func (r *rig) send(req *http.Request) (int, string) {
	r.Helper()
	resp, err := r.server.Client().Do(req)
	if err != nil {
		r.Fatal(err)
	}
	defer resp.Body.Close()
	body := must(io.ReadAll(resp.Body))(r.TB)
	return resp.StatusCode, string(body)
}

// deliver sends a good delivery and returns the answer's status.
func (r *rig) deliver(event string, id int, payload any) int {
	r.Helper()
	status, _ := r.send(r.request(event, id, payload))
	return status
}

// must returns v, or ends the test it is then called with.
func must[T any](v T, err error) func(testing.TB) T {
	return func(tb testing.TB) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}

func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("still not so after 30 s: %s", what)
		}
	}
}
