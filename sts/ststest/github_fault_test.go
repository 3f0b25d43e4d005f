package ststest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestConditionalRequests(t *testing.T) {
	for _, c := range []struct {
		name   string
		config GitHubConfig
		weak   bool
	}{{"strong", GitHubConfig{}, false}, {"weak", GitHubConfig{WeakETags: true}, true}} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, c.config)
			f.PutFile("acme", "one", "f", "1")
			token := f.mint("")
			r := f.do("GET", "/repos/acme/one/contents/f", token, "")
			tag := r.Header.Get("ETag")
			if strings.HasPrefix(tag, "W/") != c.weak || len(tag) < 10 {
				t.Fatalf("ETag %q", tag)
			}
			used := r.Header.Get("X-RateLimit-Used")
			for _, header := range []string{tag, "W/" + strings.TrimPrefix(tag, "W/"), `"x", ` + tag, "*"} {
				r = f.do("GET", "/repos/acme/one/contents/f", token, "", "If-None-Match", header)
				if r.StatusCode != 304 || len(r.body) != 0 || r.Header.Get("ETag") != tag {
					t.Errorf("If-None-Match %s: %s, body %q", header, r.Status, r.body)
				}
				if got := r.Header.Get("X-RateLimit-Used"); got != used {
					t.Errorf("304 was counted: used %s, then %s", used, got)
				}
			}
			f.PutFile("acme", "one", "f", "2")
			if r = f.do("GET", "/repos/acme/one/contents/f", token, "", "If-None-Match", tag); r.StatusCode != 200 || r.Header.Get("ETag") == tag {
				t.Errorf("after a change: %s", r.Status)
			}
			if r.Header.Get("X-RateLimit-Used") == used {
				t.Error("an answer 200 was not counted")
			}
		})
	}
	f := newFixture(t, GitHubConfig{ETagPerToken: true})
	tag := f.do("GET", "/repos/acme/one", f.mint(""), "").Header.Get("ETag")
	if r := f.do("GET", "/repos/acme/one", f.mint(""), "", "If-None-Match", tag); r.StatusCode != 200 {
		t.Errorf("ETagPerToken: another token got %s", r.Status)
	}
}

func TestRateLimit(t *testing.T) {
	f := newFixture(t, GitHubConfig{RateLimit: 2})
	token := f.mint("")
	for want := 1; want >= 0; want-- {
		r := f.do("GET", "/repos/acme/one", token, "")
		if r.StatusCode != 200 || r.Header.Get("X-RateLimit-Remaining") != fmt.Sprint(want) || r.Header.Get("X-RateLimit-Limit") != "2" {
			t.Errorf("%s %v", r.Status, r.Header)
		}
		if r.Header.Get("X-RateLimit-Resource") != "core" || r.Header.Get("X-GitHub-Request-Id") == "" {
			t.Errorf("headers %v", r.Header)
		}
	}
	r := f.do("GET", "/repos/acme/one", token, "")
	if r.StatusCode != 403 || r.Header.Get("X-RateLimit-Remaining") != "0" || !strings.HasPrefix(r.message(t), "API rate limit exceeded") {
		t.Errorf("beyond the limit: %s %s", r.Status, r.body)
	}
	// An App JWT is no installation: minting goes on, and says nothing of limits.
	if r := f.do("GET", "/app", f.jwt(), ""); r.StatusCode != 200 || r.Header.Get("X-RateLimit-Limit") != "" {
		t.Errorf("App JWT: %s %v", r.Status, r.Header)
	}
	f.SetClockOffset(time.Hour)
	f.SetRateLimit(f.installation, 5000, 17, f.now().Add(time.Minute))
	token = f.mintAt()
	if r := f.do("GET", "/repos/acme/one", token, ""); r.Header.Get("X-RateLimit-Remaining") != "16" {
		t.Errorf("SetRateLimit: %v", r.Header)
	}
}

// mintAt is mint by the fake's own clock.
func (f *fixture) mintAt() string {
	f.t.Helper()
	jwt, _, err := AppJWT(testKey, testApp, f.now())
	if err != nil {
		f.t.Fatal(err)
	}
	r := f.do("POST", fmt.Sprintf("/app/installations/%d/access_tokens", f.installation), jwt, "")
	return r.json(f.t)["token"].(string)
}

func TestCalls(t *testing.T) {
	f := newFixture(t, GitHubConfig{})
	token := f.mint("")
	f.do("GET", "/repos/acme/one/contents/a/b", token, "")
	f.do("GET", "/repos/acme/one/contents/c", token, "")
	f.do("GET", "/nowhere", token, "")
	calls := f.Calls()
	if calls[MintRoute] != 1 || calls[ContentsRoute] != 2 || calls["unknown"] != 1 || f.TotalCalls() != 4 || f.PeakConcurrency() < 1 {
		t.Errorf("calls %v, peak %d", calls, f.PeakConcurrency())
	}
	f.ResetCalls()
	if f.TotalCalls() != 0 {
		t.Errorf("after ResetCalls: %v", f.Calls())
	}
}

