package setup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
)

const (
	// maxConversion bounds the answer to a conversion, which has some 5 kB.
	maxConversion = 1 << 20
	// conversionTries is how often a conversion is asked for where no answer came, or GitHub was in trouble. A code that
	// GitHub has taken already is answered 404, so asking again does no harm.
	conversionTries = 4
)

// codePattern keeps a code from being anything but one segment of a path. GitHub's are 40 hexadecimal digits.
var codePattern = regexp.MustCompile(`^[A-Za-z0-9_-]{1,200}$`)

// App is what GitHub makes from a manifest. The client secret, which is for signing in persons, is dropped unread.
type App struct {
	ID      int64
	Slug    string
	HTMLURL string // its public page
	// PEM is the private key and WebhookSecret the secret of the webhook, empty where GitHub made none. Both are secrets:
	// see Forget.
	PEM           []byte
	WebhookSecret []byte
}

// Forget overwrites the secrets.
func (a *App) Forget() {
	clear(a.PEM)
	clear(a.WebhookSecret)
}

// InstallURL is the page at which an owner installs the App.
func (a *App) InstallURL() string { return a.HTMLURL + "/installations/new" }

// Convert exchanges the code of the manifest flow for the App ("Create a GitHub App from a manifest", GitHub REST API). A
// code is good once and for an hour. client must follow no redirects. Errors hold nothing of the answer but its status.
func Convert(ctx context.Context, client *http.Client, apiURL, code string) (*App, error) {
	if !codePattern.MatchString(code) {
		return nil, errors.New("GitHub's code has characters that no code has")
	}
	for try := 1; ; try++ {
		app, again, err := convertOnce(ctx, client, apiURL, code)
		if err == nil {
			return app, nil
		}
		if !again || try == conversionTries {
			return nil, fmt.Errorf("converting GitHub's code into the App: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("converting GitHub's code into the App: %w", err)
		case <-time.After(time.Second):
		}
	}
}

// convertOnce says, where it fails, whether trying again can help.
func convertOnce(ctx context.Context, client *http.Client, apiURL, code string) (app *App, again bool, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, apiURL+"/app-manifests/"+code+"/conversions", nil)
	if err != nil {
		return nil, false, err
	}
	request.Header.Set("Accept", "application/vnd.github+json")
	request.Header.Set("X-GitHub-Api-Version", "2022-11-28")
	request.Header.Set("User-Agent", "octo-sts-signer")
	response, err := client.Do(request)
	if err != nil {
		var withAddress *url.Error // and so with the code, which whoever reads it could convert himself
		if errors.As(err, &withAddress) {
			err = withAddress.Err
		}
		return nil, true, fmt.Errorf("asking GitHub: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusCreated {
		return nil, response.StatusCode >= 500, statusError(response)
	}
	// One buffer of full size: growing would leave copies of the key behind.
	body := make([]byte, maxConversion+1)
	defer clear(body)
	n, err := io.ReadFull(response.Body, body)
	switch {
	case err == nil:
		return nil, false, fmt.Errorf("GitHub's answer has more than %d bytes", maxConversion)
	case !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		return nil, true, fmt.Errorf("reading GitHub's answer: %w", err)
	}
	app, err = parseApp(body[:n])
	return app, false, err
}

func statusError(response *http.Response) error {
	switch response.StatusCode {
	case http.StatusNotFound:
		return errors.New("GitHub does not know the code (HTTP 404): it was used already, or is older than an hour")
	case http.StatusForbidden, http.StatusTooManyRequests:
		return fmt.Errorf("GitHub refuses (HTTP %d), likely for the rate limit of this address", response.StatusCode)
	}
	return fmt.Errorf("HTTP %d", response.StatusCode)
}

// parseApp never puts anything of the answer into an error.
func parseApp(body []byte) (*App, error) {
	var answer struct {
		ID            int64  `json:"id"`
		Slug          string `json:"slug"`
		HTMLURL       string `json:"html_url"`
		PEM           string `json:"pem"`
		WebhookSecret string `json:"webhook_secret"`
	}
	if json.Unmarshal(body, &answer) != nil {
		return nil, errors.New("GitHub's answer is not the JSON of an App")
	}
	if answer.ID <= 0 || answer.Slug == "" || answer.PEM == "" {
		return nil, errors.New("GitHub's answer lacks the App's ID, its slug or its private key")
	}
	return &App{
		ID: answer.ID, Slug: answer.Slug, HTMLURL: asciiOf(answer.HTMLURL),
		PEM: []byte(answer.PEM), WebhookSecret: []byte(answer.WebhookSecret),
	}, nil
}

// asciiOf leaves out of a URL what no URL has: a terminal shows it, and might obey it.
func asciiOf(url string) string {
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return -1
		}
		return r
	}, url)
}
