package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/stspb"
	"github.com/octo-sts/appliance/sts/ststest"
)

// request is one wish, on either wire.
type request struct {
	authorization   []string // values of the header
	scope, identity string
	scopes          []string
}

// ask is for acme/app, as anyone.
func ask(idToken string) request { return askAs(anyone, idToken) }

func askAs(identity, idToken string) request {
	return request{authorization: []string{"Bearer " + idToken}, scope: "acme/app", identity: identity}
}

// row is one line of the list: a request, the code that it gets, and a part of
// the reason that the operator must find.
type row struct {
	name string
	request
	want codes.Code
	why  string
}

// refused is a row whose ID token is not accepted.
func refused(name, idToken, why string) row {
	return row{name, ask(idToken), codes.Unauthenticated, why}
}

func granted(name, idToken string) row { return row{name, ask(idToken), codes.OK, ""} }

// answer is what a caller reads, on either wire.
type answer struct {
	wire      string
	code      codes.Code
	message   string
	requestID string
	token     string
	odd       string // what the answer has and should not, or lacks
}

// refusal is one that the operator must be able to explain.
type refusal struct {
	row  row
	wire string
	id   string
	at   time.Time
}

// texts are all that a caller is told. What follows the colon of an invalid
// request says what was wrong with what the caller sent.
var texts = map[codes.Code]string{
	codes.InvalidArgument:  "invalid request: ",
	codes.Unauthenticated:  "the ID token was not accepted",
	codes.PermissionDenied: "the exchange is not allowed",
	codes.Unavailable:      "temporarily unavailable, try again",
}

// try asks on both wires.
func (w *world) try(t *testing.T, r row) {
	t.Helper()
	w.tryOn(t, r, w.overHTTP, w.overGRPC)
}

func (w *world) tryAll(t *testing.T, rows []row) {
	t.Helper()
	for _, r := range rows {
		w.try(t, r)
	}
}

// tryOn asks each of wires and holds the answers against the row.
func (w *world) tryOn(t *testing.T, r row, wires ...func(*testing.T, request) answer) {
	t.Helper()
	t.Run(r.name, func(t *testing.T) {
		w.remember(r.authorization...)
		for _, wire := range wires {
			if r.want != codes.OK {
				if err := w.lines.Wait(t.Context()); err != nil { // or the daemon would not log every line
					t.Fatal(err)
				}
			}
			before := w.minted()
			a := wire(t, r.request)
			w.check(t, r, a, w.minted()-before)
		}
	})
}

