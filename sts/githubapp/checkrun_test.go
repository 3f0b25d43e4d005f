package githubapp_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/ststest"
)

const otherApp = 99

// checkWorld has a commit to report on.
func checkWorld(t *testing.T, change ...func(*options)) (w *world, inst githubapp.Installation, sha string) {
	w = newWorld(t, change...)
	permissions := map[string]string{"contents": "write", "checks": "write"}
	w.github.AddApp(appID, nil, permissions)
	w.github.SetInstallationPermissions(w.acme, permissions)
	sha = w.github.Commit("acme", "app", "feature", ststest.Change{Path: "x", Content: "x"})
	return w, w.installation(), sha
}

func checkRun(sha, conclusion string, annotations int) githubapp.CheckRun {
	run := githubapp.CheckRun{Name: "Trust Policy Validation", HeadSHA: sha, Conclusion: conclusion, Title: "The title", Summary: "The summary"}
	for i := range annotations {
		run.Annotations = append(run.Annotations, githubapp.Annotation{Path: policyPath, Line: i, Level: "failure", Title: "T", Message: fmt.Sprintf("problem %d", i)})
	}
	return run
}

// standing is the latest of the App's runs of a commit. It must say all of want,
// and each annotation once.
func (w *world) standing(sha string, want githubapp.CheckRun, runs int) ststest.CheckRun {
	w.Helper()
	all := w.github.CheckRuns("acme", "app", sha)
	var ours []ststest.CheckRun
	for _, run := range all {
		if run.AppID == appID {
			ours = append(ours, run)
		}
	}
	if len(ours) != runs {
		w.Fatalf("%d check runs, want %d", len(ours), runs)
	}
	latest := ours[len(ours)-1]
	if latest.Status != "completed" || latest.Conclusion != want.Conclusion || latest.Title != want.Title || latest.Summary != want.Summary || latest.Name != want.Name {
		w.Errorf("the run says %+v", latest)
	}
	if len(latest.Annotations) != len(want.Annotations) {
		w.Fatalf("%d annotations, want %d", len(latest.Annotations), len(want.Annotations))
	}
	for i, a := range latest.Annotations {
		if a.Message != want.Annotations[i].Message || a.StartLine != max(1, i) || a.EndLine != a.StartLine || a.Level != "failure" {
			w.Errorf("annotation %d is %+v", i, a)
		}
	}
	return latest
}

func (w *world) report(inst githubapp.Installation, run githubapp.CheckRun) {
	w.Helper()
	if err := w.client.ReportCheckRun(w.ctx, inst, "app", run); err != nil {
		w.Fatal(err)
	}
}

func TestReportCheckRun(t *testing.T) {
	t.Parallel()
	w, inst, sha := checkWorld(t)
	bad, good := checkRun(sha, "failure", 2), checkRun(sha, "success", 0)

	w.report(inst, bad)
	w.standing(sha, bad, 1)
	w.calls(ststest.MintRoute, ststest.ListChecksRoute, ststest.CreateCheckRoute)
	mint := w.github.Mints()[len(w.github.Mints())-1]
	if got := fmt.Sprint(mint.Permissions, mint.Repositories); !strings.Contains(got, "checks:write") || strings.Contains(got, "contents") || !strings.Contains(got, "app") {
		t.Errorf("the token was minted for %s, want checks: write on the one repository", got)
	}

	w.github.ResetCalls()
	w.report(inst, bad) // again: it is concluded once more, and nothing is added
	if w.standing(sha, bad, 1).Writes != 2 {
		t.Error("a run that is asked for again is not concluded again")
	}
	w.calls(ststest.ListChecksRoute, ststest.UpdateCheckRoute)

	w.report(inst, good) // another verdict: nothing of the first stands in it
	w.standing(sha, good, 2)
	w.report(inst, bad) // the first verdict again, but it is not the one that stands
	w.standing(sha, bad, 3)
}

