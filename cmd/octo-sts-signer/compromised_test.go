package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/mod/sumdb/note"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/signer/signertest"
	"github.com/octo-sts/appliance/sts/audit/checkpoint"
)

// intruder has taken over the daemon: it runs as the user that the signer allows, and says to the socket whatever it
// likes. It judges everything that comes back: an App JWT as it should be for a listed App, a checkpoint, a status, and
// an error are what there is.
type intruder struct {
	signer *signertest.Signer
	key    note.Verifier

	mu     sync.Mutex
	jwts   int               // App JWTs that were had; guarded by mu
	signed map[uint64]string // roots of the checkpoints that were had, by size; guarded by mu
}

func newIntruder(t *testing.T, s *signertest.Signer) *intruder {
	t.Helper()
	key, err := checkpoint.ParseKey(s.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	return &intruder{signer: s, key: key, signed: map[uint64]string{}}
}

// say sends bytes as they stand and returns all that comes back until the signer hangs up.
func (i *intruder) say(t *testing.T, request string) []byte {
	t.Helper()
	conn, err := net.Dial("unix", i.signer.Socket())
	if err != nil {
		t.Error(err)
		return nil
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second)) // for safety: the signer is to hang up long before
	_, _ = io.WriteString(conn, request)                   // it may hang up before it has read all
	answer, err := io.ReadAll(conn)
	if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
		t.Errorf("the signer does not hang up after %.80q", request)
	}
	i.judge(t, request, answer)
	return answer
}

// jwtPattern is what could be a JWT, or the beginning of one.
var jwtPattern = regexp.MustCompile(`eyJ[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*\.?[A-Za-z0-9_-]*`)

func (i *intruder) judge(t *testing.T, request string, answer []byte) {
	t.Helper()
	for _, token := range jwtPattern.FindAll(answer, -1) {
		i.judgeJWT(t, request, string(token))
	}
	for rest := answer; ; {
		_, after, found := bytes.Cut(rest, []byte("HTTP/1.1 200 OK\r\n"))
		if !found {
			return
		}
		_, body, _ := bytes.Cut(after, []byte("\r\n\r\n"))
		rest = after
		var got struct {
			signer.AppJWT
			Note       string           `json:"note"`
			Signatures *uint64          `json:"signatures"` // of a status
			Version    *string          `json:"version"`
			Ready      *bool            `json:"ready"`
			HSMs       *json.RawMessage `json:"hsms"`
			Apps       *json.RawMessage `json:"apps"`
			Checkpoint *json.RawMessage `json:"checkpoint"`
		}
		decoder := json.NewDecoder(bytes.NewReader(body))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&got); err != nil && err != io.EOF { // HEAD has no body
			t.Errorf("%.200q was answered with %.300q: %v", request, answer, err)
		}
		if got.Note != "" {
			i.judgeNote(t, []byte(got.Note))
		}
	}
}

// judgeJWT holds a JWT against all that GitHub reads of it: the App, ten minutes, and no claim and no header beside.
func (i *intruder) judgeJWT(t *testing.T, request, token string) {
	t.Helper()
	parsed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		t.Errorf("%.200q was answered with %.80q: %v", request, token, err)
		return
	}
	var claims map[string]any
	if err := json.Unmarshal(parsed.UnsafePayloadWithoutVerification(), &claims); err != nil {
		t.Errorf("%.200q: %v", request, err)
		return
	}
	id, _ := strconv.ParseInt(fmt.Sprint(claims["iss"]), 10, 64)
	key := i.signer.PublicKey(id)
	if key == nil {
		t.Errorf("%.200q got a JWT for %v", request, claims["iss"])
		return
	}
	if _, err := parsed.Verify(key); err != nil {
		t.Errorf("%.200q: %v", request, err)
	}
	issued, _ := claims["iat"].(float64)
	expiry, _ := claims["exp"].(float64)
	if len(claims) != 3 || expiry-issued > 600 || expiry > float64(time.Now().Add(10*time.Minute).Unix()) || issued > float64(time.Now().Unix()) {
		t.Errorf("%.200q got the claims %v", request, claims)
	}
	header := parsed.Signatures[0].Protected
	if header.KeyID != "" || header.JSONWebKey != nil || header.Nonce != "" || len(header.ExtraHeaders) != 1 || header.ExtraHeaders[jose.HeaderType] != "JWT" {
		t.Errorf("%.200q got the header %+v", request, header)
	}
	i.mu.Lock()
	i.jwts++
	i.mu.Unlock()
}

