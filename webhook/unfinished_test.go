package webhook

import (
	"fmt"
	"maps"
	"testing"

	"github.com/octo-sts/appliance/sts/ststest"
)

// A check that is cut short again and again reads each file once and ends.
func TestACheckGoesOnWhereItStopped(t *testing.T) {
	r := newCheckRig(t)
	const policies, between = 24, 6 // that are read before the next failure
	var changes []ststest.Change
	for i := range policies {
		content := goodPolicy
		if i%8 == 3 {
			content = badPolicy
		}
		changes = append(changes, write(fmt.Sprintf("%s%02d.sts.yaml", dir, i), content))
	}
	job := branchJob(r.github.Commit("acme", "app", "b", changes...))
	whole := r.check(job)
	r.wants(whole, "failure", names(policies))
	inst := r.installation("app")
	cut := func() (reads int, v *verdict) {
		t.Helper()
		r.github.ResetCalls()
		fault := r.github.Fail(ststest.Fault{Route: ststest.ContentsRoute, Status: 403, Skip: between})
		defer fault.Clear()
		v, _ = r.checker.check(t.Context(), inst, job)
		return r.github.Calls()[ststest.ContentsRoute] - fault.Hits(), v
	}
	attempts, reads := 0, 0
	for v := (*verdict)(nil); v == nil && attempts < 2*policies; attempts++ {
		var n int
		n, v = cut()
		reads += n
		if v != nil {
			r.wants(v, "failure", names(policies))
			if v.title != whole.title || v.summary != whole.summary || len(v.annotations) != len(whole.annotations) {
				t.Errorf("in pieces: %+v, at once: %+v", v, whole)
			}
		}
	}
	// Those that are read at the same time as one that fails may be in vain.
	if most := policies + readersPerCheck*(attempts-1); attempts < 4 || reads < policies || reads > most {
		t.Errorf("%d reads of %d files in %d attempts", reads, policies, attempts)
	}
	// It is not reported, and so not over: nothing is read.
	if n, v := cut(); n != 0 || v == nil {
		t.Errorf("%d reads before the report, verdict %v", n, v)
	}
	// What the installation may do has changed: nothing of it holds any more.
	inst.Permissions = maps.Clone(inst.Permissions)
	inst.Permissions["contents"] = "read"
	if n, v := cut(); n == 0 || v != nil {
		t.Errorf("%d reads under other permissions, verdict %v", n, v)
	}
	r.checker.unfinished.forget(job)
	if n, v := cut(); n == 0 || v != nil {
		t.Errorf("%d reads after the report, verdict %v", n, v)
	}
}

// What was found in other files than those of now is not used.
func TestUnfinishedChecksOfOtherFiles(t *testing.T) {
	found := &findings{}
	found.add("a", nil)
	found.add("b", nil)
	for _, c := range []struct {
		paths []string
		want  bool
	}{
		{[]string{"a", "b"}, true},
		{[]string{"a", "b", "c"}, true},
		{[]string{"a"}, false},
		{[]string{"a", "c"}, false},
		{nil, false},
	} {
		if got := found.begins(c.paths); got != c.want {
			t.Errorf("%v: %v", c.paths, got)
		}
	}
}

// A report that fails costs no file once more; a check that is asked for again
// after the report reads each.
func TestAReportThatFails(t *testing.T) {
	r := newRig(t)
	r.run()
	reads := func() int { return r.github.Calls()[ststest.ContentsRoute] }
	fault := r.github.Fail(ststest.Fault{Route: ststest.CreateCheckRoute, Status: 503, Count: 2})
	pushed := r.github.Push("acme", "app", "main", writing(policy, unsoundPolicy))
	run := r.concluded(pushed.After)
	if fault.Hits() != 2 || reads() != 1 {
		t.Errorf("%d failures, and the policy was read %d times", fault.Hits(), reads())
	}
	r.github.RerequestCheckRun(run.ID)
	eventually(t, "it is read again", func() bool { return reads() == 2 })
	r.idle()
}
