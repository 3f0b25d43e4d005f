package setup

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
)

// GitHub is where one GitHub has its pages and its API. Both are without a trailing slash.
type GitHub struct {
	WebURL string // https://github.com
	APIURL string // https://api.github.com
}

// NewGitHub completes what the operator gave. Where apiURL is empty it follows from webURL: GitHub's own sites (github.com,
// and NAME.ghe.com of GitHub Enterprise Cloud with data residency) have their API at a host of its own, a GitHub
// Enterprise Server has it at /api/v3. Plain http is refused but on a loopback address: secrets travel there.
func NewGitHub(webURL, apiURL string) (GitHub, error) {
	web, err := parseBase(webURL)
	if err != nil {
		return GitHub{}, fmt.Errorf("GitHub's address %q: %w", webURL, err)
	}
	g := GitHub{WebURL: web.Scheme + "://" + strings.ToLower(web.Host), APIURL: strings.TrimSuffix(apiURL, "/")}
	if strings.Trim(web.Path, "/") != "" {
		return GitHub{}, fmt.Errorf("GitHub's address %q: leave out the path; the API's is found by itself", webURL)
	}
	if g.APIURL == "" {
		if host := strings.ToLower(web.Hostname()); host == "github.com" || strings.HasSuffix(host, ".ghe.com") {
			g.APIURL = web.Scheme + "://api." + strings.ToLower(web.Host)
		} else {
			g.APIURL = g.WebURL + "/api/v3"
		}
	}
	if _, err := parseBase(g.APIURL); err != nil {
		return GitHub{}, fmt.Errorf("the address of GitHub's API %q: %w", apiURL, err)
	}
	return g, nil
}

func parseBase(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("want a base URL such as https://github.com")
	}
	ip := net.ParseIP(u.Hostname())
	if loopback := ip != nil && ip.IsLoopback(); u.Scheme != "https" && (u.Scheme != "http" || !loopback) {
		return nil, errors.New("it must be https: an App's private key comes from there")
	}
	return u, nil
}

// IsDotCom reports whether this is github.com itself.
func (g GitHub) IsDotCom() bool { return g.WebURL == "https://github.com" }

// ActionsIssuer is the OIDC issuer of this GitHub's Actions ("OpenID Connect reference" in GitHub's documentation of
// each edition), "" where it cannot be told from the address.
func (g GitHub) ActionsIssuer() string {
	u, err := url.Parse(g.WebURL)
	switch {
	case g.IsDotCom():
		return "https://token.actions.githubusercontent.com"
	case err != nil || u.Scheme != "https":
		return ""
	case strings.HasSuffix(u.Hostname(), ".ghe.com"):
		return "https://token.actions." + u.Host
	}
	return g.WebURL + "/_services/token"
}

// settings is the page of an owner's settings that Apps are under; owner "" is the person who is signed in.
func (g GitHub) settings(owner string) string {
	if owner == "" {
		return g.WebURL + "/settings/apps"
	}
	return g.WebURL + "/organizations/" + url.PathEscape(owner) + "/settings/apps"
}

// NewAppURL is where a manifest is posted to.
func (g GitHub) NewAppURL(owner, state string) string {
	return g.settings(owner) + "/new?" + url.Values{"state": {state}}.Encode()
}

// AppsURL is the list of an owner's Apps.
func (g GitHub) AppsURL(owner string) string { return g.settings(owner) }

// AppURL is the settings page of one App.
func (g GitHub) AppURL(owner, slug string) string {
	return g.settings(owner) + "/" + url.PathEscape(slug)
}
