package main

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/octo-sts/appliance/sts/ststest"
)

// What cannot go well is refused before there is a page, with exit status 2 for the operator's mistakes, and GitHub has
// not been asked for anything.
func TestSetupRefusesBeforehand(t *testing.T) {
	r := newSetupRig(t, ststest.GitHubConfig{})
	good := slices.Clone(r.flags)
	write := func(name string) func(*testing.T) {
		return func(t *testing.T) {
			if err := os.MkdirAll(filepath.Dir(r.path(name)), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(r.path(name), []byte("mine"), 0o600); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.Remove(r.path(name)) })
		}
	}
	bin := t.TempDir() // a PATH without systemd-creds
	for _, c := range []struct {
		name    string
		prepare func(*testing.T)
		flags   []string // after the good ones, so that they go before them
		env     []string
		pins    string
		status  int
		want    string
	}{
		{"no domain", nil, []string{"--domain", ""}, nil, setupPIN, 2, "is not a host name"},
		{"a URL for a domain", nil, []string{"--domain", "https://sts.example.com"}, nil, setupPIN, 2, "is not a host name"},
		{"an HSM without a token", nil, []string{"--hsm", r.soft.Module}, nil, setupPIN, 2, "want the path of a PKCS#11 module, a colon"},
		{"no such module", nil, []string{"--hsm", "/nowhere.so:x"}, nil, setupPIN, 2, "no such file"},
		{"a bad URI", nil, []string{"--hsm", r.soft.Module + ":pkcs11:pin-value=1"}, nil, setupPIN, 2, "pin-value"},
		{"GitHub over http", nil, []string{"--github-url", "http://github.example.com"}, nil, setupPIN, 2, "must be https"},
		{"no such user", nil, []string{"--daemon-user", "nobody-of-this-name"}, nil, setupPIN, 2, "there is no such user"},
		{"half of a certificate", nil, []string{"--tls-key", "/key.pem"}, nil, setupPIN, 2, "go together"},
		{"a certificate that is not there", nil, []string{"--tls-key", "/key.pem", "--tls-certificate", "/certificate.pem"}, nil, setupPIN, 2, "/certificate.pem: no such file"},
		{"octo-stsd.yaml is there", write("etc/octo-stsd.yaml"), nil, nil, setupPIN, 2, "etc/octo-stsd.yaml is there already"},
		{"signer.yaml is there", write("etc/signer.yaml"), nil, nil, setupPIN, 2, "etc/signer.yaml is there already"},
		{"the webhook's credential is there", write("credstore/webhook-secret"), nil, nil, setupPIN, 2, "credstore/webhook-secret is there already"},
		{"the PIN's credential is there", write("credstore/hsm-pin"), nil, nil, setupPIN, 2, "credstore/hsm-pin is there already"},
		{"no directory", write("file"), []string{"--config-dir", r.path("file/etc")}, nil, setupPIN, 2, "not a directory"},
		{"no systemd-creds", nil, nil, []string{"PATH=" + bin}, setupPIN, 1, "encrypted credentials need systemd-creds"},
		{"systemd-creds does not work", nil, nil, []string{"SYSTEMD_CREDENTIAL_SECRET=/dev/null/x"}, setupPIN, 1, "trying whether this machine can encrypt"},
		{"no such token", nil, []string{"--hsm", r.soft.Module + ":absent"}, nil, setupPIN + "\n" + setupPIN, 1, "absent"},
		{"one PIN for two HSMs", nil, []string{"--hsm", r.soft.Module + ":other"}, nil, setupPIN, 2, "line 2 of standard input has no PIN"},
		{"an empty credential directory", nil, nil, []string{"CREDENTIALS_DIRECTORY=" + bin}, "", 2, "reading credential hsm-pin"},
		{"a wrong PIN", nil, nil, nil, "0000", 1, "the PIN was refused"},
		{"the same wrong PIN, not tried again", nil, nil, nil, "0000", 1, "not tried again"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.prepare != nil {
				c.prepare(t)
			}
			env := r.env
			defer func() { r.env = env }()
			r.env = slices.Concat(env, c.env)
			r.flags = slices.Concat(good, c.flags)
			x := r.start(nil, c.pins)
			status, said := x.end()
			if status != c.status || !strings.Contains(said, c.want) || strings.Contains(said, "http://127.0.0.1") {
				t.Errorf("exit status %d, want %d and %q:\n%s", status, c.status, c.want, said)
			}
			if n := r.gitHub.TotalCalls(); n != 0 {
				t.Errorf("GitHub was called %d times", n)
			}
			for _, name := range []string{"etc/octo-stsd.yaml", "etc/signer.yaml", "credstore/webhook-secret", "credstore/hsm-pin"} {
				if data, err := os.ReadFile(r.path(name)); err == nil && string(data) != "mine" {
					t.Errorf("%s was written", name)
				}
			}
		})
	}
	r.flags = good
	if keys, _ := r.run(nil, "pkcs11-tool", "--module", r.soft.Module, "--token-label", "first", "--login", "--pin", setupPIN, "--list-objects", "--type", "privkey"); strings.Contains(keys, "trial") {
		t.Errorf("a key that an import was tried with is left:\n%s", keys)
	}
}

