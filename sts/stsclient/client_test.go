package stsclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// scripted answers as an appliance, or what stands before one, may: one step a request,
// the last of them for ever.
type scripted struct {
	*httptest.Server
	mu       sync.Mutex
	steps    []step
	requests []seen
}

type step struct {
	status int
	header map[string]string
	body   string
	cut    bool // the connection, without an answer
}

type seen struct {
	target, authorization, body string
}

const grantBody = `{"token":"ghs_secret","refreshToken":"","expiry":"2100-01-01T00:00:00Z"}`

var (
	granted = step{status: http.StatusOK, body: grantBody}
	denied  = step{status: http.StatusForbidden, header: map[string]string{"X-Request-Id": "R1"},
		body: `{"code":7,"message":"the exchange is not allowed (request R1)","details":[]}`}
	away = step{status: http.StatusServiceUnavailable, body: `{"code":14,"message":"temporarily unavailable, try again (request R2)","details":[]}`}
)

func after(s step, seconds string) step {
	s.header = map[string]string{"Retry-After": seconds}
	return s
}

func serve(t *testing.T, steps ...step) *scripted {
	s := &scripted{steps: steps}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		s.requests = append(s.requests, seen{r.Method + " " + r.URL.String(), r.Header.Get("Authorization"), string(body)})
		next := s.steps[0]
		if len(s.steps) > 1 {
			s.steps = s.steps[1:]
		}
		s.mu.Unlock()
		if next.cut {
			panic(http.ErrAbortHandler)
		}
		for name, value := range next.header {
			w.Header().Set(name, value)
		}
		w.WriteHeader(next.status)
		io.WriteString(w, next.body)
	}))
	t.Cleanup(s.Close)
	return s
}

// asked is every request so far.
func (s *scripted) asked() []seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// client has a new ID token for each attempt, and notes its pauses instead of making them.
func client(t *testing.T, url string) (c *Client, pauses *[]time.Duration) {
	t.Helper()
	n := 0
	c, err := New(t.Context(), Config{URL: url, Scope: "acme/app", Identity: "ci",
		IDToken: func(context.Context) (string, error) { n++; return fmt.Sprintf("a.b.c%d\n", n), nil }})
	if err != nil {
		t.Fatal(err)
	}
	pauses = &[]time.Duration{}
	c.pause = func(_ context.Context, d time.Duration) error { *pauses = append(*pauses, d); return nil }
	return c, pauses
}

