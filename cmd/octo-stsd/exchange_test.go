package main

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/grpc/codes"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/ststest"
)

// use is something that a job does with its token, and what GitHub says to it.
type use struct {
	method, path, body string
	status             int
}

var (
	readsApp    = use{"GET", "/repos/acme/app/contents/README.md", "", http.StatusOK}
	readsLib    = use{"GET", "/repos/acme/lib/contents/README.md", "", http.StatusOK}
	readsOrg    = use{"GET", "/repos/acme/.github/contents/README.md", "", http.StatusOK}
	writesIssue = use{"POST", "/repos/acme/app/issues", `{"title":"t"}`, http.StatusCreated}
	writesApp   = use{"PUT", "/repos/acme/app/contents/new.txt", `{"message":"m","content":"aGk="}`, http.StatusCreated}
)

// refused is the same use where GitHub must not allow it.
func (u use) refused(status int) use {
	u.status = status
	return u
}

// What a policy grants, and nothing else, is what its token can do: over every
// wire.
func TestGrants(t *testing.T) {
	onBothTransports(t, func(t *testing.T, r *rig) {
		for _, c := range []struct {
			scope, identity string
			uses            []use
		}{
			{"acme/app", "reader", []use{readsApp, writesApp.refused(403), writesIssue.refused(403), readsLib.refused(404)}},
			{"acme/app", "issues", []use{writesIssue, readsApp.refused(403), readsLib.refused(404)}},
			{"ACME/App", "reader", []use{readsApp, writesApp.refused(403)}}, // GitHub knows no case
			{"acme", "two", []use{readsApp, readsLib, readsOrg.refused(404), writesApp.refused(403)}},
			{"acme", "all", []use{readsApp, readsLib, readsOrg, writesApp.refused(403)}},
		} {
			for _, w := range r.wires() {
				t.Run(c.scope+" "+c.identity+" "+w.name, func(t *testing.T) {
					a := w.ask(t, c.scope, c.identity, r.job(nil))
					if a.Code != codes.OK || a.RequestID == "" || !r.GitHub.IsLive(a.Token) {
						t.Fatalf("%+v", a)
					}
					if left := time.Until(a.Expiry); left < 55*time.Minute || left > time.Hour {
						t.Errorf("expiry %s, want GitHub's hour", a.Expiry)
					}
					for _, u := range c.uses {
						if got := r.ask(a.Token, u.method, u.path, u.body); got != u.status {
							t.Errorf("%s %s: %d, want %d", u.method, u.path, got, u.status)
						}
					}
					lines := r.audited(audit.Filter{RequestID: a.RequestID})
					if len(lines) != 2 || lines[0].Kind != audit.Intent || lines[1].Kind != audit.Outcome || lines[1].TokenSHA256 != tokenSHA256(a.Token) {
						t.Errorf("audit log: %+v", lines)
					}
				})
			}
		}
	})
}

// Both lines of a grant, field by field.
func TestGrantIsAudited(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{})
	expiry := time.Now().Add(5 * time.Minute).Truncate(time.Second).UTC()
	x := r.exchange("acme/app", "reader", r.job(map[string]any{"jti": "job-1", "exp": expiry.Unix()}))
	if x.Status != http.StatusOK {
		t.Fatalf("%d %s", x.Status, x.Body)
	}
	policy := "issuer: " + r.Issuer.URL() + "\n" + rigPolicies["app/reader"]
	blob := sha1.Sum(fmt.Appendf(nil, "blob %d\x00%s", len(policy), policy))
	sum := sha256.Sum256([]byte(x.Token))
	mints := r.GitHub.Mints()
	intent := audit.Entry{
		Kind: audit.Intent, RequestID: x.RequestID, Scope: "acme/app", Identity: "reader",
		Issuer: r.Issuer.URL(), Subject: "repo:acme/app:ref:refs/heads/main", Claims: map[string]any{"repository": "acme/app"},
		JTI: "job-1", IDTokenExpiry: expiry, ClientAddress: "127.0.0.1", UserAgent: "Go-http-client/1.1",
		PolicyRepository: "acme/app", PolicyPath: ".github/chainguard/reader.sts.yaml", PolicySHA: hex.EncodeToString(blob[:]),
		AppID: ststest.DefaultApp, InstallationID: mints[len(mints)-1].InstallationID,
		Permissions: map[string]string{"contents": "read"}, Repositories: []string{"app"},
	}
	outcome := intent
	outcome.Kind, outcome.Decision, outcome.TokenExpiry = audit.Outcome, audit.DecisionGranted, x.Expiry
	outcome.Permissions = map[string]string{"contents": "read", "metadata": "read"} // GitHub always adds the latter
	outcome.TokenSHA256, outcome.TokenSHA256Base64 = hex.EncodeToString(sum[:]), base64.StdEncoding.EncodeToString(sum[:])
	got := r.audited(audit.Filter{RequestID: x.RequestID})
	if d := cmp.Diff([]audit.Entry{intent, outcome}, got, cmpopts.IgnoreFields(audit.Entry{}, "Time", "DurationMS", "PolicyAge")); d != "" {
		t.Errorf("audit log (-want +got):\n%s", d)
	}
	mint := mints[len(mints)-1]
	if mint.TokenSHA256 != hex.EncodeToString(sum[:]) || len(got) == 2 && (got[0].Time.After(mint.At) || got[1].Time.Before(mint.At)) {
		t.Errorf("the mint was at %s, between neither of %+v", mint.At, got)
	}
	for _, secret := range []string{x.Token, "ghs_", "Bearer", "eyJ"} {
		if strings.Contains(r.Logs(), secret) {
			t.Errorf("the daemon's log holds %q", secret)
		}
	}
}

