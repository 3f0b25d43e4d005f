package webhook

import (
	"encoding/json"
	"testing"
	"time"
)

// Whatever a payload holds, reading it ends, and what is kept of it is bounded
// and can be read back from the queue.
func FuzzInterpret(f *testing.F) {
	seed := func(event string, payload object) {
		f.Add(event, must(json.Marshal(payload))(f))
	}
	seed("push", pushTo("main", policy, issuers, "main.go", ".github\\u002fchainguard/x"))
	seed("pull_request", aboutRepository(object{"action": "opened", "pull_request": object{"head": object{"sha": after}}}))
	seed("check_suite", aboutRepository(object{"action": "rerequested", "check_suite": object{"head_sha": after, "app": object{"id": testApp}}}))
	seed("repository", aboutRepository(object{"action": "renamed", "changes": object{"repository": object{"name": object{"from": "old"}}}}))
	seed("installation", aboutInstallation(object{"action": "deleted"}))
	seed("installation_repositories", aboutInstallation(object{"action": "added", "repositories_added": []object{{"name": "a"}}}))
	f.Add("push", []byte(`{"ref":"refs/heads/main","commits":[null,{"added":["\"\\",".github/chainguard/\ud800"]}]}`))
	f.Add("ping", []byte(`null`))
	f.Fuzz(func(t *testing.T, event string, body []byte) {
		d := delivery{event: event, appID: testApp, received: time.Unix(1000, 0).UTC()}
		e, err := interpret(d, body)
		if err != nil || e == nil {
			return
		}
		if len(e.owners) == 0 || len(e.owners) > 2 || len(e.forget) > 2 {
			t.Fatalf("owners %q, forgotten %v", e.owners, e.forget)
		}
		for _, owner := range e.owners {
			if !isName(owner) {
				t.Errorf("owner %q", owner)
			}
		}
		for _, forget := range e.forget {
			if len(forget.paths) > maxPolicyPaths || forget.repository != "" && !isName(forget.repository) {
				t.Errorf("forgotten %v", forget)
			}
		}
		if job := e.item.Check; job != nil && (!isCommit(job.Head) || job.Base != "" && !isCommit(job.Base)) {
			t.Errorf("check of %q after %q", job.Head, job.Base)
		}
		if len(e.item.changeEntries()) > maxAuditedPaths+1 {
			t.Errorf("%d audit entries", len(e.item.changeEntries()))
		}
		stored, err := json.Marshal(e.item)
		if err != nil || len(stored) > 400<<10 {
			t.Fatalf("%d bytes are stored: %v", len(stored), err)
		}
		var back item
		if err := json.Unmarshal(stored, &back); err != nil || back.lane() != e.item.lane() {
			t.Fatalf("%s is read back as that of lane %q: %v", stored, back.lane(), err)
		}
	})
}

func FuzzSignature(f *testing.F) {
	f.Add(sign(testSecret, []byte("{}")))
	f.Add("sha1=" + sign(testSecret, nil)[7:])
	f.Add("sha256=")
	f.Fuzz(func(t *testing.T, value string) {
		signature, err := signatureOf(map[string][]string{"X-Hub-Signature-256": {value}})
		if err == nil && isSigned([][]byte{[]byte(testSecret)}, []byte("{}"), signature) && len(value) != 71 {
			t.Errorf("%q was accepted", value)
		}
	})
}
