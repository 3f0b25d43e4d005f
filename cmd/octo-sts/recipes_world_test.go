package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/ststest"
)

// recipesWorld is the network in which the recipes' jobs run as they stand: a
// proxy (HTTPS_PROXY) that connects whatever host to one server, which is all of
// those that recipes name, behind certificates that the job's programs are told
// to trust.
type recipesWorld struct {
	*ststest.Service
	signs   *ststest.Issuer // for every issuer of the recipes: their keys are its
	proxy   string          // its URL
	roots   string          // file of PEM
	program string          // the real octo-sts
	digest  string          // its SHA-256
	git     string          // directory of bare repositories

	mu      sync.Mutex // guards the rest
	idToken string     // of the job that runs
	rights  kubernetesRole
	secrets map[string]map[string]string // namespace/name → its data, as the cluster has them
}

// kubernetesRole is what a recipe's Role lets its pod do.
type kubernetesRole struct {
	Metadata struct{ Namespace string }
	Rules    []struct{ Resources, ResourceNames, Verbs []string }
}

const (
	runnerSecret = "runner-secret" // of ACTIONS_ID_TOKEN_REQUEST_TOKEN
	podSecret    = "pod-secret"    // a pod's token for the cluster's API
)

// recipesHosts are those that the jobs speak to.
var recipesHosts = []string{recipesDomain, "github.com", "api.github.com", "mirror.example.com", "actions.example.com", "kubernetes.default.svc"}

func newRecipesWorld(t *testing.T, issuers []string) *recipesWorld {
	t.Helper()
	w := &recipesWorld{secrets: map[string]map[string]string{}}
	dir := t.TempDir()
	bin := programs(t)
	w.program = filepath.Join(bin, "octo-sts")
	program, err := os.ReadFile(w.program)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(program)
	w.digest = hex.EncodeToString(sum[:])
	keys := filepath.Join(dir, "jwks.json")
	if w.signs, err = ststest.NewIssuer(t.Context(), ststest.IssuerConfig{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.signs.Close)
	if err := os.WriteFile(keys, w.signs.KeySet(), 0o600); err != nil {
		t.Fatal(err)
	}
	service, err := ststest.Start(t.Context(), ststest.ServiceConfig{
		BinDir: bin,
		Apps: []ststest.ServiceApp{{ID: ststest.DefaultApp, Permissions: map[string]string{
			"administration": "write", "checks": "write", "contents": "write", "issues": "write", "pull_requests": "write",
			"statuses": "write", "vulnerability_alerts": "read", "workflows": "write",
		}}},
		Edit: func(config map[string]any) {
			for _, issuer := range issuers {
				config["issuers"] = append(config["issuers"].([]any), map[string]any{"url": issuer, "jwks_file": keys})
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.Service = service
	w.git = t.TempDir()
	if err := service.GitHub.ServeGit(t.Context(), w.git); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			logs := service.Logs()
			t.Logf("the end of the daemon's log:\n%s", logs[max(0, len(logs)-8<<10):])
		}
		if err := service.Close(); err != nil {
			t.Error(err)
		}
	})
	w.serve(t, dir)
	return w
}

// serve starts the one server and the proxy that leads to it.
func (w *recipesWorld) serve(t *testing.T, dir string) {
	t.Helper()
	server := httptest.NewUnstartedServer(w.handler(t))
	server.EnableHTTP2 = true
	certificate, rootPEM := selfSigned(t, recipesHosts)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	server.StartTLS()
	t.Cleanup(server.Close)
	w.roots = filepath.Join(dir, "roots.pem")
	if err := os.WriteFile(w.roots, rootPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	proxy := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		host, port, _ := net.SplitHostPort(r.Host)
		if r.Method != http.MethodConnect || port != "443" || !slices.Contains(recipesHosts, host) {
			http.Error(rw, "the recipes name no such host: "+r.Host, http.StatusForbidden)
			return
		}
		there, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			http.Error(rw, err.Error(), http.StatusBadGateway)
			return
		}
		here, buffered, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			there.Close()
			return
		}
		fmt.Fprint(here, "HTTP/1.1 200 Connection established\r\n\r\n")
		go func() {
			_, _ = io.Copy(there, buffered) // ends with either side
			there.Close()
		}()
		_, _ = io.Copy(here, there)
		here.Close()
	}))
	t.Cleanup(proxy.Close)
	w.proxy = proxy.URL
}