// judgeNote keeps a checkpoint, and says where it contradicts another.
func (i *intruder) judgeNote(t *testing.T, signed []byte) {
	t.Helper()
	c, err := checkpoint.Open(signed, i.key)
	if err != nil || c.Origin != testOrigin {
		t.Errorf("signed: %q: %v", signed, err)
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if root, ok := i.signed[c.Size]; ok && root != c.Root.String() {
		t.Errorf("size %d was signed with the roots %s and %s", c.Size, root, c.Root)
	}
	i.signed[c.Size] = c.Root.String()
}

// request is one HTTP request that asks the signer to hang up afterwards.
func httpRequest(method, target, contentType, body string) string {
	header := ""
	if contentType != "" {
		header = "Content-Type: " + contentType + "\r\n"
	}
	return fmt.Sprintf("%s %s HTTP/1.1\r\nHost: signer\r\nConnection: close\r\n%sContent-Length: %d\r\n\r\n%s", method, target, header, len(body), body)
}

// Every path, every method, every content type: App JWTs for listed Apps are all that there is to be had.
func TestCompromisedDaemonPathsAndMethods(t *testing.T) {
	i := newIntruder(t, start(t, signertest.Config{AppIDs: []int64{12, 34}}))
	paths := []string{
		"/", "*", "/v1", "/v1/", "/v1/app-jwt", "/v1/app-jwt/", "//v1/app-jwt", "/v1//app-jwt", "/v1/./app-jwt", "/v1/x/../app-jwt", "/V1/APP-JWT",
		"/v1/app-jwt?app_id=99", "/v1/app-jwt?app_id=99&lifetime=86400", "/v1/app-jwt%00", "/v1/app%2Djwt", "/v1/app-jwt;x", "http://signer/v1/app-jwt",
		"http://elsewhere.example/v1/app-jwt", "/v1/status", "/v1/checkpoint", "/v1/checkpoint/", "/v1/probe-id-token", "/v1/sign", "/v1/signature", "/v1/key", "/v1/keys",
		"/v1/raw", "/v1/digest", "/v1/pin", "/v1/import", "/v1/generate", "/v1/restore", "/v2/app-jwt", "/debug/pprof/", "/debug/vars", "/metrics",
		"/../../etc/passwd", "signer:443",
	}
	methods := []string{"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "CONNECT", "TRACE", "PROPFIND", "SIGN", "post"}
	for _, path := range paths {
		for _, method := range methods {
			i.say(t, httpRequest(method, path, "application/json", `{"app_id": 99}`))
		}
	}
	if i.jwts != 0 {
		t.Errorf("%d JWTs were had, and nobody asked for that of a listed App", i.jwts)
	}
	for _, contentType := range []string{"", "application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
		"application/json; charset=utf-16", "application/octet-stream", "application/grpc", "application/jwt"} {
		i.say(t, httpRequest("POST", "/v1/app-jwt", contentType, `{"app_id": 12}`))
		i.say(t, httpRequest("POST", "/v1/app-jwt", contentType, "app_id=99"))
	}
	i.stillServes(t)
}

// stillServes makes sure that the next good request is answered.
func (i *intruder) stillServes(t *testing.T) {
	t.Helper()
	if answer := i.say(t, httpRequest("POST", "/v1/app-jwt", "application/json", `{"app_id": 34}`)); !bytes.HasPrefix(answer, []byte("HTTP/1.1 200 OK\r\n")) {
		t.Errorf("a good request afterwards: %q", answer)
	}
}

func TestCompromisedDaemonBodies(t *testing.T) {
	i := newIntruder(t, start(t, signertest.Config{AppIDs: []int64{12, 34}}))
	wide := strings.Join(strings.Split(`{"app_id": 12}`, ""), "\x00") + "\x00" // UTF-16
	for _, body := range []string{
		``, ` `, "\x00", `null`, `true`, `12`, `"12"`, `[]`, `[{"app_id": 12}]`, `{}`, `{"app_id": null}`, `{"app_id": true}`, `{"app_id": "12"}`,
		`{"app_id": 12.5}`, `{"app_id": -12}`, `{"app_id": 0}`, `{"app_id": 012}`, `{"app_id": 0x0c}`, `{"app_id": 12 }}`, `{"app_id": 12`,
		`{"app_id": 18446744073709551628}`, `{"app_id": [12]}`, `{"app_id": {"": 12}}`, `{"app_id": 12, "app_id": 99}`, `{"app_id": 99, "App_ID": 13}`,
		`{"app_id": 12, "exp": 9999999999}`, `{"app_id": 12, "iat": 0}`, `{"app_id": 12, "lifetime": 86400}`, `{"app_id": 12, "expiry": "2099-01-01T00:00:00Z"}`,
		`{"app_id": 12, "claims": {"scope": "x"}}`, `{"app_id": 12, "aud": "x"}`, `{"app_id": 12, "iss": "99"}`, `{"app_id": 12, "sub": "x"}`,
		`{"app_id": 12, "key": "app-34"}`, `{"app_id": 12, "label": "audit-checkpoint"}`, `{"app_id": 12, "digest": "AAAA"}`, `{"app_id": 12, "payload": "AAAA"}`,
		`{"app_id": 12, "alg": "none"}`, `{"app_id": 12, "header": {"kid": "x"}}`, `{"app_id": 12, "jwt": "x"}`, `{"app_id": 12}{"app_id": 99}`,
		`{"app_id": 12} trailing`, `{"app_id": 12}` + "\x00", "\xef\xbb\xbf" + `{"app_id": 12}`, wide, `{"app_id": "12\u0022, \u0022exp\u0022: 1"}`,
		`{"app\u005fid": 99}`, `{"digest": "AAAA"}`, `{"message": "eyJhbGciOiJSUzI1NiJ9.e30"}`, strings.Repeat("[", 1000), `{"app_id":` + strings.Repeat("1", 1000) + `}`,
		strings.Repeat(" ", 1<<20) + `{"app_id": 12}`, `{"app_id": 12, "` + strings.Repeat("x", 1<<20) + `": 1}`,
	} {
		for _, path := range []string{"/v1/app-jwt", "/v1/checkpoint", "/v1/status"} {
			answer := i.say(t, httpRequest("POST", path, "application/json", body))
			if !bytes.HasPrefix(answer, []byte("HTTP/1.1 4")) && len(answer) > 0 {
				t.Errorf("%s %.80q was answered with %.200q", path, body, answer)
			}
		}
	}
	if i.jwts != 0 {
		t.Errorf("%d JWTs were had for requests that make no sense", i.jwts)
	}
	i.stillServes(t)
}

// Whatever is done to the protocol itself, each request that is found in the bytes is judged like any other.
func TestCompromisedDaemonSmuggling(t *testing.T) {
	i := newIntruder(t, start(t, signertest.Config{AppIDs: []int64{12, 34}}))
	var all sync.WaitGroup // some are cut off after seconds, each in its own time
	const line, end, body, foreign = "POST /v1/app-jwt HTTP/1.1\r\nHost: signer\r\n", "Connection: close\r\n\r\n", `{"app_id": 12}`, `{"app_id": 99}`
	chunked := func(body string) string { return fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body) }
	inner := httpRequest("POST", "/v1/app-jwt", "", foreign)
	for name, request := range map[string]string{
		"both lengths":              line + "Content-Length: 14\r\nTransfer-Encoding: chunked\r\n" + end + chunked(foreign),
		"two lengths":               line + "Content-Length: 14\r\nContent-Length: 3\r\n" + end + foreign,
		"a list of lengths":         line + "Content-Length: 14, 14\r\n" + end + foreign,
		"a signed length":           line + "Content-Length: +14\r\n" + end + foreign,
		"a negative length":         line + "Content-Length: -1\r\n" + end + foreign,
		"a huge length":             line + "Content-Length: 9223372036854775808\r\n" + end + foreign,
		"an odd encoding":           line + "Transfer-Encoding: xchunked\r\n" + end + chunked(foreign),
		"two encodings":             line + "Transfer-Encoding: gzip, chunked\r\n" + end + chunked(foreign),
		"an encoding with a tab":    line + "Transfer-Encoding:\tchunked\r\n" + end + chunked(foreign),
		"a space before the colon":  line + "Content-Length : 14\r\n" + end + foreign,
		"a folded header":           line + "X: y\r\n Content-Length: 14\r\n" + end + foreign,
		"a NUL in a header":         line + "X: a\x00b\r\nContent-Length: 14\r\n" + end + foreign,
		"bare newlines":             strings.ReplaceAll(line+"Content-Length: 14\r\n"+end, "\r\n", "\n") + foreign,
		"bare carriage returns":     strings.ReplaceAll(line+"Content-Length: 14\r\n"+end, "\r\n", "\r") + foreign,
		"a request within a body":   line + fmt.Sprintf("Content-Length: %d\r\n", len(inner)) + end + inner,
		"a request within a chunk":  line + "Transfer-Encoding: chunked\r\n" + end + chunked(inner),
		"a request after no body":   strings.Replace(httpRequest("POST", "/v1/app-jwt", "", ""), "Connection: close\r\n", "", 1) + inner,
		"no host":                   "POST /v1/app-jwt HTTP/1.1\r\nContent-Length: 14\r\n" + end + foreign,
		"two hosts":                 line + "Host: other\r\nContent-Length: 14\r\n" + end + foreign,
		"HTTP/1.0":                  "POST /v1/app-jwt HTTP/1.0\r\nContent-Length: 14\r\n\r\n" + foreign,
		"HTTP/0.9":                  "GET /v1/app-jwt\r\n\r\n",
		"HTTP/2":                    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
		"an upgrade":                line + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\nContent-Length: 14\r\n\r\n" + foreign + inner,
		"a method override":         "GET /v1/app-jwt HTTP/1.1\r\nHost: signer\r\nX-HTTP-Method-Override: POST\r\nContent-Length: 14\r\n" + end + body,
		"spoofed origins":           line + "X-Forwarded-For: 127.0.0.1\r\nX-Original-URL: /v1/status\r\nAuthorization: Basic cm9vdDo=\r\nContent-Length: 14\r\n" + end + foreign,
		"trailers":                  line + "Transfer-Encoding: chunked\r\nTrailer: app_id\r\n" + end + "e\r\n" + foreign + "\r\n0\r\napp_id: 12\r\n\r\n",
		"a chunk of a huge size":    line + "Transfer-Encoding: chunked\r\n" + end + "ffffffffffffffff\r\n" + foreign,
		"endless chunks":            line + "Transfer-Encoding: chunked\r\n" + end + strings.Repeat("1\r\n \r\n", 20_000),
		"a header of 64 KiB":        line + "X: " + strings.Repeat("x", 64<<10) + "\r\nContent-Length: 14\r\n" + end + body,
		"10,000 headers":            line + strings.Repeat("X: y\r\n", 10_000) + end,
		"a gzipped body":            line + "Content-Encoding: gzip\r\nContent-Length: 14\r\n" + end + "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff\xab\x56\x4a\x2c",
		"TLS":                       "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("\x00", 500),
		"noise":                     strings.Repeat("\xff\x00\r\n", 5000),
		"a continuation":            line + "Expect: 100-continue\r\nContent-Length: 14\r\n" + end + foreign,
		"an expectation of another": line + "Expect: a-signature\r\nContent-Length: 14\r\n" + end + foreign,
	} {
		all.Go(func() {
			if answer := i.say(t, request); jwtPattern.Match(answer) {
				t.Errorf("%s: a JWT was had", name)
			}
		})
	}
	all.Wait()
	i.stillServes(t)
}

// Requests in one connection are answered one by one, and none lends another what it may have.
func TestCompromisedDaemonPipelining(t *testing.T) {
	i := newIntruder(t, start(t, signertest.Config{AppIDs: []int64{12, 34}}))
	var all strings.Builder
	var want []int
	for n := range 60 {
		id, status := 12, http.StatusOK
		if n%3 == 1 {
			id, status = 99, http.StatusNotFound
		}
		request := httpRequest("POST", "/v1/app-jwt", "", fmt.Sprintf(`{"app_id": %d}`, id))
		if n < 59 {
			request = strings.Replace(request, "Connection: close\r\n", "", 1)
		}
		all.WriteString(request)
		want = append(want, status)
	}
	answer := i.say(t, all.String())
	var got []int
	for _, match := range regexp.MustCompile(`(?m)^HTTP/1\.1 (\d+) `).FindAllSubmatch(answer, -1) {
		status, _ := strconv.Atoi(string(match[1]))
		got = append(got, status)
	}
	if !slices.Equal(got, want) || i.jwts != 40 {
		t.Errorf("answered %v with %d JWTs", got, i.jwts)
	}
	i.stillServes(t)
}

// Slow requests are cut off, and good ones are served beside them.
func TestCompromisedDaemonSlowness(t *testing.T) {
	i := newIntruder(t, start(t, signertest.Config{AppIDs: []int64{12, 34}}))
	stop := make(chan struct{})
	var slow sync.WaitGroup
	for n := range 40 {
		slow.Go(func() {
			conn, err := net.Dial("unix", i.signer.Socket())
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			request := httpRequest("POST", "/v1/app-jwt", "", strings.Repeat(" ", 500)+`{"app_id": 12}`)
			for at := range request {
				if n%2 == 0 && at == 40 { // this one stops in the middle of the header
					<-stop
					return
				}
				if _, err := conn.Write([]byte{request[at]}); err != nil {
					return // cut off
				}
				select {
				case <-stop:
					return
				case <-time.After(20 * time.Millisecond):
				}
			}
		})
	}
	client := i.signer.Client()
	defer client.Close()
	for range 20 {
		if _, err := client.AppJWT(t.Context(), 34); err != nil {
			t.Errorf("beside slow requests: %v", err)
		}
	}
	close(stop)
	slow.Wait()
}