// Nobody came back from GitHub: what was stored is removed again, so that the next run can begin.
func TestSetupInterrupted(t *testing.T) {
	r := newSetupRig(t, ststest.GitHubConfig{})
	x := r.start(nil, setupPIN)
	x.page()
	if _, err := os.Stat(r.path("credstore/hsm-pin")); err != nil {
		t.Error(err)
	}
	if err := x.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if status, said := x.end(); status != 1 || !strings.Contains(said, "no App came back from GitHub") {
		t.Errorf("exit status %d:\n%s", status, said)
	}
	x = r.start(nil, setupPIN)
	x.agree(nil)
	if status, said := x.end(); status != 0 {
		t.Errorf("the next run: exit status %d:\n%s", status, said)
	}
	// And another one, which is to replace everything.
	if status, said := r.start(nil, setupPIN).end(); status != 2 {
		t.Errorf("without --overwrite: exit status %d:\n%s", status, said)
	}
	x = r.start(nil, setupPIN, "--overwrite")
	x.page()
	if err := x.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if status, said := x.end(); status != 1 {
		t.Errorf("with --overwrite, interrupted: exit status %d:\n%s", status, said)
	}
	if _, err := os.Stat(r.path("credstore/hsm-pin")); err != nil {
		t.Errorf("the credential that was there before: %v", err)
	}
	x = r.start(nil, setupPIN, "--overwrite")
	x.agree(map[string]string{"name": "Another STS"})
	if status, said := x.end(); status != 0 || !strings.Contains(r.read("etc/signer.yaml"), `"another-sts"`) {
		t.Errorf("with --overwrite: exit status %d:\n%s", status, said)
	}
	r.checkConfigs()
}

// When something fails after GitHub has made the App, everything else is done all the same, and it is said what was made,
// what was lost, and how to go on.
func TestSetupFailsAfterwards(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(r *setupRig) // once the page is there
		want  []string
		files []string // that are written all the same
	}{
		{"GitHub is in trouble and recovers", func(r *setupRig) {
			r.gitHub.Fail(ststest.Fault{Route: ststest.ConvertRoute, Status: http.StatusBadGateway, Count: 2})
		}, nil, []string{"etc/octo-stsd.yaml", "etc/signer.yaml", "credstore/webhook-secret", "credstore/hsm-pin"}},
		{"the conversion's answer is lost", func(r *setupRig) {
			r.gitHub.Fail(ststest.Fault{Route: ststest.ConvertRoute, Lost: true, Count: 1})
		}, []string{"it was used already, or is older than an hour", `GitHub may have made the App "Our STS"; its private key was not received`, "/organizations/acme/settings/apps and run setup again"}, nil},
		{"GitHub does not know the key", func(r *setupRig) {
			r.gitHub.Fail(ststest.Fault{Route: ststest.AppRoute, Status: http.StatusUnauthorized})
		}, []string{"the key is in the HSMs, and was not proven", "To go on: octo-sts-signer key verify --config "}, []string{"etc/octo-stsd.yaml", "etc/signer.yaml", "credstore/webhook-secret"}},
		{"the HSM is gone", func(r *setupRig) {
			if err := os.Rename(r.path("tokens"), r.path("gone")); err != nil {
				r.t.Fatal(err)
			}
		}, []string{"the App's private key is in 0 of 1 HSMs, and now lost", "generate another private key at ", "/organizations/acme/settings/apps/our-sts", "octo-sts-signer key import --config "}, []string{"etc/octo-stsd.yaml", "etc/signer.yaml", "credstore/webhook-secret"}},
		{"somebody wrote a configuration meanwhile", func(r *setupRig) {
			if err := os.WriteFile(r.path("etc/octo-stsd.yaml"), []byte("mine"), 0o600); err != nil {
				r.t.Fatal(err)
			}
		}, []string{"octo-stsd.yaml was to be:", "domain: \"sts.example.com\"", "file exists", "write the file yourself"}, []string{"etc/signer.yaml", "credstore/webhook-secret"}},
		{"credentials cannot be stored any more", func(r *setupRig) {
			if err := os.Rename(r.path("credstore"), r.path("away")); err != nil {
				r.t.Fatal(err)
			}
		}, []string{"the webhook's secret is lost", "set another webhook secret at ", "systemd-creds encrypt --name=webhook-secret - "}, []string{"etc/octo-stsd.yaml", "etc/signer.yaml"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newSetupRig(t, ststest.GitHubConfig{})
			x := r.start(nil, setupPIN)
			x.page()
			c.spoil(r)
			x.agree(map[string]string{"owner": "acme"})
			status, said := x.end()
			if wantStatus := min(len(c.want), 1); status != wantStatus {
				t.Errorf("exit status %d, want %d", status, wantStatus)
			}
			for _, want := range c.want {
				if !strings.Contains(said, want) {
					t.Errorf("it does not say %q", want)
				}
			}
			for _, name := range c.files {
				if _, err := os.Stat(r.path(name)); err != nil {
					t.Error(err)
				}
			}
			if t.Failed() {
				t.Log(said)
			}
		})
	}
}
