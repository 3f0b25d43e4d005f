package ststest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// annotations is a JSON list of n annotations.
func annotations(n int) string {
	one := `{"path":"f","start_line":1,"end_line":1,"annotation_level":"warning","message":"m"}`
	return "[" + strings.TrimSuffix(strings.Repeat(one+",", n), ",") + "]"
}

func output(title, summary, more string) string {
	t, _ := json.Marshal(title)
	s, _ := json.Marshal(summary)
	return fmt.Sprintf(`"output":{"title":%s,"summary":%s%s}`, t, s, more)
}

func TestCreateCheckRun(t *testing.T) {
	f, _ := hooked(t)
	head := f.SHA("acme", "one", "main")
	elsewhere := f.Commit("acme", "two", "main", Change{Path: "x"})
	fork := f.OpenForkPull("acme", "one", "stranger", "main", Change{Path: "x"}).HeadSHA
	token, reader := f.mint(""), f.mint(`{"permissions":{"checks":"read"}}`)
	two := f.mint(`{"repositories":["two"]}`)
	base := func(more string) string { return fmt.Sprintf(`{"name":"n","head_sha":%q%s}`, head, more) }
	annotation := func(fields string) string { return base("," + output("t", "s", `,"annotations":[{`+fields+`}]`)) }
	for name, c := range map[string]struct {
		token, body string
		want        int
		status      string // of the check run
	}{
		"queued":                        {token, base(``), 201, "queued"},
		"in progress":                   {token, base(`,"status":"in_progress"`), 201, "in_progress"},
		"completed":                     {token, base(`,"status":"completed","conclusion":"success"`), 201, "completed"},
		"a conclusion completes":        {token, base(`,"conclusion":"neutral"`), 201, "completed"},
		"a fork's commit":               {token, strings.Replace(base(``), head, fork, 1), 201, "queued"},
		"50 annotations":                {token, base("," + output("t", "s", `,"annotations":`+annotations(50))), 201, "queued"},
		"51 annotations":                {token, base("," + output("t", "s", `,"annotations":`+annotations(51))), 422, ""},
		"65,535 characters":             {token, base("," + output("t", strings.Repeat("ä", 65535), "")), 201, "queued"},
		"65,536 characters":             {token, base("," + output("t", strings.Repeat("ä", 65536), "")), 422, ""},
		"a text too long":               {token, base("," + output("t", "s", `,"text":"`+strings.Repeat("x", 65536)+`"`)), 422, ""},
		"no name":                       {token, fmt.Sprintf(`{"head_sha":%q}`, head), 422, ""},
		"no commit":                     {token, `{"name":"n"}`, 422, ""},
		"no such commit":                {token, `{"name":"n","head_sha":"` + zeroSHA + `"}`, 422, ""},
		"another repository's commit":   {token, strings.Replace(base(``), head, elsewhere, 1), 422, ""},
		"an unknown status":             {token, base(`,"status":"done"`), 422, ""},
		"an unknown conclusion":         {token, base(`,"conclusion":"fine"`), 422, ""},
		"stale is GitHub's to say":      {token, base(`,"conclusion":"stale"`), 422, ""},
		"completed, no conclusion":      {token, base(`,"status":"completed"`), 422, ""},
		"completed_at, no conclusion":   {token, base(`,"completed_at":"2026-01-02T03:04:05Z"`), 422, ""},
		"output without title":          {token, base(`,"output":{"summary":"s"}`), 422, ""},
		"output without summary":        {token, base(`,"output":{"title":"t"}`), 422, ""},
		"annotation without path":       {token, annotation(`"start_line":1,"end_line":1,"annotation_level":"notice","message":"m"`), 422, ""},
		"annotation of line 0":          {token, annotation(`"path":"f","start_line":0,"end_line":1,"annotation_level":"notice","message":"m"`), 422, ""},
		"annotation that ends early":    {token, annotation(`"path":"f","start_line":2,"end_line":1,"annotation_level":"notice","message":"m"`), 422, ""},
		"annotation of level error":     {token, annotation(`"path":"f","start_line":1,"end_line":1,"annotation_level":"error","message":"m"`), 422, ""},
		"annotation without message":    {token, annotation(`"path":"f","start_line":1,"end_line":1,"annotation_level":"notice"`), 422, ""},
		"a message over 64 KB":          {token, annotation(`"path":"f","start_line":1,"end_line":1,"annotation_level":"notice","message":"` + strings.Repeat("x", 64<<10+1) + `"`), 422, ""},
		"a title over 255":              {token, annotation(`"path":"f","start_line":1,"end_line":1,"annotation_level":"notice","message":"m","title":"` + strings.Repeat("x", 256) + `"`), 422, ""},
		"columns over two lines":        {token, annotation(`"path":"f","start_line":1,"end_line":2,"start_column":1,"annotation_level":"notice","message":"m"`), 422, ""},
		"checks: read":                  {reader, base(``), 403, ""},
		"a token of another repository": {two, base(``), 404, ""},
		"no token":                      {"", base(``), 401, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := f.do("POST", "/repos/acme/one/check-runs", c.token, c.body)
			if r.StatusCode != c.want {
				t.Fatalf("%s, want %d: %.300s", r.Status, c.want, r.body)
			}
			if c.want == 201 && r.json(t)["status"] != c.status {
				t.Errorf("status %v, want %s", r.json(t)["status"], c.status)
			}
		})
	}
	f.ArchiveRepository("acme", "one")
	if r := f.do("POST", "/repos/acme/one/check-runs", token, base(``)); r.StatusCode != 403 {
		t.Errorf("an archived repository: %s", r.Status)
	}
}

