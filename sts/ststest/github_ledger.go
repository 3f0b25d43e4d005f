package ststest

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Mint is the record of one installation token. The token itself is not kept
// here: its hash is, as the appliance's audit log has it.
type Mint struct {
	At             time.Time // by the fake's clock
	AppID          int64
	InstallationID int64
	Owner          string
	Repositories   []string // names, sorted, as asked for; empty with AllRepositories
	// AllRepositories: the token reaches whatever the installation reaches.
	AllRepositories bool
	Permissions     map[string]string // as granted: with metadata: read
	TokenSHA256     string            // hexadecimal
	Expiry          time.Time
	Revoked         time.Time // zero: not revoked
	GitUses         int       // requests of git's that it let in or was known for
}

// grant is an installation token and what it may do.
type grant struct {
	installation *installation
	all          bool
	repositories map[int64]bool    // nil with all
	permissions  map[string]string // never changed
	sha256       string
	expiry       time.Time
	uses         atomic.Int64 // counted only while fresh tokens are refused
	revoked      atomic.Int64 // UnixNano; 0: not
	gitUses      atomic.Int64 // requests of git with it
	mint         Mint         // immutable; Revoked is in revoked
}

// ledger is the account of every token. Its size grows with each mint.
type ledger struct {
	grants sync.Map // token string → *grant
	mu     sync.Mutex
	mints  []*grant // guarded by mu; in the order of minting
}

func (l *ledger) find(token string) *grant {
	v, ok := l.grants.Load(token)
	if !ok {
		return nil
	}
	return v.(*grant)
}

// add records g under a new token and returns that.
func (l *ledger) add(g *grant, form TokenForm) string {
	token := newToken(form, g.installation.app.id)
	sum := sha256.Sum256([]byte(token))
	g.sha256 = hex.EncodeToString(sum[:])
	g.mint.TokenSHA256 = g.sha256
	l.mu.Lock()
	l.mints = append(l.mints, g)
	l.mu.Unlock()
	l.grants.Store(token, g)
	return token
}

// dead says whether the token expired or was revoked.
func (g *grant) dead(now time.Time) bool {
	return g.revoked.Load() != 0 || !now.Before(g.expiry)
}

// covers says whether the token reaches r. The caller holds world.mu.
func (g *grant) covers(r *repository) bool {
	return g.installation.holds(r) && (g.all || g.repositories[r.id])
}

// effective is the level that the token has for a permission: what was
// granted, and no more than the installation still has. The caller holds
// world.mu.
func (g *grant) effective(permission string) string {
	have := g.permissions[permission]
	if now := g.installation.permissions[permission]; have != "" && !permits(now, have) {
		return now
	}
	return have
}

// selection is GitHub's word for the scope.
func (g *grant) selection() string {
	if g.all && g.installation.all {
		return "all"
	}
	return "selected"
}

// record is the grant as a Mint.
func (g *grant) record() Mint {
	m := g.mint
	m.Repositories = slices.Clone(m.Repositories)
	m.Permissions = maps.Clone(m.Permissions)
	if at := g.revoked.Load(); at != 0 {
		m.Revoked = time.Unix(0, at)
	}
	m.GitUses = int(g.gitUses.Load())
	return m
}

// Mints is every token minted so far, in order.
func (g *GitHub) Mints() []Mint {
	g.ledger.mu.Lock()
	grants := slices.Clone(g.ledger.mints)
	g.ledger.mu.Unlock()
	mints := make([]Mint, len(grants))
	for i, gr := range grants {
		mints[i] = gr.record()
	}
	return mints
}

// LiveMints is those of Mints that have not expired and were not revoked: what
// a leak would be worth.
func (g *GitHub) LiveMints() []Mint {
	now := g.now()
	return slices.DeleteFunc(g.Mints(), func(m Mint) bool { return !m.Revoked.IsZero() || !now.Before(m.Expiry) })
}

// IsLive says whether token was minted here, has not expired and was not
// revoked.
func (g *GitHub) IsLive(token string) bool {
	gr := g.ledger.find(token)
	return gr != nil && !gr.dead(g.now())
}

// ForgetMints ends every token that exists now and drops the record of it. A
// load of hours calls it now and then: each record is about a kilobyte.
func (g *GitHub) ForgetMints() {
	g.ledger.mu.Lock()
	defer g.ledger.mu.Unlock()
	g.ledger.mints = nil
	g.ledger.grants.Clear()
}

// ExpireTokens ends every token that exists now, as if its hour had passed;
// Mints has them as revoked.
func (g *GitHub) ExpireTokens() {
	now := g.now().UnixNano()
	g.ledger.mu.Lock()
	defer g.ledger.mu.Unlock()
	for _, gr := range g.ledger.mints {
		gr.revoked.CompareAndSwap(0, now)
	}
}

const alphanumeric = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// newToken makes a token of the given form.
func newToken(form TokenForm, appID int64) string {
	if form == OpaqueTokens {
		b := make([]byte, 36)
		rand.Read(b)
		for i := range b {
			b[i] = alphanumeric[int(b[i])%len(alphanumeric)] // slightly uneven, and no secret of worth
		}
		return "ghs_" + string(b)
	}
	secret := make([]byte, 256)
	rand.Read(secret)
	encode := base64.RawURLEncoding.EncodeToString
	id := new(big.Int).SetBytes(secret[:8])
	return fmt.Sprintf("ghs_%d_%s.%s.%s", appID, encode([]byte(`{"alg":"RS256","typ":"JWT"}`)),
		encode(fmt.Appendf(nil, `{"iss":"github","jti":"%020d","sub":"installation:%d","v":1}`, id, appID)), encode(secret))
}
