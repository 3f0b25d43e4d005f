package ststest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestPayloadsHoldToGitHubsDescription makes the fake send every event that it
// can and holds the payloads against GitHub's description.
func TestPayloadsHoldToGitHubsDescription(t *testing.T) {
	var facts openAPIFacts
	if err := json.Unmarshal(openAPI, &facts); err != nil {
		t.Fatal(err)
	}
	f, rec := hooked(t)
	f.AddUser("person")
	second := f.Install(testApp, "person", InstallOptions{})
	f.Install(testApp, "other", InstallOptions{})
	f.Push("acme", "one", "topic", []Change{{Path: "a", Content: "1"}})
	f.Push("acme", "one", "topic", []Change{{Path: "a", Delete: true}}, []Change{{Path: "b"}})
	pull := f.OpenPull("acme", "one", "topic", "main")
	f.UpdatePull("acme", "one", pull.Number, Change{Path: "c"})
	f.OpenForkPull("acme", "one", "stranger", "main", Change{Path: "c"})
	f.MergeGroup("acme", "one", "topic")
	f.DeleteBranch("acme", "one", "topic")
	r := f.do("POST", "/repos/acme/one/check-runs", f.mint(""), fmt.Sprintf(`{"name":"n","head_sha":%q,"conclusion":"success"}`, pull.HeadSHA))
	f.RerequestCheckRun(int64(r.json(t)["id"].(float64)))
	f.RerequestCheckSuite("acme", "one", pull.HeadSHA, testApp)
	f.Suspend(second)
	f.Unsuspend(second)
	f.SetInstallationPermissions(second, everything)
	f.Uninstall(second)
	f.SelectRepositories(f.installation, []string{"one"})
	f.SelectRepositories(f.installation, nil)
	f.Commit("acme", "one", "next")
	f.SetDefaultBranch("acme", "one", "next")
	f.RenameRepository("acme", "one", "uno")
	f.ArchiveRepository("acme", "uno")
	f.TransferRepository("acme", "two", "other", "two")
	f.RenameOwner("acme", "acme-inc")

	seen := map[string]int{}
	var all []received
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		all = append(all, rec.all()...)
		if n := names(all); strings.Contains(n, "check_run created") && strings.Contains(n, "check_run completed") { // those come on their own
			break
		}
	}
	for _, one := range all {
		name := strings.NewReplacer("_", "-", " ", "-").Replace(names([]received{one}))
		seen[name]++
		sh, ok := facts.Webhooks[name]
		if !ok {
			t.Errorf("%s is no webhook of the description's extract", name)
			continue
		}
		var v any = one.payload
		for _, problem := range facts.mismatch(sh, v, name) {
			t.Error(problem)
		}
		if one.at("installation", "id") == nil || one.at("sender", "login") == nil {
			t.Errorf("%s lacks installation or sender", name)
		}
	}
	for name := range facts.Webhooks {
		if seen[name] == 0 {
			t.Errorf("%s was not sent; sent were %v", name, seen)
		}
	}
}

func TestRepositoryEvents(t *testing.T) {
	f, rec := hooked(t)
	f.Install(testApp, "other", InstallOptions{})
	f.Commit("acme", "one", "next")
	one := func(records []DeliveryRecord) received {
		t.Helper()
		got := rec.all()
		if len(got) != 1 || len(records) != 1 {
			t.Fatalf("received %s, records %v", names(got), records)
		}
		return got[0]
	}
	rec.all()
	got := one(f.RenameRepository("acme", "one", "uno"))
	if names([]received{got}) != "repository renamed" || got.at("changes", "repository", "name", "from") != "one" || got.at("repository", "full_name") != "acme/uno" {
		t.Errorf("renamed: %s", got.body)
	}
	got = one(f.SetDefaultBranch("acme", "uno", "next"))
	if names([]received{got}) != "repository edited" || got.at("changes", "default_branch", "from") != "main" || got.at("repository", "default_branch") != "next" {
		t.Errorf("default branch: %s", got.body)
	}
	got = one(f.ArchiveRepository("acme", "uno"))
	if names([]received{got}) != "repository archived" || got.at("repository", "archived") != true {
		t.Errorf("archived: %s", got.body)
	}
	got = one(f.RenameOwner("acme", "acme-inc"))
	if names([]received{got}) != "installation_target renamed" || got.at("changes", "login", "from") != "acme" || got.at("account", "login") != "acme-inc" || got.at("installation", "id") != float64(f.installation) {
		t.Errorf("owner renamed: %s", got.body)
	}
	got = one(f.TransferRepository("acme-inc", "two", "other", "zwei"))
	if names([]received{got}) != "repository transferred" || got.at("changes", "owner", "from", "organization", "login") != "acme-inc" || got.at("installation", "id") == float64(f.installation) {
		t.Errorf("transferred: %s", got.body)
	}
	f.DeleteRepository("acme-inc", "uno")
	if got := rec.all(); len(got) != 0 {
		t.Errorf("deleted: Apps get nothing, by GitHub's documentation, but received %s", names(got))
	}
}

func TestSelectionEvents(t *testing.T) {
	f, rec := hooked(t)
	full := func(r received, list string) string {
		var s []string
		for _, v := range r.payload[list].([]any) {
			s = append(s, v.(map[string]any)["full_name"].(string))
		}
		slices.Sort(s)
		return strings.Join(s, " ")
	}
	for _, c := range []struct {
		names                  []string
		want, selection        string
		wantAdded, wantRemoved string
	}{
		{[]string{"one"}, "installation_repositories removed", "selected", "", "acme/two"},
		{[]string{"one"}, "", "", "", ""},
		{nil, "installation_repositories added", "all", "acme/two", ""},
	} {
		f.SelectRepositories(f.installation, c.names)
		got := rec.all()
		if names(got) != c.want {
			t.Fatalf("%v: received %q, want %q", c.names, names(got), c.want)
		}
		if len(got) == 1 && (full(got[0], "repositories_added") != c.wantAdded || full(got[0], "repositories_removed") != c.wantRemoved || got[0].payload["repository_selection"] != c.selection) {
			t.Errorf("%v: %s", c.names, got[0].body)
		}
	}
	f.SelectRepositories(f.installation, []string{"one"})
	rec.all()
	f.SelectRepositories(f.installation, []string{"two"})
	if got := rec.all(); names(got) != "installation_repositories added, installation_repositories removed" {
		t.Errorf("exchanged: received %s", names(got))
	}
}

// An installation that had selected a repository loses it with the transfer,
// and is told that alone.
func TestTransferOutOfASelection(t *testing.T) {
	f, rec := hooked(t)
	f.SelectRepositories(f.installation, []string{"one", "two"})
	rec.all()
	f.TransferRepository("acme", "two", "other", "two")
	got := rec.all()
	if names(got) != "installation_repositories removed" || len(got[0].payload["repositories_removed"].([]any)) != 1 {
		t.Fatalf("received %s", names(got))
	}
	f.TransferRepository("other", "two", "acme", "two")
	if got := rec.all(); len(got) != 0 { // it is not selected any more
		t.Errorf("and back: received %s", names(got))
	}
}
