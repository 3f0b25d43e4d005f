package setup

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

func TestConvert(t *testing.T) {
	const secret = "SECRET-OF-THE-ANSWER"
	good := `{"id": 12, "slug": "our-sts", "html_url": "https://github.example.com/apps/our-sts", "owner": {"login": "acme"}, "pem": "` + secret + `", "webhook_secret": "w", "client_secret": "c"}`
	for _, c := range []struct {
		name    string
		answers []int // statuses, one a try; 0: the connection ends
		body    string
		code    string
		want    string // in the error; "": none
		tries   int32
	}{
		{"at once", []int{201}, good, "abc", "", 1},
		{"after trouble", []int{502, 0, 201}, good, "abc", "", 3},
		{"trouble for ever", []int{502, 502, 502, 502}, good, "abc", "HTTP 502", 4},
		{"no answer", []int{0, 0, 0, 0}, good, "abc", "asking GitHub: EOF", 4},
		{"a used code", []int{404}, good, "abc", "used already, or is older than an hour", 1},
		{"rate limit", []int{429}, good, "abc", "rate limit", 1},
		{"redirect", []int{307}, good, "abc", "HTTP 307", 1},
		{"200", []int{200}, good, "abc", "HTTP 200", 1},
		{"no key", []int{201}, `{"id": 12, "slug": "our-sts", "client_secret": "` + secret + `"}`, "abc", "lacks the App's ID, its slug or its private key", 1},
		{"not JSON", []int{201}, secret + "{", "abc", "not the JSON of an App", 1},
		{"endless", []int{201}, strings.Repeat(" ", maxConversion+1), "abc", "more than 1048576 bytes", 1},
		{"a code that is a path", nil, "", "../../user", "characters that no code has", 0},
		{"no code", nil, "", "", "characters that no code has", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var tries atomic.Int32
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				status := c.answers[tries.Add(1)-1]
				if r.Method != http.MethodPost || r.URL.Path != "/api/v3/app-manifests/abc/conversions" || r.Header.Get("Authorization") != "" {
					t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
				}
				if status == 0 {
					panic(http.ErrAbortHandler)
				}
				w.Header().Set("Location", "https://elsewhere.example.com")
				w.WriteHeader(status)
				fmt.Fprint(w, c.body)
			}))
			defer server.Close()
			client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
			app, err := Convert(t.Context(), client, server.URL+"/api/v3", c.code)
			if n := tries.Load(); n != c.tries {
				t.Errorf("%d tries, want %d", n, c.tries)
			}
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "/abc/") {
					t.Errorf("%v, want %q", err, c.want)
				}
				return
			}
			if err != nil || app.ID != 12 || app.Slug != "our-sts" || string(app.PEM) != secret || string(app.WebhookSecret) != "w" ||
				app.InstallURL() != "https://github.example.com/apps/our-sts/installations/new" {
				t.Fatalf("%+v, %v", app, err)
			}
			app.Forget()
			if strings.Trim(string(app.PEM)+string(app.WebhookSecret), "\x00") != "" {
				t.Error("the secrets are still there")
			}
		})
	}
}

// What GitHub calls itself is shown on the terminal, and a server that was taken over must not write there what it likes.
func TestParseAppIsSafeForATerminal(t *testing.T) {
	app, err := parseApp([]byte(`{"id": 12, "slug": "our-sts", "html_url": "https://github.example.com/\u001b]0;x\u0007apps/\u009b2J\u202eour-sts\r\n", "pem": "k"}`))
	if err != nil {
		t.Fatal(err)
	}
	if want := "https://github.example.com/]0;xapps/2Jour-sts/installations/new"; app.InstallURL() != want {
		t.Errorf("%q, want %q", app.InstallURL(), want)
	}
}
