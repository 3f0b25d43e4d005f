package ststest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func unmarshal(t *testing.T, data []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatalf("%v in %.200s", err, data)
	}
}

// comparison is what the tests read of an answer.
type comparison struct {
	Status    string
	AheadBy   int                  `json:"ahead_by"`
	BehindBy  int                  `json:"behind_by"`
	Total     int                  `json:"total_commits"`
	MergeBase struct{ SHA string } `json:"merge_base_commit"`
	Commits   []struct{ SHA string }
	Files     *[]struct {
		SHA, Filename, Status string
		Previous              string `json:"previous_filename"`
	}
}

func (c comparison) files() string {
	if c.Files == nil {
		return "absent"
	}
	var all []string
	for _, f := range *c.Files {
		all = append(all, strings.TrimSuffix(f.Status+" "+f.Filename+" "+f.Previous, " "))
	}
	return strings.Join(all, ", ")
}

func TestCompareStatus(t *testing.T) {
	f := newFixture(t, GitHubConfig{})
	f.PutFile("acme", "one", "base", "0")
	fork := f.SHA("acme", "one", "main")
	topic := f.Commit("acme", "one", "topic", Change{Path: "t", Content: "1"})
	f.Commit("acme", "one", "topic", Change{Path: "t", Content: "2"})
	f.Commit("acme", "one", "main", Change{Path: "m", Content: "1"})
	group := f.MergeGroup("acme", "one", "topic")
	stranger := f.OpenForkPull("acme", "one", "stranger", "main", Change{Path: "s"})
	token := f.mint("")
	for _, c := range []struct {
		basehead, status string
		ahead, behind    int
		mergeBase, files string
	}{
		{"main...topic", "diverged", 2, 1, fork, "added t"},
		{"topic...main", "diverged", 1, 2, fork, "added m"},
		{fork + "...topic", "ahead", 2, 0, fork, "added t"},
		{"topic..." + fork, "behind", 0, 2, fork, ""},
		{"main...main", "identical", 0, 0, f.SHA("acme", "one", "main"), ""},
		{topic + "...heads/topic", "ahead", 1, 0, topic, "modified t"},
		{"main..." + group.HeadSHA, "ahead", 3, 0, f.SHA("acme", "one", "main"), "added t"},
		{"topic..." + group.HeadSHA, "ahead", 2, 0, f.SHA("acme", "one", "topic"), "added m"},
		{"main..." + stranger.HeadSHA, "ahead", 1, 0, f.SHA("acme", "one", "main"), "added s"},
		{"main...stranger:patch-1", "ahead", 1, 0, f.SHA("acme", "one", "main"), "added s"},
	} {
		r := f.do("GET", "/repos/acme/one/compare/"+c.basehead, token, "")
		if r.StatusCode != 200 {
			t.Errorf("%s: %s", c.basehead, r.Status)
			continue
		}
		var v comparison
		unmarshal(t, r.body, &v)
		if v.Status != c.status || v.AheadBy != c.ahead || v.BehindBy != c.behind || v.Total != c.ahead || len(v.Commits) != c.ahead || v.MergeBase.SHA != c.mergeBase || v.files() != c.files {
			t.Errorf("%s: %s, ahead %d, behind %d, base %s, files %q; want %+v", c.basehead, v.Status, v.AheadBy, v.BehindBy, v.MergeBase.SHA, v.files(), c)
		}
	}
	elsewhere := f.Commit("acme", "two", "main", Change{Path: "x"})
	for _, basehead := range []string{"main...absent", "absent...main", zeroSHA + "...main", "main..." + elsewhere, "main..topic", "main", "main...nobody:topic"} {
		if r := f.do("GET", "/repos/acme/one/compare/"+basehead, token, ""); r.StatusCode != 404 {
			t.Errorf("%s: %s, want 404", basehead, r.Status)
		}
	}
	if r := f.do("GET", "/repos/acme/one/compare/main...topic", f.mint(`{"permissions":{"issues":"read"}}`), ""); r.StatusCode != 403 {
		t.Errorf("without contents: %s", r.Status)
	}
	if r := f.do("GET", "/repos/other/secret/compare/main...main", token, ""); r.StatusCode != 404 {
		t.Errorf("outside the scope: %s", r.Status)
	}
}

