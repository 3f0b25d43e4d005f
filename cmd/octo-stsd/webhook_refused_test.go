package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/octo-sts/appliance/sts/ststest"
)

// refusedDelivery is a delivery that must change nothing: it is the push of a
// commit that deletes a policy, with something wrong about it.
type refusedDelivery struct {
	name    string
	spoil   func(*hookRig, *delivery)
	status  int
	counted string // by event and outcome
	says    string // a part of the answer
}

// refusedDeliveries are what a stranger sends, or GitHub with a wrong setting.
func refusedDeliveries() []refusedDelivery {
	all := []refusedDelivery{
		{"no signature", header("X-Hub-Signature-256", ""), 401, "other signature 1", "X-Hub-Signature-256 is missing"},
		{"SHA-1 only", func(_ *hookRig, d *delivery) {
			mac := hmac.New(sha1.New, []byte(d.secret))
			mac.Write(d.body)
			d.header["X-Hub-Signature"] = "sha1=" + hex.EncodeToString(mac.Sum(nil))
			d.header["X-Hub-Signature-256"] = ""
		}, 401, "other signature 1", "X-Hub-Signature-256 is missing"},
		{"SHA-1 in the place of SHA-256", header("X-Hub-Signature-256", "sha1="+strings.Repeat("0", 40)), 401, "other signature 1", "not sha256="},
		{"a body changed by one byte", func(_ *hookRig, d *delivery) {
			d.header["X-Hub-Signature-256"] = signature(d.secret, d.body)
			d.body = bytes.Replace(d.body, []byte(`"octocat"`), []byte(`"octocaT"`), 1)
		}, 401, "other signature 1", "does not fit the body"},
		{"somebody else's secret", func(_ *hookRig, d *delivery) { d.secret = "x" + d.secret[1:] }, 401, "other signature 1", "does not fit the body"},
		{"an empty secret", func(_ *hookRig, d *delivery) { d.secret = "" }, 401, "other signature 1", "does not fit the body"},

		{"over 25 MiB, with a Content-Length", huge(nil, false), 413, "other too_large 1", "25 MiB"},
		{"over 25 MiB, chunked", huge(nil, true), 400, "shed transfer_encoding 1", ""}, // as every chunked body is, unread
		{"over 25 MiB, over HTTP/2 without a length", huge(http2Client(), true), 413, "other too_large 1", "25 MiB"},

		{"form-encoded", func(_ *hookRig, d *delivery) {
			d.body = []byte("payload=" + url.QueryEscape(string(d.body)))
			d.header["Content-Type"] = "application/x-www-form-urlencoded"
		}, 415, "other media_type 1", "Content type to application/json"},
		{"a wrong Content-Type", header("Content-Type", "text/plain"), 415, "other media_type 1", "application/json"},
		{"no Content-Type", header("Content-Type", ""), 415, "other media_type 1", "application/json"},

		{"no event header", header("X-GitHub-Event", ""), 400, "other headers 1", "X-GitHub-Event"},
		{"an event header that is no event", header("X-GitHub-Event", "Push\tpush"), 400, "other headers 1", "X-GitHub-Event"},
		{"no delivery ID", header("X-GitHub-Delivery", ""), 400, "push headers 1", "X-GitHub-Delivery"},
		{"a delivery ID that is none", header("X-GitHub-Delivery", "../../etc/passwd"), 400, "push headers 1", "X-GitHub-Delivery"},
		{"another App's", header("X-GitHub-Hook-Installation-Target-ID", "99"), 404, "push unknown_app 1", "no such App"},
		{"a repository's webhook", header("X-GitHub-Hook-Installation-Target-Type", "repository"), 400, "push unknown_app 1", "integration"},

		{"a null repository", func(h *hookRig, d *delivery) {
			payload := h.push(h.GitHub.SHA("acme", "app", "main"), strings.Repeat("a", 40), policyPath("reader"))
			payload["repository"] = nil
			*d = *h.newDelivery("push", payload)
		}, 400, "push payload 1", "names no repository"},
		{"no JSON", func(_ *hookRig, d *delivery) { d.body = d.body[:len(d.body)-1] }, 400, "push payload 1", ""},
		{"JSON that is no object", func(_ *hookRig, d *delivery) { d.body = []byte("[" + string(d.body) + "]") }, 400, "push payload 1", "not a JSON object"},
	}
	for _, event := range []string{"pull_request", "merge_group", "check_suite", "check_run", "repository",
		"installation", "installation_repositories", "installation_target"} {
		all = append(all, refusedDelivery{"an event header that does not fit: " + event + " with a push",
			header("X-GitHub-Event", event), 400, event + " payload 1", "the payload of a"})
	}
	return append(all, refusedDelivery{"an event header that does not fit: push with an installation", func(h *hookRig, d *delivery) {
		*d = *h.newDelivery("push", map[string]any{"action": "deleted",
			"installation": map[string]any{"id": h.installation, "account": map[string]any{"login": "acme"}}})
	}, 400, "push payload 1", "a push event"})
}

func header(name, value string) func(*hookRig, *delivery) {
	return func(_ *hookRig, d *delivery) { d.header[name] = value }
}

// huge is a payload of more than 25 MiB, otherwise good.
func huge(client *http.Client, unsized bool) func(*hookRig, *delivery) {
	return func(_ *hookRig, d *delivery) {
		d.body = append(d.body, bytes.Repeat([]byte{' '}, 25<<20)...)
		d.client, d.unsized = client, unsized
	}
}

// http2Client speaks HTTP/2 alone, without TLS.
func http2Client() *http.Client {
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: transport}
}

// refusedRow is a row of TestWebhookBadInputs for each: the policy that the
// delivery says was deleted stays in the cache.
func refusedRow(r refusedDelivery) hookRow {
	return hookRow{name: r.name, counted: r.counted, do: func(t *testing.T, h *hookRig) {
		h.warm("acme/app", "reader")
		reads := h.GitHub.Calls()[ststest.ContentsRoute]
		d := h.newDelivery("push", h.push(h.GitHub.SHA("acme", "app", "main"), strings.Repeat("a", 40), policyPath("reader")))
		r.spoil(h, d)
		status, said := h.send(d)
		if status != r.status || !strings.Contains(said, r.says) {
			t.Errorf("%d %s, want %d and %q", status, said, r.status, r.says)
		}
		if strings.Contains(said, strings.TrimPrefix(signature(h.WebhookSecret, d.body), "sha256=")) {
			t.Errorf("the answer has the right signature: %s", said)
		}
		h.granted("acme/app", "reader")
		if n := h.GitHub.Calls()[ststest.ContentsRoute]; n != reads {
			t.Error("a delivery that was refused emptied a cache")
		}
	}}
}

func refusedRows() []hookRow {
	var rows []hookRow
	for _, r := range refusedDeliveries() {
		rows = append(rows, refusedRow(r))
	}
	return rows
}
