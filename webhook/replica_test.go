package webhook

import (
	"testing"

	"github.com/octo-sts/appliance/sts/trustpolicy"
)

const cachedPath = trustpolicy.Directory + "ci.sts.yaml"

// known is what an exchange would take the policy to be.
func (r *rig) known() string {
	r.Helper()
	inst := must(r.client.Installation(r.Context(), "acme", "app"))(r)
	return string(must(r.client.File(r.Context(), inst, "app", cachedPath))(r).Content)
}

// A replica of GitHub's that answers from before the push, right after it, is not
// believed for long.
func TestWhatIsReadTooEarlyIsForgotten(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.github.PutFile("acme", "app", cachedPath, "before")
	r.known()
	if status := r.deliver("push", 1, pushTo("main", cachedPath)); status/100 != 2 {
		t.Fatalf("answered %d", status)
	}
	if got := r.known(); got != "before" {
		t.Fatalf("read %q", got)
	}
	r.github.PutFile("acme", "app", cachedPath, "after") // silently: the replica caught up
	eventually(t, "the policy is read again", func() bool { return r.known() == "after" })
}

// A push whose commits name no policy may be a merge that changed one: what is
// known of the repository's is asked for again at once, and nothing is written.
func TestAPushThatNamesNoPolicy(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.github.PutFile("acme", "app", cachedPath, "before")
	r.known()
	r.github.PutFile("acme", "app", cachedPath, "after")
	if status := r.deliver("push", 1, pushTo("topic", "main.go")); status != 200 || r.known() != "before" {
		t.Fatalf("a push to another branch: %d, and the cache is empty", status)
	}
	if status := r.deliver("push", 2, pushTo("main", "main.go")); status != 200 {
		t.Fatalf("answered %d", status)
	}
	if got := r.known(); got != "after" {
		t.Errorf("read %q", got)
	}
	if n := r.receiver.Status().Queued; n != 0 {
		t.Errorf("%d queued", n)
	}
}
