package ststest

import (
	"fmt"
	"testing"
)

func TestPushPayload(t *testing.T) {
	f, rec := hooked(t)
	first := f.SHA("acme", "one", "main")
	strs := func(v any) string { return fmt.Sprint(v) }
	check := func(what string, got received, want map[string]any) {
		t.Helper()
		for name, w := range want {
			if strs(got.payload[name]) != strs(w) {
				t.Errorf("%s: %s is %v, want %v", what, name, got.payload[name], w)
			}
		}
	}

	p := f.Push("acme", "one", "main", []Change{{Path: "a"}, {Path: "dir/b", Content: "1"}}, []Change{{Path: "a", Delete: true}, {Path: "dir/b", Content: "2"}})
	got := rec.all()[0]
	if p.Before != first || p.After != f.SHA("acme", "one", "main") {
		t.Errorf("pushed %+v", p)
	}
	check("a push", got, map[string]any{
		"ref": "refs/heads/main", "before": p.Before, "after": p.After, "created": false, "deleted": false, "forced": false, "base_ref": nil,
	})
	commits := got.payload["commits"].([]any)
	if len(commits) != 2 {
		t.Fatalf("%d commits", len(commits))
	}
	one, two := commits[0].(map[string]any), commits[1].(map[string]any)
	if strs(one["added"]) != "[a dir/b]" || strs(one["removed"]) != "[]" || strs(two["removed"]) != "[a]" || strs(two["modified"]) != "[dir/b]" || two["id"] != p.After {
		t.Errorf("commits %v", commits)
	}
	if got.at("repository", "full_name") != "acme/one" || got.at("repository", "owner", "login") != "acme" || got.at("repository", "default_branch") != "main" ||
		got.at("installation", "id") != float64(f.installation) || got.at("head_commit", "id") != p.After || got.at("sender", "login") == nil {
		t.Errorf("payload %s", got.body)
	}

	p = f.Push("acme", "one", "topic", []Change{{Path: "t"}})
	check("a new branch", rec.all()[0], map[string]any{"ref": "refs/heads/topic", "before": zeroSHA, "created": true, "forced": false})
	p = f.ForcePush("acme", "one", "topic", first, Change{Path: "t", Content: "other"})
	check("a forced push", rec.all()[0], map[string]any{"before": p.Before, "after": p.After, "created": false, "forced": true})
	p = f.DeleteBranch("acme", "one", "topic")
	all := rec.all()
	if names(all) != "push" {
		t.Errorf("a deletion: received %s", names(all))
	}
	check("a deletion", all[0], map[string]any{"after": zeroSHA, "deleted": true, "head_commit": nil, "commits": "[]"})
	f.Push("acme", "one", "same")
	all = rec.all()
	if names(all) != "push" { // the commit has its suite
		t.Errorf("a branch without commits of its own: received %s", names(all))
	}
	check("a branch without commits of its own", all[0], map[string]any{"created": true, "base_ref": "refs/heads/main", "commits": "[]"})

	var many [][]Change
	for i := range 25 {
		many = append(many, []Change{{Path: fmt.Sprint("f", i)}})
	}
	p = f.Push("acme", "one", "main", many...)
	got = rec.all()[0]
	if commits := got.payload["commits"].([]any); len(commits) != 20 || commits[19].(map[string]any)["id"] != p.After {
		t.Errorf("of 25 commits %d are in the payload", len(commits))
	}
}

func TestPullRequests(t *testing.T) {
	f, rec := hooked(t)
	main := f.SHA("acme", "one", "main")
	head := f.Commit("acme", "one", "topic", Change{Path: "t"})
	p := f.OpenPull("acme", "one", "topic", "main")
	got := rec.all()
	if names(got) != "pull_request opened" || p.Number != 1 || p.HeadSHA != head || p.BaseSHA != main {
		t.Fatalf("opened %+v: received %s", p, names(got))
	}
	for path, want := range map[string]any{"sha": head, "ref": "topic"} {
		if got[0].at("pull_request", "head", path) != want {
			t.Errorf("head %s: %v", path, got[0].at("pull_request", "head", path))
		}
	}
	if got[0].at("pull_request", "base", "ref") != "main" || got[0].at("pull_request", "base", "sha") != main || got[0].at("pull_request", "head", "repo", "full_name") != "acme/one" || got[0].at("number") != 1.0 {
		t.Errorf("payload %s", got[0].body)
	}

	p2 := f.UpdatePull("acme", "one", p.Number, Change{Path: "t", Content: "2"})
	got = rec.all()
	if names(got) != "push, check_suite requested, pull_request synchronize" || got[2].at("before") != head || got[2].at("after") != p2.HeadSHA {
		t.Errorf("updated: received %s", names(got))
	}
	if pulls := got[1].at("check_suite", "pull_requests").([]any); len(pulls) != 1 || pulls[0].(map[string]any)["number"] != 1.0 {
		t.Errorf("check_suite has the pull requests %v", pulls)
	}

	fork := f.OpenForkPull("acme", "one", "stranger", "main", Change{Path: "evil"})
	got = rec.all()
	if names(got) != "pull_request opened" || fork.Number != 2 {
		t.Fatalf("a fork's: %+v, received %s", fork, names(got))
	}
	if got[0].at("pull_request", "head", "repo", "full_name") != "stranger/one" || got[0].at("pull_request", "head", "repo", "fork") != true ||
		got[0].at("repository", "full_name") != "acme/one" || got[0].at("pull_request", "user", "login") != "stranger" {
		t.Errorf("a fork's: %s", got[0].body)
	}
	if d := f.UpdatePull("acme", "one", fork.Number, Change{Path: "evil", Content: "2"}); names(rec.all()) != "pull_request synchronize" || len(d.Deliveries) != 1 {
		t.Errorf("a fork's, updated: %+v", d)
	}
	if r := f.do("GET", "/repos/stranger/one", f.mint(""), ""); r.StatusCode != 404 {
		t.Errorf("the fork itself: %s", r.Status)
	}
}

func TestMergeGroup(t *testing.T) {
	f, rec := hooked(t)
	f.PutFile("acme", "one", "kept", "1")
	f.Commit("acme", "one", "topic", Change{Path: "t", Content: "topic"})
	base := f.Commit("acme", "one", "main", Change{Path: "m", Content: "main"})
	m := f.MergeGroup("acme", "one", "topic")
	got := rec.all()
	if names(got) != "push, check_suite requested, merge_group checks_requested" {
		t.Fatalf("received %s", names(got))
	}
	g := got[2]
	if m.BaseSHA != base || g.at("merge_group", "base_sha") != base || g.at("merge_group", "head_sha") != m.HeadSHA ||
		g.at("merge_group", "base_ref") != "refs/heads/main" || got[0].at("ref") != m.HeadRef {
		t.Errorf("%+v: %s", m, g.body)
	}
	if got := listing(t, f.do("GET", "/repos/acme/one/contents/?ref="+m.HeadSHA, f.mint(""), "").body); got != "kept:file m:file t:file" {
		t.Errorf("the merge holds %s", got)
	}
}
