package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

const (
	gitHubTimeout = 10 * time.Second
	maxGitHub     = 1 << 20 // bytes of an answer to GET /app, which has some 2 kB
)

// newGitHubClient makes the client for one base URL: https, or http on loopback for tests. It follows no redirect, since
// a JWT must not travel to where a redirect points. HTTPS_PROXY and NO_PROXY are honoured.
func newGitHubClient(apiURL, caFile string) (*http.Client, error) {
	base, err := url.Parse(apiURL)
	if err != nil || base.Host == "" || base.User != nil || base.RawQuery != "" || base.Fragment != "" {
		return nil, fmt.Errorf("--api-url %q is not a base URL such as https://api.github.com", apiURL)
	}
	ip := net.ParseIP(base.Hostname())
	if loopback := ip != nil && ip.IsLoopback(); base.Scheme != "https" && (base.Scheme != "http" || !loopback) {
		return nil, fmt.Errorf("--api-url %q must be https: an App JWT is a secret", apiURL)
	}
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2:     true,
		TLSHandshakeTimeout:   gitHubTimeout,
		ResponseHeaderTimeout: gitHubTimeout,
	}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("reading --ca-file: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("reading --ca-file: %s holds no certificate in PEM form", caFile)
		}
		transport.TLSClientConfig.RootCAs = pool
	}
	return &http.Client{
		Timeout:       gitHubTimeout,
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// askGitHub makes the request GET /app ("Get the authenticated app", GitHub REST API) and returns the App's slug. It is an
// error where GitHub does not know the key, or knows it as another App's.
func askGitHub(ctx context.Context, client *http.Client, apiURL string, appID int64, jwt string) (slug string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(apiURL, "/")+"/app", nil)
	if err != nil {
		return "", fmt.Errorf("asking GitHub: %w", err)
	}
	request.Header.Set("Authorization", "Bearer "+jwt)
	request.Header.Set("Accept", "application/vnd.github+json")
	request.Header.Set("X-GitHub-Api-Version", "2022-11-28")
	request.Header.Set("User-Agent", "octo-sts-signer")
	response, err := client.Do(request)
	if err != nil {
		return "", fmt.Errorf("asking GitHub: %w", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxGitHub+1))
	if err != nil {
		return "", fmt.Errorf("asking GitHub: reading the answer: %w", err)
	}
	if len(body) > maxGitHub {
		return "", fmt.Errorf("asking GitHub: the answer has more than %d bytes", maxGitHub)
	}
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusNotFound:
		return "", fmt.Errorf("GitHub does not accept a JWT for App %d signed with this key (HTTP %d%s): is it this App's key, still on its settings page, and is this machine's clock right (GitHub's: %s)?",
			appID, response.StatusCode, gitHubMessage(body), response.Header.Get("Date"))
	default:
		return "", fmt.Errorf("asking GitHub: HTTP %d%s", response.StatusCode, gitHubMessage(body))
	}
	var app struct {
		ID   int64  `json:"id"`
		Slug string `json:"slug"`
	}
	if err := json.Unmarshal(body, &app); err != nil {
		return "", errors.New("asking GitHub: the answer is not JSON; is --api-url right?")
	}
	if app.ID != appID {
		return "", fmt.Errorf("GitHub knows this key as that of App %d (%q), not %d", app.ID, app.Slug, appID)
	}
	return app.Slug, nil
}

// gitHubMessage is the text of GitHub's error body, quoted, since it is somebody else's.
func gitHubMessage(body []byte) string {
	var e struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(body, &e) != nil || e.Message == "" || len(e.Message) > 500 {
		return ""
	}
	return fmt.Sprintf(", %q", e.Message)
}
