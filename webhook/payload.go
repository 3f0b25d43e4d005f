package webhook

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/octo-sts/appliance/sts/trustpolicy"
)

// Bounds on what is kept of a payload. What is beyond makes it incomplete.
const (
	// maxCommits is the number of commits from which on a push may have had
	// more. GitHub's documentation says 2,048, and says 20 of the same list in
	// another place: the smaller one costs a comparison and cannot be wrong.
	maxCommits = 20
	// maxCommitFiles is the number of changed files from which on GitHub may
	// have left out others of one commit.
	maxCommitFiles = 3000
	// maxPolicyPaths bounds the paths that are kept of one list of a commit.
	maxPolicyPaths = 1000
	// maxPath is the longest path of a policy in bytes that is kept.
	maxPath = 512
	// maxElements bounds the commits and the repositories that are read of a list.
	maxElements = 100
)

// payload is what is read of any event's payload. A pointer is nil where the
// member is absent or null.
type payload struct {
	Action       string              `json:"action"`
	Installation *installationObject `json:"installation"`
	Repository   *repositoryObject   `json:"repository"`
	Sender       *accountObject      `json:"sender"`
	Changes      *changesObject      `json:"changes"`

	// push
	Ref     *string             `json:"ref"`
	Before  string              `json:"before"`
	After   string              `json:"after"`
	Created bool                `json:"created"`
	Deleted bool                `json:"deleted"`
	Forced  bool                `json:"forced"`
	Commits *listOf[pushCommit] `json:"commits"`

	// each of one event alone
	PullRequest *pullRequestObject        `json:"pull_request"`
	MergeGroup  *mergeGroupObject         `json:"merge_group"`
	CheckSuite  *checkSuiteObject         `json:"check_suite"`
	CheckRun    *checkRunObject           `json:"check_run"`
	Added       *listOf[repositoryObject] `json:"repositories_added"`
	Removed     *listOf[repositoryObject] `json:"repositories_removed"`
	Account     *accountObject            `json:"account"`     // installation_target
	TargetType  *string                   `json:"target_type"` // installation_target
}

type accountObject struct {
	Login string `json:"login"`
	Name  string `json:"name"` // a push's repository.owner has it in any case
	Slug  string `json:"slug"` // an enterprise's; it has no login
}

type installationObject struct {
	ID      int64          `json:"id"`
	Account *accountObject `json:"account"`
}

type repositoryObject struct {
	Name          string         `json:"name"`
	HTMLURL       string         `json:"html_url"`
	DefaultBranch string         `json:"default_branch"`
	Owner         *accountObject `json:"owner"`
}

type pullRequestObject struct {
	Head struct {
		SHA string `json:"sha"`
	} `json:"head"`
}

type mergeGroupObject struct {
	HeadSHA string `json:"head_sha"`
}

// checkSuiteObject also is what a check run holds of its suite. HeadBranch is
// empty for commits of a fork.
type checkSuiteObject struct {
	HeadSHA    string    `json:"head_sha"`
	HeadBranch string    `json:"head_branch"`
	Before     string    `json:"before"`
	App        appObject `json:"app"`
}

type checkRunObject struct {
	HeadSHA    string           `json:"head_sha"`
	App        appObject        `json:"app"`
	CheckSuite checkSuiteObject `json:"check_suite"`
}

type appObject struct {
	ID int64 `json:"id"`
}

// from is how GitHub tells what something was before it changed.
type from struct {
	From string `json:"from"`
}

type changesObject struct {
	Login         *from `json:"login"`
	DefaultBranch *from `json:"default_branch"`
	Repository    *struct {
		Name from `json:"name"`
	} `json:"repository"`
	Owner *struct {
		From struct {
			User         *accountObject `json:"user"`
			Organization *accountObject `json:"organization"`
		} `json:"from"`
	} `json:"owner"`
}

