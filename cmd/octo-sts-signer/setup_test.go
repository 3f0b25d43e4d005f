package main

import (
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/sts/ststest"
)

// A whole setup, at each kind of GitHub: the App is what the operator picked, its key signs in every HSM, both
// configurations are good, and neither secret is anywhere in the clear.
func TestSetup(t *testing.T) {
	for _, c := range []struct {
		name    string
		gitHub  ststest.GitHubConfig
		changes map[string]string
		second  bool // HSM
		typed   bool // PINs
		wrap    []string
		want    func(t *testing.T, r *setupRig, app map[string]any)
	}{
		{name: "github.com, of an organization, PIN typed, traced", changes: map[string]string{"owner": "acme", "permission.deployments": "write"}, typed: true,
			wrap: []string{"strace", "-f", "-y", "-v", "-s", "1000000", "-x", "-e", "trace=execve,write,writev,pwrite64,sendto,sendmsg,openat,creat,memfd_create,rename,renameat,renameat2", "-o", "TRACE"},
			want: func(t *testing.T, r *setupRig, app map[string]any) {
				if owner := app["owner"].(map[string]any)["login"]; owner != "acme" {
					t.Errorf("it belongs to %v", owner)
				}
				want := map[string]string{"metadata": "read", "contents": "read", "checks": "write", "pull_requests": "read", "merge_queues": "read", "deployments": "write"}
				if got := app["permissions"].(map[string]string); !maps.Equal(got, want) {
					t.Errorf("its permissions are %v, want %v", got, want)
				}
			}},
		{name: "GHES, one's own, two HSMs", gitHub: ststest.GitHubConfig{BasePath: "/api/v3"}, second: true,
			changes: map[string]string{"event": "", "permission.checks": "", "permission.pull_requests": "", "permission.merge_queues": "", "permission.issues": "write"},
			want: func(t *testing.T, r *setupRig, app map[string]any) {
				if events := app["events"].([]string); len(events) != 0 {
					t.Errorf("events %v, want none", events)
				}
				if strings.Contains(r.read("etc/octo-stsd.yaml"), "webhook:") {
					t.Error("the daemon has a webhook, and the App has none")
				}
			}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newSetupRig(t, c.gitHub)
			names, pins := []string{"hsm-pin"}, ""
			if c.second {
				if err := r.soft.InitToken(t.Context(), "second", setupPIN); err != nil {
					t.Fatal(err)
				}
				r.flags = append(r.flags, "--hsm", r.soft.Module+":pkcs11:token=second")
				names = append(names, "hsm-pin-2")
			}
			if c.typed {
				pins = setupPIN + "\n"
			} else {
				r.env = append(r.env, r.pins(names...)...)
			}
			traceFile := r.path("trace")
			for i := range c.wrap {
				c.wrap[i] = strings.ReplaceAll(c.wrap[i], "TRACE", traceFile)
			}
			x := r.start(c.wrap, pins)
			x.agree(c.changes)
			status, said := x.end()
			if status != 0 {
				t.Fatalf("exit status %d:\n%s", status, said)
			}
			made, public := r.app()
			r.checkConfigs()
			if _, err := os.Stat(r.path("state/checkpoint")); err != nil || strings.Count(said, "\nsts.example.com/audit+") != len(names) {
				t.Errorf("the checkpoint keys: %v:\n%s", err, said)
			}
			if !strings.Contains(said, signer.Fingerprint(public)) || !strings.Contains(said, "/installations/new") {
				t.Errorf("it said:\n%s", said)
			}
			env := r.pins(names...)
			out, status := r.run(env, binary, "key", "verify", "--config", r.path("etc/signer.yaml"), "--api-url", r.gitHub.URL(), "--ca-file", r.path("ca.pem"))
			if status != 0 || !strings.Contains(out, signer.Fingerprint(public)) || !strings.Contains(out, `GitHub knows the App as "our-sts"`) {
				t.Errorf("key verify: %d %s", status, out)
			}
			if calls := r.gitHub.Calls()[ststest.AppRoute]; calls < len(names)+1 {
				t.Errorf("GET /app was called %d times, want one for each HSM and one for key verify", calls)
			}
			c.want(t, r, r.gitHub.DescribeApp(made.AppID))
			if c.typed {
				if got := r.decrypt("hsm-pin"); got != setupPIN {
					t.Errorf("the credential of the PIN holds %q", got)
				}
			}
			secrets := map[string]string{"PIN": setupPIN}
			secrets["webhook secret"] = made.WebhookSecret
			if _, err := os.Stat(r.path("credstore/webhook-secret")); err == nil {
				if got := r.decrypt("webhook-secret"); got != made.WebhookSecret {
					t.Errorf("the webhook's credential holds %q, want %q", got, made.WebhookSecret)
				}
			} else if _, none := c.changes["event"]; !none {
				t.Error(err)
			}
			_ = os.RemoveAll(r.path("credentials")) // the test's own
			r.noneLeaks(secrets, said, traceFile)
		})
	}
}
