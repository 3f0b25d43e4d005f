package main

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/ststest"
)

// revoke asks for a token's end.
func (r *rig) revoke(token string) formAnswer {
	r.t.Helper()
	return r.post("/sts/revoke", url.Values{"token": {token}, "token_type_hint": {"access_token"}})
}

// wantRevoked says what the answer must be: 200 in any case (RFC 7009, section 2.2).
func (r *rig) wantRevoked(a formAnswer, want bool) {
	r.t.Helper()
	if a.status != http.StatusOK || a.Revoked == nil || *a.Revoked != want {
		r.t.Errorf("%d %s, want revoked: %t", a.status, a.body, want)
	}
}

func (r *rig) revokeCalls() int { return r.GitHub.Calls()[ststest.RevokeRoute] }

func TestRevoke(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{})
	x, other := r.granted("acme/app", "reader"), r.granted("acme/app", "reader")
	a := r.revoke(x.Token)
	r.wantRevoked(a, true)
	if r.GitHub.IsLive(x.Token) || !r.GitHub.IsLive(other.Token) {
		t.Error("the wrong token died")
	}
	entries := r.audited(audit.Filter{Kind: audit.Revocation})
	if len(entries) != 1 || entries[0].RequestID != a.header.Get("X-Request-Id") || entries[0].TokenSHA256 != tokenSHA256(x.Token) ||
		entries[0].ClientAddress != "127.0.0.1" || entries[0].TokenExpiry.IsZero() {
		t.Errorf("the audit log has %+v", entries)
	}

	// What is revoked stays so, and costs GitHub nothing more; also after a restart.
	r.wantRevoked(r.revoke(x.Token), true)
	if err := r.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.eventually("the log is read", func() bool { return r.revoke(x.Token).status == http.StatusOK })
	r.wantRevoked(r.revoke(x.Token), true)
	if n := r.revokeCalls(); n != 1 {
		t.Errorf("GitHub was asked %d times, want once", n)
	}

	// A token from before the restart can be revoked, too.
	r.wantRevoked(r.revoke(other.Token), true)
	if r.GitHub.IsLive(other.Token) {
		t.Error("a token from before the restart lives on")
	}
	for where, text := range written(t, r.Service) {
		if strings.Contains(text, x.Token) || strings.Contains(text, other.Token) {
			t.Errorf("%s holds a token", where)
		}
	}
}

// Of a token that did not leave here GitHub hears nothing: this is no way to try tokens.
func TestRevokeIsNoProxy(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{})
	r.granted("acme/app", "reader")
	before := r.GitHub.TotalCalls()
	for _, token := range []string{
		"ghs_0123456789abcdefghijklmnopqrstuvwxyz", "ghp_0123456789abcdefghijklmnopqrstuvwxyz", "x", "Bearer", strings.Repeat("a", 60<<10), r.job(nil),
	} {
		r.wantRevoked(r.revoke(token), false)
	}
	if n := r.GitHub.TotalCalls() - before; n != 0 {
		t.Errorf("GitHub was asked %d times", n)
	}
	if entries := r.audited(audit.Filter{Kind: audit.Revocation}); len(entries) != 0 {
		t.Errorf("the audit log has %+v", entries)
	}
	if n := r.metric(`octo_sts_revocations_total{outcome="unknown"}`); n != 6 {
		t.Errorf("%v of them are counted", n)
	}
}

