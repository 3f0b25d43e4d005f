package ststest

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// TokenForm is the form of the installation tokens that the fake mints. GitHub
// gives out both.
type TokenForm int

const (
	// OpaqueTokens are ghs_ and 36 letters and digits.
	OpaqueTokens TokenForm = iota
	// JWTTokens are ghs_, the App's ID, an underscore and a JWT: some 520
	// characters with dots, dashes and underscores. The fake's are not signed.
	JWTTokens
)

// GitHubConfig says what kind of GitHub to be. Its zero value is api.github.com
// with opaque tokens, strong entity tags and no delay.
type GitHubConfig struct {
	// Address to listen on. Default: 127.0.0.1:0, a free port.
	Address string
	// Origin is the scheme and host that it says it has, where a reverse proxy
	// stands before it. Default: the listener's own.
	Origin string
	// BasePath before every route: "" as at api.github.com, "/api/v3" as at a
	// GitHub Enterprise Server.
	BasePath string
	// TokenForm of minted tokens.
	TokenForm TokenForm
	// Latency is added to every answer. SetLatency changes it.
	Latency time.Duration
	// RateLimit is the primary limit of each installation, in requests an hour;
	// it is enforced. GitHub's own is 5,000 to 15,000. Default: 50,000,000, so
	// that no test meets it by chance. InstallOptions.RateLimit overrides it.
	RateLimit int
	// WeakETags makes entity tags weak (W/"…"), as GitHub's are after
	// compression.
	WeakETags bool
	// ETagPerToken makes the entity tag depend on the token that asks, as
	// GitHub's does for some routes: after a renewal of the token nothing is
	// answered 304 at first.
	ETagPerToken bool
	// Now is the clock. Default: time.Now.
	Now func() time.Time
}

// GitHub is a fake of GitHub's REST API. Its methods are safe for concurrent
// use; those that make fixtures panic where what they are asked for cannot be
// (an unknown App or owner), since that is a mistake of the test.
type GitHub struct {
	config  GitHubConfig
	ca      *authority
	server  *http.Server
	url     string
	address string
	mux     *http.ServeMux
	routes  []*route // immutable after NewGitHub
	// permissions that GitHub knows: name → levels. Immutable.
	permissions map[string][]string

	world  world
	ledger ledger
	ctx    context.Context // of deliveries; cancel ends it at Close
	cancel context.CancelFunc
	jwts   sync.Map // SHA-256 of a verified App JWT → *appJWT

	manifests manifests
	git       atomic.Pointer[gitServer] // nil: no git is served
	lifetime  atomic.Int64              // time.Duration of tokens

	faults      faults
	latency     atomic.Int64 // time.Duration
	clockOffset atomic.Int64 // time.Duration
	freshUses   atomic.Int64 // uses of a fresh token that are refused
	freshStatus atomic.Int64
	inFlight    atomic.Int64
	peak        atomic.Int64
	requestID   atomic.Uint64
}

//go:embed openapi.json
var openAPI []byte

