package webhook

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
)

func TestWhatIsRefused(t *testing.T) {
	r := newRig(t)
	good := must(json.Marshal(pushTo("main", policy)))(t)
	changed := bytes.Replace(good, []byte("octocat"), []byte("octocaT"), 1)
	header := func(name, value string) func(*http.Request) {
		return func(req *http.Request) {
			req.Header.Del(name)
			if value != "" {
				req.Header.Set(name, value)
			}
		}
	}
	sha1Signature := func() string {
		mac := hmac.New(sha1.New, []byte(testSecret))
		mac.Write(good)
		return "sha1=" + hex.EncodeToString(mac.Sum(nil))
	}
	body := func(payload []byte) func(*http.Request) {
		return func(req *http.Request) {
			req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(payload)), int64(len(payload))
		}
	}
	signed := func(payload string) func(*http.Request) {
		return func(req *http.Request) {
			body([]byte(payload))(req)
			req.Header.Set("X-Hub-Signature-256", sign(testSecret, []byte(payload)))
		}
	}
	for name, c := range map[string]struct {
		spoil   func(*http.Request)
		status  int
		outcome string
		says    string
	}{
		"GET":          {func(req *http.Request) { req.Method = "GET" }, 405, OutcomeMethod, "POST"},
		"no signature": {header("X-Hub-Signature-256", ""), 401, OutcomeSignature, "secret"},
		"SHA-1 only": {func(q *http.Request) {
			header("X-Hub-Signature-256", "")(q)
			header("X-Hub-Signature", sha1Signature())(q)
		}, 401, OutcomeSignature, "X-Hub-Signature-256"},
		"SHA-1 under the other name": {header("X-Hub-Signature-256", sha1Signature()), 401, OutcomeSignature, "sha256="},
		"a short signature":          {header("X-Hub-Signature-256", sign(testSecret, good)[:70]), 401, OutcomeSignature, "64"},
		"a signature that is no hex": {header("X-Hub-Signature-256", "sha256="+strings.Repeat("z", 64)), 401, OutcomeSignature, "64"},
		"two signatures":             {func(q *http.Request) { q.Header.Add("X-Hub-Signature-256", sign(testSecret, good)) }, 401, OutcomeSignature, "64"},
		"the wrong secret":           {header("X-Hub-Signature-256", sign("wrong", good)), 401, OutcomeSignature, "secret"},
		"the empty secret":           {header("X-Hub-Signature-256", sign("", good)), 401, OutcomeSignature, "secret"},
		"one byte changed":           {body(changed), 401, OutcomeSignature, "signature"},
		"no content type":            {header("Content-Type", ""), 415, OutcomeMediaType, "application/json"},
		"text":                       {header("Content-Type", "text/plain"), 415, OutcomeMediaType, "application/json"},
		"a form":                     {header("Content-Type", "application/x-www-form-urlencoded"), 415, OutcomeMediaType, "webhook settings"},
		"no event":                   {header("X-GitHub-Event", ""), 400, OutcomeHeaders, "X-GitHub-Event"},
		"an event in capitals":       {header("X-GitHub-Event", "Push"), 400, OutcomeHeaders, "X-GitHub-Event"},
		"a long event":               {header("X-GitHub-Event", strings.Repeat("a", 65)), 400, OutcomeHeaders, "X-GitHub-Event"},
		"no delivery":                {header("X-GitHub-Delivery", ""), 400, OutcomeHeaders, "GUID"},
		"a delivery that is no GUID": {header("X-GitHub-Delivery", guid(1)+"0"), 400, OutcomeHeaders, "GUID"},
		"another App":                {header("X-GitHub-Hook-Installation-Target-ID", "99"), 404, OutcomeUnknownApp, "App"},
		"an App that is no number":   {header("X-GitHub-Hook-Installation-Target-ID", "x"), 404, OutcomeUnknownApp, "App"},
		"an organization's webhook":  {header("X-GitHub-Hook-Installation-Target-Type", "organization"), 400, OutcomeUnknownApp, "GitHub App"},
		"an installation's event, a push's payload": {header("X-GitHub-Event", "installation"), 400, OutcomePayload, "that of a push"},
		"a repository's event, a push's payload":    {header("X-GitHub-Event", "repository"), 400, OutcomePayload, "that of a push"},
		"a pull request's event, a push's payload":  {header("X-GitHub-Event", "pull_request"), 400, OutcomePayload, "that of a push"},
		"not JSON":              {signed("push"), 400, OutcomePayload, "JSON"},
		"broken JSON":           {signed("{"), 400, OutcomePayload, ""},
		"two objects":           {signed("{} {}"), 400, OutcomePayload, ""},
		"an array":              {signed("[]"), 400, OutcomePayload, "object"},
		"null":                  {signed("null"), 400, OutcomePayload, "object"},
		"an empty body":         {signed(""), 400, OutcomePayload, "object"},
		"an empty object":       {signed("{}"), 400, OutcomePayload, "push"},
		"null repository":       {signed(`{"ref":"refs/heads/main","before":"` + before + `","after":"` + after + `","commits":[],"repository":null}`), 400, OutcomePayload, "repository"},
		"no before":             {signed(`{"ref":"refs/heads/main","repository":{"name":"app","default_branch":"main","owner":{"login":"acme"}}}`), 400, OutcomePayload, "before"},
		"a name that is a path": {signed(`{"ref":"refs/heads/main","repository":{"name":"../x","default_branch":"main","owner":{"login":"acme"}}}`), 400, OutcomePayload, "name"},
	} {
		t.Run(name, func(t *testing.T) {
			counted := map[string]int{}
			for _, event := range []string{"other", "push", "installation", "repository", "pull_request"} {
				counted[event] = r.observed(event, c.outcome)
			}
			req := r.request("push", 1, good)
			c.spoil(req)
			resp, err := r.server.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			said := must(io.ReadAll(resp.Body))(t)
			if resp.StatusCode != c.status || !json.Valid(said) || !strings.Contains(string(said), c.says) {
				t.Errorf("%d %s, want %d and %q", resp.StatusCode, said, c.status, c.says)
			}
			if c.status == 405 && resp.Header.Get("Allow") != "POST" {
				t.Error("no Allow")
			}
			more := 0
			for event, n := range counted {
				more += r.observed(event, c.outcome) - n
			}
			if more != 1 {
				t.Errorf("observed %d times as %q, want once", more, c.outcome)
			}
			if n := r.receiver.Status().Queued; n != 0 {
				t.Errorf("%d queued", n)
			}
		})
	}
}