func TestFaults(t *testing.T) {
	newJWT := func(f *fixture) string { return f.jwt() }
	t.Run("statuses", func(t *testing.T) {
		f := newFixture(t, GitHubConfig{})
		a := f.Fail(Fault{Route: AppRoute, Skip: 1, Count: 2, Status: 502, Body: "bad gateway"})
		var got []int
		for range 4 {
			got = append(got, f.do("GET", "/app", newJWT(f), "").StatusCode)
		}
		if fmt.Sprint(got) != "[200 502 502 200]" || a.Hits() != 2 {
			t.Errorf("got %v, hits %d", got, a.Hits())
		}
	})
	t.Run("match and clear", func(t *testing.T) {
		f := newFixture(t, GitHubConfig{})
		a := f.Fail(Fault{Status: 500, Match: func(r *http.Request) bool { return strings.Contains(r.URL.Path, "one") }})
		token := f.mint("")
		if one, two := f.do("GET", "/repos/acme/one", token, ""), f.do("GET", "/repos/acme/two", token, ""); one.StatusCode != 500 || two.StatusCode != 200 {
			t.Errorf("one %s, two %s", one.Status, two.Status)
		}
		a.Clear()
		if r := f.do("GET", "/repos/acme/one", token, ""); r.StatusCode != 200 {
			t.Errorf("cleared: %s", r.Status)
		}
	})
	t.Run("reset", func(t *testing.T) {
		f := newFixture(t, GitHubConfig{})
		f.Fail(Fault{Route: MintRoute, Reset: true})
		if err := f.try("POST", fmt.Sprintf("/app/installations/%d/access_tokens", f.installation)); err == nil {
			t.Error("no error after a reset")
		}
		if len(f.Mints()) != 0 {
			t.Error("the reset request was done")
		}
	})
	t.Run("lost", func(t *testing.T) {
		f := newFixture(t, GitHubConfig{})
		f.Fail(Fault{Route: MintRoute, Lost: true})
		if err := f.try("POST", fmt.Sprintf("/app/installations/%d/access_tokens", f.installation)); err == nil {
			t.Error("no error where the answer was lost")
		}
		if len(f.LiveMints()) == 0 {
			t.Error("the lost request was not done")
		}
	})
	t.Run("garbage, truncation", func(t *testing.T) {
		f := newFixture(t, GitHubConfig{})
		f.Fail(Fault{Garbage: true, Count: 1})
		f.Fail(Fault{Truncate: true, Count: 1})
		for _, name := range []string{"garbage", "truncated"} {
			if r := f.do("GET", "/app", f.jwt(), ""); r.StatusCode != 200 || json.Valid(r.body) || len(r.body) == 0 {
				t.Errorf("%s: %s %q", name, r.Status, r.body)
			}
		}
	})
	t.Run("redirect", func(t *testing.T) {
		f := newFixture(t, GitHubConfig{})
		f.Fail(Fault{Status: 307, Header: map[string]string{"Location": "https://elsewhere.example/"}})
		if r := f.do("GET", "/app", f.jwt(), ""); r.StatusCode != 307 || r.Header.Get("Location") != "https://elsewhere.example/" {
			t.Errorf("%s %v", r.Status, r.Header)
		}
	})
	t.Run("rate limits", func(t *testing.T) {
		f := newFixture(t, GitHubConfig{})
		reset := time.Now().Add(time.Minute)
		f.Fail(withCount(PrimaryRateLimit(403, reset)))
		f.Fail(withCount(SecondaryRateLimit(429, 7*time.Second)))
		r := f.do("GET", "/app", f.jwt(), "")
		if r.StatusCode != 403 || r.Header.Get("X-RateLimit-Remaining") != "0" || r.Header.Get("X-RateLimit-Reset") != fmt.Sprint(reset.Unix()) {
			t.Errorf("primary: %s %v", r.Status, r.Header)
		}
		r = f.do("GET", "/app", f.jwt(), "")
		if r.StatusCode != 429 || r.Header.Get("Retry-After") != "7" || !strings.Contains(r.message(t), "secondary rate limit") {
			t.Errorf("secondary: %s %v", r.Status, r.Header)
		}
	})
	t.Run("clock", func(t *testing.T) {
		f := newFixture(t, GitHubConfig{})
		f.SetClockOffset(-10 * time.Minute)
		r := f.do("GET", "/app", f.jwt(), "")
		date, err := http.ParseTime(r.Header.Get("Date"))
		if r.StatusCode != 401 || err != nil || time.Since(date) < 9*time.Minute {
			t.Errorf("a fake 10 minutes slow: %s, Date %s", r.Status, r.Header.Get("Date"))
		}
		f.SetClockOffset(0)
		f.Fail(Fault{ClockOffset: time.Hour})
		r = f.do("GET", "/app", f.jwt(), "")
		if date, _ := http.ParseTime(r.Header.Get("Date")); r.StatusCode != 200 || time.Until(date) < 59*time.Minute {
			t.Errorf("Date alone shifted: %s, Date %s", r.Status, r.Header.Get("Date"))
		}
	})
	t.Run("a caller that gives up", func(t *testing.T) {
		f := newFixture(t, GitHubConfig{})
		f.Fail(Fault{Route: MintRoute, Delay: time.Hour})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, "POST", fmt.Sprintf("%s/app/installations/%d/access_tokens", f.URL(), f.installation), nil)
		req.Header.Set("Authorization", "Bearer "+f.jwt())
		if _, err := f.client.Do(req); err == nil || len(f.Mints()) != 0 {
			t.Errorf("err %v, %d mints", err, len(f.Mints()))
		}
	})
	t.Run("fresh tokens", func(t *testing.T) {
		f := newFixture(t, GitHubConfig{})
		f.RefuseFreshTokens(2, 401)
		token := f.mint("")
		var got []int
		for range 3 {
			got = append(got, f.do("GET", "/repos/acme/one", token, "").StatusCode)
		}
		if fmt.Sprint(got) != "[401 401 200]" {
			t.Errorf("got %v", got)
		}
	})
}

func withCount(f Fault) Fault { f.Count = 1; return f }

// try sends a request that may fail.
func (f *fixture) try(method, path string) error {
	req, err := http.NewRequestWithContext(f.t.Context(), method, f.URL()+path, bytes.NewReader(nil))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+f.jwt())
	resp, err := f.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.ReadAll(resp.Body)
	return err
}