// NewGitHub starts a fake GitHub. It ends with ctx, or at Close.
func NewGitHub(ctx context.Context, c GitHubConfig) (*GitHub, error) {
	if c.Address == "" {
		c.Address = "127.0.0.1:0"
	}
	if c.RateLimit == 0 {
		c.RateLimit = 50_000_000
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.BasePath != "" && (!strings.HasPrefix(c.BasePath, "/") || strings.HasSuffix(c.BasePath, "/")) {
		return nil, fmt.Errorf("BasePath %q: want a leading slash and no trailing one", c.BasePath)
	}
	g := &GitHub{config: c}
	g.latency.Store(int64(c.Latency))
	g.lifetime.Store(int64(tokenLifetime))
	g.world.init()
	g.manifests = manifests{person: appOwner, agreed: map[string]agreedManifest{}}
	var facts struct {
		Permissions map[string][]string `json:"permissions"`
	}
	if err := json.Unmarshal(openAPI, &facts); err != nil {
		return nil, fmt.Errorf("reading the embedded permission list: %w", err)
	}
	g.permissions = facts.Permissions
	g.routeAll()

	var err error
	if g.ca, err = newAuthority("fake GitHub"); err != nil {
		return nil, err
	}
	cert, err := g.ca.loopback()
	if err != nil {
		return nil, err
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", c.Address)
	if err != nil {
		return nil, fmt.Errorf("listening for the fake GitHub: %w", err)
	}
	g.address = ln.Addr().String()
	g.url = cmp.Or(c.Origin, "https://"+g.address) + c.BasePath
	g.ctx, g.cancel = context.WithCancel(ctx)
	g.server = &http.Server{
		Handler:           g,
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
		ReadHeaderTimeout: 30 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0), // clients that hang up are none of our business
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
	}
	go func() {
		if err := g.server.ServeTLS(ln, "", ""); !errors.Is(err, http.ErrServerClosed) {
			panic(fmt.Sprintf("fake GitHub stopped serving: %v", err))
		}
	}()
	context.AfterFunc(ctx, g.Close)
	return g, nil
}

// connKey is the context key of a request's net.Conn.
type connKey struct{}

// Address is host:port that it listens on.
func (g *GitHub) Address() string { return g.address }

// URL is the API's address, with BasePath and without a trailing slash: what
// goes into github.api_url.
func (g *GitHub) URL() string { return g.url }

// web is the address of GitHub's pages: at a GitHub Enterprise Server they are
// beside the API, not under it.
func (g *GitHub) web() string { return strings.TrimSuffix(g.url, g.config.BasePath) }

// CAPEM is the certificate of the authority that signed the fake's
// certificate: what goes into the file that github.ca_file names.
func (g *GitHub) CAPEM() []byte { return g.ca.pem }

// Client is an HTTP client that trusts the fake and speaks HTTP/2 to it. It
// follows no redirect. Each call makes a new one with connections of its own.
func (g *GitHub) Client() *http.Client { return newClient(g.ca.pool()) }

func newClient(roots *x509.CertPool) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			TLSClientConfig:     &tls.Config{RootCAs: roots},
			ForceAttemptHTTP2:   true,
			MaxIdleConnsPerHost: 256, // a load over HTTP/1.1 is not to use up the ports
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Close ends the fake at once, cutting every connection and delivery.
func (g *GitHub) Close() {
	g.cancel()
	g.server.Close()
}

// SetLatency sets the delay that is added to every answer from now on.
func (g *GitHub) SetLatency(d time.Duration) { g.latency.Store(int64(d)) }

// SetClockOffset makes the fake's clock run ahead (or, negative, behind) by d:
// in the Date header, in the check of App JWTs and in what tokens' expiry is
// reckoned from.
func (g *GitHub) SetClockOffset(d time.Duration) { g.clockOffset.Store(int64(d)) }

// RefuseFreshTokens makes the first uses of every token answer status (401,
// 403 or 404), as GitHub does now and then while its replicas catch up. Zero
// uses ends it.
func (g *GitHub) RefuseFreshTokens(uses, status int) {
	g.freshStatus.Store(int64(status))
	g.freshUses.Store(int64(uses))
}

// now is the fake's own time.
func (g *GitHub) now() time.Time {
	return g.config.Now().Add(time.Duration(g.clockOffset.Load()))
}

// Calls counts the requests so far by route, as "POST
// /app/installations/{installation_id}/access_tokens": method and path as
// GitHub's documentation names them. Requests that a fault answered count;
// those that no route serves count as "unknown". A route without requests is
// absent. See MintRoute and its neighbours for the names that matter most.
func (g *GitHub) Calls() map[string]int {
	calls := map[string]int{}
	for _, r := range g.routes {
		if n := r.calls.Load(); n > 0 {
			calls[r.name] = int(n)
		}
	}
	return calls
}

// TotalCalls is the sum of Calls.
func (g *GitHub) TotalCalls() int {
	total := 0
	for _, n := range g.Calls() {
		total += n
	}
	return total
}

// ResetCalls sets the counts of Calls, and PeakConcurrency, to zero.
func (g *GitHub) ResetCalls() {
	for _, r := range g.routes {
		r.calls.Store(0)
	}
	g.peak.Store(0)
}

// PeakConcurrency is the largest number of requests that were in flight at
// once since the start or the last ResetCalls.
func (g *GitHub) PeakConcurrency() int { return int(g.peak.Load()) }
