package ststest

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of GitHub's "Create a check run".
const (
	maxAnnotations      = 50 // a request
	maxOutputCharacters = 65535
	maxAnnotationText   = 64 << 10 // bytes
	maxAnnotationTitle  = 255      // characters
)

var (
	checkConclusions = []string{"action_required", "cancelled", "failure", "neutral", "success", "skipped", "timed_out"}
	checkStatuses    = []string{"queued", "in_progress", "completed"}
	annotationLevels = []string{"notice", "warning", "failure"}
)

// checkSuite is what an App's check runs of a commit are in.
type checkSuite struct {
	id      int64
	app     *app
	repo    *repository
	headSHA string
	branch  string // that was pushed; "" where none was
	before  string
	created time.Time
	runs    []*checkRun
}

// checkRun is one check run.
type checkRun struct {
	id                                     int64
	suite                                  *checkSuite
	name, externalID, detailsURL           string
	status, conclusion                     string
	startedAt, completedAt                 time.Time
	outputTitle, outputSummary, outputText *string
	annotations                            []Annotation
	writes                                 int
}

// Annotation is an annotation of a check run, as it was written.
type Annotation struct {
	Path        string `json:"path"`
	StartLine   int    `json:"start_line"`
	EndLine     int    `json:"end_line"`
	StartColumn int    `json:"start_column"`
	EndColumn   int    `json:"end_column"`
	Level       string `json:"annotation_level"`
	Title       string `json:"title"`
	Message     string `json:"message"`
	RawDetails  string `json:"raw_details"`
}

// checkWrite is the body of a call that creates or updates a check run. What is
// nil is left as it is.
type checkWrite struct {
	Name        *string    `json:"name"`
	HeadSHA     string     `json:"head_sha"`
	DetailsURL  *string    `json:"details_url"`
	ExternalID  *string    `json:"external_id"`
	Status      *string    `json:"status"`
	Conclusion  *string    `json:"conclusion"`
	StartedAt   *time.Time `json:"started_at"`
	CompletedAt *time.Time `json:"completed_at"`
	Output      *struct {
		Title       *string      `json:"title"`
		Summary     *string      `json:"summary"`
		Text        *string      `json:"text"`
		Annotations []Annotation `json:"annotations"`
	} `json:"output"`
}

// problem is what GitHub would refuse in the body, or "".
func (in *checkWrite) problem(creating bool) string {
	text := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	switch {
	case creating && text(in.Name) == "":
		return `"name" wasn't supplied.`
	case creating && in.HeadSHA == "":
		return `"head_sha" wasn't supplied.`
	case in.Name != nil && *in.Name == "":
		return "name is too short."
	case in.Status != nil && !slices.Contains(checkStatuses, *in.Status):
		return fmt.Sprintf("%s is not a member of %q.", *in.Status, checkStatuses)
	case in.Conclusion != nil && !slices.Contains(checkConclusions, *in.Conclusion):
		return fmt.Sprintf("%s is not a member of %q.", *in.Conclusion, checkConclusions)
	case in.Conclusion == nil && (text(in.Status) == "completed" || in.CompletedAt != nil):
		return `"conclusion" wasn't supplied.`
	case in.Output == nil:
		return ""
	case in.Output.Summary == nil:
		return `"summary" wasn't supplied.`
	case creating && in.Output.Title == nil:
		return `"title" wasn't supplied.`
	case utf8.RuneCountInString(*in.Output.Summary) > maxOutputCharacters:
		return fmt.Sprintf("Only %d characters are allowed for summary.", maxOutputCharacters)
	case utf8.RuneCountInString(text(in.Output.Text)) > maxOutputCharacters:
		return fmt.Sprintf("Only %d characters are allowed for text.", maxOutputCharacters)
	case utf8.RuneCountInString(text(in.Output.Title)) > maxOutputCharacters:
		return fmt.Sprintf("Only %d characters are allowed for title.", maxOutputCharacters)
	case len(in.Output.Annotations) > maxAnnotations:
		return fmt.Sprintf("No more than %d items are allowed; %d were supplied.", maxAnnotations, len(in.Output.Annotations))
	}
	for _, a := range in.Output.Annotations {
		if p := a.problem(); p != "" {
			return p
		}
	}
	return ""
}

func (a Annotation) problem() string {
	switch {
	case a.Path == "":
		return `"path" wasn't supplied.`
	case a.StartLine < 1 || a.EndLine < 1:
		return `"start_line" and "end_line" must be at least 1.`
	case a.EndLine < a.StartLine:
		return `"end_line" must not be less than "start_line".`
	case a.StartLine != a.EndLine && (a.StartColumn != 0 || a.EndColumn != 0):
		return `"start_column" and "end_column" are for annotations of one line.`
	case !slices.Contains(annotationLevels, a.Level):
		return fmt.Sprintf("%s is not a member of %q.", a.Level, annotationLevels)
	case a.Message == "":
		return `"message" wasn't supplied.`
	case len(a.Message) > maxAnnotationText || len(a.RawDetails) > maxAnnotationText:
		return "message and raw_details are at most 64 KB."
	case utf8.RuneCountInString(a.Title) > maxAnnotationTitle:
		return fmt.Sprintf("title is at most %d characters.", maxAnnotationTitle)
	}
	return ""
}