// What may be asked again, how often, and after how long.
func TestAttempts(t *testing.T) {
	limited := step{status: http.StatusTooManyRequests, body: `{"code":8,"message":"too many requests, try again later (request R3)","details":[]}`}
	page := step{status: http.StatusBadGateway, body: "<html>bad gateway</html>"}
	for _, tc := range []struct {
		name     string
		steps    []step
		attempts int
		status   int // of the RefusedError; 0: none
		ok       bool
	}{
		{"granted", []step{granted}, 1, 0, true},
		{"away, then granted", []step{away, granted}, 2, 0, true},
		{"away, with Retry-After", []step{after(away, "3"), granted}, 2, 0, true},
		{"too many, with Retry-After", []step{after(limited, "30"), granted}, 2, 0, true},
		{"a proxy's error", []step{page, granted}, 2, 0, true},
		{"cut off", []step{{cut: true}, granted}, 2, 0, true},
		{"away, cut off, too many, granted", []step{away, {cut: true}, limited, granted}, 4, 0, true},
		{"away for long", []step{away}, 4, http.StatusServiceUnavailable, false},
		{"cut off each time", []step{{cut: true}}, 4, 0, false},
		{"too many, for longer than anybody waits", []step{after(limited, "60"), granted}, 1, http.StatusTooManyRequests, false},

		{"denied", []step{denied, granted}, 1, http.StatusForbidden, false},
		{"denied, with Retry-After", []step{after(denied, "1"), granted}, 1, http.StatusForbidden, false},
		{"not accepted", []step{{status: http.StatusUnauthorized}, granted}, 1, http.StatusUnauthorized, false},
		{"invalid", []step{{status: http.StatusBadRequest}, granted}, 1, http.StatusBadRequest, false},
		{"a defect", []step{{status: http.StatusInternalServerError}, granted}, 1, http.StatusInternalServerError, false},
		{"a redirect is not followed", []step{{status: http.StatusTemporaryRedirect, header: map[string]string{"Location": "/sts/elsewhere"}}, granted}, 1, http.StatusTemporaryRedirect, false},
		{"away, then denied", []step{away, denied, granted}, 2, http.StatusForbidden, false},
		{"no JSON", []step{{status: http.StatusOK, body: "<html>"}, granted}, 1, 0, false},
		{"no token", []step{{status: http.StatusOK, body: `{"expiry":"2100-01-01T00:00:00Z"}`}, granted}, 1, 0, false},
		{"no expiry", []step{{status: http.StatusOK, body: `{"token":"ghs_secret"}`}, granted}, 1, 0, false},
		{"a token with a newline", []step{{status: http.StatusOK, body: `{"token":"ghs\nsecret","expiry":"2100-01-01T00:00:00Z"}`}, granted}, 1, 0, false},
		{"an answer without end", []step{{status: http.StatusOK, body: grantBody + strings.Repeat(" ", maxAnswer)}, granted}, 1, 0, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := serve(t, tc.steps...)
			c, pauses := client(t, s.URL)
			token, err := c.Exchange(t.Context())
			if (err == nil) != tc.ok || tc.ok && token.Value != "ghs_secret" || len(s.asked()) != tc.attempts || len(*pauses) != tc.attempts-1 {
				t.Fatalf("%v, %v after %d attempts and the pauses %v, want %d attempts", token, err, len(s.asked()), *pauses, tc.attempts)
			}
			var refused *RefusedError
			if errors.As(err, &refused) != (tc.status != 0) || refused != nil && refused.Status != tc.status {
				t.Errorf("%v, want status %d", err, tc.status)
			}
			for i, r := range s.asked() {
				if want := "POST /sts/exchange?identity=ci&scope=acme%2Fapp&scopes=acme%2Fapp"; r.target != want || r.authorization != fmt.Sprintf("Bearer a.b.c%d", i+1) {
					t.Errorf("attempt %d: %+v", i+1, r)
				}
			}
			for i, p := range *pauses {
				if asked := retryAfter(http.Header{"Retry-After": {tc.steps[min(i, len(tc.steps)-1)].header["Retry-After"]}}, time.Now()); p < asked || asked > 0 && p > asked*6/5 || p > 10*time.Second && asked == 0 {
					t.Errorf("pause %d is %s, and the appliance named %s", i+1, p, asked)
				}
			}
			if err != nil && (strings.Contains(err.Error(), "ghs") || strings.Contains(err.Error(), "a.b.c")) {
				t.Errorf("the error has a token: %v", err)
			}
		})
	}
}

// Where nobody answers at all, that is tried again, too, and the error says why.
func TestNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	c, pauses := client(t, "http://"+l.Addr().String())
	_, err = c.Exchange(t.Context())
	if err == nil || !strings.Contains(err.Error(), "connection refused") || strings.Contains(err.Error(), "identity=ci") || len(*pauses) != attempts-1 {
		t.Errorf("%v after the pauses %v", err, *pauses)
	}
}

// A certificate that is not trusted will not be so in a second.
func TestUntrustedCertificateIsNotTriedAgain(t *testing.T) {
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	c, pauses := client(t, s.URL)
	if _, err := c.Exchange(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") || len(*pauses) != 0 {
		t.Errorf("%v after the pauses %v", err, *pauses)
	}
}

