// Package stsclient exchanges an OIDC ID token for a GitHub installation token
// at an octo-sts appliance, for programs in Go: once (Client.Exchange), or for as
// long as they run (Client.TokenSource).
//
// What fails on the way is tried again, a few times and with pauses; what was
// refused never is, since the same question has the same answer, and the
// appliance counts refusals.
package stsclient

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// Config says where to exchange what. URL, Scope, Identity and IDToken are required;
// a client that only revokes needs URL alone.
type Config struct {
	// URL is the appliance, as https://sts.example.com. Only a loopback address
	// may be http.
	URL string

	// Scope is owner/repository, or owner for a policy of the organization.
	Scope string

	// Identity names the trust policy: .github/chainguard/{identity}.sts.yaml.
	Identity string

	// IDToken returns the OIDC ID token to show, a compact JWS. It is called before
	// each attempt, so that a token for a single use can be a new one each time.
	IDToken func(ctx context.Context) (string, error)

	// HTTPClient makes the requests, for another trust store or proxy than the
	// system's. No redirect is followed whatever it says. nil: the system's trust store and
	// proxy, and 30 seconds for a request.
	HTTPClient *http.Client

	// UserAgent is what the appliance's audit log says of this program. Empty:
	// octo-sts-client.
	UserAgent string
}

// InstallationToken is what GitHub takes as a password, or as a bearer token.
// Printing one with package fmt does not show its value.
type InstallationToken struct {
	Value  string
	Expiry time.Time
}

// String keeps the value out of logs.
func (t InstallationToken) String() string {
	return "installation token until " + t.Expiry.UTC().Format(time.RFC3339)
}

// GoString keeps the value out of logs, too.
func (t InstallationToken) GoString() string { return t.String() }

// Client speaks to one appliance. It is safe for concurrent use.
type Client struct {
	config Config
	base   *url.URL
	http   *http.Client
	pause  func(context.Context, time.Duration) error
}

// requestTimeout bounds one attempt. The appliance gives an exchange ten seconds, and
// its audit log and GitHub ten more each where they are in trouble.
const requestTimeout = 30 * time.Second

// New checks the configuration. It makes no connection.
func New(_ context.Context, c Config) (*Client, error) {
	base, err := parseURL(c.URL)
	if err != nil {
		return nil, fmt.Errorf("making a client of octo-sts: %w", err)
	}
	own := http.Client{Timeout: requestTimeout}
	if c.HTTPClient != nil {
		own = *c.HTTPClient
	}
	// A bearer token goes where it was meant to go, and nowhere else.
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if c.UserAgent == "" {
		c.UserAgent = "octo-sts-client"
	}
	return &Client{config: c, base: base, http: &own, pause: pause}, nil
}

func parseURL(s string) (*url.URL, error) {
	if s == "" {
		return nil, errors.New("the appliance's URL is missing: it is https://HOST")
	}
	base, err := url.Parse(s)
	if err != nil || base.Host == "" || base.User != nil || base.RawQuery != "" || base.Fragment != "" {
		return nil, errors.New("the appliance's URL is not of the form https://HOST")
	}
	if base.Scheme != "https" && (base.Scheme != "http" || !isLoopback(base.Hostname())) {
		return nil, fmt.Errorf("the appliance's URL begins with %s: it must be https, or http on a loopback address", clip(base.Scheme, 20))
	}
	return base, nil
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// Exchange shows the ID token and returns the installation token that the policy
// grants. Where the appliance says no, the error is a *RefusedError.
func (c *Client) Exchange(ctx context.Context) (InstallationToken, error) {
	if c.config.Scope == "" || c.config.Identity == "" || c.config.IDToken == nil {
		return InstallationToken{}, errors.New("exchanging at octo-sts: the client was made without a scope, an identity or an ID token")
	}
	var token InstallationToken
	err := c.repeat(ctx, func(ctx context.Context) error {
		idToken, err := c.config.IDToken(ctx)
		if err != nil {
			return fmt.Errorf("getting the ID token: %w", err)
		}
		if idToken = strings.TrimSpace(idToken); !visible(idToken) {
			return errors.New("getting the ID token: it is empty, or no JSON Web Token")
		}
		token, err = c.exchangeOnce(ctx, idToken)
		return err
	})
	if err != nil {
		return InstallationToken{}, fmt.Errorf("exchanging at %s for scope %s as identity %s: %w",
			c.base.Host, clip(c.config.Scope, 150), clip(c.config.Identity, 200), err)
	}
	return token, nil
}

// exchangeOnce is one attempt. octo-sts's clients name the scope twice.
func (c *Client) exchangeOnce(ctx context.Context, idToken string) (InstallationToken, error) {
	target := c.base.JoinPath("/sts/exchange")
	target.RawQuery = url.Values{"scope": {c.config.Scope}, "scopes": {c.config.Scope}, "identity": {c.config.Identity}}.Encode()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), nil)
	if err != nil {
		return InstallationToken{}, err
	}
	r.Header.Set("Authorization", "Bearer "+idToken)
	a, err := c.send(r)
	if err != nil {
		return InstallationToken{}, err
	}
	if a.status != http.StatusOK {
		sent := readSent(idToken)
		sent.Scope, sent.Identity = c.config.Scope, c.config.Identity
		return InstallationToken{}, a.refusal(sent, idToken)
	}
	return parseGrant(a.body)
}

// ErrUnknownToken is what Revoke says of a token that the appliance does not know: it
// expired, or another appliance handed it out, where it has to be revoked.
var ErrUnknownToken = errors.New("the appliance knows no such token: it has expired, or was handed out elsewhere")

// Revoke ends an installation token's life before its hour is over, through the
// appliance that handed it out, for machines that cannot reach GitHub. To revoke one that was
// revoked before is no error. Errors: ErrUnknownToken; a *RefusedError where the appliance
// says no, after which the token may still live.
func (c *Client) Revoke(ctx context.Context, installationToken string) error {
	form := url.Values{"token": {installationToken}}.Encode()
	err := c.repeat(ctx, func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base.JoinPath("/sts/revoke").String(), strings.NewReader(form))
		if err != nil {
			return err
		}
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		a, err := c.send(r)
		if err != nil {
			return err
		}
		if a.status != http.StatusOK {
			return a.refusal(Sent{}, installationToken)
		}
		return parseRevocation(a.body)
	})
	if err != nil {
		return fmt.Errorf("revoking an installation token at %s: %w", c.base.Host, err)
	}
	return nil
}
