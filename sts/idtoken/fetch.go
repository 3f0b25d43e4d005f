package idtoken

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

// rediscoverAfter is how long a discovered jwks_uri is used. It also ends with the first failure.
const rediscoverAfter = time.Hour

// remote fetches the keys of one issuer over HTTP. It has no lock: only its keySource's goroutine uses it.
type remote struct {
	issuer     Issuer
	client     *http.Client
	now        func() time.Time
	discovered string    // the jwks_uri; empty: not known
	at         time.Time // when it was discovered
}

// fetch gets the issuer's key set: discovery, if it is due, then the keys.
func (r *remote) fetch(ctx context.Context) (*keySet, error) {
	keysURL := r.issuer.JWKSURL
	if keysURL == "" {
		var err error
		if keysURL, err = r.discover(ctx); err != nil {
			return nil, fmt.Errorf("discovery: %w", err)
		}
	}
	set, err := r.keys(ctx, keysURL)
	if err != nil {
		r.discovered = ""
		return nil, fmt.Errorf("getting keys from %s: %w", keysURL, err)
	}
	return set, nil
}

// discover gets the issuer's jwks_uri (OpenID Connect Discovery 1.0 section 4).
func (r *remote) discover(ctx context.Context) (string, error) {
	if r.discovered != "" && r.now().Sub(r.at) < rediscoverAfter {
		return r.discovered, nil
	}
	r.discovered = ""
	provider, err := oidc.NewProvider(oidc.ClientContext(ctx, r.client), r.issuer.URL)
	if err != nil {
		return "", err
	}
	// go-oidc has compared the issuer already, but reads JSON loosely.
	var raw json.RawMessage
	if err := provider.Claims(&raw); err != nil {
		return "", err
	}
	document, err := parseJSONObject(string(raw), 0)
	if err != nil {
		return "", err
	}
	if document["issuer"] != r.issuer.URL {
		return "", errors.New("the document is another issuer's")
	}
	keysURL, _ := document["jwks_uri"].(string)
	parsed, err := checkURL(keysURL, r.issuer.Networks)
	if err != nil {
		return "", fmt.Errorf("jwks_uri %q: %w", shorten(keysURL), err)
	}
	issuer, err := url.Parse(r.issuer.URL)
	if err != nil {
		return "", err
	}
	if !sameOrigin(parsed, issuer) {
		return "", fmt.Errorf("jwks_uri %q is on another host than the issuer: if that is right, set the issuer's jwks_url to it", shorten(keysURL))
	}
	r.discovered, r.at = keysURL, r.now()
	return keysURL, nil
}

func (r *remote) keys(ctx context.Context, keysURL string) (*keySet, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, keysURL, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/jwk-set+json, application/json")
	response, err := r.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the answer is %s", response.Status)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	return parseKeySet(body)
}

// readKeyFile reads the key set of an issuer that is never dialled.
func readKeyFile(name string) (*keySet, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxKeySetSize+1)) // parseKeySet refuses that one byte more
	if err != nil {
		return nil, err
	}
	set, err := parseKeySet(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return set, nil
}