// Each kind of denial: its code, the words that a caller reads, what the
// operator's audit log says (nothing of those who were never verified), and no
// mint.
func TestDenials(t *testing.T) {
	const masked = "the exchange is not allowed"
	onBothTransports(t, func(t *testing.T, r *rig) {
		for org, list := range map[string]string{
			"strict": "mode: enforce\nissuers: [https://elsewhere.example.com]\n",
			"broken": "mode: enforce\nissuers: 7\n",
		} {
			r.addOrganization(org, list)
		}
		r.GitHub.AddRepository("stranger", "app") // where the App is not installed
		r.granted("acme", "all")                  // so that the token for reading policies exists
		minted := len(r.GitHub.Mints())
		for _, c := range []struct {
			name            string
			scope, identity string
			idToken         string
			code            codes.Code
			message         string
			reason          string // the beginning, in the audit log; "": no entry
		}{
			{"no ID token", "acme/app", "reader", "", codes.Unauthenticated, "the ID token was not accepted", ""},
			{"no JWT", "acme/app", "reader", "x", codes.Unauthenticated, "the ID token was not accepted", ""},
			{"expired", "acme/app", "reader", r.job(map[string]any{"iat": time.Now().Add(-2 * time.Hour).Unix(), "exp": time.Now().Add(-time.Hour).Unix()}), codes.Unauthenticated, "the ID token was not accepted", ""},
			{"unlisted issuer", "acme/app", "reader", r.job(map[string]any{"iss": "https://elsewhere.example.com"}), codes.Unauthenticated, "the ID token was not accepted", ""},
			{"no scope", "", "reader", r.job(nil), codes.InvalidArgument, "invalid request: scope is missing", ""},
			{"no identity", "acme/app", "", r.job(nil), codes.InvalidArgument, "invalid request: identity is missing", ""},
			{"a path for an identity", "acme/app", "../reader", r.job(nil), codes.InvalidArgument, "invalid request: identity", ""},
			{"another subject", "acme/app", "reader", r.job(map[string]any{"sub": "repo:acme/app:ref:refs/heads/other"}), codes.PermissionDenied, masked, "mismatch: subject"},
			{"another audience", "acme/app", "reader", r.job(map[string]any{"aud": "https://github.com/acme"}), codes.PermissionDenied, masked, "mismatch: audience"},
			{"the policy's own audience is missing", "acme/app", "elsewhere", r.job(nil), codes.PermissionDenied, masked, "mismatch: audience"},
			{"another claim", "acme/app", "reader", r.job(map[string]any{"repository": "evil/acme"}), codes.PermissionDenied, masked, "mismatch: "},
			{"no policy", "acme/lib", "reader", r.job(nil), codes.PermissionDenied, masked, "no_policy"},
			{"no policy of the organization", "acme", "reader", r.job(nil), codes.PermissionDenied, masked, "no_policy"},
			{"a policy that cannot be used", "acme/app", "broken", r.job(nil), codes.PermissionDenied, masked, "policy_invalid"},
			{"no installation", "stranger/app", "reader", r.job(nil), codes.PermissionDenied, masked, "not_installed"},
			{"no such owner", "nobody", "reader", r.job(nil), codes.PermissionDenied, masked, "not_installed"},
			{"more than the installation has", "acme/app", "admin", r.job(nil), codes.PermissionDenied, masked, "github_refused"},
			{"the organization does not trust the issuer", "strict/app", "reader", r.job(nil), codes.PermissionDenied, masked, "untrusted_issuer"},
			{"the organization's issuers cannot be read", "broken/app", "reader", r.job(nil), codes.PermissionDenied, masked, "trusted_issuers_invalid"},
		} {
			for _, w := range r.wires() {
				t.Run(c.name+" "+w.name, func(t *testing.T) {
					a := w.ask(t, c.scope, c.identity, c.idToken)
					exact := c.code == codes.InvalidArgument || a.Message == c.message+" (request "+a.RequestID+")"
					if a.Code != c.code || a.Token != "" || a.RequestID == "" || !exact ||
						!strings.HasPrefix(a.Message, c.message) || !strings.HasSuffix(a.Message, " (request "+a.RequestID+")") {
						t.Errorf("got %+v", a)
					}
					lines := r.audited(audit.Filter{RequestID: a.RequestID})
					if c.reason == "" {
						if len(lines) != 0 {
							t.Errorf("audited: %+v", lines)
						}
						return
					}
					if len(lines) == 0 {
						t.Fatal("nothing in the audit log")
					}
					last := lines[len(lines)-1]
					if last.Decision != audit.DecisionDenied || !strings.HasPrefix(last.Reason, c.reason) || last.Subject == "" || last.TokenSHA256 != "" {
						t.Errorf("audit log: %+v, want the reason %s", last, c.reason)
					}
				})
			}
		}
		// Two more tokens at the most: those for reading the two organizations' policies.
		for _, m := range r.GitHub.Mints()[minted:] {
			if m.Owner == "acme" || !m.AllRepositories {
				t.Errorf("minted: %+v", m)
			}
		}
	})
}

