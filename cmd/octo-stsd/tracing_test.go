package main

import (
	"bufio"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/octo-sts/appliance/sts/ststest"
)

// collector is the OpenTelemetry collector's own receiver of OTLP, as a process.
type collector struct {
	endpoint string

	mu  sync.Mutex
	raw strings.Builder // all that it took, in OTLP's JSON; guarded by mu
}

// startCollector builds the receiver, which is a module of its own, since nothing of it
// belongs into ours.
func startCollector(t *testing.T) *collector {
	t.Helper()
	program := filepath.Join(t.TempDir(), "otlpreceiver")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Dir = filepath.Join("testdata", "otlpreceiver")
	build.Env = append(os.Environ(), "GOFLAGS=", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the receiver: %v\n%s", err, out)
	}
	cmd := exec.Command(program)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	address, err := lines.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{endpoint: "http://" + strings.TrimSpace(address)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for {
			line, err := lines.ReadString('\n')
			c.mu.Lock()
			c.raw.WriteString(line)
			c.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-read
		_ = cmd.Wait() // how it ends is its own affair
	})
	return c
}

// all is everything that arrived, as OTLP's JSON.
func (c *collector) all() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.raw.String()
}

// keyValue is an attribute.
type keyValue struct {
	Key   string
	Value struct{ StringValue, IntValue string }
}

func (kv keyValue) String() string { return kv.Value.StringValue + kv.Value.IntValue }

// arrived is one span, with the program that it is from.
type arrived struct {
	Service                             string `json:"-"`
	TraceID, SpanID, ParentSpanID, Name string
	StartTimeUnixNano, EndTimeUnixNano  string
	Kind                                int
	Attributes                          []keyValue
	Events, Links                       []any
	TraceState                          string
	Status                              struct{ Message string }
}

type arrivedBatch struct {
	ResourceSpans []struct {
		Resource   struct{ Attributes []keyValue }
		ScopeSpans []struct {
			Scope struct {
				Name       string
				Attributes []keyValue
			}
			Spans []arrived
		}
	}
}

// spans decodes what arrived.
func (c *collector) spans(t *testing.T) (all []arrived, resources []keyValue) {
	t.Helper()
	for line := range strings.Lines(c.all()) {
		var batch arrivedBatch
		if err := json.Unmarshal([]byte(line), &batch); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		for _, resource := range batch.ResourceSpans {
			service := ""
			for _, a := range resource.Resource.Attributes {
				if a.Key == "service.name" {
					service = a.Value.StringValue
				}
			}
			resources = append(resources, resource.Resource.Attributes...)
			for _, scope := range resource.ScopeSpans {
				resources = append(resources, scope.Scope.Attributes...)
				for _, s := range scope.Spans {
					s.Service = service
					all = append(all, s)
				}
			}
		}
	}
	return all, resources
}

// traced configures a collector.
func traced(endpoint string) func(config map[string]any) {
	return func(config map[string]any) { config["tracing"] = map[string]any{"otlp_endpoint": endpoint} }
}

const theirTrace, theirSpan = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"

// One exchange is one trace, in that of the caller where he has one: each of its steps,
// each call to GitHub, and what the signer and its HSM did. GitHub dislikes the first
// App JWT, so that a new one is signed while the exchange waits.
func TestTraceOfOneExchange(t *testing.T) {
	c := startCollector(t)
	r := newRig(t, ststest.ServiceConfig{Edit: traced(c.endpoint)})
	r.GitHub.Fail(ststest.Fault{Route: ststest.MintRoute, Count: 1, Skip: 1, Status: http.StatusUnauthorized})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.URL()+"/sts/exchange?scope=acme/app&identity=reader", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+r.job(nil))
	req.Header.Set("Traceparent", "00-"+theirTrace+"-"+theirSpan+"-00")
	x, err := r.Do(req)
	if err != nil || x.Status != http.StatusOK {
		t.Fatalf("the exchange: %v, %d %s", err, x.Status, x.Body)
	}
	ofTrace := func() (ours []arrived) {
		all, _ := c.spans(t)
		return slices.DeleteFunc(all, func(s arrived) bool { return s.TraceID != theirTrace })
	}
	r.eventually("the trace arrives", func() bool {
		return slices.ContainsFunc(ofTrace(), func(s arrived) bool { return s.ParentSpanID == theirSpan })
	})
	spans := ofTrace()
	path := map[string]string{theirSpan: ""}
	for range spans {
		for _, s := range spans {
			if above, ok := path[s.ParentSpanID]; ok {
				path[s.SpanID] = above + " / " + s.Name
				if s.Service != "octo-stsd" {
					path[s.SpanID] += " (" + s.Service + ")"
				}
			}
		}
	}
	var got []string
	for _, s := range spans {
		got = append(got, path[s.SpanID])
		if s.Name == "GET /sts/exchange" && !slices.ContainsFunc(s.Attributes, func(a keyValue) bool { return a.Key == "octo_sts.request_id" && a.String() == x.RequestID }) {
			t.Errorf("the first span does not have the request's ID, %s: %v", x.RequestID, s.Attributes)
		}
	}
	slices.Sort(got)
	const root = " / GET /sts/exchange"
	want := []string{
		root,
		root + " / exchange",
		root + " / exchange / audit intent",
		root + " / exchange / audit outcome",
		root + " / exchange / match",
		root + " / exchange / mint",
		root + " / exchange / mint / GitHub mint",
		root + " / exchange / mint / GitHub mint", // with the new App JWT
		root + " / exchange / mint / signer App JWT",
		root + " / exchange / mint / signer App JWT / sign App JWT (octo-sts-signer)",
		root + " / exchange / mint / signer App JWT / sign App JWT (octo-sts-signer) / HSM sign (octo-sts-signer)",
		root + " / exchange / resolve",
		root + " / exchange / resolve / GitHub find_installation",
		root + " / exchange / resolve / GitHub mint", // the appliance's own token, to read with
		root + " / exchange / resolve / GitHub read_file",
		root + " / exchange / resolve / GitHub read_file", // the list of trusted issuers
		root + " / exchange / verify",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the trace has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if !strings.Contains(r.Signer.Logs(), `"request_id":"`+x.RequestID+`"`) {
		t.Error("the signer's log does not have the request's ID")
	}
}

