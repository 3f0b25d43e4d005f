package appliance

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
)

// challengePath is where a CA looks for the answer to HTTP-01 (RFC 8555, section 8.3).
const challengePath = "/.well-known/acme-challenge/"

// acmeChallenges answers a CA that wants to see that we are domain. It is asked
// at the daemon's own listeners and opens none: those may have been passed by
// systemd, and the daemon could not bind their ports.
type acmeChallenges struct {
	domain   string
	overHTTP atomic.Bool // there is a listener for HTTP-01

	mu   sync.Mutex // guards what follows: what is asked at the moment
	http map[string]string
	alpn *tls.Certificate
}

// solvers is what acmez presents challenges to, by the challenge's type.
func (c *acmeChallenges) solvers() map[string]acmez.Solver {
	s := map[string]acmez.Solver{acme.ChallengeTypeTLSALPN01: c}
	if c.overHTTP.Load() {
		s[acme.ChallengeTypeHTTP01] = c
	}
	return s
}

// Present makes the answer to a challenge ready.
func (c *acmeChallenges) Present(_ context.Context, challenge acme.Challenge) error {
	if challenge.Type == acme.ChallengeTypeHTTP01 {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.http == nil {
			c.http = map[string]string{}
		}
		c.http[challenge.HTTP01ResourcePath()] = challenge.KeyAuthorization
		return nil
	}
	pair, err := acmez.TLSALPN01ChallengeCert(challenge)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.alpn = pair
	return nil
}

// CleanUp takes the answer back.
func (c *acmeChallenges) CleanUp(_ context.Context, challenge acme.Challenge) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if challenge.Type == acme.ChallengeTypeHTTP01 {
		delete(c.http, challenge.HTTP01ResourcePath())
	} else {
		c.alpn = nil
	}
	return nil
}

// isChallenge tells a CA that asks TLS-ALPN-01: it offers that protocol alone
// (RFC 8737, section 3).
func isChallenge(hello *tls.ClientHelloInfo) bool {
	return len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == acmez.ACMETLS1Protocol
}

// certificate is the answer to TLS-ALPN-01.
func (c *acmeChallenges) certificate(serverName string) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.alpn == nil || !strings.EqualFold(serverName, c.domain) {
		return nil, errors.New("no challenge is under way")
	}
	return c.alpn, nil
}

// handler answers HTTP-01, and has next answer everything else.
func (c *acmeChallenges) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, challengePath) {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Connection", "close")
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		c.mu.Lock()
		answer := c.http[r.URL.Path]
		c.mu.Unlock()
		if answer == "" || !strings.EqualFold(host, c.domain) {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = io.WriteString(w, answer) // a CA that is gone asks again
	})
}
