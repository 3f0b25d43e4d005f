package ststest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// The facts of GitHub's OpenAPI description, as openapigen wrote them.
type openAPIFacts struct {
	Source, Version, License string
	Operations               map[string]map[string]map[string]shape // operation → status → media type
	Webhooks                 map[string]shape                       // payload of each
	Schemas                  map[string]shape
}

type shape struct {
	Ref        string           `json:"ref"`
	Types      []string         `json:"types"`
	Properties map[string]shape `json:"properties"`
	Items      *shape           `json:"items"`
	OneOf      []shape          `json:"one_of"`
}

// undocumented are the statuses that the fake uses although GitHub's
// description leaves them out, and why. "" is every operation.
var undocumented = map[string]map[string]string{
	"": {
		"401": "goes without saying for any call without a good credential",
		"400": "goes without saying for a body that is no JSON",
	},
	"GET /repos/{owner}/{repo}":                 {"304": "documented for all of the API: conditional requests"},
	OrgInstallRoute:                             {"404": "what GitHub answers where the App is not installed"},
	UserInstallRoute:                            {"404": "what GitHub answers where the App is not installed"},
	"PUT /repos/{owner}/{repo}/contents/{path}": {"403": "what GitHub answers where the token lacks contents: write"},
	CompareRoute:                                {"403": "what GitHub answers where the token lacks contents: read"},
	TreeRoute:                                   {"403": "what GitHub answers where the token lacks contents: read"},
	CommitRoute:                                 {"403": "what GitHub answers where the token lacks contents: read"},
	CreateCheckRoute:                            {"403": "what GitHub answers where the token lacks checks: write", "422": "documented for all of the API: fields that are missing or wrong"},
	UpdateCheckRoute:                            {"403": "documented in prose: only the App that made a check run may update it", "404": "what GitHub answers where there is none", "422": "documented for all of the API"},
	ListChecksRoute:                             {"403": "what GitHub answers where the token lacks checks: read", "422": "what GitHub answers for a commit that it does not have"},
	DeliveryRoute:                               {"404": "what GitHub answers where there is none"},
	RedeliverRoute:                              {"404": "what GitHub answers where there is none"},
	"POST /repos/{owner}/{repo}/issues":         {"307": "documented for all of the API: methods other than GET are redirected with 307"},
}

