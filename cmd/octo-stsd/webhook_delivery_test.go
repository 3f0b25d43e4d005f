package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"strings"

	"github.com/octo-sts/appliance/sts/ststest"
)

// push is GitHub's event push, as far as it is read, of a commit of acme/app that
// names the given paths as removed.
func (h *hookRig) push(before, after string, removed ...string) map[string]any {
	return map[string]any{
		"ref": "refs/heads/main", "before": before, "after": after, "created": false, "deleted": false, "forced": false,
		"commits":      []any{map[string]any{"id": after, "added": []string{}, "removed": removed, "modified": []string{}}},
		"repository":   map[string]any{"name": "app", "default_branch": "main", "html_url": "https://github.com/acme/app", "owner": map[string]any{"login": "acme"}},
		"installation": map[string]any{"id": h.installation},
		"sender":       map[string]any{"login": "octocat"},
	}
}

// delivery is a request as GitHub makes it, to be spoilt before it is sent.
type delivery struct {
	event  string
	secret string
	body   []byte
	header map[string]string // in the place of those that it would have; "": none
	client *http.Client      // nil: the usual one
	// unsized sends a body without saying how long it is.
	unsized bool
}

func (h *hookRig) newDelivery(event string, payload any) *delivery {
	h.t.Helper()
	body, err := json.Marshal(payload)
	if err != nil {
		h.t.Fatal(err)
	}
	return &delivery{event: event, secret: h.WebhookSecret, body: body, header: map[string]string{}}
}

func signature(secret string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

func newGUID() string {
	return fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", rand.Uint32(), rand.IntN(1<<16), rand.IntN(1<<12), rand.IntN(1<<12), rand.Uint64N(1<<48))
}

// send returns the answer's status and body.
func (h *hookRig) send(d *delivery) (int, string) {
	h.t.Helper()
	var body io.Reader = bytes.NewReader(d.body)
	if d.unsized {
		body = io.MultiReader(body)
	}
	req, err := http.NewRequestWithContext(h.t.Context(), http.MethodPost, h.URL()+"/webhook", body)
	if err != nil {
		h.t.Fatal(err)
	}
	header := map[string]string{
		"Content-Type": "application/json", "X-GitHub-Event": d.event, "X-GitHub-Delivery": newGUID(),
		"X-GitHub-Hook-Installation-Target-Type": "integration",
		"X-GitHub-Hook-Installation-Target-ID":   fmt.Sprint(ststest.DefaultApp),
		"X-Hub-Signature-256":                    signature(d.secret, d.body),
	}
	h.secrets = append(h.secrets, strings.TrimPrefix(header["X-Hub-Signature-256"], "sha256="))
	maps.Copy(header, d.header)
	for name, value := range header {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	client := d.client
	if client == nil {
		client = h.Client()
	}
	resp, err := client.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

const zeroSHA = "0000000000000000000000000000000000000000"

// parentAndTip makes a commit on main that changes no policy, and is the
// arguments of the push that says it removed one.
func (h *hookRig) parentAndTip(identity string) (before, after, removed string) {
	before = h.GitHub.SHA("acme", "app", "main")
	after = h.GitHub.Commit("acme", "app", "main", ststest.Change{Path: "README.md", Content: newGUID()})
	return before, after, policyPath(identity)
}

// expect sends d, which must be answered with status.
func (h *hookRig) expect(d *delivery, status int) {
	h.t.Helper()
	if got, said := h.send(d); got != status {
		h.t.Errorf("%d %s, want %d", got, said, status)
	}
}