type pushCommit struct {
	ID       string       `json:"id"`
	Added    *policyPaths `json:"added"`
	Removed  *policyPaths `json:"removed"`
	Modified *policyPaths `json:"modified"`
}

// decode reads body, which must be one JSON object, into v.
func decode(body []byte, v any) error {
	if trimmed := bytes.TrimLeft(body, " \t\r\n"); len(trimmed) == 0 || trimmed[0] != '{' {
		return errors.New("the payload is not a JSON object")
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("the payload is not what GitHub documents: %w", err)
	}
	return nil
}

// agree returns an error where the payload is not one of the named event's: each
// has members that no other has.
func (p *payload) agree(event string) error {
	for _, member := range []struct {
		of      string
		present bool
	}{
		{"push", p.Ref != nil || p.Commits != nil},
		{"pull_request", p.PullRequest != nil},
		{"merge_group", p.MergeGroup != nil},
		{"check_suite", p.CheckSuite != nil},
		{"check_run", p.CheckRun != nil},
		{"installation_repositories", p.Added != nil || p.Removed != nil},
		{"installation_target", p.TargetType != nil},
	} {
		if member.of == event && !member.present {
			return fmt.Errorf("the payload is not that of a %s event", event)
		}
		if member.of != event && member.present {
			return fmt.Errorf("the payload of a %s event is that of a %s event", event, member.of)
		}
	}
	if event != "push" && p.Action == "" {
		return fmt.Errorf("the payload of a %s event has no action", event)
	}
	return nil
}

// listOf is a JSON array of which the first maxElements elements are read, so that a
// payload cannot make us hold millions of them.
type listOf[T any] struct {
	items []T
	more  bool
}

func (l *listOf[T]) UnmarshalJSON(data []byte) error {
	*l = listOf[T]{}
	d := json.NewDecoder(bytes.NewReader(data))
	if open, err := d.Token(); err != nil || open != json.Delim('[') {
		return errors.New("an array was expected")
	}
	for d.More() {
		if len(l.items) == maxElements {
			l.more = true
			return nil
		}
		var one T
		if err := d.Decode(&one); err != nil {
			return err
		}
		l.items = append(l.items, one)
	}
	return nil
}

// policyPaths is a list of a commit's files. It keeps those of the policies'
// directory and counts all.
type policyPaths struct {
	total int
	kept  []string
	more  bool
}

// UnmarshalJSON is given one valid JSON value.
func (p *policyPaths) UnmarshalJSON(data []byte) error {
	*p = policyPaths{}
	if data[0] != '[' {
		return errors.New("an array of paths was expected")
	}
	for rest := data[1:]; ; {
		rest = bytes.TrimLeft(rest, " \t\r\n,")
		if rest[0] == ']' {
			return nil
		}
		end := stringEnd(rest)
		if end == 0 {
			return errors.New("an array of paths holds something else")
		}
		if err := p.keep(rest[:end]); err != nil {
			return err
		}
		rest = rest[end:]
	}
}

// stringEnd returns the length of the JSON string, with its quotes, that data
// begins with; 0 where it begins with something else.
func stringEnd(data []byte) int {
	if data[0] != '"' {
		return 0
	}
	for i := 1; ; i++ {
		switch data[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
}

// keep counts the path, a JSON string, and keeps it where it is a policy's.
func (p *policyPaths) keep(quoted []byte) error {
	p.total++
	// Only what cannot be in the directory is passed over without decoding.
	if bytes.IndexByte(quoted, '\\') < 0 && !bytes.HasPrefix(quoted[1:], []byte(trustpolicy.Directory)) {
		return nil
	}
	var path string
	if err := json.Unmarshal(quoted, &path); err != nil {
		return err
	}
	switch {
	case !strings.HasPrefix(path, trustpolicy.Directory):
	case len(p.kept) == maxPolicyPaths || len(path) > maxPath:
		p.more = true
	default:
		p.kept = append(p.kept, path)
	}
	return nil
}