func (w *recipesWorld) handler(t *testing.T) http.Handler {
	pass := func(base string, transport http.RoundTripper) http.Handler {
		target, err := url.Parse(base)
		if err != nil {
			t.Fatal(err)
		}
		return &httputil.ReverseProxy{
			Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
			Transport: transport,
		}
	}
	gitHub := pass(w.GitHub.URL(), w.GitHub.Client().Transport)
	hosts := map[string]http.Handler{
		recipesDomain:            pass(w.URL(), nil),
		"github.com":             gitHub,
		"api.github.com":         gitHub,
		"actions.example.com":    http.HandlerFunc(w.actions),
		"mirror.example.com":     http.HandlerFunc(w.mirror),
		"kubernetes.default.svc": http.HandlerFunc(w.kubernetes),
	}
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		host, _, _ := strings.Cut(r.Host, ":")
		hosts[host].ServeHTTP(rw, r)
	})
}

// actions gives the runner's bearer an ID token, as GitHub Actions does.
func (w *recipesWorld) actions(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.Header.Get("Authorization") != "Bearer "+runnerSecret || r.FormValue("audience") != recipesDomain || r.FormValue("api-version") != "2.0" {
		http.Error(rw, "{}", http.StatusUnauthorized)
		return
	}
	fmt.Fprintf(rw, `{"value": %q}`, w.idToken)
}

// mirror is the operator's web server with the client.
func (w *recipesWorld) mirror(rw http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/octo-sts/octo-sts_linux_amd64" {
		http.NotFound(rw, r)
		return
	}
	http.ServeFile(rw, r, w.program)
}

// kubernetes is the cluster's API, of which one call is used: a merge patch of a
// Secret, by who may. Whoever may read it is given the same by real ones.
func (w *recipesWorld) kubernetes(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/api/v1/namespaces/"), "/")
	if r.Header.Get("Authorization") != "Bearer "+podSecret || len(parts) != 3 {
		http.Error(rw, "Unauthorized", http.StatusUnauthorized)
		return
	}
	allowed := false
	for _, rule := range w.rights.Rules {
		allowed = allowed || w.rights.Metadata.Namespace == parts[0] && slices.Contains(rule.Resources, parts[1]) &&
			slices.Contains(rule.ResourceNames, parts[2]) && slices.Contains(rule.Verbs, strings.ToLower(r.Method))
	}
	if !allowed {
		http.Error(rw, "Forbidden", http.StatusForbidden)
		return
	}
	if r.Header.Get("Content-Type") != "application/merge-patch+json" {
		http.Error(rw, "UnsupportedMediaType", http.StatusUnsupportedMediaType)
		return
	}
	var patch struct{ StringData map[string]string }
	if err := json.NewDecoder(r.Body).Decode(&patch); err != nil {
		http.Error(rw, "BadRequest", http.StatusBadRequest)
		return
	}
	w.secrets[parts[0]+"/"+parts[2]] = patch.StringData
	fmt.Fprint(rw, "{}")
}

// selfSigned makes a certificate for hosts that is its own root.
func selfSigned(t *testing.T, hosts []string) (tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "the recipes' network"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		DNSNames: hosts, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// addRepository makes a repository of my-org, for the API and for git.
func (w *recipesWorld) addRepository(t *testing.T, name string) {
	t.Helper()
	w.GitHub.AddRepository("my-org", name)
	w.GitHub.PutFile("my-org", name, "README.md", "# "+name+"\n")
	bare, work := filepath.Join(w.git, "my-org", name+".git"), t.TempDir()
	if err := os.WriteFile(filepath.Join(work, "README.md"), []byte("# "+name+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"init", "-q", "-b", "main", work},
		{"-C", work, "add", "."},
		{"-C", work, "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-q", "-m", "first"},
		{"clone", "-q", "--bare", work, bare},
	} {
		if out, err := exec.CommandContext(t.Context(), "git", args...).CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
}
