package webhook

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	testApp   = 1234
	policy    = ".github/chainguard/deploy.sts.yaml"
	issuers   = ".github/chainguard/trusted-token-issuers.yaml"
	notPolicy = ".github/chainguard/README.md"
)

var (
	before = strings.Repeat("1", 40)
	after  = strings.Repeat("2", 40)
	zero   = strings.Repeat("0", 40)
)

type object = map[string]any

// having is a copy of o with the members of more; a nil value removes one.
func having(o object, more object) object {
	c := maps.Clone(o)
	for name, value := range more {
		c[name] = value
		if value == nil {
			delete(c, name)
		}
	}
	return c
}

func testRepository() object {
	return object{"name": "app", "full_name": "acme/app", "default_branch": "main",
		"html_url": "https://github.com/acme/app", "owner": object{"login": "acme", "name": "acme"}}
}

func aboutRepository(more object) object {
	return having(object{"repository": testRepository(), "sender": object{"login": "octocat"}, "installation": object{"id": 77}}, more)
}

func aboutInstallation(more object) object {
	return having(object{"sender": object{"login": "octocat"},
		"installation": object{"id": 77, "account": object{"login": "acme"}}}, more)
}

func commit(id string, added, removed, modified []string) object {
	list := func(paths []string) []string { return append([]string{}, paths...) }
	return object{"id": id, "added": list(added), "removed": list(removed), "modified": list(modified)}
}

// pushTo is a push of one commit that changes paths.
func pushTo(branch string, paths ...string) object {
	return aboutRepository(object{"ref": "refs/heads/" + branch, "before": before, "after": after, "created": false, "deleted": false,
		"forced": false, "commits": []object{commit(after, nil, nil, paths)}})
}

func interpretJSON(t testing.TB, name string, payload any) (*event, error) {
	t.Helper()
	body, ok := payload.(string)
	if !ok {
		encoded, err := json.Marshal(payload)
		if err != nil {
			t.Fatal(err)
		}
		body = string(encoded)
	}
	return interpret(delivery{event: name, appID: testApp, received: time.Unix(1000, 0)}, []byte(body))
}

// meaning is what an event does, in a form to compare.
type meaning struct {
	Forget []string // calls
	Change *trustChange
	Check  *checkJob
	Quiet  bool // the push says that there is nothing to check
	Suite  bool
	Delay  time.Duration
}

func meaningOf(e *event) meaning {
	var m meaning
	if e == nil {
		return m
	}
	for _, f := range e.forget {
		switch {
		case f.files:
			m.Forget = append(m.Forget, fmt.Sprintf("files %s/%s %v", f.owner, f.repository, f.paths))
		case f.repository != "":
			m.Forget = append(m.Forget, fmt.Sprintf("repository %s/%s", f.owner, f.repository))
		default:
			m.Forget = append(m.Forget, fmt.Sprintf("installation %d of %s", f.installation, f.owner))
		}
	}
	m.Change, m.Check, m.Quiet, m.Suite = e.item.Change, e.item.Check, e.settled != "", e.item.Suite
	if !e.item.NotBefore.IsZero() {
		m.Delay = e.item.NotBefore.Sub(e.item.Received)
	}
	return m
}

func job(change func(*checkJob)) *checkJob {
	j := &checkJob{Owner: "acme", Repository: "app", WebURL: "https://github.com/acme/app", DefaultBranch: "main", Head: after}
	change(j)
	return j
}

const pushReason = "push 1111111…2222222 to main"

