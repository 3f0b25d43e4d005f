package webhook

import (
	"testing"

	"github.com/octo-sts/appliance/sts/trustpolicy"
)

// A replica of GitHub's that answers from before the push, right after it, is not
// believed for long.
func TestWhatIsReadTooEarlyIsForgotten(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const path = trustpolicy.Directory + "ci.sts.yaml"
	read := func() string {
		inst := must(r.client.Installation(t.Context(), "acme", "app"))(t)
		return string(must(r.client.File(t.Context(), inst, "app", path))(t).Content)
	}
	r.github.PutFile("acme", "app", path, "before")
	read()
	if status := r.deliver("push", 1, pushTo("main", path)); status/100 != 2 {
		t.Fatalf("answered %d", status)
	}
	if got := read(); got != "before" {
		t.Fatalf("read %q", got)
	}
	r.github.PutFile("acme", "app", path, "after") // silently: the replica caught up
	eventually(t, "the policy is read again", func() bool { return read() == "after" })
}

// A push whose commits name no policy may be a merge that changed one: what is
// known of the repository's is asked for again at once, and nothing is written.
func TestAPushThatNamesNoPolicy(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const path = trustpolicy.Directory + "ci.sts.yaml"
	read := func() string {
		inst := must(r.client.Installation(t.Context(), "acme", "app"))(t)
		return string(must(r.client.File(t.Context(), inst, "app", path))(t).Content)
	}
	r.github.PutFile("acme", "app", path, "before")
	read()
	r.github.PutFile("acme", "app", path, "after")
	if status := r.deliver("push", 1, pushTo("topic", "main.go")); status != 200 || read() != "before" {
		t.Fatalf("a push to another branch: %d, and the cache is empty", status)
	}
	if status := r.deliver("push", 2, pushTo("main", "main.go")); status != 200 {
		t.Fatalf("answered %d", status)
	}
	if got := read(); got != "after" {
		t.Errorf("read %q", got)
	}
	if n := r.receiver.Status().Queued; n != 0 {
		t.Errorf("%d queued", n)
	}
}