func TestUpdateCheckRun(t *testing.T) {
	f, _ := hooked(t)
	const second = 99
	f.AddApp(second, &testKey.PublicKey, everything)
	other := f.Install(second, "acme", InstallOptions{})
	head, token := f.SHA("acme", "one", "main"), f.mint("")
	r := f.do("POST", "/repos/acme/one/check-runs", token, fmt.Sprintf(`{"name":"n","head_sha":%q,"external_id":"e",%s}`, head, output("t", "s", `,"annotations":`+annotations(50))))
	path := fmt.Sprintf("/repos/acme/one/check-runs/%.0f", r.json(t)["id"])
	// Annotations are appended; what is left out stays.
	r = f.do("PATCH", path, token, `{"conclusion":"failure",`+output("t2", "s2", `,"annotations":`+annotations(7))+`}`)
	if r.StatusCode != 200 {
		t.Fatalf("%s %s", r.Status, r.body)
	}
	runs := f.CheckRuns("acme", "one", head)
	if len(runs) != 1 {
		t.Fatalf("%d check runs", len(runs))
	}
	run := runs[0]
	if run.AppID != testApp || run.Name != "n" || run.ExternalID != "e" || run.HeadSHA != head || run.Status != "completed" || run.Conclusion != "failure" ||
		run.Title != "t2" || run.Summary != "s2" || len(run.Annotations) != 57 || run.Annotations[0].Level != "warning" || run.Writes != 2 {
		t.Errorf("%+v", run)
	}
	for name, c := range map[string]struct {
		path, body string
		want       int
	}{
		"51 annotations":       {path, "{" + output("t", "s", `,"annotations":`+annotations(51)) + "}", 422},
		"no summary":           {path, `{"output":{"title":"t"}}`, 422},
		"no title":             {path, `{"output":{"summary":"s"}}`, 200},
		"no such check run":    {"/repos/acme/one/check-runs/1", `{}`, 404},
		"another repository's": {strings.Replace(path, "/one/", "/two/", 1), `{}`, 404},
		"it starts over":       {path, `{"status":"in_progress"}`, 200},
	} {
		if r := f.do("PATCH", c.path, token, c.body); r.StatusCode != c.want {
			t.Errorf("%s: %s %s", name, r.Status, r.body)
		}
	}
	jwt, _, err := AppJWT(testKey, second, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	theirs := f.do("POST", fmt.Sprintf("/app/installations/%d/access_tokens", other), jwt, "").json(t)["token"].(string)
	if r := f.do("PATCH", path, theirs, `{"conclusion":"success"}`); r.StatusCode != 403 || !strings.Contains(r.message(t), "GitHub App that created it") {
		t.Errorf("another App: %s %s", r.Status, r.body)
	}
	if run := f.CheckRuns("acme", "one", head)[0]; run.Conclusion == "success" {
		t.Error("another App changed it")
	}
}

func TestListCheckRuns(t *testing.T) {
	f, _ := hooked(t)
	const second = 99
	f.AddApp(second, &testKey.PublicKey, everything)
	other := f.Install(second, "acme", InstallOptions{})
	jwt, _, err := AppJWT(testKey, second, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	theirs := f.do("POST", fmt.Sprintf("/app/installations/%d/access_tokens", other), jwt, "").json(t)["token"].(string)
	head, token := f.SHA("acme", "one", "main"), f.mint("")
	var ids []float64
	for _, c := range []struct{ token, body string }{
		{token, `{"name":"a","conclusion":"failure"`}, {token, `{"name":"a","conclusion":"success"`}, {token, `{"name":"b","status":"in_progress"`}, {theirs, `{"name":"a"`},
	} {
		r := f.do("POST", "/repos/acme/one/check-runs", c.token, c.body+fmt.Sprintf(`,"head_sha":%q}`, head))
		ids = append(ids, r.json(t)["id"].(float64))
	}
	for _, c := range []struct {
		query string
		total float64
		want  []float64
	}{
		{"", 3, []float64{ids[3], ids[2], ids[1]}}, // the latest of each name and App
		{"?filter=all", 4, []float64{ids[3], ids[2], ids[1], ids[0]}},
		{"?check_name=a", 2, []float64{ids[3], ids[1]}},
		{"?check_name=a&app_id=1234", 1, []float64{ids[1]}},
		{"?app_id=99", 1, []float64{ids[3]}},
		{"?status=in_progress", 1, []float64{ids[2]}},
		{"?filter=all&per_page=3&page=2", 4, []float64{ids[0]}},
		{"?check_name=absent", 0, nil},
	} {
		r := f.do("GET", "/repos/acme/one/commits/"+head+"/check-runs"+c.query, f.mint(`{"permissions":{"checks":"read"}}`), "")
		var got []float64
		v := r.json(t)
		for _, run := range v["check_runs"].([]any) {
			got = append(got, run.(map[string]any)["id"].(float64))
		}
		if fmt.Sprint(got) != fmt.Sprint(c.want) || v["total_count"] != c.total {
			t.Errorf("%s: %v of %v, want %v", c.query, got, v["total_count"], c.want)
		}
	}
	for path, want := range map[string]int{"/repos/acme/one/commits/main/check-runs": 200, "/repos/acme/one/commits/absent/check-runs": 422, "/repos/acme/one/commits/main/check-runs?filter=x": 422} {
		if r := f.do("GET", path, token, ""); r.StatusCode != want {
			t.Errorf("%s: %s", path, r.Status)
		}
	}
}

// A rerequest goes to the App alone whose check it is, and changes nothing.
func TestRerequest(t *testing.T) {
	f, rec := hooked(t)
	const second = 99
	f.AddApp(second, nil, everything)
	f.Install(second, "acme", InstallOptions{})
	f.SetWebhook(second, Webhook{URL: rec.URL})
	head := f.SHA("acme", "one", "main")
	f.SetAppEvents(testApp, "push") // so that nothing else comes
	f.SetAppEvents(second, "push")
	r := f.do("POST", "/repos/acme/one/check-runs", f.mint(""), fmt.Sprintf(`{"name":"n","external_id":"e","head_sha":%q,"conclusion":"failure"}`, head))
	rec.all()
	before := f.CheckRuns("acme", "one", head)[0]
	f.RerequestCheckRun(int64(r.json(t)["id"].(float64)))
	f.RerequestCheckSuite("acme", "one", head, second)
	got := rec.all()
	if names(got) != "check_run rerequested, check_suite rerequested" {
		t.Fatalf("received %s", names(got))
	}
	if got[0].at("check_run", "app", "id") != float64(testApp) || got[0].at("check_run", "external_id") != "e" || got[0].at("check_run", "head_sha") != head || got[0].header.Get("X-GitHub-Hook-Installation-Target-ID") != "1234" {
		t.Errorf("%s", got[0].body)
	}
	if got[1].at("check_suite", "app", "id") != float64(second) || got[1].at("check_suite", "head_sha") != head || got[1].at("check_suite", "head_branch") != "main" {
		t.Errorf("%s", got[1].body)
	}
	if after := f.CheckRuns("acme", "one", head)[0]; fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("the check run became %+v", after)
	}
}
