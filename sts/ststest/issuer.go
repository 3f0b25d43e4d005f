package ststest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// IssuerConfig says what kind of issuer to be.
type IssuerConfig struct {
	// TLS serves https under an authority of its own (CAPEM). Otherwise plain
	// http, which the appliance takes from a listed loopback address alone.
	TLS bool
	// Host in the issuer's URL: "127.0.0.1" (the default) or "localhost".
	Host string
	// Path of the issuer's URL, escaped, as "/tenant%20one". Default: none.
	Path string
	// Origin is the scheme and host of the issuer's URL where a reverse proxy
	// stands before Address. Default: the listener's own.
	Origin string
	// Alg that tokens are signed with. Default: RS256. See NewKey for the list.
	Alg string
	// Audience of tokens whose claims name none. Default: no aud claim.
	Audience string
	// Now is the clock. Default: time.Now.
	Now func() time.Time
}

// Issuer is an OIDC issuer: OpenID Connect Discovery 1.0, a JSON Web Key Set
// (RFC 7517), and signed ID tokens. Its methods are safe for concurrent use.
type Issuer struct {
	config  IssuerConfig
	ca      *authority // nil without TLS
	server  *http.Server
	base    string // scheme and address
	address string
	cert    atomic.Pointer[tls.Certificate]

	accepted atomic.Int64 // connections

	mu           sync.Mutex // guards the rest
	signing      *Key
	published    []*Key
	extra        []map[string]any // JWKs that no Key stands for
	rawKeySet    []byte           // nil: built from published and extra
	requests     map[string]int
	misbehaviour map[string]Misbehaviour // by path
}

// NewIssuer starts an issuer with one key. It ends with ctx, or at Close.
func NewIssuer(ctx context.Context, c IssuerConfig) (*Issuer, error) {
	if c.Host == "" {
		c.Host = "127.0.0.1"
	}
	if c.Alg == "" {
		c.Alg = "RS256"
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	i := &Issuer{config: c, requests: map[string]int{}, misbehaviour: map[string]Misbehaviour{}}
	if _, err := i.Rotate(); err != nil {
		return nil, err
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening for an issuer: %w", err)
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	i.base = "http://" + net.JoinHostPort(c.Host, port)
	i.server = &http.Server{
		Handler:           i,
		ReadHeaderTimeout: 30 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0), // clients that refuse the certificate are none of our business
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				i.accepted.Add(1)
			}
		},
	}
	serve := func() error { return i.server.Serve(ln) }
	if c.TLS {
		i.base = "https://" + net.JoinHostPort(c.Host, port)
		if i.ca, err = newAuthority("test issuer"); err != nil {
			ln.Close()
			return nil, err
		}
		if err := i.UseGoodCertificate(); err != nil {
			ln.Close()
			return nil, err
		}
		i.server.TLSConfig = &tls.Config{
			MinVersion:             tls.VersionTLS12,
			GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return i.cert.Load(), nil },
			SessionTicketsDisabled: true,
		}
		// With the line above: each request meets the certificate of its time.
		i.server.SetKeepAlivesEnabled(false)
		serve = func() error { return i.server.ServeTLS(ln, "", "") }
	}
	if c.Origin != "" {
		i.base = c.Origin
	}
	i.address = ln.Addr().String()
	go func() {
		if err := serve(); !errors.Is(err, http.ErrServerClosed) {
			panic(fmt.Sprintf("test issuer stopped serving: %v", err))
		}
	}()
	context.AfterFunc(ctx, i.Close)
	return i, nil
}

// URL is the issuer's identifier: what goes into iss and into the list of
// issuers.
func (i *Issuer) URL() string { return i.base + i.config.Path }

// Address is host:port that it listens on.
func (i *Issuer) Address() string { return i.address }

// DiscoveryURL is where the discovery document is.
func (i *Issuer) DiscoveryURL() string { return i.URL() + "/.well-known/openid-configuration" }

// JWKSURL is where the key set is.
func (i *Issuer) JWKSURL() string { return i.URL() + "/jwks" }

// CAPEM is the certificate of the authority behind the issuer's certificate;
// nil without TLS.
func (i *Issuer) CAPEM() []byte {
	if i.ca == nil {
		return nil
	}
	return i.ca.pem
}

// Client is an HTTP client that trusts the issuer's authority and follows no
// redirect.
func (i *Issuer) Client() *http.Client {
	if i.ca == nil {
		return newClient(nil)
	}
	return newClient(i.ca.pool())
}

// Close ends the issuer at once.
func (i *Issuer) Close() { i.server.Close() }

// Requests counts requests by path, query left out.
func (i *Issuer) Requests() map[string]int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return maps.Clone(i.requests)
}

// KeySetFetches is how often the key set was asked for.
func (i *Issuer) KeySetFetches() int { return i.Requests()[pathOf(i.JWKSURL())] }

// Connections is how many TCP connections were ever accepted: zero where not
// one packet came.
func (i *Issuer) Connections() int { return int(i.accepted.Load()) }

// ServeHTTP serves the discovery document and the key set.
func (i *Issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.EscapedPath()
	i.mu.Lock()
	i.requests[path]++
	m := i.misbehaviour[path]
	i.mu.Unlock()

	var body []byte
	switch path {
	case pathOf(i.DiscoveryURL()):
		body = i.discovery(m.Discovery)
	case pathOf(i.JWKSURL()):
		body = i.KeySet()
	default:
		http.NotFound(w, r)
		return
	}
	if m.misbehave(w, r, body) {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(body)
}

// pathOf is the escaped path of a URL of the issuer's own.
func pathOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		panic(fmt.Sprintf("test issuer: %v", err))
	}
	return u.EscapedPath()
}

// discovery is the discovery document, with some members changed; Omit leaves
// one out.
func (i *Issuer) discovery(changes map[string]any) []byte {
	d := map[string]any{
		"issuer": i.URL(), "jwks_uri": i.JWKSURL(), "authorization_endpoint": i.URL() + "/authorize",
		"response_types_supported": []string{"id_token"}, "subject_types_supported": []string{"public"},
		"scopes_supported": []string{"openid"}, "id_token_signing_alg_values_supported": []string{i.config.Alg},
		"claims_supported": []string{"sub", "aud", "exp", "iat", "iss", "jti"},
	}
	overlay(d, changes)
	return mustMarshal(d)
}

// KeySet is the key set as it is published now. It is also what a jwks_file
// holds.
func (i *Issuer) KeySet() []byte {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.rawKeySet != nil {
		return i.rawKeySet
	}
	keys := []map[string]any{}
	for _, k := range i.published {
		keys = append(keys, k.JWK())
	}
	return mustMarshal(map[string]any{"keys": append(keys, i.extra...)})
}

// omitted is the type of Omit.
type omitted int

// Omit as the value of a claim or of a header parameter leaves it out,
// although there is a default for it.
const Omit omitted = 0

// overlay writes changes over m.
func overlay(m, changes map[string]any) {
	for name, v := range changes {
		if v == Omit {
			delete(m, name)
		} else {
			m[name] = v
		}
	}
}
