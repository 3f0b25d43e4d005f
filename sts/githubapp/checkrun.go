package githubapp

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// What GitHub takes, in its documentation of check runs. Where that counts
// characters GitHub was seen to count bytes, so bytes are counted here.
const (
	maxAnnotationsPerCall = 50
	maxCheckSummary       = 65_535
	maxCheckTitle         = 255
	maxAnnotationMessage  = 64 << 10
	maxAnnotationTitle    = 255
)

// CheckRun is a verdict on one commit, to be shown beside it. Texts that are
// longer than what GitHub takes are cut.
type CheckRun struct {
	Name    string // of the check, as a rule that requires it names it
	HeadSHA string // the commit

	Conclusion  string // as GitHub names it: success, failure, neutral…
	Title       string
	Summary     string // Markdown
	Annotations []Annotation
}

// Annotation is a remark on one line of a file of the commit.
type Annotation struct {
	Path    string
	Line    int    // counted from 1; less: the first
	Level   string // notice, warning or failure
	Title   string
	Message string // plain text
}

// ReportCheckRun makes run what GitHub shows for its commit and name. It may be
// repeated, also after it was cut off anywhere: the end is one complete run of
// this verdict, after whatever was said before.
//
// It rests on GitHub's showing, and requiring, the latest run of a name. A run
// that says something else is therefore never changed (an update can add
// annotations and take none away) but succeeded by a new one. A run's external
// ID is a hash of the verdict, and while annotations are still to come, a slash
// and how many there are. The update that adds some also counts them, so an
// attempt that finds such a run goes on where the last one ended.
//
// A run of this verdict that is there, complete, is concluded once more: where
// somebody asked for the check again, GitHub has cleared the conclusion of the
// suite that it is in, and waits for one.
//
// It costs a call, and one for each 50 annotations or part of 50.
//
// Errors: ErrRefused (the App's installation lacks checks: write, or there is no
// such commit), ErrNotFound, ErrRateLimited, ErrUnavailable.
func (c *Client) ReportCheckRun(ctx context.Context, inst Installation, repo string, run CheckRun) error {
	doing := fmt.Sprintf("reporting the check of %s in %s/%s", quote(run.HeadSHA), inst.Owner, repo)
	if err := errors.Join(checkRepository(inst, repo), checkObjectID(run.HeadSHA)); err != nil {
		return &apiError{kind: ErrRefused, doing: doing, cause: err}
	}
	r := reporter{client: c, inst: inst, repo: repo, doing: doing, run: run, verdict: run.verdict()}
	standing, err := r.find(ctx)
	if err != nil {
		return err
	}
	sent, same := r.progress(standing.ExternalID)
	switch {
	case !same:
		if standing.ID, err = r.create(ctx); err != nil {
			return err
		}
		sent = min(maxAnnotationsPerCall, len(run.Annotations))
	case sent == len(run.Annotations):
		return r.conclude(ctx, standing.ID)
	}
	for sent < len(run.Annotations) {
		if sent, err = r.extend(ctx, standing.ID, sent); err != nil {
			return err
		}
	}
	return nil
}

// verdict is a hash of everything that the run says.
func (run CheckRun) verdict() string {
	said, _ := json.Marshal(run) // strings and numbers cannot fail
	sum := sha256.Sum256(said)
	return hex.EncodeToString(sum[:])
}

// reporter is one ReportCheckRun under way.
type reporter struct {
	client  *Client
	inst    Installation
	repo    string
	doing   string
	run     CheckRun
	verdict string
}

// standingRun is a check run as GitHub has it.
type standingRun struct {
	ID         int64  `json:"id"`
	Name       string `json:"name"`
	HeadSHA    string `json:"head_sha"`
	ExternalID string `json:"external_id"`
	App        struct {
		ID int64 `json:"id"`
	} `json:"app"`
}

// find returns the App's latest run of the name, or none:
// GET /repos/{owner}/{repo}/commits/{ref}/check-runs.
func (r *reporter) find(ctx context.Context) (standingRun, error) {
	query := url.Values{
		"check_name": {r.run.Name}, "app_id": {strconv.FormatInt(r.inst.AppID, 10)},
		"filter": {"latest"}, "per_page": {"100"},
	}
	var got struct {
		CheckRuns []standingRun `json:"check_runs"`
	}
	err := r.call(ctx, "list_check_runs", http.MethodGet, "commits/"+r.run.HeadSHA+"/check-runs?"+query.Encode(), nil, &got)
	var latest standingRun
	for _, run := range got.CheckRuns {
		// GitHub was asked for these alone; a run of another App's could not be
		// updated, and must not pass for ours.
		ours := run.App.ID == r.inst.AppID && run.Name == r.run.Name && run.HeadSHA == r.run.HeadSHA
		if ours && run.ID > latest.ID {
			latest = run
		}
	}
	return latest, err
}

