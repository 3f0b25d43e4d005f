package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"

	"github.com/octo-sts/appliance/sts/stsclient"
	"github.com/octo-sts/appliance/sts/ststest"
)

// A token that could not be revoked when a signal came is revoked when the command
// ends, and none is given out from the first on.
func TestHolderTriesToRevokeAgain(t *testing.T) {
	service := startService(t, programs(t))
	job := idToken(t, service, ststest.GitHubActions{Owner: "acme", Repo: "app"})
	base, err := url.Parse(service.URL())
	if err != nil {
		t.Fatal(err)
	}
	through := httputil.NewSingleHostReverseProxy(base)
	var revocations atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/sts/revoke" && revocations.Add(1) == 1 {
			http.Error(w, "not now", http.StatusForbidden)
			return
		}
		through.ServeHTTP(w, r)
	}))
	defer proxy.Close()
	client, err := stsclient.New(t.Context(), stsclient.Config{
		URL: proxy.URL, Scope: "acme/app", Identity: "ci", IDToken: func(context.Context) (string, error) { return job, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	h := newHolder(t.Context(), client)
	if _, err := h.token(); err != nil {
		t.Fatal(err)
	}
	if err := h.revokeAll(t.Context()); err == nil {
		t.Error("the proxy's refusal is nowhere")
	}
	if _, err := h.token(); err != errHolderClosed {
		t.Errorf("a token after the revocation: %v", err)
	}
	if err := h.revokeAll(t.Context()); err != nil || revocations.Load() != 2 {
		t.Errorf("%v after %d revocations", err, revocations.Load())
	}
	if err := h.revokeAll(t.Context()); err != nil || revocations.Load() != 2 {
		t.Errorf("%v after %d revocations: there was nothing left to revoke", err, revocations.Load())
	}
}