// apply changes run as in says.
func (in *checkWrite) apply(run *checkRun, now time.Time) {
	set := func(to *string, v *string) {
		if v != nil {
			*to = *v
		}
	}
	set(&run.name, in.Name)
	set(&run.detailsURL, in.DetailsURL)
	set(&run.externalID, in.ExternalID)
	if in.Status != nil && *in.Status != "completed" { // it starts over
		run.conclusion, run.completedAt = "", time.Time{}
	}
	set(&run.status, in.Status)
	if in.StartedAt != nil {
		run.startedAt = *in.StartedAt
	}
	if in.Conclusion != nil {
		run.status, run.conclusion, run.completedAt = "completed", *in.Conclusion, now
		if in.CompletedAt != nil {
			run.completedAt = *in.CompletedAt
		}
	}
	if o := in.Output; o != nil {
		if o.Title != nil {
			run.outputTitle = o.Title
		}
		run.outputSummary = o.Summary
		if o.Text != nil {
			run.outputText = o.Text
		}
		run.annotations = append(run.annotations, o.Annotations...)
	}
	run.writes++
}

func (r *request) createCheckRun() answer {
	var in checkWrite
	if a, ok := r.decode(&in); !ok {
		return a
	}
	w := &r.g.world
	w.mu.Lock()
	defer w.mu.Unlock()
	repo, a, ok := r.visible("checks", "write")
	if !ok {
		return a
	}
	if repo.archived {
		return archivedRefusal()
	}
	if p := in.problem(true); p != "" {
		return unprocessable("Invalid request.\n\n" + p)
	}
	c := repo.network.commits[strings.ToLower(in.HeadSHA)]
	if c == nil {
		return noCommit(in.HeadSHA)
	}
	suite := r.g.suiteFor(r.app, repo, c.sha)
	run := &checkRun{id: w.nextID(), suite: suite, status: "queued", startedAt: r.g.now()}
	in.apply(run, r.g.now())
	suite.runs = append(suite.runs, run)
	w.checkRuns[run.id] = run
	described := r.g.describeCheckRun(run)
	r.g.later(r.g.checkRunEvents("created", run, r.app.bot()))
	return answer{status: http.StatusCreated, body: described, header: map[string]string{"Location": described["url"].(string)}}
}

func (r *request) updateCheckRun() answer {
	var in checkWrite
	if a, ok := r.decode(&in); !ok {
		return a
	}
	w := &r.g.world
	w.mu.Lock()
	defer w.mu.Unlock()
	repo, a, ok := r.visible("checks", "write")
	if !ok {
		return a
	}
	id, _ := strconv.ParseInt(r.PathValue("check_run_id"), 10, 64)
	run := w.checkRuns[id]
	switch {
	case run == nil || run.suite.repo != repo:
		return notFound()
	case repo.archived:
		return archivedRefusal()
	case run.suite.app != r.app:
		return refusal(http.StatusForbidden, fmt.Sprintf("Invalid app_id `%d` - check run can only be modified by the GitHub App that created it.", run.suite.app.id),
			"/checks/runs#update-a-check-run")
	}
	if p := in.problem(false); p != "" {
		return unprocessable("Invalid request.\n\n" + p)
	}
	completed := run.status == "completed"
	in.apply(run, r.g.now())
	if !completed && run.status == "completed" {
		r.g.later(r.g.checkRunEvents("completed", run, r.app.bot()))
	}
	return answer{status: http.StatusOK, body: r.g.describeCheckRun(run)}
}

// listCheckRuns lists the newest first.
func (r *request) listCheckRuns() answer {
	w := &r.g.world
	w.mu.RLock()
	defer w.mu.RUnlock()
	repo, a, ok := r.visible("checks", "read")
	if !ok {
		return a
	}
	c := repo.resolve(r.PathValue("ref"))
	if c == nil {
		return noCommit(r.PathValue("ref"))
	}
	query := r.URL.Query()
	status, filter, appID := query.Get("status"), query.Get("filter"), query.Get("app_id")
	if status != "" && !slices.Contains(checkStatuses, status) || filter != "" && filter != "latest" && filter != "all" {
		return unprocessable("Invalid request.\n\nstatus or filter is not a permitted value.")
	}
	var all []*checkRun
	for _, suite := range repo.suites[c.sha] {
		if appID != "" && appID != strconv.FormatInt(suite.app.id, 10) {
			continue
		}
		named := map[string]bool{}
		for _, run := range slices.Backward(suite.runs) {
			if filter != "all" && named[run.name] {
				continue // there is a later one of that name
			}
			named[run.name] = true
			if (status == "" || status == run.status) && (query.Get("check_name") == "" || query.Get("check_name") == run.name) {
				all = append(all, run)
			}
		}
	}
	slices.SortFunc(all, func(a, b *checkRun) int { return int(b.id - a.id) })
	part, link := page(r, all)
	described := make([]any, len(part))
	for i, run := range part {
		described[i] = r.g.describeCheckRun(run)
	}
	return withLink(answer{status: http.StatusOK, body: map[string]any{"total_count": len(all), "check_runs": described}}, link)
}
