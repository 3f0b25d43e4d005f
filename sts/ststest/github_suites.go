package ststest

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// CheckRun is a check run as it is now.
type CheckRun struct {
	ID, AppID                 int64
	Name, HeadSHA, ExternalID string
	Status                    string // queued, in_progress, completed
	Conclusion                string // "" until it is completed
	Title, Summary            string
	Annotations               []Annotation // of all writes, in order
	Writes                    int          // how many times it was created or updated
}

// CheckRuns are the check runs of a commit, in the order of their creation.
func (g *GitHub) CheckRuns(ownerLogin, repo, sha string) []CheckRun {
	g.world.mu.RLock()
	defer g.world.mu.RUnlock()
	text := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	var all []CheckRun
	for _, suite := range g.mustRepository(ownerLogin, repo).suites[sha] {
		for _, run := range suite.runs {
			all = append(all, CheckRun{
				ID: run.id, AppID: suite.app.id, Name: run.name, HeadSHA: sha, ExternalID: run.externalID, Status: run.status,
				Conclusion: run.conclusion, Title: text(run.outputTitle), Summary: text(run.outputSummary),
				Annotations: slices.Clone(run.annotations), Writes: run.writes,
			})
		}
	}
	slices.SortFunc(all, func(a, b CheckRun) int { return int(a.ID - b.ID) })
	return all
}

// RerequestCheckRun asks the App that made a check run to run it again, as a
// person does: check_run rerequested. The check run stays as it is.
func (g *GitHub) RerequestCheckRun(id int64) []DeliveryRecord {
	g.world.mu.Lock()
	run := g.world.checkRuns[id]
	if run == nil {
		panic(fmt.Sprintf("fake GitHub: there is no check run %d", id))
	}
	events := g.checkRunEvent("rerequested", run, somebody, run.suite.app)
	g.world.mu.Unlock()
	return g.deliverAll(events)
}

// RerequestCheckSuite asks an App to check a commit again: check_suite
// rerequested.
func (g *GitHub) RerequestCheckSuite(ownerLogin, repo, sha string, appID int64) []DeliveryRecord {
	g.world.mu.Lock()
	r := g.mustRepository(ownerLogin, repo)
	if r.network.commits[sha] == nil {
		panic(fmt.Sprintf("fake GitHub: %s/%s has no commit %s", ownerLogin, repo, sha))
	}
	events := g.suiteEvent("rerequested", g.suiteFor(g.mustApp(appID), r, sha))
	g.world.mu.Unlock()
	return g.deliverAll(events)
}

// suiteFor finds or makes the App's check suite of a commit. The caller holds
// world.mu.
func (g *GitHub) suiteFor(a *app, r *repository, sha string) *checkSuite {
	for _, s := range r.suites[sha] {
		if s.app == a {
			return s
		}
	}
	s := &checkSuite{id: g.world.nextID(), app: a, repo: r, headSHA: sha, before: zeroSHA, created: g.now()}
	for _, branch := range slices.Sorted(maps.Keys(r.branches)) {
		if r.branches[branch].sha == sha {
			s.branch = branch
			break
		}
	}
	r.suites[sha] = append(r.suites[sha], s)
	return s
}

// requestSuites makes a check suite of the commit that was pushed for each App
// that may write checks, unless it has one, and is the events about it. The
// caller holds world.mu.
func (g *GitHub) requestSuites(p pushed) []outgoing {
	var all []outgoing
	for _, id := range slices.Sorted(maps.Keys(g.world.installations)) {
		i := g.world.installations[id]
		has := slices.ContainsFunc(p.repo.suites[p.after.sha], func(s *checkSuite) bool { return s.app == i.app })
		if has || !i.holds(p.repo) || !i.suspended.IsZero() || !permits(i.permissions["checks"], "write") {
			continue
		}
		s := g.suiteFor(i.app, p.repo, p.after.sha)
		s.branch, s.before = p.branch, shaOf(p.before)
		all = append(all, g.suiteEvent("requested", s)...)
	}
	return all
}

// suiteEvent is GitHub's event check_suite, for the App whose suite it is. The
// caller holds world.mu.
func (g *GitHub) suiteEvent(action string, s *checkSuite) []outgoing {
	return g.toRepository(event{name: "check_suite", permission: "checks", always: true, only: s.app, repo: s.repo, sender: somebody, fields: map[string]any{
		"action": action, "check_suite": g.describeSuite(s),
	}})
}