// externalID says that sent annotations of the verdict are there.
func (r *reporter) externalID(sent int) string {
	if sent >= len(r.run.Annotations) {
		return r.verdict
	}
	return fmt.Sprintf("%s/%d", r.verdict, sent)
}

// progress is externalID the other way round; false for another verdict.
func (r *reporter) progress(externalID string) (sent int, same bool) {
	verdict, rest, partial := strings.Cut(externalID, "/")
	switch {
	case verdict != r.verdict:
		return 0, false
	case !partial:
		return len(r.run.Annotations), true
	}
	sent, err := strconv.Atoi(rest)
	return sent, err == nil && 0 < sent && sent < len(r.run.Annotations)
}

// checkRunBody is what GitHub is sent. An update leaves out what is not to change.
type checkRunBody struct {
	Name       string       `json:"name,omitempty"`
	HeadSHA    string       `json:"head_sha,omitempty"`
	ExternalID string       `json:"external_id"`
	Status     string       `json:"status,omitempty"`
	Conclusion string       `json:"conclusion,omitempty"`
	Output     *checkOutput `json:"output,omitempty"`
}

type checkOutput struct {
	Title       string            `json:"title"`
	Summary     string            `json:"summary"`
	Annotations []checkAnnotation `json:"annotations,omitempty"`
}

type checkAnnotation struct {
	Path      string `json:"path"`
	StartLine int    `json:"start_line"`
	EndLine   int    `json:"end_line"`
	Level     string `json:"annotation_level"`
	Message   string `json:"message"`
	Title     string `json:"title,omitempty"`
}

// create makes a run with the first annotations. It is a completed one from the
// start: its conclusion is true, whether or not the remaining annotations come.
func (r *reporter) create(ctx context.Context) (id int64, err error) {
	output, sent := r.output(0)
	body := checkRunBody{
		Name: r.run.Name, HeadSHA: r.run.HeadSHA, ExternalID: r.externalID(sent),
		Status: "completed", Conclusion: r.run.Conclusion, Output: output,
	}
	var made standingRun
	if err := r.call(ctx, "create_check_run", http.MethodPost, "check-runs", body, &made); err != nil {
		return 0, err
	}
	if made.ID <= 0 {
		return 0, &apiError{kind: ErrUnavailable, doing: r.doing, status: http.StatusCreated, detail: "GitHub's answer has no ID"}
	}
	return made.ID, nil
}

// extend adds the annotations that follow the first sent ones, and returns how
// many there are then.
func (r *reporter) extend(ctx context.Context, id int64, sent int) (int, error) {
	output, sent := r.output(sent)
	return sent, r.update(ctx, id, checkRunBody{ExternalID: r.externalID(sent), Output: output})
}

// conclude repeats the conclusion.
func (r *reporter) conclude(ctx context.Context, id int64) error {
	return r.update(ctx, id, checkRunBody{ExternalID: r.verdict, Status: "completed", Conclusion: r.run.Conclusion})
}

func (r *reporter) update(ctx context.Context, id int64, body checkRunBody) error {
	return r.call(ctx, "update_check_run", http.MethodPatch, fmt.Sprintf("check-runs/%d", id), body, nil)
}

// output is what GitHub is told, with as many of the annotations from the given
// one on as it takes at once.
func (r *reporter) output(from int) (output *checkOutput, sent int) {
	sent = min(from+maxAnnotationsPerCall, len(r.run.Annotations))
	output = &checkOutput{Title: clip(r.run.Title, maxCheckTitle), Summary: clip(r.run.Summary, maxCheckSummary)}
	for _, a := range r.run.Annotations[from:sent] {
		line := max(1, a.Line)
		output.Annotations = append(output.Annotations, checkAnnotation{
			Path: a.Path, StartLine: line, EndLine: line, Level: a.Level,
			Message: clip(a.Message, maxAnnotationMessage), Title: clip(a.Title, maxAnnotationTitle),
		})
	}
	return output, sent
}

// call makes one call with the repository's token for check runs.
func (r *reporter) call(ctx context.Context, operation, method, path string, body, out any) error {
	kept := r.client.installationFor(r.inst)
	_, err := r.client.doWith(ctx, r.inst, kept.quota, kept.checking(r.repo), call{
		operation: operation, doing: r.doing, method: method, path: fmt.Sprintf("repos/%s/%s/%s", r.inst.Owner, r.repo, path),
		body: body, bodyLimit: checkRunBodyLimit, missing: ErrNotFound, background: true,
	}, out)
	return err
}

// checkRunBodyLimit has room for a hundred runs with their summaries.
const checkRunBodyLimit = 8 << 20

// clip cuts text to most bytes, at a rune's border, and shows that it did.
func clip(text string, most int) string {
	const mark = "…"
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most-len(mark)], "") + mark
}