// attributes is what a span may say: each attribute, and what it may be. Whoever adds one
// shows that no caller's and no secret value can get into it.
var attributes = map[string]*regexp.Regexp{
	"http.request.method":       regexp.MustCompile(`^(GET|POST|_OTHER)$`),
	"http.route":                regexp.MustCompile(`^(/sts/(exchange|token|revoke)|/webhook|/chainguard\.platform\.oidc\.SecurityTokenService/Exchange)$`),
	"http.response.status_code": regexp.MustCompile(`^[1-5][0-9][0-9]$`),
	"error.type":                regexp.MustCompile(`^[a-z_]{1,40}$`),
	"octo_sts.request_id":       regexp.MustCompile(`^[A-Z2-7]{26}$`),
	"octo_sts.decision":         regexp.MustCompile(`^(granted|denied|failed)$`),
	"octo_sts.hsm":              regexp.MustCompile(`^[0-7]$`),
	// Of the programs.
	"service.name":      regexp.MustCompile(`^octo-sts(d|-signer)$`),
	"service.namespace": regexp.MustCompile(`^sts\.example\.com$`),
	"service.version":   regexp.MustCompile(`^[\w.+~-]+$`),
}

// spanNames are all that there are.
var spanNames = regexp.MustCompile(`^((GET|POST|_OTHER) (/sts/(exchange|token|revoke)|/webhook|/chainguard\.platform\.oidc\.SecurityTokenService/Exchange)` +
	`|exchange|verify|resolve|match|mint|audit (intent|outcome)|GitHub [a-z_]+|signer App JWT|sign App JWT|HSM sign)$`)

// checkSaid holds all that arrived against the two lists above.
func (c *collector) checkSaid(t *testing.T) {
	t.Helper()
	spans, said := c.spans(t)
	for _, s := range spans {
		said = append(said, s.Attributes...)
		if !spanNames.MatchString(s.Name) {
			t.Errorf("a span is called %q", s.Name)
		}
		if len(s.Events)+len(s.Links) > 0 || s.TraceState != "" || s.Status.Message != "" {
			t.Errorf("span %s says more than its attributes: %+v", s.Name, s)
		}
	}
	for _, a := range said {
		if allowed := attributes[a.Key]; allowed == nil || !allowed.MatchString(a.String()) {
			t.Errorf("a span says %s=%q", a.Key, a)
		}
	}
}

// Whatever is asked, a span says nothing but what the list above has.
func TestSpansSayLittle(t *testing.T) {
	c := startCollector(t)
	r := newRig(t, ststest.ServiceConfig{Edit: traced(c.endpoint), Webhook: true})
	r.granted("acme/app", "reader")
	for _, request := range []struct{ method, path, body, authorization string }{
		{"GET", "/sts/exchange?scope=acme/app&identity=elsewhere", "", r.job(nil)},
		{"GET", "/sts/exchange?scope=acme/app&identity=nosuch", "", r.job(nil)},
		{"GET", "/sts/exchange?scope=nobody/app&identity=reader", "", r.job(nil)},
		{"GET", "/sts/exchange?scope=%22%0a&identity=" + strings.Repeat("x", 200), "", "garbage"},
		{"GET", "/sts/exchange?token=ghs_1", "", ""},
		{"BREW", "/sts/exchange", "", ""},
		{"POST", "/sts/exchange", "scope=acme/app&identity=reader", r.job(map[string]any{"exp": 1})},
		{"POST", "/webhook", `{"secret":"value"}`, ""},
		{"GET", "/a/stranger's/path", "", ""},
	} {
		req, err := http.NewRequestWithContext(t.Context(), request.method, r.URL()+request.path, strings.NewReader(request.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+request.authorization)
		req.Header.Set("Tracestate", "vendor=stranger")
		req.Header.Set("Baggage", "user=stranger")
		resp, err := r.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	if err := r.Stop(); err != nil { // which sends the last spans
		t.Fatal(err)
	}
	r.eventually("the spans arrive", func() bool { return strings.Contains(c.all(), "_OTHER") })
	c.checkSaid(t)
}

// A collector that is away costs no exchange anything, and no stop.
func TestTracesGoNowhere(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{Edit: traced("http://127.0.0.1:1")})
	for range 5 {
		r.granted("acme/app", "reader")
	}
	r.eventually("readiness says so", func() bool {
		status, _, checks := r.readiness()
		return status == http.StatusOK && strings.HasPrefix(checks["tracing"], "degraded: traces do not reach the collector: ")
	})
	r.granted("acme/app", "reader")
	if err := r.Stop(); err != nil {
		t.Error(err)
	}
	if n := strings.Count(r.Logs(), "traces do not reach the collector, and"); n != 1 {
		t.Errorf("the log says it %d times", n)
	}
}