// The context ends everything: an attempt, and a pause, which is not even begun where it
// would last longer.
func TestContextEndsAttempts(t *testing.T) {
	s := serve(t, after(away, "30"))
	c, _ := client(t, s.URL)
	c.pause = pause
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	began := time.Now()
	_, err := c.Exchange(ctx)
	var refused *RefusedError
	if !errors.As(err, &refused) || refused.Status != http.StatusServiceUnavailable || len(s.asked()) != 1 || time.Since(began) > 15*time.Second {
		t.Errorf("%v after %s and %d attempts", err, time.Since(began), len(s.asked()))
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Exchange(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestRevokeClient(t *testing.T) {
	unknown := step{status: http.StatusOK, body: `{"revoked":false}`}
	for _, tc := range []struct {
		name     string
		steps    []step
		attempts int
		check    func(error) bool
	}{
		{"revoked", []step{{status: http.StatusOK, body: `{"revoked":true}`}}, 1, func(err error) bool { return err == nil }},
		{"unknown", []step{unknown}, 1, func(err error) bool { return errors.Is(err, ErrUnknownToken) }},
		{"away, then unknown", []step{away, unknown}, 2, func(err error) bool { return errors.Is(err, ErrUnknownToken) }},
		{"something else says yes", []step{{status: http.StatusOK, body: "OK"}}, 1, func(err error) bool {
			return err != nil && strings.Contains(err.Error(), "is this an octo-sts appliance?")
		}},
		{"OAuth's error", []step{{status: http.StatusBadRequest, body: `{"error":"invalid_request","error_description":"invalid request: token is missing (request R)"}`}}, 1, func(err error) bool {
			var refused *RefusedError
			return errors.As(err, &refused) && refused.Message == "invalid request: token is missing (request R)"
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := serve(t, tc.steps...)
			c, _ := client(t, s.URL)
			err := c.Revoke(t.Context(), "ghs_+&=%")
			if !tc.check(err) || len(s.asked()) != tc.attempts || err != nil && strings.Contains(err.Error(), "ghs_") {
				t.Errorf("%v after %d attempts", err, len(s.asked()))
			}
			if form, _ := url.ParseQuery(s.asked()[0].body); s.asked()[0].target != "POST /sts/revoke" || form.Get("token") != "ghs_+&=%" {
				t.Errorf("asked with %+v", s.asked()[0])
			}
		})
	}
}

func TestURLs(t *testing.T) {
	for url, ok := range map[string]bool{
		"https://sts.example.com": true, "https://sts.example.com:8443/": true, "http://127.0.0.1:80": true, "http://localhost": true, "http://[::1]:1": true,
		"": false, "sts.example.com": false, "http://sts.example.com": false, "ftp://sts.example.com": false, "https://": false,
		"https://user:secret@sts.example.com": false, "https://sts.example.com?x=secret": false, "https://sts.example.com#x": false, "http://127.0.0.1.example.com": false, "://": false,
	} {
		_, err := New(t.Context(), Config{URL: url})
		if (err == nil) != ok || err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", url, err)
		}
	}
}

func TestIDTokenThatIsNotThere(t *testing.T) {
	s := serve(t, granted)
	for _, idToken := range []func(context.Context) (string, error){
		func(context.Context) (string, error) { return "", errors.New("the file is gone") },
		func(context.Context) (string, error) { return " \n", nil },
		func(context.Context) (string, error) { return "two words", nil },
		nil,
	} {
		c, err := New(t.Context(), Config{URL: s.URL, Scope: "acme/app", Identity: "ci", IDToken: idToken})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Exchange(t.Context()); err == nil || len(s.asked()) != 0 {
			t.Errorf("%v, %d requests", err, len(s.asked()))
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "0": 0, "7": 7 * time.Second, "-1": 0, "1.5": 0, "99999999999": 0, "soon": 0,
		"Mon, 23 Nov 2026 12:00:09 GMT": 9 * time.Second, "Mon, 23 Nov 2026 11:00:00 GMT": 0,
	} {
		if got := retryAfter(http.Header{"Retry-After": {value}}, now); got != want {
			t.Errorf("%q: %s, want %s", value, got, want)
		}
	}
}

func TestInstallationTokenIsNotPrinted(t *testing.T) {
	token := InstallationToken{Value: "ghs_secret", Expiry: time.Now()}
	for _, text := range []string{fmt.Sprint(token), fmt.Sprintf("%v %+v %#v %s", token, token, token, token), fmt.Sprintf("%v", []InstallationToken{token})} {
		if strings.Contains(text, "secret") {
			t.Error(text)
		}
	}
}
