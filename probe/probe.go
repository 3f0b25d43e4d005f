// Package probe tries an appliance from end to end, as a stranger to it would
// see it: over its public URL and at GitHub, with a real ID token and a real
// installation token. Positive finds out whether what has to be granted is, and no
// more than that; Negative, whether what must be refused is.
//
// It knows nothing of the appliance but its wire. What an appliance knows of
// itself is in its /readyz.
package probe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Kind is which ID token is asked for. They differ in what their names say, and in
// nothing else.
type Kind string

// The kinds of ID tokens.
const (
	Good          Kind = "good"           // the policy's subject and audience
	WrongAudience Kind = "wrong-audience" // an audience that no policy should take
	WrongSubject  Kind = "wrong-subject"  // a subject that no policy should let in
)

// ErrNoSuchIDToken is what Config.IDToken returns for a kind that it cannot make: the
// checks that need it are skipped.
var ErrNoSuchIDToken = errors.New("the source of ID tokens makes none of this kind")

// Config says what to probe. All but the roots and UserAgent are required.
type Config struct {
	// URL is the appliance's public one, https://sts.example.com. Only a loopback
	// address may be http.
	URL string

	// Roots are trusted for URL instead of the system's; nil: the system's.
	Roots *x509.CertPool

	// Scope is the repository, owner/name, and Identity the trust policy in it that
	// lets the ID token have `contents: read` of this repository, and nothing else.
	Scope, Identity string

	// IDToken returns a fresh ID token, or ErrNoSuchIDToken.
	IDToken func(ctx context.Context, kind Kind) (string, error)

	// GitHubURL is that of GitHub's API, https://api.github.com.
	GitHubURL string

	// GitHubRoots are trusted for GitHubURL instead of the system's.
	GitHubRoots *x509.CertPool

	// UserAgent is what the audit log says of the probe. Empty: octo-sts-probe.
	UserAgent string
}

// Prober probes one appliance. It is safe for concurrent use.
type Prober struct {
	config         Config
	base, github   *url.URL
	owner, name    string // of the scope
	client, gitHub *http.Client
}

// requestTimeout bounds one request. The appliance gives itself ten seconds for an
// exchange.
const requestTimeout = 12 * time.Second

// New checks the configuration. It makes no connection.
func New(_ context.Context, c Config) (*Prober, error) {
	var problems []error
	base, err := CheckURL(c.URL)
	if err != nil {
		problems = append(problems, fmt.Errorf("the appliance's URL: %w", err))
	}
	github, err := CheckURL(c.GitHubURL)
	if err != nil {
		problems = append(problems, fmt.Errorf("the URL of GitHub's API: %w", err))
	}
	owner, name, err := SplitScope(c.Scope)
	if err != nil {
		problems = append(problems, err)
	}
	if c.Identity == "" || strings.ContainsAny(c.Identity, "/\\ ") {
		problems = append(problems, fmt.Errorf("the identity %q is not the NAME of a .github/chainguard/NAME.sts.yaml", c.Identity))
	}
	if c.IDToken == nil {
		problems = append(problems, errors.New("there is no source of ID tokens"))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, fmt.Errorf("configuring a probe: %w", err)
	}
	if c.UserAgent == "" {
		c.UserAgent = "octo-sts-probe"
	}
	return &Prober{
		config: c, base: base, github: github, owner: owner, name: name,
		client: newClient(c.Roots), gitHub: newClient(c.GitHubRoots),
	}, nil
}

// newClient makes a connection for each request: a probe shall find out whether one
// can be made. It follows no redirect, since a bearer token goes where it was meant to go.
func newClient(roots *x509.CertPool) *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	transport.DisableKeepAlives = true
	return &http.Client{
		Transport: transport, Timeout: requestTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// CheckURL parses the base URL of an appliance or of GitHub's API: https, or http on
// a loopback address.
func CheckURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q is not a URL such as https://sts.example.com", s)
	}
	if u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())) {
		return nil, fmt.Errorf("%q: tokens travel there, so it has to be https", s)
	}
	return u, nil
}

// SplitScope takes owner/name apart. A probe's scope is a repository: an
// organization's policy could reach more than one.
func SplitScope(scope string) (owner, name string, err error) {
	owner, name, _ = strings.Cut(scope, "/")
	if owner == "" || name == "" || strings.ContainsAny(name, "/\\ ?#") || strings.ContainsAny(owner, "\\ ?#") {
		return "", "", fmt.Errorf("the scope %q is not OWNER/REPOSITORY: a probe has a repository of its own", scope)
	}
	return owner, name, nil
}
