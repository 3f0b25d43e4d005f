package main

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/octo-sts/appliance/sts/ststest"
)

// Strangers who use up what an owner's strangers have together do not keep a new
// branch from a policy that is there, not even when a push has just emptied the
// caches.
func TestStrangersDoNotLockOutNewSubjects(t *testing.T) {
	h := newHookRig(t, ststest.ServiceConfig{Edit: func(c map[string]any) {
		limits := c["limits"].(map[string]any)
		limits["denied_per_subject"], limits["denied_per_owner"] = 5, 10
	}})
	h.put("any", "subject_pattern: repo:acme/app:.*\npermissions: {contents: read}\n")
	ask := func(subject, identity string) int {
		return h.exchange("acme/app", identity, h.job(map[string]any{"sub": subject})).Status
	}
	branch := func(n int) string { return fmt.Sprintf("repo:acme/app:ref:refs/heads/%d", n) }
	if status := ask(branch(0), "any"); status != http.StatusOK {
		t.Fatalf("the first branch: %d", status)
	}
	for i := range 12 {
		want := http.StatusForbidden
		if i >= 10 {
			want = http.StatusTooManyRequests
		}
		if status := ask(fmt.Sprintf("repo:evil/x:ref:refs/heads/%d", i), "any"); status != want {
			t.Fatalf("stranger %d: %d, want %d", i, status, want)
		}
	}
	if status := ask(branch(1), "made-up"); status != http.StatusTooManyRequests {
		t.Errorf("an identity that nobody asked for: %d", status)
	}
	h.GitHub.Push("acme", "app", "main", []ststest.Change{{Path: "README.md", Content: "hello"}})
	if status := ask(branch(2), "any"); status != http.StatusOK {
		t.Errorf("a new branch after a push: %d", status)
	}
}