func TestWhatIsTaken(t *testing.T) {
	r := newRig(t)
	form := func(q *http.Request) { q.Header.Set("Content-Type", "application/json; charset=utf-8") }
	for n, c := range []struct {
		name    string
		event   string
		payload object
		change  func(*http.Request)
		status  int
		outcome string
		says    string
	}{
		{"a policy", "push", pushTo("main", policy), nil, 202, OutcomeQueued, "queued"},
		{"a charset", "push", pushTo("main", policy), form, 202, OutcomeQueued, "queued"},
		{"the first secret", "push", pushTo("main", policy), func(q *http.Request) {
			body := must(io.ReadAll(must(q.GetBody())(t)))(t)
			q.Header.Set("X-Hub-Signature-256", sign("another", body))
		}, 202, OutcomeQueued, "queued"},
		{"no policy", "push", pushTo("main", "main.go"), nil, 200, OutcomeApplied, "done"},
		{"an App's headers that a proxy dropped", "push", pushTo("main", policy), func(q *http.Request) {
			q.Header.Del("X-GitHub-Hook-Installation-Target-ID")
			q.Header.Del("X-GitHub-Hook-Installation-Target-Type")
		}, 202, OutcomeQueued, "queued"},
		{"ping", "ping", object{"zen": "Anything added dilutes everything else."}, nil, 200, OutcomeIgnored, "ignored"},
		{"an event of tomorrow", "an_event_of_tomorrow", object{"action": 7}, nil, 200, OutcomeIgnored, "ignored"},
		{"an action of tomorrow", "repository", aboutRepository(object{"action": "painted"}), nil, 200, OutcomeIgnored, "ignored"},
		{"an owner that the App does not serve", "push", having(pushTo("main", policy),
			object{"repository": having(testRepository(), object{"owner": object{"login": "stranger"}})}), nil, 200, OutcomeNotServed, "does not serve"},
		{"a repository that left an owner whom the App serves", "repository", aboutRepository(object{"action": "transferred",
			"repository": having(testRepository(), object{"owner": object{"login": "stranger"}}),
			"changes":    object{"owner": object{"from": object{"organization": object{"login": "acme"}}}}}), nil, 202, OutcomeQueued, "queued"},
	} {
		t.Run(c.name, func(t *testing.T) {
			event := c.event
			if !isUsed(event) {
				event = "other"
			}
			counted := r.observed(event, c.outcome)
			req := r.request(c.event, n+1, c.payload)
			if c.change != nil {
				c.change(req)
			}
			status, body := r.send(req)
			if status != c.status || !strings.Contains(body, c.says) {
				t.Errorf("%d %s, want %d %s", status, body, c.status, c.says)
			}
			if r.observed(event, c.outcome) != counted+1 {
				t.Errorf("not observed as %s %s: %v", event, c.outcome, r.seen)
			}
		})
	}
}