// check holds one answer against its row.
func (w *world) check(t *testing.T, r row, a answer, minted int) {
	t.Helper()
	fail := func(format string, args ...any) {
		t.Helper()
		t.Errorf("over %s: %s (request %s; the operator reads %q)", a.wire, fmt.Sprintf(format, args...), a.requestID, w.reasonNow(a.requestID))
	}
	if a.odd != "" {
		fail("%s", a.odd)
	}
	if a.code != r.want {
		fail("%v %q, want %v", a.code, a.message, r.want)
		return
	}
	if a.requestID == "" {
		fail("no request ID")
	}
	if r.want == codes.OK {
		w.remember(a.token)
		if minted != 1 || !w.GitHub.IsLive(a.token) {
			fail("granted %q, and %d tokens were minted", a.token, minted)
		}
		return
	}
	if a.token != "" || minted != 0 {
		fail("refused with the token %q, and %d tokens were minted", a.token, minted)
	}
	suffix := " (request " + a.requestID + ")"
	text, masked := strings.CutSuffix(a.message, suffix)
	if !masked {
		fail("the message %q does not end in %q", a.message, suffix)
	}
	if want := texts[r.want]; text != want && (r.want != codes.InvalidArgument || !strings.HasPrefix(text, want)) {
		fail("the message is %q, want %q", text, want)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refusals = append(w.refusals, refusal{r, a.wire, a.requestID, time.Now()})
}

// remember notes secrets to look for in the end.
func (w *world) remember(secrets ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range secrets {
		w.secrets[strings.TrimPrefix(s, "Bearer ")] = true
	}
}

// minted is how many tokens were minted to be handed out: all but those that
// the daemon reads policies with. No policy here grants what those have.
func (w *world) minted() int {
	own := map[string]string{"contents": "read", "metadata": "read"}
	return len(slices.DeleteFunc(w.GitHub.Mints(), func(m ststest.Mint) bool {
		return m.AllRepositories && maps.Equal(m.Permissions, own)
	}))
}

func (w *world) overHTTP(t *testing.T, r request) answer {
	t.Helper()
	query := url.Values{"identity": {r.identity}}
	if r.scope != "" {
		query.Set("scope", r.scope)
	}
	if r.scopes != nil {
		query["scopes"] = r.scopes
	}
	req, err := http.NewRequestWithContext(timeout(t), http.MethodGet, w.URL()+"/sts/exchange?"+query.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header["Authorization"] = r.authorization
	return w.do(t, req)
}

// do sends a request of HTTP and reads the answer.
func (w *world) do(t *testing.T, req *http.Request) answer {
	t.Helper()
	resp, err := w.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	a := readAnswer(resp, body)
	a.wire = "HTTP " + req.Method
	return a
}

// readAnswer reads an answer as a client of grpc-gateway does, and holds it
// against the form that it must have to the byte.
func readAnswer(resp *http.Response, body []byte) answer {
	a := answer{requestID: resp.Header.Get("X-Request-Id")}
	var read struct {
		Code    codes.Code `json:"code"`
		Message string     `json:"message"`
		Details []any      `json:"details"`
		Token   string     `json:"token"`
	}
	if err := json.Unmarshal(body, &read); err != nil {
		a.odd = fmt.Sprintf("%s with the body %.200q: %v", resp.Status, body, err)
		return a
	}
	a.code, a.message, a.token = read.Code, read.Message, read.Token
	if want := runtime.HTTPStatusFromCode(a.code); resp.StatusCode != want {
		a.odd = fmt.Sprintf("HTTP status %d, and grpc-gateway's for %v is %d", resp.StatusCode, a.code, want)
	}
	if a.code == codes.OK {
		return a
	}
	message, _ := json.Marshal(a.message)
	if want := fmt.Sprintf(`{"code":%d,"message":%s,"details":[]}`, a.code, message); string(bytes.TrimSpace(body)) != want {
		a.odd = fmt.Sprintf("body %s, want %s", body, want)
	}
	expected := []string{"Cache-Control", "Connection", "Content-Length", "Content-Type", "Date", "Retry-After", "Www-Authenticate", "X-Request-Id"}
	for name := range resp.Header {
		if !slices.Contains(expected, name) {
			a.odd = fmt.Sprintf("an answer with the header %s: %s", name, resp.Header.Get(name))
		}
	}
	return a
}

func (w *world) overGRPC(t *testing.T, r request) answer {
	t.Helper()
	ctx := timeout(t)
	for _, value := range r.authorization {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", value)
	}
	//lint:ignore SA1019 what octo-sts's clients send
	m := &stspb.ExchangeRequest{Scope: r.scope, Scopes: r.scopes, Identity: r.identity}
	var header, trailer metadata.MD
	granted := &stspb.RawToken{}
	err := w.conn.Invoke(ctx, exchangeMethod, m, granted, grpc.Header(&header), grpc.Trailer(&trailer))
	s := status.Convert(err)
	a := answer{wire: "gRPC", code: s.Code(), message: s.Message(), token: granted.GetToken()}
	for _, md := range []metadata.MD{header, trailer} {
		if id := md.Get("x-request-id"); len(id) == 1 {
			a.requestID = id[0]
		}
	}
	if len(s.Details()) != 0 {
		a.odd = fmt.Sprintf("details %v", s.Details())
	}
	return a
}

// explanation is what the operator finds of one request.
type explanation struct {
	where string // the audit log, or the log
	text  string // reason and detail
}

// explanations reads both logs.
func (w *world) explanations() (map[string]explanation, error) {
	found := map[string]explanation{}
	for line := range strings.Lines(w.Logs()) {
		var l struct {
			Msg, Reason, Detail string
			RequestID           string `json:"request_id"`
		}
		if json.Unmarshal([]byte(line), &l) == nil && strings.HasPrefix(l.Msg, "exchange") {
			found[l.RequestID] = explanation{"the log", l.Reason + ": " + l.Detail}
		}
	}
	for record, err := range audit.Read(w.AuditDir) {
		if err != nil {
			return nil, err
		}
		if e := record.Entry; e.Kind != audit.Intent && e.Subject != "" {
			found[e.RequestID] = explanation{"the audit log", e.Reason}
		}
	}
	return found, nil
}

// reasonNow is what the operator reads of one request, for a failure's message.
func (w *world) reasonNow(id string) string {
	found, err := w.explanations()
	if err != nil {
		return err.Error()
	}
	return found[id].text
}

// checkReasons looks for the reason of every refusal since it was last called:
// in the audit log where the caller was known, else in the daemon's log.
func (w *world) checkReasons(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	refusals := w.refusals
	w.refusals = nil
	w.mu.Unlock()
	deadline := time.Now().Add(20 * time.Second) // the log comes through a pipe
	for {
		found, err := w.explanations()
		if err != nil {
			t.Fatal(err)
		}
		if last := len(refusals) - 1; last >= 0 && found[refusals[last].id].text == "" && time.Now().Before(deadline) {
			time.Sleep(50 * time.Millisecond)
			continue
		}
		for _, r := range refusals {
			where := "the log"
			if r.row.want == codes.PermissionDenied || strings.HasPrefix(r.row.why, "replayed") {
				where = "the audit log"
			}
			if e := found[r.id]; e.where != where || !strings.Contains(e.text, r.row.why) {
				t.Errorf("%s, over %s: of request %s the operator reads %q in %s, want %q in %s", r.row.name, r.wire, r.id, e.text, e.where, r.row.why, where)
			}
		}
		return
	}
}