// checkRunEvents are the events after a call of the API wrote a check run. Action
// is created or completed; a check run that was created completed is both. The
// caller holds world.mu.
func (g *GitHub) checkRunEvents(action string, run *checkRun, sender *owner) []outgoing {
	all := g.checkRunEvent(action, run, sender, nil)
	if action == "created" && run.status == "completed" {
		all = append(all, g.checkRunEvent("completed", run, sender, nil)...)
	}
	return all
}

func (g *GitHub) checkRunEvent(action string, run *checkRun, sender *owner, only *app) []outgoing {
	return g.toRepository(event{name: "check_run", permission: "checks", always: only != nil, only: only, repo: run.suite.repo, sender: sender, fields: map[string]any{
		"action": action, "check_run": g.describeCheckRun(run),
	}})
}

// describeCheckRun is GitHub's check-run schema. The caller holds world.mu.
func (g *GitHub) describeCheckRun(run *checkRun) map[string]any {
	s := run.suite
	full := s.repo.owner.login + "/" + s.repo.name
	url := fmt.Sprintf("%s/repos/%s/check-runs/%d", g.url, full, run.id)
	var conclusion any
	if run.conclusion != "" {
		conclusion = run.conclusion
	}
	details := run.detailsURL
	if details == "" { // the App's own page, by GitHub's "Create a check run"
		details = g.web() + "/apps/" + s.app.slug
	}
	d := map[string]any{
		"id": run.id, "node_id": nodeID("CR", run.id), "name": run.name, "head_sha": s.headSHA, "external_id": run.externalID,
		"url": url, "html_url": fmt.Sprintf("%s/%s/runs/%d", g.web(), full, run.id), "details_url": details,
		"status": run.status, "conclusion": conclusion, "started_at": run.startedAt.UTC().Format(timeFormat), "completed_at": nil,
		"output": map[string]any{
			"title": run.outputTitle, "summary": run.outputSummary, "text": run.outputText,
			"annotations_count": len(run.annotations), "annotations_url": url + "/annotations",
		},
		"check_suite": g.describeSuite(s), "app": g.describeApp(s.app), "pull_requests": g.pullsAt(s.repo, s.headSHA),
	}
	if !run.completedAt.IsZero() {
		d["completed_at"] = run.completedAt.UTC().Format(timeFormat)
	}
	return d
}

// describeSuite is GitHub's check-suite schema, as events have it. The caller
// holds world.mu.
func (g *GitHub) describeSuite(s *checkSuite) map[string]any {
	url := fmt.Sprintf("%s/repos/%s/%s/check-suites/%d", g.url, s.repo.owner.login, s.repo.name, s.id)
	created := s.created.UTC().Format(timeFormat)
	status, conclusion := s.state()
	var branch, head any
	if s.branch != "" {
		branch = s.branch
	}
	if c := s.repo.network.commits[s.headSHA]; c != nil {
		who := map[string]any{"name": "Octo Cat", "email": "octocat@github.test"}
		head = map[string]any{"id": c.sha, "tree_id": c.tree.sha, "message": c.message, "timestamp": c.at.Format(time.RFC3339), "author": who, "committer": who}
	}
	return map[string]any{
		"id": s.id, "node_id": nodeID("CS", s.id), "head_branch": branch, "head_sha": s.headSHA, "status": status, "conclusion": conclusion,
		"url": url, "before": s.before, "after": s.headSHA, "pull_requests": g.pullsAt(s.repo, s.headSHA), "app": g.describeApp(s.app),
		"created_at": created, "updated_at": created, "latest_check_runs_count": len(s.runs), "check_runs_url": url + "/check-runs",
		"head_commit": head, "rerequestable": true, "runs_rerequestable": true,
	}
}

// state is the suite's status and conclusion: completed when all its runs are,
// and a failure where one is none of success, neutral and skipped.
func (s *checkSuite) state() (status string, conclusion any) {
	if len(s.runs) == 0 {
		return "queued", nil
	}
	conclusion = "success"
	for _, run := range s.runs {
		if run.status != "completed" {
			return "in_progress", nil
		}
		if !slices.Contains([]string{"success", "neutral", "skipped"}, run.conclusion) {
			conclusion = "failure"
		}
	}
	return "completed", conclusion
}
