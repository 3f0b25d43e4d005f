package ststest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

const testSecret = "a secret of the webhook"

// receiver is a webhook's receiver that answers 202 and keeps what it got.
type receiver struct {
	*httptest.Server
	mu       sync.Mutex // guards the rest
	received []received
	status   int
	hold     chan struct{} // nil, or what an answer waits for
}

type received struct {
	header  http.Header
	body    []byte
	payload map[string]any
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	rec := &receiver{status: http.StatusAccepted}
	rec.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		one := received{header: r.Header, body: body}
		_ = json.Unmarshal(body, &one.payload) // a test may send what is no JSON
		rec.mu.Lock()
		rec.received = append(rec.received, one)
		status, hold := rec.status, rec.hold
		rec.mu.Unlock()
		if hold != nil {
			<-hold
		}
		w.WriteHeader(status)
		fmt.Fprint(w, "noted")
	}))
	t.Cleanup(rec.Close)
	return rec
}

// all takes what was received so far.
func (r *receiver) all() []received {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.received
	r.received = nil
	return all
}

func (r *receiver) answer(status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status = status
}

// at is what lies at a path of names in the payload.
func (r received) at(names ...string) any {
	var v any = r.payload
	for _, name := range names {
		m, _ := v.(map[string]any)
		v = m[name]
	}
	return v
}

// names are what was received, as "event action".
func names(all []received) string {
	var s []string
	for _, r := range all {
		name := r.header.Get("X-GitHub-Event")
		if action, ok := r.payload["action"]; ok {
			name += " " + action.(string)
		}
		s = append(s, name)
	}
	return strings.Join(s, ", ")
}

// everything is what an App of the appliance asks for.
var everything = map[string]string{
	"contents": "write", "issues": "write", "checks": "write", "pull_requests": "read", "merge_queues": "read",
}

// hooked is the fixture with a webhook, and an installation that may do
// everything.
func hooked(t *testing.T) (*fixture, *receiver) {
	t.Helper()
	f, rec := newFixture(t, GitHubConfig{}), newReceiver(t)
	f.AddApp(testApp, nil, everything)
	f.SetInstallationPermissions(f.installation, everything)
	f.SetWebhook(testApp, Webhook{URL: rec.URL, Secret: testSecret})
	return f, rec
}

func TestDeliveryHeaders(t *testing.T) {
	f, rec := hooked(t)
	p := f.Push("acme", "one", "main", []Change{{Path: "a", Content: "1"}})
	got := rec.all()
	if names(got) != "push, check_suite requested" {
		t.Fatalf("received %s", names(got))
	}
	h := got[0].header
	for name, want := range map[string]string{
		"X-GitHub-Event": "push", "X-GitHub-Delivery": p.Deliveries[0].GUID, "Content-Type": "application/json",
		"X-GitHub-Hook-Installation-Target-ID": "1234", "X-GitHub-Hook-Installation-Target-Type": "integration",
	} {
		if h.Get(name) != want {
			t.Errorf("%s is %q, want %q", name, h.Get(name), want)
		}
	}
	if !strings.HasPrefix(h.Get("User-Agent"), "GitHub-Hookshot/") || h.Get("X-GitHub-Hook-ID") == "" || len(p.Deliveries[0].GUID) != 36 {
		t.Errorf("headers %v", h)
	}
	if p.Deliveries[0].StatusCode != 202 || p.Deliveries[0].Body != "noted" || p.Deliveries[0].Error != "" || p.Deliveries[1].Action != "requested" {
		t.Errorf("records %+v", p.Deliveries)
	}
}

// GitHub's "Validating webhook deliveries" gives this example.
func TestSignatureIsGitHubs(t *testing.T) {
	f, rec := hooked(t)
	f.Deliver(testApp, Event{Name: "push", Payload: []byte("Hello, World!"), Secret: "It's a Secret to Everybody"})
	got := rec.all()[0]
	if s := got.header.Get("X-Hub-Signature-256"); s != "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17" {
		t.Errorf("signed %s", s)
	}
	if !strings.HasPrefix(got.header.Get("X-Hub-Signature"), "sha1=") {
		t.Errorf("SHA-1: %v", got.header)
	}
}