func TestCompareFiles(t *testing.T) {
	policy := "issuer: https://example.com\nsubject: a\npermissions:\n  contents: read\n"
	for name, c := range map[string]struct {
		before, changes []Change
		want            string
	}{
		"each kind": {
			[]Change{{Path: "m", Content: "1"}, {Path: "r", Content: "gone\n"}, {Path: "same", Content: "s"}},
			[]Change{{Path: "m", Content: "2"}, {Path: "r", Delete: true}, {Path: "a", Content: "new\n"}},
			"added a, modified m, removed r",
		},
		"renamed":                   {[]Change{{Path: "old", Content: policy}}, []Change{{Path: "old", Delete: true}, {Path: "new", Content: policy}}, "renamed new old"},
		"renamed and changed":       {[]Change{{Path: "old", Content: policy}}, []Change{{Path: "old", Delete: true}, {Path: "new", Content: policy + "x: y\n"}}, "renamed new old"},
		"another in its place":      {[]Change{{Path: "old", Content: policy}}, []Change{{Path: "old", Delete: true}, {Path: "new", Content: "all else\n"}}, "added new, removed old"},
		"empty files are no rename": {[]Change{{Path: "old"}}, []Change{{Path: "old", Delete: true}, {Path: "new"}}, "added new, removed old"},
		"copied":                    {[]Change{{Path: "old", Content: policy}}, []Change{{Path: "new", Content: policy}}, "added new"},
		"added and deleted":         {nil, []Change{{Path: "x", Content: "1"}, {Path: "x", Delete: true}}, ""},
		"a directory for a file":    {[]Change{{Path: "d", Content: "file\n"}}, []Change{{Path: "d/f", Content: "other\n"}}, "removed d, added d/f"},
		"a file for a directory":    {[]Change{{Path: "d/f", Content: "file\n"}}, []Change{{Path: "d", Content: "other\n"}}, "added d, removed d/f"},
		"a directory deleted":       {[]Change{{Path: "d/f", Content: "1\n"}, {Path: "d/e/g", Content: "2\n"}, {Path: "k"}}, []Change{{Path: "d", Delete: true}}, "removed d/e/g, removed d/f"},
		"written as it was":         {[]Change{{Path: "f", Content: "1"}}, []Change{{Path: "f", Content: "1"}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, GitHubConfig{})
			f.Commit("acme", "one", "main", c.before...)
			f.Commit("acme", "one", "topic", c.changes...)
			var v comparison
			unmarshal(t, f.do("GET", "/repos/acme/one/compare/main...topic", f.mint(""), "").body, &v)
			if v.files() != c.want {
				t.Errorf("got %q, want %q", v.files(), c.want)
			}
		})
	}
}

// Commits come in pages; files on the first page alone, 300 and never more.
func TestComparePages(t *testing.T) {
	f := newFixture(t, GitHubConfig{})
	var want []string
	for i := range 260 {
		want = append(want, f.Commit("acme", "one", "topic", Change{Path: fmt.Sprintf("a%d", i)}, Change{Path: fmt.Sprintf("b%d", i)}))
	}
	token := f.mint("")
	var got []string
	pages, url := 0, "/repos/acme/one/compare/main...topic?per_page=100"
	for ; url != "" && pages < 10; pages++ {
		r := f.do("GET", url, token, "")
		var v comparison
		unmarshal(t, r.body, &v)
		for _, c := range v.Commits {
			got = append(got, c.SHA)
		}
		if first := pages == 0; first != (v.Files != nil) || first && len(*v.Files) != 300 || v.Total != 260 {
			t.Errorf("page %d: files %.40s, %d commits in all", pages, v.files(), v.Total)
		}
		url = next(r.Header.Get("Link"))
	}
	if pages != 3 || !slices.Equal(got, want) {
		t.Errorf("%d pages, %d commits in another order than they were made", pages, len(got))
	}
	var v comparison
	unmarshal(t, f.do("GET", "/repos/acme/one/compare/main...topic", token, "").body, &v)
	if len(v.Commits) != 250 || v.Commits[249].SHA != want[259] || len(*v.Files) != 300 {
		t.Errorf("without paging: %d commits, %d files", len(v.Commits), len(*v.Files))
	}
}