// TestHoldsToGitHubsDescription calls every operation of the fake in each way
// that changes its answer and holds the answers against GitHub's description.
func TestHoldsToGitHubsDescription(t *testing.T) {
	var facts openAPIFacts
	if err := json.Unmarshal(openAPI, &facts); err != nil {
		t.Fatal(err)
	}
	if facts.License != "MIT" || facts.Version == "" {
		t.Fatalf("the extract does not say where it is from: %q %q", facts.Version, facts.License)
	}
	f := newFixture(t, GitHubConfig{})
	f.SetInstallationPermissions(f.installation, map[string]string{"contents": "write", "issues": "write", "checks": "write"})
	f.AddUser("person")
	mine := f.Install(testApp, "person", InstallOptions{Suspended: true})
	for _, name := range []string{"old", "gone"} {
		f.AddRepository("acme", name)
	}
	f.RenameRepository("acme", "old", "new")
	f.PutFile("acme", "one", "dir/file", "1")
	f.PutFile("acme", "one", "big", strings.Repeat("x", 1<<20+1))
	f.PutSymlink("acme", "one", "link", "dir/file")
	f.PutSymlink("acme", "one", "dangling", "nowhere")
	f.PutSubmodule("acme", "one", "module", "https://example.com/m.git")
	head := f.Commit("acme", "one", "topic", Change{Path: "dir/moved", Content: "1"}, Change{Path: "dir/file", Delete: true})
	f.SetWebhook(testApp, Webhook{URL: newReceiver(t).URL})
	sent := f.Push("acme", "one", "topic", []Change{{Path: "x"}}).Deliveries[0].ID
	all, scoped := f.mint(""), f.mint(`{"repositories":["one"],"permissions":{"issues":"read"}}`)
	tag := f.do("GET", "/repos/acme/one", all, "").Header.Get("ETag")
	mintPath := fmt.Sprintf("/app/installations/%d/access_tokens", f.installation)
	const object = "application/vnd.github.object"
	run := f.do("POST", "/repos/acme/one/check-runs", all, `{"name":"n","head_sha":"`+head+`"}`).json(t)["id"]
	runPath := fmt.Sprintf("/repos/acme/one/check-runs/%.0f", run)
	done := `"conclusion":"failure","output":{"title":"t","summary":"s","annotations":[{"path":"x","start_line":1,"end_line":1,"annotation_level":"failure","message":"m"}]}}`
	put := `{"message":"m","content":"aGk="}`

	tried := map[string]bool{}
	for _, c := range []struct {
		operation, path, credential, body string
		status                            int
		header                            []string
	}{
		{AppRoute, "/app", f.jwt(), "", 200, nil},
		{AppRoute, "/app", "", "", 401, nil},
		{ListInstallsRoute, "/app/installations", f.jwt(), "", 200, nil},
		{"GET /app/installations/{installation_id}", fmt.Sprintf("/app/installations/%d", f.installation), f.jwt(), "", 200, nil},
		{"GET /app/installations/{installation_id}", fmt.Sprintf("/app/installations/%d", mine), f.jwt(), "", 200, nil},
		{"GET /app/installations/{installation_id}", "/app/installations/1", f.jwt(), "", 404, nil},
		{OrgInstallRoute, "/orgs/acme/installation", f.jwt(), "", 200, nil},
		{UserInstallRoute, "/users/person/installation", f.jwt(), "", 200, nil},
		{RepoInstallRoute, "/repos/acme/one/installation", f.jwt(), "", 200, nil},
		{RepoInstallRoute, "/repos/acme/old/installation", f.jwt(), "", 301, nil},
		{RepoInstallRoute, "/repos/acme/absent/installation", f.jwt(), "", 404, nil},
		{MintRoute, mintPath, f.jwt(), "", 201, nil},
		{MintRoute, mintPath, f.jwt(), `{"repositories":["one","two"],"permissions":{"contents":"read"}}`, 201, nil},
		{MintRoute, mintPath, f.jwt(), `{"repositories":["absent"]}`, 422, nil},
		{MintRoute, fmt.Sprintf("/app/installations/%d/access_tokens", mine), f.jwt(), "", 403, nil},
		{MintRoute, "/app/installations/1/access_tokens", f.jwt(), "", 404, nil},
		{"GET /installation/repositories", "/installation/repositories", all, "", 200, nil},
		{"GET /installation/repositories", "/installation/repositories", scoped, "", 200, nil},
		{"GET /repos/{owner}/{repo}", "/repos/acme/one", all, "", 200, nil},
		{"GET /repos/{owner}/{repo}", "/repos/acme/one", all, "", 304, []string{"If-None-Match", tag}},
		{"GET /repos/{owner}/{repo}", "/repos/acme/old", all, "", 301, nil},
		{"GET /repos/{owner}/{repo}", "/repos/other/secret", all, "", 404, nil},
		{ContentsRoute, "/repos/acme/one/contents/dir/file", all, "", 200, nil},
		{ContentsRoute, "/repos/acme/one/contents/dir", all, "", 200, nil},
		{ContentsRoute, "/repos/acme/one/contents/dir", all, "", 200, []string{"Accept", object}},
		{ContentsRoute, "/repos/acme/one/contents/dir/file", all, "", 200, []string{"Accept", object}},
		{ContentsRoute, "/repos/acme/one/contents/big", all, "", 200, nil},
		{ContentsRoute, "/repos/acme/one/contents/link", all, "", 200, nil},
		{ContentsRoute, "/repos/acme/one/contents/dangling", all, "", 200, nil},
		{ContentsRoute, "/repos/acme/one/contents/module", all, "", 200, nil},
		{ContentsRoute, "/repos/acme/one/contents/absent", all, "", 404, nil},
		{ContentsRoute, "/repos/acme/one/contents/dir", scoped, "", 403, nil},
		{"PUT /repos/{owner}/{repo}/contents/{path}", "/repos/acme/one/contents/new", all, put, 201, nil},
		{"PUT /repos/{owner}/{repo}/contents/{path}", "/repos/acme/one/contents/new", all, `{"message":"m","content":"aGk=","sha":"` + blobSHA([]byte("hi")) + `"}`, 200, nil},
		{"PUT /repos/{owner}/{repo}/contents/{path}", "/repos/acme/one/contents/new", all, `{"message":"m","content":"aGk=","sha":"0"}`, 409, nil},
		{"PUT /repos/{owner}/{repo}/contents/{path}", "/repos/acme/one/contents/new", all, put, 422, nil},
		{"POST /repos/{owner}/{repo}/issues", "/repos/acme/one/issues", all, `{"title":"t"}`, 201, nil},
		{"POST /repos/{owner}/{repo}/issues", "/repos/acme/one/issues", scoped, `{"title":"t"}`, 403, nil},
		{"POST /repos/{owner}/{repo}/issues", "/repos/acme/one/issues", all, `{}`, 422, nil},
		{"POST /repos/{owner}/{repo}/issues", "/repos/acme/old/issues", all, `{"title":"t"}`, 307, nil},
		{"POST /repos/{owner}/{repo}/issues", "/repos/acme/one/issues", all, `{`, 400, nil},
		{OrgInstallRoute, "/orgs/other/installation", f.jwt(), "", 404, nil},
		{UserInstallRoute, "/users/other/installation", f.jwt(), "", 404, nil},
		{"PUT /repos/{owner}/{repo}/contents/{path}", "/repos/acme/one/contents/new", scoped, put, 403, nil},
		{CompareRoute, "/repos/acme/one/compare/main...topic", all, "", 200, nil},
		{CompareRoute, "/repos/acme/one/compare/main...absent", all, "", 404, nil},
		{CompareRoute, "/repos/acme/one/compare/main...topic", scoped, "", 403, nil},
		{TreeRoute, "/repos/acme/one/git/trees/topic", all, "", 200, nil},
		{TreeRoute, "/repos/acme/one/git/trees/main?recursive=1", all, "", 200, nil},
		{TreeRoute, "/repos/acme/one/git/trees/absent", all, "", 404, nil},
		{TreeRoute, "/repos/acme/one/git/trees/main", scoped, "", 403, nil},
		{BlobRoute, "/repos/acme/one/git/blobs", all, `{"content":"x","encoding":"utf-8"}`, 201, nil},
		{BlobRoute, "/repos/acme/one/git/blobs", all, `{}`, 422, nil},
		{BlobRoute, "/repos/acme/one/git/blobs", scoped, `{"content":"x"}`, 403, nil},
		{CommitRoute, "/repos/acme/one/commits/" + head, all, "", 200, nil},
		{CommitRoute, "/repos/acme/one/commits/absent", all, "", 422, nil},
		{CommitRoute, "/repos/acme/one/commits/main", scoped, "", 403, nil},
		{CreateCheckRoute, "/repos/acme/one/check-runs", all, `{"name":"n","head_sha":"` + head + `"}`, 201, nil},
		{CreateCheckRoute, "/repos/acme/one/check-runs", all, `{"name":"n","head_sha":"` + head + `",` + done, 201, nil},
		{CreateCheckRoute, "/repos/acme/one/check-runs", all, `{"name":"n"}`, 422, nil},
		{CreateCheckRoute, "/repos/acme/one/check-runs", scoped, `{}`, 403, nil},
		{UpdateCheckRoute, runPath, all, `{"status":"in_progress"}`, 200, nil},
		{UpdateCheckRoute, runPath, all, "{" + done, 200, nil},
		{UpdateCheckRoute, runPath, all, `{"status":"done"}`, 422, nil},
		{UpdateCheckRoute, runPath, scoped, `{}`, 403, nil},
		{UpdateCheckRoute, "/repos/acme/one/check-runs/1", all, `{}`, 404, nil},
		{ListChecksRoute, "/repos/acme/one/commits/" + head + "/check-runs?filter=all", all, "", 200, nil},
		{ListChecksRoute, "/repos/acme/one/commits/absent/check-runs", all, "", 422, nil},
		{ListChecksRoute, "/repos/acme/one/commits/main/check-runs", scoped, "", 403, nil},
		{DeliveriesRoute, "/app/hook/deliveries", f.jwt(), "", 200, nil},
		{DeliveriesRoute, "/app/hook/deliveries?cursor=x", f.jwt(), "", 400, nil},
		{DeliveriesRoute, "/app/hook/deliveries?status=x", f.jwt(), "", 422, nil},
		{DeliveryRoute, fmt.Sprintf("/app/hook/deliveries/%d", sent), f.jwt(), "", 200, nil},
		{DeliveryRoute, "/app/hook/deliveries/1", f.jwt(), "", 404, nil},
		{DeliveryRoute, "/app/hook/deliveries/x", f.jwt(), "", 400, nil},
		{RedeliverRoute, fmt.Sprintf("/app/hook/deliveries/%d/attempts", sent), f.jwt(), "", 202, nil},
		{RedeliverRoute, "/app/hook/deliveries/1/attempts", f.jwt(), "", 404, nil},
		{ConvertRoute, "/app-manifests/" + f.agree(testManifest) + "/conversions", "", "", 201, nil},
		{ConvertRoute, "/app-manifests/0123456789abcdef/conversions", "", "", 404, nil},
		{RevokeRoute, "/installation/token", all, "", 204, nil},
	} {
		tried[c.operation] = true
		method, _, _ := strings.Cut(c.operation, " ")
		r := f.do(method, c.path, c.credential, c.body, c.header...)
		if r.StatusCode != c.status {
			t.Errorf("%s %s: %s, want %d: %s", method, c.path, r.Status, c.status, r.body)
			continue
		}
		for _, problem := range facts.check(c.operation, r, strings.Join(c.header, " ")) {
			t.Errorf("%s %s (%d): %s", method, c.path, c.status, problem)
		}
	}
	for _, r := range f.routes {
		if r.name != unknownRoute && !tried[r.name] {
			t.Errorf("%s is served but was not held against the description", r.name)
		}
		if _, ok := facts.Operations[r.name]; !ok && r.name != unknownRoute {
			t.Errorf("%s is served but is no operation of GitHub's", r.name)
		}
	}
}