func TestReportCheckRunBesideAnotherApp(t *testing.T) {
	t.Parallel()
	w, inst, sha := checkWorld(t)
	w.github.AddApp(otherApp, &appKey().PublicKey, map[string]string{"checks": "write", "contents": "read"})
	w.github.Install(otherApp, "acme", ststest.InstallOptions{})
	theirs, err := githubapp.New(w.ctx, githubapp.Config{
		APIURL: w.github.URL(), CAFile: writeFile(t, "ca.pem", w.github.CAPEM()), AppJWT: w.signer.appJWT,
		Apps: []githubapp.App{{ID: otherApp, Organizations: []string{"*"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	other, err := theirs.Installation(w.ctx, "acme", "app")
	if err != nil {
		t.Fatal(err)
	}
	run := checkRun(sha, "failure", 1)
	if err := theirs.ReportCheckRun(w.ctx, other, "app", run); err != nil {
		t.Fatal(err)
	}
	w.report(inst, run)
	w.standing(sha, run, 1)
	if all := w.github.CheckRuns("acme", "app", sha); len(all) != 2 {
		t.Errorf("%d check runs, want one of each App", len(all))
	}
	// A GitHub that does not filter must not make us update theirs either.
	t.Run("unfiltered", func(t *testing.T) {
		theirs := w.github.CheckRuns("acme", "app", sha)[0]
		w.github.Fail(ststest.Fault{Route: ststest.ListChecksRoute, Count: 1, Status: 200, Body: fmt.Sprintf(
			`{"total_count":1,"check_runs":[{"id":%d,"name":%q,"head_sha":%q,"external_id":%q,"app":{"id":%d}}]}`, theirs.ID, theirs.Name, sha, theirs.ExternalID, otherApp)})
		w.report(inst, run)
		w.standing(sha, run, 2)
	})
}

// The latest run is the one that counts, in whatever order GitHub lists them.
func TestReportCheckRunAfterSeveral(t *testing.T) {
	t.Parallel()
	w, inst, sha := checkWorld(t)
	bad, good := checkRun(sha, "failure", 1), checkRun(sha, "success", 0)
	w.report(inst, bad)
	w.report(inst, good)
	all := w.github.CheckRuns("acme", "app", sha)
	entry := func(run ststest.CheckRun) string {
		return fmt.Sprintf(`{"id":%d,"name":%q,"head_sha":%q,"external_id":%q,"app":{"id":%d}}`, run.ID, run.Name, sha, run.ExternalID, appID)
	}
	for _, list := range []string{entry(all[0]) + "," + entry(all[1]), entry(all[1]) + "," + entry(all[0])} {
		w.github.Fail(ststest.Fault{Route: ststest.ListChecksRoute, Count: 1, Status: 200, Body: `{"total_count":2,"check_runs":[` + list + `]}`})
		w.report(inst, good)
		w.standing(sha, good, 2)
	}
}

// A report that is cut off at any of its calls, before GitHub did what was asked
// or after, and made again, ends with one complete run.
func TestReportCheckRunCutOff(t *testing.T) {
	t.Parallel()
	for _, lost := range []bool{false, true} {
		for skip := range 4 {
			t.Run(fmt.Sprintf("call %d, done %v", skip, lost), func(t *testing.T) {
				w, inst, sha := checkWorld(t)
				run := checkRun(sha, "failure", 120)
				fault := w.github.Fail(ststest.Fault{
					Match: func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/check-runs") },
					Skip:  skip, Count: 1, Lost: lost, Reset: !lost,
				})
				err := w.client.ReportCheckRun(w.ctx, inst, "app", run)
				w.wants(err, "unavailable")
				if fault.Hits() != 1 {
					t.Fatalf("the fault hit %d times", fault.Hits())
				}
				w.report(inst, run)
				w.standing(sha, run, 1)
				w.report(inst, run)
				w.standing(sha, run, 1)
			})
		}
	}
}

func TestReportCheckRunBatches(t *testing.T) {
	t.Parallel()
	for n, calls := range map[int]int{0: 0, 1: 0, 50: 0, 51: 1, 100: 1, 101: 2} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			w, inst, sha := checkWorld(t)
			run := checkRun(sha, "failure", n)
			w.report(inst, run)
			w.standing(sha, run, 1)
			if got := w.github.Calls()[ststest.UpdateCheckRoute]; got != calls {
				t.Errorf("%d updates, want %d", got, calls)
			}
		})
	}
}

// A verdict that changed while the first was being reported does not stand on
// what is there of the first.
func TestReportCheckRunOvertaken(t *testing.T) {
	t.Parallel()
	w, inst, sha := checkWorld(t)
	w.github.Fail(ststest.Fault{Route: ststest.UpdateCheckRoute, Count: 1, Reset: true})
	if err := w.client.ReportCheckRun(w.ctx, inst, "app", checkRun(sha, "failure", 60)); err == nil {
		t.Fatal("no error")
	}
	run := checkRun(sha, "failure", 61)
	w.report(inst, run)
	w.standing(sha, run, 2)
}

func TestReportCheckRunClips(t *testing.T) {
	t.Parallel()
	w, inst, sha := checkWorld(t)
	run := checkRun(sha, "neutral", 1)
	run.Title, run.Summary = strings.Repeat("ü", 300), strings.Repeat("€", 40_000)
	run.Annotations[0].Message, run.Annotations[0].Title = strings.Repeat("x", 1<<17), "a"+strings.Repeat("😀", 100)
	run.Annotations[0].Level = "notice"
	w.report(inst, run)
	got := w.github.CheckRuns("acme", "app", sha)[0]
	for name, c := range map[string]struct {
		text string
		most int
	}{
		"title": {got.Title, 255}, "summary": {got.Summary, 65_535},
		"message": {got.Annotations[0].Message, 64 << 10}, "annotation's title": {got.Annotations[0].Title, 255},
	} {
		if len(c.text) > c.most || len(c.text) < c.most-4 || !strings.HasSuffix(c.text, "…") || !utf8.ValidString(c.text) || strings.ContainsRune(c.text, utf8.RuneError) {
			t.Errorf("%s: %d bytes, ending in %q; want at most %d, cut at a rune", name, len(c.text), c.text[max(0, len(c.text)-8):], c.most)
		}
	}
}

func TestReportCheckRunRefusals(t *testing.T) {
	t.Parallel()
	w, inst, sha := checkWorld(t)
	w.wants(w.client.ReportCheckRun(w.ctx, inst, "app", checkRun(strings.Repeat("1", 40), "success", 0)), "refused", "No commit found")
	w.wants(w.client.ReportCheckRun(w.ctx, inst, "app", checkRun("main", "success", 0)), "refused", "not a commit ID")
	w.wants(w.client.ReportCheckRun(w.ctx, inst, "app/x", checkRun(sha, "success", 0)), "refused")
	w.github.Fail(ststest.PrimaryRateLimit(http.StatusForbidden, w.clock.now().Add(10*time.Minute)))
	err := w.client.ReportCheckRun(w.ctx, inst, "app", checkRun(sha, "success", 0))
	var limited *githubapp.RateLimitError
	if !errors.As(err, &limited) || limited.RetryAfter < 9*time.Minute {
		t.Errorf("got %v, want a rate limit of ten minutes", err)
	}

	w, inst, sha = checkWorld(t)
	w.github.SetInstallationPermissions(inst.ID, map[string]string{"contents": "read"})
	w.wants(w.client.ReportCheckRun(w.ctx, inst, "app", checkRun(sha, "success", 0)), "refused", "minting a token to report checks of app")
}

// The token for check runs is kept like the one to read with: GitHub may refuse a
// young one for a while, and an old one is renewed before its end.
func TestCheckTokenIsKept(t *testing.T) {
	t.Parallel()
	for _, status := range []int{401, 403, 404} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			w, inst, sha := checkWorld(t)
			w.github.RefuseFreshTokens(2, status)
			run := checkRun(sha, "success", 0)
			w.report(inst, run)
			w.standing(sha, run, 1)
		})
	}
	t.Run("renewed", func(t *testing.T) {
		t.Parallel()
		w, inst, sha := checkWorld(t)
		for _, wait := range []time.Duration{0, 54 * time.Minute, 2 * time.Minute} {
			w.clock.advance(wait)
			w.report(inst, checkRun(sha, "success", 0))
		}
		if n := w.github.Calls()[ststest.MintRoute]; n != 2 {
			t.Errorf("%d mints, want one an hour", n)
		}
	})
	t.Run("forgotten", func(t *testing.T) {
		t.Parallel()
		w, inst, sha := checkWorld(t)
		w.report(inst, checkRun(sha, "success", 0))
		w.client.ForgetInstallation(inst.ID, "acme")
		w.report(inst, checkRun(sha, "success", 0))
		if n := w.github.Calls()[ststest.MintRoute]; n != 2 {
			t.Errorf("%d mints, want another one after the installation was forgotten", n)
		}
	})
}
