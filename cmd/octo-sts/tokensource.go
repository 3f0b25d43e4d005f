package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
)

// maxIDToken is the longest ID token that an appliance accepts, in bytes.
const maxIDToken = 16 << 10

// gitlabVariable is the name that a GitLab job gives its ID token (`id_tokens:`).
const gitlabVariable = "OCTO_STS_ID_TOKEN"

// idToken finds this job's ID token, by --token-file, by --token-source, or from
// the first CI system that the environment shows.
func (o *exchangeOptions) idToken(ctx context.Context, stdin io.Reader, base *url.URL) (string, error) {
	switch {
	case o.tokenFile != "" && o.tokenSource != "":
		return "", errors.New("--token-file and --token-source exclude each other")
	case o.tokenFile != "":
		return fromFile(o.tokenFile, stdin)
	case o.tokenSource == "github", o.tokenSource == "" && os.Getenv("ACTIONS_ID_TOKEN_REQUEST_URL") != "":
		audience := o.audience
		if audience == "" {
			audience = base.Hostname()
		}
		return fromGitHub(ctx, audience)
	case o.tokenSource == "gitlab", o.tokenSource == "" && os.Getenv(gitlabVariable) != "":
		if token := os.Getenv(gitlabVariable); token != "" {
			return token, nil
		}
		return "", fmt.Errorf("%s is not set: give the job `id_tokens: {%s: {aud: %s}}`", gitlabVariable, gitlabVariable, base.Hostname())
	case o.tokenSource != "":
		return "", fmt.Errorf("--token-source %q: want github or gitlab", o.tokenSource)
	default:
		return "", errors.New("no ID token: give --token-file, or run in a CI job that has one (GitHub Actions: `permissions: {id-token: write}`; GitLab: `id_tokens:`)")
	}
}

func fromFile(file string, stdin io.Reader) (string, error) {
	source := stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("reading the ID token: %w", err)
		}
		defer f.Close()
		source = f
	}
	data, err := io.ReadAll(io.LimitReader(source, maxIDToken+2))
	if err != nil {
		return "", fmt.Errorf("reading the ID token: %w", err)
	}
	token := strings.TrimSpace(string(data))
	if token == "" || len(token) > maxIDToken {
		return "", fmt.Errorf("reading the ID token: %s holds %d bytes, want 1 to %d", file, len(token), maxIDToken)
	}
	return token, nil
}

// fromGitHub asks GitHub Actions for an ID token, as GitHub's documentation of
// OpenID Connect in Actions describes.
func fromGitHub(ctx context.Context, audience string) (string, error) {
	source, secret := os.Getenv("ACTIONS_ID_TOKEN_REQUEST_URL"), os.Getenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
	if source == "" || secret == "" {
		return "", errors.New("ACTIONS_ID_TOKEN_REQUEST_URL and ACTIONS_ID_TOKEN_REQUEST_TOKEN are not set: give the job `permissions: {id-token: write}`")
	}
	target, err := url.Parse(source)
	if err != nil {
		return "", errors.New("ACTIONS_ID_TOKEN_REQUEST_URL is not a URL")
	}
	query := target.Query()
	query.Set("audience", audience)
	target.RawQuery = query.Encode()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return "", fmt.Errorf("requesting the ID token: %w", err)
	}
	r.Header.Set("Authorization", "Bearer "+secret)
	client, err := newHTTPClient("")
	if err != nil {
		return "", err
	}
	status, body, err := send(client, r)
	if err != nil {
		return "", &failedError{fmt.Errorf("requesting the ID token: %w", err)}
	}
	var answer struct{ Value string }
	if json.Unmarshal(body, &answer) != nil || answer.Value == "" {
		return "", &failedError{fmt.Errorf("requesting the ID token: GitHub Actions answered HTTP status %d and no token", status)}
	}
	return answer.Value, nil
}