// addOrganization makes one with a policy and a list of trusted issuers.
func (r *rig) addOrganization(org, trustedIssuers string) (installation int64) {
	r.GitHub.AddRepository(org, "app")
	r.GitHub.AddRepository(org, ".github")
	installation = r.GitHub.Install(ststest.DefaultApp, org, ststest.InstallOptions{})
	r.GitHub.PutPolicy(org, "app", "reader", "issuer: "+r.Issuer.URL()+"\nsubject_pattern: repo:acme/app:.*\npermissions: {contents: read}\n")
	if trustedIssuers != "" {
		r.GitHub.PutFile(org, ".github", ".github/chainguard/trusted-token-issuers.yaml", trustedIssuers)
	}
	return installation
}

func TestTrustedIssuersThatLetIn(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{})
	r.addOrganization("trusting", "mode: enforce\nissuers: ["+r.Issuer.URL()+"]\n")
	r.addOrganization("watching", "mode: audit\nissuers: [https://elsewhere.example.com]\n")
	x := r.granted("trusting/app", "reader")
	if lines := r.audited(audit.Filter{RequestID: x.RequestID}); len(lines) != 2 || lines[0].Reason != "" {
		t.Errorf("enforce, listed: %+v", lines)
	}
	x = r.granted("watching/app", "reader")
	if lines := r.audited(audit.Filter{RequestID: x.RequestID}); len(lines) != 2 || !strings.HasPrefix(lines[0].Reason, "untrusted_issuer (mode: audit)") {
		t.Errorf("audit, not listed: %+v", lines)
	}
}

func TestCeilings(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{Edit: func(c map[string]any) {
		c["ceiling"] = map[string]any{"permissions": map[string]any{"contents": "read", "issues": "write"}}
	}})
	denied := func(scope, identity string) {
		t.Helper()
		x := r.exchange(scope, identity, r.job(nil))
		lines := r.audited(audit.Filter{RequestID: x.RequestID})
		if x.Status != http.StatusForbidden || len(lines) != 1 || lines[0].Kind != audit.Denied || !strings.HasPrefix(lines[0].Reason, "ceiling: ") {
			t.Errorf("%s %s: %d %s %+v", scope, identity, x.Status, x.Body, lines)
		}
	}
	r.granted("acme/app", "reader")
	r.granted("acme/app", "issues") // exactly as high as the ceiling
	r.granted("acme", "all")
	denied("acme/app", "writer")
	denied("acme", "all-write")

	r.reconfigure(func(c map[string]any) { c["ceiling"] = map[string]any{"policies": "organization"} })
	r.granted("acme", "two")
	r.granted("acme", "all-write")
	denied("acme/app", "reader")
	denied("acme/.github", "all") // the policy repository's own policies, as a repository's
}

// What the operator does with the ID that a caller quotes.
func TestOperatorFindsADenialByItsRequestID(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{})
	x := r.exchange("acme/app", "reader", r.job(map[string]any{"sub": "repo:acme/app:pull_request"}))
	dir, err := rigPrograms()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	show := func(id string) (string, error) {
		out, err := exec.CommandContext(ctx, filepath.Join(dir, "octo-sts"), "audit", "show", "--request-id", id, r.AuditDir).Output()
		return string(out), err
	}
	out, err := show(x.RequestID)
	for _, want := range []string{x.RequestID, "denied", "acme/app", "reader", "mismatch: ", "repo:acme/app:pull_request", "repo:acme/app:ref:refs/heads/main"} {
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("audit show: %v, without %q: %s", err, want, out)
		}
	}
	if n := strings.Count(out, "denied"); n != 2 { // the decision, and the kind of entry
		t.Errorf("audit show: not one line for one denial: %s", out)
	}
	if _, err = show("no-such-request"); err == nil {
		t.Error("audit show found an entry of a request that never was")
	}
}
