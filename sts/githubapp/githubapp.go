// Package githubapp is everything that is said to GitHub as a GitHub App: which
// installation serves an owner, what a file on a default branch holds, minting
// an installation token and revoking one.
//
// It keeps what can be kept, so that an exchange whose installation, policy and
// App JWT are known costs one call, the mint. It collapses identical requests
// that meet, believes no answer that it has not checked, and sends nothing
// before the time that GitHub set for coming back.
//
// It is not a general client of GitHub's API. It signs nothing: App JWTs come
// from a function that it is given. It knows no trust policy and decides nothing
// about who may have a token: whoever calls Mint has decided.
//
// API paths, fields and limits follow GitHub's REST documentation
// (https://docs.github.com/en/rest), API version 2022-11-28.
package githubapp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/go-github/v60/github"
	lru "github.com/hashicorp/golang-lru/v2"
	"go.etcd.io/bbolt"
	"go.uber.org/zap"
)

// DefaultPolicyMaxAge is the age that the appliance's configuration gives
// Config.PolicyMaxAge where the operator says nothing.
const DefaultPolicyMaxAge = 60 * time.Second

// AnyOrganization in App.Organizations makes the App serve every owner that no
// App names.
const AnyOrganization = "*"

// Bounds on what is kept. An installation or a policy that falls out
// is looked up again.
const (
	maxLookups        = 8192
	maxAbsentLookups  = 4096
	maxInstallations  = 4096
	maxOwners         = 8192
	maxFiles          = 8192
	maxFileBytes      = 32 << 20
	negativeMaxAge    = 25 * time.Second // under the 30 s within which a repaired fault must be forgotten
	stalePolicyMaxAge = 10 * time.Minute
)

// confirmationAge is how much later than a repository's installation was asked
// for an answer about a file may come and still be believed without asking for
// the installation again. It covers a first exchange, and is too short for a
// name to change hands in.
const confirmationAge = 5 * time.Second

// callTimeout bounds one call to GitHub, from dialling to the last byte, and
// whatever several callers wait for together.
const callTimeout = 10 * time.Second

// App is one GitHub App that may be used.
type App struct {
	// ID is the App's numeric ID (not the client ID).
	ID int64

	// Organizations are the owners that this App serves, in any case, or
	// AnyOrganization. Several Apps may name one owner: they are its pool; see
	// Client.Installation for which of them is used.
	Organizations []string
}

// Needs are permissions, name → level, and webhook events that an App gets only
// if it is subscribed to them, as GitHub names them.
type Needs struct {
	Permissions map[string]string
	Events      []string
}

// Config is what New needs. Only APIURL, Apps and AppJWT have no default.
type Config struct {
	// APIURL is the root of the REST API: https://api.github.com, or
	// https://HOST/api/v3 for GitHub Enterprise Server. It must be https except
	// on a loopback address.
	APIURL string

	// CAFile holds the PEM certificates that may vouch for APIURL's host (and
	// for an https proxy). It replaces the system's roots: whoever can pose as
	// this host is handed App JWTs, so nobody is trusted who need not be. Empty:
	// the system's roots.
	CAFile string

	// Apps are the Apps that may be used; at least one.
	Apps []App

	// AppJWT returns a JWT that GitHub takes as the App's own, and when it
	// expires. For one App it is never called twice at once.
	AppJWT func(ctx context.Context, appID int64) (jwt string, expiry time.Time, err error)

	// PolicyMaxAge is how long a file, or that it is absent, is used without
	// asking GitHub whether that changed; and an installation without asking
	// whether it is still the one. 0: ask for files every time (a conditional
	// request, which where nothing changed does not count against GitHub's primary
	// limit). See DefaultPolicyMaxAge.
	PolicyMaxAge time.Duration

	// State keeps which App each owner sticks to, in the bucket "routes". Nil: in
	// memory only.
	State *bbolt.DB

	// MaxConcurrent calls are under way at once; 0: 64. GitHub allows 100. Half of
	// them may be such as no exchange waits for.
	MaxConcurrent int

	// Needs are what the configuration asks of each App: whoever lacks some of it
	// is warned of at the start.
	Needs Needs

	// UserAgent is sent with each call; GitHub refuses calls without one.
	// Empty: "octo-sts-appliance".
	UserAgent string

	// Logger gets what an operator should see. No token and no JWT is ever
	// logged. Nil: nothing is logged.
	Logger *zap.Logger

	// Observe is told of each call, sent or not. It must not wait. Nil: nothing is.
	Observe func(Observation)

	// Now is the clock. Nil: time.Now.
	Now func() time.Time
}

// Client speaks to one GitHub as one or more Apps. It is safe for concurrent
// use. What changes after New has locks of its own.
type Client struct {
	http         *http.Client
	baseURL      *url.URL
	userAgent    string
	policyMaxAge time.Duration
	callTimeout  time.Duration // the constant, but for tests
	sign         func(ctx context.Context, appID int64) (string, time.Time, error)
	log          *zap.Logger
	observe      func(Observation)
	now          func() time.Time

	// What a Successor has anew; the rest it shares.
	apps  map[int64]*app
	pool  map[string][]*app // lower-case owner, or AnyOrganization → its Apps, in order
	needs Needs

	lookups       *memory[lookupKey, Installation]
	files         *memory[fileKey, *File]
	installations *lru.Cache[int64, *installation] // by installation ID
	owners        *lru.Cache[ownerKey, int64]      // the installation ID found last
	routes        *routes

	slots      chan struct{} // has an element for each call that is under way
	background chan struct{} // and for each of those that nobody waits for
	breaker    *breaker
	clock      *clock
}

