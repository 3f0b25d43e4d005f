package webhook

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// suiteDelay is how long a suite that GitHub made by itself waits for the push
// that it was made for, whose payload tells more.
const suiteDelay = 5 * time.Second

// usedEvents are the events that anything is done about.
func usedEvents() []string {
	return []string{
		"push", "pull_request", "merge_group", "check_suite", "check_run",
		"repository", "installation", "installation_repositories", "installation_target",
	}
}

func isUsed(event string) bool { return slices.Contains(usedEvents(), event) }

// event is what a delivery means to us.
type event struct {
	// owners are whom it is about: now, and before a rename or a transfer.
	owners []string
	// forget is what the caches may be wrong about.
	forget []forgetting
	// settled is the lane of a commit whose push changed no policy; or empty.
	settled string
	// item is what is left to do. There may be nothing.
	item item
}

// forgetting is one call of ForgetFiles, ForgetRepository or ForgetInstallation.
type forgetting struct {
	owner        string
	repository   string // empty: the installation is meant
	installation int64
	files        bool     // the repository's files alone
	paths        []string // of the files; none: all
}

// item is what is left to do about a delivery, as it waits on disk.
type item struct {
	Delivery       deliveryID `json:"delivery"`
	Event          string     `json:"event"`
	AppID          int64      `json:"app_id"`
	InstallationID int64      `json:"installation_id,omitempty"`
	// Owner and Repository are as GitHub spells them; the latter is empty for
	// an event about an installation.
	Owner      string `json:"owner"`
	Repository string `json:"repository,omitempty"`
	// Sender is a login; empty where GitHub names none.
	Sender   string    `json:"sender,omitempty"`
	Received time.Time `json:"received"`
	// NotBefore: it is too early to begin. Zero: it is not.
	NotBefore time.Time `json:"not_before,omitzero"`
	// Change is what the audit log is to say; nil: nothing.
	Change *trustChange `json:"change,omitempty"`
	// Check is the check to make; nil: none. Suite: only because GitHub made a
	// suite by itself.
	Check *checkJob `json:"check,omitempty"`
	Suite bool      `json:"suite,omitempty"`
}

func (i *item) key() deliveryKey { return deliveryKey{i.AppID, i.Delivery} }

// isEmpty says that nothing is left to do.
func (i *item) isEmpty() bool { return i.Change == nil && i.Check == nil }

// lane is what items have in common that are done one after the other: a
// repository and commit, or, without a commit, an owner.
func (i *item) lane() string {
	if i.Check != nil {
		return i.Check.lane()
	}
	return strings.ToLower(i.Owner)
}

func lane(owner, repository, head string) string {
	return strings.ToLower(owner + "/" + repository + "@" + head)
}

// delivery is what the headers of an authenticated delivery say of it.
type delivery struct {
	id       deliveryID
	event    string
	appID    int64
	received time.Time
}

// interpret returns what the delivery d with that body means; nil where nothing
// is done about it. Its errors may be shown to whoever sent it.
func interpret(d delivery, body []byte) (*event, error) {
	if !isUsed(d.event) {
		return nil, decode(body, &struct{}{})
	}
	var p payload
	if err := decode(body, &p); err != nil {
		return nil, err
	}
	if err := p.agree(d.event); err != nil {
		return nil, err
	}
	e := &event{item: item{Delivery: d.id, Event: d.event, AppID: d.appID, Received: d.received}}
	if p.Sender != nil {
		e.item.Sender = clip(p.Sender.Login, 100)
	}
	if p.Installation != nil {
		e.item.InstallationID = p.Installation.ID
	}
	if strings.HasPrefix(d.event, "installation") {
		return e.installation(d.event, &p)
	}
	r, err := p.repository()
	if err != nil {
		return nil, fmt.Errorf("the payload of a %s event: %w", d.event, err)
	}
	e.item.Owner, e.item.Repository = r.Owner.Login, r.Name
	e.owners = []string{r.Owner.Login}
	switch d.event {
	case "repository":
		return e.repository(&p)
	case "push":
		return e.push(&p)
	default:
		return e.commit(d, &p)
	}
}

// repository returns the payload's repository, whose names are good.
func (p *payload) repository() (*repositoryObject, error) {
	r := p.Repository
	if r == nil || r.Owner == nil {
		return nil, errors.New("it names no repository")
	}
	if r.Owner.Login == "" {
		r.Owner.Login = r.Owner.Name
	}
	if !isName(r.Owner.Login) || !isName(r.Name) {
		return nil, errors.New("its repository has no name that GitHub could have given")
	}
	if r.DefaultBranch == "" || len(r.DefaultBranch) > 255 {
		return nil, errors.New("its repository has no default branch")
	}
	return r, nil
}

// job returns a check of head for what it would bring to the default branch.
func (p *payload) job(head string) (*checkJob, error) {
	if !isCommit(head) {
		return nil, errors.New("the payload names no commit to check")
	}
	r := p.Repository
	job := &checkJob{Owner: r.Owner.Login, Repository: r.Name, DefaultBranch: r.DefaultBranch, Head: head}
	if strings.HasPrefix(r.HTMLURL, "http") && len(r.HTMLURL) <= 512 {
		job.WebURL = r.HTMLURL
	}
	return job, nil
}

// commit handles the events that ask for the check of a commit.
func (e *event) commit(d delivery, p *payload) (*event, error) {
	var head string
	var suite *checkSuiteObject
	switch {
	case p.PullRequest != nil && slices.Contains([]string{"opened", "synchronize", "reopened"}, p.Action):
		head = p.PullRequest.Head.SHA
	case p.MergeGroup != nil && p.Action == "checks_requested":
		head = p.MergeGroup.HeadSHA
	case p.CheckRun != nil && p.Action == "rerequested" && p.CheckRun.App.ID == d.appID:
		head, suite = p.CheckRun.HeadSHA, &p.CheckRun.CheckSuite
	case p.CheckSuite != nil && p.Action == "rerequested" && p.CheckSuite.App.ID == d.appID:
		head, suite = p.CheckSuite.HeadSHA, p.CheckSuite
	case p.CheckSuite != nil && p.Action == "requested" && p.CheckSuite.App.ID == d.appID:
		if p.CheckSuite.HeadBranch == p.Repository.DefaultBranch {
			return nil, nil // the push that it was made for says all
		}
		head = p.CheckSuite.HeadSHA
		e.item.Suite = true
		e.item.NotBefore = d.received.Add(suiteDelay)
	default:
		return nil, nil
	}
	job, err := p.job(head)
	if err != nil {
		return nil, err
	}
	job.Always = !e.item.Suite
	if suite != nil && suite.HeadBranch == p.Repository.DefaultBranch {
		// What the push to the default branch brought, as its own check had it.
		job.Exact = true
		if isCommit(suite.Before) {
			job.Base = suite.Before
		}
	}
	e.item.Check = job
	return e, nil
}

// isName is as wide as GitHub's rules for owners and repositories together.
func isName(s string) bool {
	return s != "" && len(s) <= 100 && s != "." && s != ".." && strings.IndexFunc(s, func(c rune) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '-' || c == '_')
	}) < 0
}

// isCommit says whether s names a commit: SHA-1 or SHA-256 in lower-case hex,
// and not all zeros, which is GitHub's way of saying that there is none.
func isCommit(s string) bool {
	return (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789abcdef") == "" && strings.Trim(s, "0") != ""
}

// clip cuts s to at most n bytes of valid UTF-8.
func clip(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.ToValidUTF8(s, "")
}