// endless is a body that says how much of it was read.
type endless struct{ read int64 }

func (e *endless) Read(p []byte) (int, error) {
	e.read += int64(len(p))
	return len(p), nil
}

func TestLargeBodies(t *testing.T) {
	r := newRig(t)
	announced := r.request("push", 1, []byte("{}"))
	source := &endless{}
	announced.Body, announced.ContentLength = io.NopCloser(source), maxBody+1
	announced.Header.Set("Expect", "100-continue") // as curl does: the answer comes before the body
	patient := &http.Client{Transport: &http.Transport{ExpectContinueTimeout: 30 * time.Second}}
	resp, err := patient.Do(announced)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusRequestEntityTooLarge || source.read != 0 {
		t.Errorf("announced: %d after %d bytes", resp.StatusCode, source.read)
	}
	chunked := r.request("push", 1, []byte("{}"))
	chunked.Body, chunked.ContentLength = io.NopCloser(io.LimitReader(&endless{}, maxBody+1)), -1
	if status, _ := r.send(chunked); status != http.StatusRequestEntityTooLarge {
		t.Errorf("chunked: %d", status)
	}
	if still := &r.receiver.room; still.all != (held{}) || len(still.clients) != 0 {
		t.Errorf("still counted: %+v %v", still.all, still.clients)
	}
	largest := append([]byte(`{"a":"`), bytes.Repeat([]byte("a"), maxBody-8)...)
	largest = append(largest, `"}`...)
	if status, body := r.send(r.request("ping", 1, largest)); status != http.StatusOK {
		t.Errorf("exactly 25 MiB: %d %s", status, body)
	}
}

// What strangers send must not fill the disk.
func TestRefusalsAreLoggedSparingly(t *testing.T) {
	r := newRig(t)
	for range 200 {
		req := r.request("push", 1, object{})
		req.Header.Set("X-Hub-Signature-256", sign("wrong", nil))
		r.send(req)
	}
	n := r.logs.FilterMessageSnippet("refused").Len()
	if n == 0 || n >= 200 {
		t.Errorf("%d lines about 200 refusals", n)
	}
	if all := r.observed("other", OutcomeSignature); all != 200 {
		t.Errorf("%d of 200 counted", all)
	}
}

func TestConfiguration(t *testing.T) {
	r := newRig(t)
	for name, spoil := range map[string]func(*Config){
		"an empty secret":  func(c *Config) { c.Secrets = []string{"good", ""} },
		"no secret":        func(c *Config) { c.Secrets = nil },
		"no App":           func(c *Config) { c.AppIDs = nil },
		"no state":         func(c *Config) { c.State = nil },
		"no audit log dir": func(c *Config) { c.AuditDirectory = "" },
	} {
		c := r.config
		c.Logger = zap.NewNop()
		spoil(&c)
		if _, err := New(t.Context(), c); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}