// app is one App: its JWT, and what GitHub allows the App itself.
type app struct {
	id    int64
	jwt   appJWTCache
	quota *quota
	proof proof

	// What ends its work in the background, and that of asking GitHub about it. Both
	// belong to whoever calls New, Begin and Retire.
	stop, stopProving context.CancelFunc
}

// New returns a Client, and starts getting an App JWT for each App, in the
// background and until ctx ends, and asking GitHub about the App, until it
// answers. It waits for neither, and neither a GitHub nor a signer that cannot be
// reached is an error: see Status. Everything that is wrong with c is reported at
// once.
func New(ctx context.Context, c Config) (*Client, error) {
	base, err := parseAPIURL(c.APIURL)
	roots, rootsErr := loadRoots(c.CAFile)
	if err := errors.Join(err, rootsErr, checkApps(c)); err != nil {
		return nil, fmt.Errorf("setting up the GitHub client: %w", err)
	}
	client := &Client{
		http:         newHTTPClient(roots),
		baseURL:      base,
		userAgent:    c.UserAgent,
		policyMaxAge: c.PolicyMaxAge,
		callTimeout:  callTimeout,
		log:          c.Logger,
		observe:      c.Observe,
		now:          c.Now,
		routes:       &routes{db: c.State},
		breaker:      &breaker{},
		clock:        &clock{},
		lookups:      newMemory(maxLookups, maxAbsentLookups, 1, func(Installation) int { return 0 }, lookupKey.groups),
		files:        newMemory(maxFiles, maxFiles, maxFileBytes, func(f *File) int { return len(f.Content) }, fileKey.groups),
	}
	if client.userAgent == "" {
		client.userAgent = "octo-sts-appliance"
	}
	if client.log == nil {
		client.log = zap.NewNop()
	}
	if client.observe == nil {
		client.observe = func(Observation) {}
	}
	if client.now == nil {
		client.now = time.Now
	}
	if c.MaxConcurrent == 0 {
		c.MaxConcurrent = defaultMaxConcurrent
	}
	client.slots = make(chan struct{}, c.MaxConcurrent)
	client.background = make(chan struct{}, max(1, c.MaxConcurrent/2))
	client.clock.log = client.log
	client.breaker.now, client.breaker.log, client.breaker.reconnect = client.now, client.log, client.http.CloseIdleConnections
	if err := client.makeCaches(); err != nil {
		return nil, fmt.Errorf("setting up the GitHub client: %w", err)
	}
	client.sign = c.AppJWT
	client.serve(c.Apps, c.Needs, nil)
	client.Begin(ctx, nil)
	return client, nil
}

// makeCaches cannot fail: the sizes are constants above 0.
func (c *Client) makeCaches() error {
	var errs [3]error
	c.installations, errs[0] = lru.New[int64, *installation](maxInstallations)
	c.owners, errs[1] = lru.New[ownerKey, int64](maxOwners)
	c.routes.known, errs[2] = lru.New[string, int64](maxOwners)
	return errors.Join(errs[:]...)
}

// newGitHub returns a go-github client. It is cheap: all of them share one
// http.Client, and so the same connections.
func (c *Client) newGitHub() *github.Client {
	gh := github.NewClient(c.http)
	gh.BaseURL = c.baseURL
	gh.UserAgent = c.userAgent
	return gh
}

// checkApps reports everything that is wrong with what says who we are.
func checkApps(c Config) error {
	var errs []error
	if c.AppJWT == nil {
		errs = append(errs, errors.New("no function gives App JWTs"))
	}
	if c.PolicyMaxAge < 0 {
		errs = append(errs, fmt.Errorf("the age that a policy may have is negative: %s", c.PolicyMaxAge))
	}
	if c.MaxConcurrent < 0 {
		errs = append(errs, fmt.Errorf("the number of calls at once is negative: %d", c.MaxConcurrent))
	}
	if len(c.Apps) == 0 {
		errs = append(errs, errors.New("no App is configured: at least one is needed"))
	}
	ids := map[int64]bool{}
	for _, a := range c.Apps {
		if a.ID <= 0 {
			errs = append(errs, fmt.Errorf("%d is not an App ID: it is the number on the App's settings page", a.ID))
		}
		if ids[a.ID] {
			errs = append(errs, fmt.Errorf("App %d is configured twice", a.ID))
		}
		ids[a.ID] = true
		if len(a.Organizations) == 0 {
			errs = append(errs, fmt.Errorf("App %d serves no organization: name some, or %q", a.ID, AnyOrganization))
		}
		named := map[string]bool{}
		for _, owner := range a.Organizations {
			if owner != AnyOrganization && checkName(owner) != nil {
				errs = append(errs, fmt.Errorf("App %d: %q is not the name of an organization or user", a.ID, owner))
			}
			if named[strings.ToLower(owner)] {
				errs = append(errs, fmt.Errorf("App %d names %q twice", a.ID, owner))
			}
			named[strings.ToLower(owner)] = true
		}
	}
	return errors.Join(errs...)
}

// checkName refuses what cannot be an owner's or a repository's name, so that
// nothing in a name can change which path is called. It is wider than GitHub's
// rules: those are GitHub's to apply.
func checkName(name string) error {
	if name == "" || len(name) > 100 || name == "." || name == ".." {
		return fmt.Errorf("%q is not a name that GitHub could have", name)
	}
	for _, r := range name {
		alphanumeric := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
		if !alphanumeric && r != '.' && r != '-' && r != '_' {
			return fmt.Errorf("%q is not a name that GitHub could have", name)
		}
	}
	return nil
}