func TestDeliverSendsWhatGitHubWouldNot(t *testing.T) {
	f, rec := hooked(t)
	d := f.Deliver(testApp, Event{
		Name: "push", GUID: "again", Payload: map[string]any{"action": "x", "installation": nil},
		Header: map[string]string{"X-Hub-Signature-256": "", "Content-Type": "text/plain"},
	})
	got := rec.all()[0]
	if _, ok := got.header["X-Hub-Signature-256"]; ok || got.header.Get("Content-Type") != "text/plain" || got.header.Get("X-GitHub-Delivery") != "again" {
		t.Errorf("headers %v", got.header)
	}
	if d.GUID != "again" || d.Action != "x" || d.Event != "push" {
		t.Errorf("record %+v", d)
	}
}

// Who gets an event: Apps that are installed on the repository, not suspended,
// that may read what it is about and are subscribed to it.
func TestSubscriptions(t *testing.T) {
	push := func(f *fixture) { f.Push("acme", "one", "main", []Change{{Path: "a", Content: "1"}}) }
	for name, c := range map[string]struct {
		prepare func(*fixture)
		do      func(*fixture)
		want    string
	}{
		"all that the permissions allow":                           {func(f *fixture) {}, push, "push, check_suite requested"},
		"subscribed to push alone: check suites come all the same": {func(f *fixture) { f.SetAppEvents(testApp, "push") }, push, "push, check_suite requested"},
		"subscribed to nothing":                                    {func(f *fixture) { f.SetAppEvents(testApp) }, push, "check_suite requested"},
		"subscribed to nothing, suspended":                         {func(f *fixture) { f.SetAppEvents(testApp) }, func(f *fixture) { f.Suspend(f.installation) }, "installation suspend"},
		"no contents: read":                                        {func(f *fixture) { f.SetInstallationPermissions(f.installation, map[string]string{"checks": "write"}) }, push, "check_suite requested"},
		"checks: read makes no suite": {func(f *fixture) {
			f.SetInstallationPermissions(f.installation, map[string]string{"contents": "read", "checks": "read"})
		}, push, "push"},
		"suspended":    {func(f *fixture) { f.Suspend(f.installation) }, push, ""},
		"not selected": {func(f *fixture) { f.SelectRepositories(f.installation, []string{"two"}) }, push, ""},
		"uninstalled":  {func(f *fixture) { f.Uninstall(f.installation) }, push, ""},
		"no webhook":   {func(f *fixture) { f.SetWebhook(testApp, Webhook{}) }, push, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f, rec := hooked(t)
			c.prepare(f)
			rec.all()
			before := len(f.Deliveries(testApp))
			c.do(f)
			got := rec.all()
			if names(got) != c.want || len(f.Deliveries(testApp))-before != len(got) {
				t.Errorf("received %q, want %q", names(got), c.want)
			}
		})
	}
}

// Several Apps get one event under one GUID (github/docs issue 32822), each
// with its own installation, and check suites of their own.
func TestSeveralApps(t *testing.T) {
	f, rec := hooked(t)
	const second = 99
	f.AddApp(second, nil, everything)
	other := f.Install(second, "acme", InstallOptions{})
	f.SetWebhook(second, Webhook{URL: rec.URL, Secret: testSecret})
	f.Push("acme", "one", "main", []Change{{Path: "a", Content: "1"}})
	got := rec.all()
	if names(got) != "push, push, check_suite requested, check_suite requested" {
		t.Fatalf("received %s", names(got))
	}
	if a, b := got[0].header, got[1].header; a.Get("X-GitHub-Delivery") != b.Get("X-GitHub-Delivery") || a.Get("X-GitHub-Hook-ID") == b.Get("X-GitHub-Hook-ID") {
		t.Errorf("headers %v, %v", a, b)
	}
	if got[0].at("installation", "id") != float64(f.installation) || got[1].at("installation", "id") != float64(other) {
		t.Errorf("installations %v, %v", got[0].at("installation"), got[1].at("installation"))
	}
	if got[2].at("check_suite", "app", "id") != float64(testApp) || got[3].at("check_suite", "app", "id") != float64(second) {
		t.Errorf("suites of %v, %v", got[2].at("check_suite", "app", "id"), got[3].at("check_suite", "app", "id"))
	}
}
