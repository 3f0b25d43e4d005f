package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"time"
)

// The targets of the probes.
const (
	TargetPositive = "positive"
	TargetNegative = "negative"
)

// run collects the checks of one probe.
type run struct {
	*Prober
	ctx    context.Context
	checks []Check
}

// failure is why a check failed: what came in the place of what was expected, and
// what mends it.
type failure struct{ came, do string }

func (f *failure) Error() string { return f.came }

func failed(do, format string, args ...any) error {
	return &failure{fmt.Sprintf(format, args...), do}
}

// check makes one check. It returns what was found, or an error: a *failure, or one
// that matches ErrNoSuchIDToken, which skips it. ok tells whether it succeeded.
func (r *run) check(name, expected string, look func() (came string, err error)) (ok bool) {
	began := time.Now()
	came, err := look()
	c := Check{Name: name, State: OK, Expected: expected, Came: came, Seconds: time.Since(began).Seconds()}
	var f *failure
	switch {
	case err == nil:
	case errors.Is(err, ErrNoSuchIDToken):
		c.State, c.Came = Skipped, err.Error()
	case errors.As(err, &f):
		c.State, c.Came, c.Do = Failed, f.came, f.do
	default:
		c.State, c.Came = Failed, err.Error()
	}
	r.checks = append(r.checks, c)
	return err == nil
}

// skip notes checks that cannot be made.
func (r *run) skip(why string, names ...string) {
	for _, name := range names {
		r.checks = append(r.checks, Check{Name: name, State: Skipped, Came: why})
	}
}

// maxAnswer bounds what is read of an answer, in bytes. A policy has a few hundred.
const maxAnswer = 1 << 20

// answer is what somebody said, whole.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// send makes one request. No error of its holds the URL's query, a header or a body.
func send(client *http.Client, r *http.Request) (*answer, error) {
	response, err := client.Do(r)
	if err != nil {
		if u := (*url.Error)(nil); errors.As(err, &u) {
			err = u.Err
		}
		return nil, fmt.Errorf("no answer of %s: %w", r.URL.Host, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("an answer of %s that broke off: %w", r.URL.Host, err)
	}
	if len(body) > maxAnswer {
		return nil, fmt.Errorf("an answer of %s of more than %d bytes", r.URL.Host, maxAnswer)
	}
	return &answer{response.StatusCode, response.Header, body}, nil
}

// askGitHub calls GitHub's API with an installation token. body is nil, or becomes JSON.
func (r *run) askGitHub(installationToken, method, path string, body any) (*answer, error) {
	var content io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(r.ctx, method, r.github.JoinPath(path).String(), content)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+installationToken)
	request.Header.Set("Accept", "application/vnd.github+json")
	request.Header.Set("User-Agent", r.config.UserAgent)
	return send(r.gitHub, request)
}

// freshFor is for how long GitHub may not know a token yet that it has just handed
// out, or know one still that was just revoked; freshPause is between two looks.
const (
	freshFor   = 4 * time.Second
	freshPause = 250 * time.Millisecond
)

// askUntil asks GitHub again while its answer is not as wanted, for as long as GitHub's
// own machines may differ about a token.
func (r *run) askUntil(wanted func(status int) bool, installationToken, path string) (a *answer, err error) {
	until := time.Now().Add(freshFor)
	for pause := freshPause; ; pause *= 2 {
		a, err = r.askGitHub(installationToken, http.MethodGet, path, nil)
		if err == nil && wanted(a.status) || time.Now().Add(pause).After(until) {
			return a, err
		}
		select {
		case <-r.ctx.Done():
			return a, errors.Join(err, r.ctx.Err())
		case <-time.After(pause):
		}
	}
}

// discard has GitHub forget a token that nobody is to have. That it cannot is told by
// another check, or an hour ends it.
func (r *run) discard(installationToken string) {
	ctx := r.ctx
	if ctx.Err() != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
		defer cancel()
	}
	last := &run{Prober: r.Prober, ctx: ctx}
	_, _ = last.askGitHub(installationToken, http.MethodDelete, "installation/token", nil)
}

// said is what a refusal of GitHub's or the appliance's says, for people.
func (a *answer) said() string {
	var body struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(a.body, &body) != nil || body.Message == "" {
		return fmt.Sprintf("HTTP status %d", a.status)
	}
	return fmt.Sprintf("HTTP status %d, %.200q", a.status, body.Message)
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}