// check is what is wrong with an answer of an operation.
func (f *openAPIFacts) check(operation string, r reply, header string) []string {
	status := fmt.Sprint(r.StatusCode)
	media, ok := f.Operations[operation][status]
	if !ok {
		if undocumented[""][status] == "" && undocumented[operation][status] == "" {
			return []string{fmt.Sprintf("status %s is not documented: %v are", status, slices.Sorted(maps.Keys(f.Operations[operation])))}
		}
	}
	if r.StatusCode >= 400 { // basic-error requires nothing; clients rely on a message
		var v map[string]any
		if json.Unmarshal(r.body, &v) != nil || v["message"] == nil {
			return []string{fmt.Sprintf("no error JSON: %q", r.body)}
		}
		return nil
	}
	kind := "application/json"
	if strings.Contains(header, "vnd.github.object") {
		kind = "application/vnd.github.object"
	}
	sh, ok := media[kind]
	if !ok {
		if r.StatusCode == http.StatusNoContent && len(r.body) > 0 {
			return []string{"204 with a body"}
		}
		return nil
	}
	var v any
	if err := json.Unmarshal(r.body, &v); err != nil {
		return []string{err.Error()}
	}
	return f.mismatch(sh, v, "the body")
}

// mismatch lists where v is not of shape sh.
func (f *openAPIFacts) mismatch(sh shape, v any, at string) []string {
	if sh.Ref != "" {
		return f.mismatch(f.Schemas[sh.Ref], v, at)
	}
	if len(sh.OneOf) > 0 {
		var all []string
		for _, o := range sh.OneOf {
			problems := f.mismatch(o, v, at)
			if len(problems) == 0 {
				return nil
			}
			all = append(all, problems...)
		}
		return []string{fmt.Sprintf("%s is none of %d documented shapes: %s", at, len(sh.OneOf), strings.Join(all, "; "))}
	}
	if len(sh.Types) > 0 && !slices.ContainsFunc(sh.Types, func(t string) bool { return isA(t, v) }) {
		return []string{fmt.Sprintf("%s is %T, not %v", at, v, sh.Types)}
	}
	var problems []string
	switch v := v.(type) {
	case map[string]any:
		for name, want := range sh.Properties {
			got, ok := v[name]
			if !ok {
				problems = append(problems, fmt.Sprintf("%s lacks %s", at, name))
				continue
			}
			problems = append(problems, f.mismatch(want, got, at+"."+name)...)
		}
	case []any:
		for i, e := range v {
			if sh.Items != nil {
				problems = append(problems, f.mismatch(*sh.Items, e, fmt.Sprintf("%s[%d]", at, i))...)
			}
		}
	}
	slices.Sort(problems)
	return problems
}