func TestRevocationRequests(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{})
	x := r.granted("acme/app", "reader")
	const bad = "invalid request: "
	no := func(name string, change func(*http.Request, url.Values), text string) oauthRow {
		return oauthRow{name, change, http.StatusBadRequest, "invalid_request", bad + text}
	}
	for _, row := range []oauthRow{
		no("no token", setting("token"), "token is missing"),
		no("an empty token", setting("token", ""), "token is missing"),
		no("a line break at the end", setting("token", x.Token+"\n"), "token has a blank"),
		no("a header after it", setting("token", x.Token+"\r\nX-Evil: 1"), "token has a blank"),
		no("NUL", setting("token", x.Token+"\x00"), "token has a blank"),
		no("no ASCII", setting("token", x.Token+"ä"), "token has a blank"),
		no("two tokens", setting("token", x.Token, x.Token), "token is given 2 times"),
		no("two hints", setting("token_type_hint", "a", "b"), "token_type_hint is given 2 times"),
		no("the token in the header, too", httpHeader("Authorization", "Bearer "+x.Token), "the Authorization header is not"),
		no("a token in the query", func(r *http.Request, _ url.Values) { r.URL.RawQuery = "token=x" }, "the URL has a query"),
		no("JSON", httpHeader("Content-Type", "application/json"), "the Content-Type is not"),
		no("a form over the limit", setting("token", strings.Repeat("a", 64<<10)), "the form cannot be read, or is longer than"),
		{"GET", func(r *http.Request, _ url.Values) { r.Method = http.MethodGet }, http.StatusMethodNotAllowed, "invalid_request", "the method is not POST"},
		{"DELETE, as at GitHub", func(r *http.Request, _ url.Values) { r.Method = http.MethodDelete }, http.StatusMethodNotAllowed, "invalid_request", "the method is not POST"},
	} {
		t.Run(row.name, func(t *testing.T) { (&rig{r.Service, t}).tryForm("/sts/revoke", url.Values{"token": {x.Token}}, row) })
	}
	if !r.GitHub.IsLive(x.Token) {
		t.Error("one of them revoked the token")
	}
	r.wantRevoked(r.post("/sts/revoke", url.Values{"token": {x.Token}, "token_type_hint": {"refresh_token"}, "client_id": {"ci"}}), true)
}

// However many ask for a token's end at once, GitHub is asked once.
func TestRevocationsAtOnce(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{})
	x := r.granted("acme/app", "reader")
	var all sync.WaitGroup
	answers := make([]formAnswer, 20)
	for i := range answers {
		all.Go(func() { answers[i] = r.revoke(x.Token) })
	}
	all.Wait()
	for _, a := range answers {
		r.wantRevoked(a, true)
	}
	if n := r.revokeCalls(); n != 1 {
		t.Errorf("GitHub was asked %d times", n)
	}
}

// While GitHub does not answer the token lives, and the caller is told to come again
// (RFC 7009, section 2.2.1).
func TestRevokeWhileGitHubIsAway(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{GitHub: ststest.GitHubConfig{BasePath: "/api/v3"}}) // and it is an Enterprise Server
	x := r.granted("acme/app", "reader")
	r.GitHub.Fail(ststest.Fault{Route: ststest.RevokeRoute, Status: http.StatusServiceUnavailable, Count: 3})
	a := r.revoke(x.Token)
	if a.status != http.StatusServiceUnavailable || a.Error != "temporarily_unavailable" || !strings.HasPrefix(a.Description, "temporarily unavailable, try again (request ") {
		t.Errorf("%d %s", a.status, a.body)
	}
	if !r.GitHub.IsLive(x.Token) {
		t.Fatal("the token died")
	}
	r.wantRevoked(r.revoke(x.Token), true)
	if r.GitHub.IsLive(x.Token) {
		t.Error("the token lives")
	}
}

// Once it was asked for, a token's end does not depend on whether somebody waits for it.
func TestRevocationOutlivesItsCaller(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{})
	x := r.granted("acme/app", "reader")
	slow := r.GitHub.Fail(ststest.Fault{Route: ststest.RevokeRoute, Delay: 2 * time.Second, Count: 1})
	defer slow.Clear()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		r.eventually("GitHub is asked", func() bool { return r.revokeCalls() > 0 })
		cancel()
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.URL()+"/sts/revoke", strings.NewReader(url.Values{"token": {x.Token}}.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if resp, err := r.Client().Do(req); err == nil {
		resp.Body.Close()
		t.Log("the answer came before the caller went away")
	}
	r.eventually("the token is dead", func() bool { return !r.GitHub.IsLive(x.Token) })
	r.eventually("it is in the audit log", func() bool { return len(r.audited(audit.Filter{Kind: audit.Revocation})) == 1 })
}

// A token less is no harm: it is revoked also where that cannot be recorded, and then the
// daemon's log says so.
func TestRevokeOnAFullDisk(t *testing.T) {
	disk := newSmallDisk(t)
	r := newRig(t, ststest.ServiceConfig{Edit: disk.configure})
	x := r.granted("acme/app", "reader")
	disk.fill()
	for range 100 { // what is left of a page takes some entries
		if r.exchange("acme/app", "reader", r.job(nil)).Status == http.StatusServiceUnavailable {
			break
		}
	}
	r.wantRevoked(r.revoke(x.Token), true)
	if r.GitHub.IsLive(x.Token) {
		t.Error("the token lives")
	}
	r.eventually("the log says so", func() bool {
		return strings.Contains(r.Logs(), "a token was revoked, which could not be recorded") && strings.Contains(r.Logs(), tokenSHA256(x.Token))
	})
}