func TestPushes(t *testing.T) {
	exact := job(func(j *checkJob) { j.Exact, j.Base = true, before })
	everything := job(func(j *checkJob) { j.Exact = true })
	branch := job(func(*checkJob) {})
	incomplete := func(paths ...string) *trustChange {
		return &trustChange{Reason: pushReason, Paths: paths, Incomplete: true}
	}
	many := func(n int) []object {
		var all []object
		for i := range n - 1 {
			all = append(all, commit(fmt.Sprintf("%040x", i+1), nil, nil, nil))
		}
		return append(all, commit(after, nil, nil, []string{policy}))
	}
	for name, c := range map[string]struct {
		payload object
		want    meaning
	}{
		"default branch, a policy": {pushTo("main", policy, "main.go"),
			meaning{Forget: []string{"files acme/app [" + policy + "]"}, Change: &trustChange{Reason: pushReason, Paths: []string{policy}}, Check: exact}},
		"default branch, the issuers": {pushTo("main", issuers),
			meaning{Forget: []string{"files acme/app [" + issuers + "]"}, Change: &trustChange{Reason: pushReason, Paths: []string{issuers}}, Check: exact}},
		"default branch, another file of the directory": {pushTo("main", notPolicy),
			meaning{Forget: []string{"files acme/app []"}, Check: exact}},
		"default branch, no policy": {pushTo("main", "main.go", ".github/chainguard.yaml"),
			meaning{Forget: []string{"files acme/app []"}, Quiet: true}},
		"default branch, a merge without files": {having(pushTo("main"), object{"commits": []object{
			commit(before, nil, nil, []string{"main.go"}), commit(after, nil, nil, nil)}}),
			meaning{Forget: []string{"files acme/app []"}, Quiet: true}},
		"default branch, a policy and a merge without files": {having(pushTo("main"), object{"commits": []object{
			commit(before, nil, nil, []string{policy}), commit(after, nil, nil, nil)}}),
			meaning{Forget: []string{"files acme/app [" + policy + "]"}, Change: &trustChange{Reason: pushReason, Paths: []string{policy}}, Check: exact}},
		"added and removed in one push": {having(pushTo("main"), object{"commits": []object{
			commit(before, []string{policy}, nil, nil), commit(after, nil, []string{policy}, nil)}}),
			meaning{Forget: []string{"files acme/app [" + policy + "]"}, Change: &trustChange{Reason: pushReason, Paths: []string{policy}}, Check: exact}},
		"19 commits": {having(pushTo("main"), object{"commits": many(19)}),
			meaning{Forget: []string{"files acme/app [" + policy + "]"}, Change: &trustChange{Reason: pushReason, Paths: []string{policy}}, Check: exact}},
		"20 commits": {having(pushTo("main"), object{"commits": many(20)}),
			meaning{Forget: []string{"files acme/app []"}, Change: incomplete(policy), Check: exact}},
		"more commits than are read": {having(pushTo("main"), object{"commits": many(500)}),
			meaning{Forget: []string{"files acme/app []"}, Change: incomplete(), Check: exact}},
		"forced": {having(pushTo("main", "main.go"), object{"forced": true}),
			meaning{Forget: []string{"files acme/app []"}, Change: incomplete(), Check: everything}},
		"zero before": {having(pushTo("main", "main.go"), object{"created": true, "before": zero}),
			meaning{Forget: []string{"files acme/app []"}, Change: &trustChange{Reason: "push 0000000…2222222 to main", Incomplete: true}, Check: everything}},
		"default branch deleted": {having(pushTo("main"), object{"deleted": true, "after": zero, "commits": []object{}}),
			meaning{Forget: []string{"files acme/app []"}, Change: &trustChange{Reason: "push 1111111…0000000 to main", Incomplete: true}}},
		"no commits": {having(pushTo("main"), object{"commits": []object{}}),
			meaning{Forget: []string{"files acme/app []"}, Change: incomplete(), Check: exact}},
		"no list of commits": {having(pushTo("main"), object{"commits": nil}),
			meaning{Forget: []string{"files acme/app []"}, Change: incomplete(), Check: exact}},
		"the head is not among the commits": {having(pushTo("main"), object{"commits": []object{commit(before, nil, nil, nil)}}),
			meaning{Forget: []string{"files acme/app []"}, Change: incomplete(), Check: exact}},
		"a commit without a list": {having(pushTo("main"), object{"commits": []object{{"id": after, "added": []string{}, "removed": []string{}}}}),
			meaning{Forget: []string{"files acme/app []"}, Change: incomplete(), Check: exact}},
		"as many files as GitHub lists": {pushTo("main", make([]string, maxCommitFiles)...),
			meaning{Forget: []string{"files acme/app []"}, Change: incomplete(), Check: exact}},
		"a path that is longer than what is kept": {pushTo("main", ".github/chainguard/"+strings.Repeat("p", maxPath)),
			meaning{Forget: []string{"files acme/app []"}, Change: incomplete(), Check: exact}},
		"null sender": {having(pushTo("main", notPolicy), object{"sender": nil}),
			meaning{Forget: []string{"files acme/app []"}, Check: exact}},
		"an owner without login": {having(pushTo("main", notPolicy), object{"repository": having(testRepository(), object{"owner": object{"name": "acme"}})}),
			meaning{Forget: []string{"files acme/app []"}, Check: exact}},
		"other branch, a policy":  {pushTo("topic", policy), meaning{Check: branch}},
		"other branch, no policy": {pushTo("topic", "main.go"), meaning{Quiet: true}},
		"other branch, new":       {having(pushTo("topic", "main.go"), object{"created": true, "before": zero}), meaning{Check: branch}},
		"other branch, deleted":   {having(pushTo("topic"), object{"deleted": true, "after": zero}), meaning{}},
		"a tag":                   {having(pushTo("main", policy), object{"ref": "refs/tags/main"}), meaning{}},
		"a URL that is none":      {having(pushTo("topic", policy), object{"repository": having(testRepository(), object{"html_url": "javascript:x"})}), meaning{Check: job(func(j *checkJob) { j.WebURL = "" })}},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := interpretJSON(t, "push", c.payload)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, meaningOf(e)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestCommitsToCheck(t *testing.T) {
	always := meaning{Check: job(func(j *checkJob) { j.Always = true })}
	pull := func(action string) object {
		return aboutRepository(object{"action": action, "pull_request": object{"head": object{"sha": after, "repo": nil}}})
	}
	suite := func(action, branch string, app int) object {
		return aboutRepository(object{"action": action, "check_suite": object{"head_sha": after, "head_branch": branch, "before": before, "app": object{"id": app}}})
	}
	run := func(action, branch string, app int) object {
		return aboutRepository(object{"action": action, "check_run": object{"head_sha": after, "app": object{"id": app},
			"check_suite": object{"head_branch": branch, "before": nil, "app": object{"id": app}}}})
	}
	for name, c := range map[string]struct {
		event   string
		payload object
		want    meaning
	}{
		"pull_request opened":      {"pull_request", pull("opened"), always},
		"pull_request synchronize": {"pull_request", pull("synchronize"), always},
		"pull_request reopened":    {"pull_request", pull("reopened"), always},
		"pull_request closed":      {"pull_request", pull("closed"), meaning{}},
		"merge_group": {"merge_group", aboutRepository(object{"action": "checks_requested",
			"merge_group": object{"head_sha": after, "base_sha": before}}), always},
		"merge_group destroyed": {"merge_group", aboutRepository(object{"action": "destroyed", "merge_group": object{"head_sha": after}}), meaning{}},
		"suite requested":       {"check_suite", suite("requested", "topic", testApp), meaning{Suite: true, Delay: suiteDelay, Check: job(func(*checkJob) {})}},
		"suite requested on the default branch, which a push says": {"check_suite", suite("requested", "main", testApp), meaning{}},
		"suite rerequested": {"check_suite", suite("rerequested", "topic", testApp), always},
		"suite rerequested on the default branch": {"check_suite", suite("rerequested", "main", testApp),
			meaning{Check: job(func(j *checkJob) { j.Always, j.Exact, j.Base = true, true, before })}},
		"suite of another App": {"check_suite", suite("rerequested", "topic", 99), meaning{}},
		"suite completed":      {"check_suite", suite("completed", "topic", testApp), meaning{}},
		"run rerequested":      {"check_run", run("rerequested", "topic", testApp), always},
		"run rerequested on the default branch": {"check_run", run("rerequested", "main", testApp),
			meaning{Check: job(func(j *checkJob) { j.Always, j.Exact = true, true })}},
		"run of another App": {"check_run", run("rerequested", "topic", 99), meaning{}},
		"run created":        {"check_run", run("created", "topic", testApp), meaning{}},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := interpretJSON(t, c.event, c.payload)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, meaningOf(e)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestChangesOfTrust(t *testing.T) {
	type row struct {
		event   string
		payload object
		forget  []string
		change  *trustChange
	}
	reason := func(text string) *trustChange { return &trustChange{Reason: text} }
	here, there := "repository acme/app", "installation 77 of acme"
	rows := []row{
		{"repository", aboutRepository(object{"action": "renamed", "changes": object{"repository": object{"name": object{"from": "old"}}}}),
			[]string{here, "repository acme/old"}, reason("the repository was renamed from old")},
		{"repository", aboutRepository(object{"action": "transferred", "changes": object{"owner": object{"from": object{"organization": object{"login": "org"}}}}}),
			[]string{here, "repository org/app"}, reason("the repository was transferred from org")},
		{"repository", aboutRepository(object{"action": "transferred", "changes": object{"owner": object{"from": object{"user": object{"login": "someone"}}}}}),
			[]string{here, "repository someone/app"}, reason("the repository was transferred from someone")},
		{"repository", aboutRepository(object{"action": "edited", "changes": object{"default_branch": object{"from": "master"}}}),
			[]string{here}, reason("the default branch changed from master to main")},
		{"repository", aboutRepository(object{"action": "edited", "changes": object{"topics": object{"from": []string{"a"}}}}), nil, nil},
		{"repository", aboutRepository(object{"action": "created"}), nil, nil},
		{"repository", aboutRepository(object{"action": "privatized"}), []string{here}, reason("the repository became private")},
		{"repository", aboutRepository(object{"action": "publicized"}), []string{here}, reason("the repository became public")},
		{"installation", aboutInstallation(object{"action": "created", "repositories": []object{{"name": "app"}}}), []string{there}, reason("the App was installed")},
		{"installation", aboutInstallation(object{"action": "deleted"}), []string{there}, reason("the App was uninstalled")},
		{"installation", aboutInstallation(object{"action": "suspend"}), []string{there}, reason("the installation was suspended")},
		{"installation", aboutInstallation(object{"action": "unsuspend"}), []string{there}, reason("the installation's suspension was lifted")},
		{"installation", aboutInstallation(object{"action": "new_permissions_accepted"}), []string{there}, reason("new permissions were accepted for the installation")},
		{"installation", having(aboutInstallation(object{"action": "created"}), object{"installation": object{"id": 77, "account": object{"slug": "corp"}}}), nil, nil},
		{"installation_repositories", aboutInstallation(object{"action": "added", "repositories_added": []object{{"name": "b"}, {"name": "a"}}, "repositories_removed": []object{}}),
			[]string{there}, &trustChange{Reason: "repositories were added to the installation", Repositories: []string{"a", "b"}}},
		{"installation_repositories", aboutInstallation(object{"action": "removed", "repositories_added": []object{}, "repositories_removed": []object{{"name": "a"}}}),
			[]string{there}, &trustChange{Reason: "repositories were removed from the installation", Repositories: []string{"a"}}},
		{"installation_target", aboutInstallation(object{"action": "renamed", "installation": object{"id": 77}, "target_type": "Organization",
			"account": object{"login": "acme"}, "changes": object{"login": object{"from": "oldname"}}}),
			[]string{there, "installation 77 of oldname"}, reason("the account was renamed from oldname")},
	}
	for _, action := range []string{"deleted", "archived", "unarchived"} {
		rows = append(rows, row{"repository", aboutRepository(object{"action": action}), []string{here}, reason("the repository was " + action)})
	}
	for _, c := range rows {
		t.Run(c.event+" "+c.payload["action"].(string), func(t *testing.T) {
			e, err := interpretJSON(t, c.event, c.payload)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(meaning{Forget: c.forget, Change: c.change}, meaningOf(e)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