// isA says whether v is of a JSON schema type.
func isA(kind string, v any) bool {
	switch v := v.(type) {
	case nil:
		return kind == "null"
	case string:
		return kind == "string"
	case bool:
		return kind == "boolean"
	case float64:
		return kind == "number" || kind == "integer" && v == float64(int64(v))
	case []any:
		return kind == "array"
	default:
		return kind == "object"
	}
}

// The check must be able to say no.
func TestDescriptionCheckFindsFaults(t *testing.T) {
	var facts openAPIFacts
	if err := json.Unmarshal(openAPI, &facts); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		operation string
		status    int
		body      string
		want      string
	}{
		"undocumented status": {RevokeRoute, 200, `{}`, "status 200 is not documented"},
		"missing property":    {MintRoute, 201, `{"token":"x"}`, "lacks expires_at"},
		"wrong type":          {MintRoute, 201, `{"token":1,"expires_at":"x"}`, "token is float64"},
		"no object":           {AppRoute, 200, `[]`, "not [object"},
		"deep":                {ListInstallsRoute, 200, `[{"account":{}}]`, "the body[0] lacks access_tokens_url"},
		"no error JSON":       {AppRoute, 401, `oops`, "no error JSON"},
	} {
		problems := facts.check(c.operation, reply{&http.Response{StatusCode: c.status}, []byte(c.body)}, "")
		if !strings.Contains(strings.Join(problems, "\n"), c.want) {
			t.Errorf("%s: got %q, want %q", name, problems, c.want)
		}
	}
}
