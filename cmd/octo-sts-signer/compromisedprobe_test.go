package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/signer/signertest"
	"github.com/octo-sts/appliance/sts/idtoken"
)

const probeIssuer = "https://sts.example.com/probe-issuer"

// Whoever has taken over the daemon has ID tokens of the probe's issuer, of three
// kinds and for minutes, and none with another issuer, subject or audience; nor more
// of them than a few a second.
func TestCompromisedDaemonProbeIDTokens(t *testing.T) {
	s := start(t, signertest.Config{AppIDs: []int64{12}, ProbeIssuer: probeIssuer})
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.Socket())
	}}}
	ask := func(body string) (status int, idToken string) {
		t.Helper()
		resp, err := client.Post("http://signer/v1/probe-id-token", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var answer signer.ProbeIDToken
		_ = json.NewDecoder(resp.Body).Decode(&answer) // a refusal has none
		return resp.StatusCode, answer.IDToken
	}
	for _, body := range []string{
		`{}`, `{"kind":""}`, `{"kind":"admin"}`, `{"kind":"GOOD"}`, `{"kind":["good"]}`, `{"kind":"good","sub":"x"}`, `{"kind":"good","aud":"x"}`,
		`{"kind":"good","issuer":"https://token.actions.githubusercontent.com"}`, `{"kind":"good","lifetime":86400}`, `{"kind":"good"}{"kind":"good"}`,
		`{"kind":"` + strings.Repeat("good", 1000) + `"}`, `"good"`, `null`, ``,
	} {
		if status, idToken := ask(body); status != http.StatusBadRequest || idToken != "" {
			t.Errorf("%.80q: %d %q", body, status, idToken)
		}
	}
	for kind, want := range map[string]string{
		"good": "probe for [sts.example.com]", "wrong-audience": "probe for [wrong-audience.invalid]", "wrong-subject": "stranger-to-every-policy for [sts.example.com]",
	} {
		status, raw := ask(`{"kind":"` + kind + `"}`)
		got, err := idtoken.ParseUnverified(raw)
		if status != http.StatusOK || err != nil {
			t.Fatalf("%s: %d, %v", kind, status, err)
		}
		if said := fmt.Sprint(got.Subject, " for ", got.Audience); said != want || got.Issuer != probeIssuer || len(got.Claims) != 6 || got.Expiry.Sub(got.IssuedAt) > 5*time.Minute {
			t.Errorf("%s: %s, %+v", kind, said, got.Claims)
		}
	}
	refused := 0
	for range 200 {
		if status, _ := ask(`{"kind":"good"}`); status == http.StatusServiceUnavailable {
			refused++
		}
	}
	if refused == 0 {
		t.Error("200 ID tokens were had at once")
	}
	if _, err := s.Client().AppJWT(t.Context(), 12); err != nil {
		t.Errorf("an App JWT afterwards: %v", err)
	}
}

// The probe's key is made in each HSM, once, and shows in key list; signer.yaml has to
// have its section.
func TestKeyGenerateProbe(t *testing.T) {
	s := start(t, signertest.Config{AppIDs: []int64{12}, ProbeIssuer: probeIssuer, HSMs: 2})
	status, err := s.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	keys, err := status.ProbeKeys()
	if err != nil || len(keys) != 2 || keys[0].Equal(keys[1]) || !status.Probe.Ready || status.Probe.Issuer != probeIssuer {
		t.Errorf("%+v, %d keys, %v", status.Probe, len(keys), err)
	}
	out := runSigner(t, s, 0, "key", "generate", "--probe", "--output", "json")
	var placed []probeKeyPlaced
	if err := json.Unmarshal([]byte(out), &placed); err != nil || len(placed) != 2 || !placed[0].Already || !placed[1].Already {
		t.Errorf("a second time: %v %s", err, out)
	}
	for i, p := range placed {
		if id, err := signer.ProbeKeyID(keys[i]); err != nil || id != p.KeyID {
			t.Errorf("HSM %d: key ID %q, the signer's is %q, %v", i, p.KeyID, id, err)
		}
	}
	if out := runSigner(t, s, 0, "key", "list"); strings.Count(out, `"probe-issuer"`) != 2 || strings.Contains(out, "refused") {
		t.Errorf("key list: %s", out)
	}
	other := start(t, signertest.Config{AppIDs: []int64{12}})
	if out := runSigner(t, other, 2, "key", "generate", "--probe"); !strings.Contains(out, "has no section probe") {
		t.Errorf("without the section: %s", out)
	}
}

// runSigner runs a command of the signer's, which must end with that status, and returns
// what it wrote.
func runSigner(t *testing.T, s *signertest.Signer, status int, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, append(args, "--config", s.ConfigFile())...)
	cmd.Env = append(os.Environ(), s.Env()...)
	out, err := cmd.CombinedOutput()
	if got := cmd.ProcessState.ExitCode(); got != status {
		t.Errorf("octo-sts-signer %s: status %d, %v: %s", strings.Join(args, " "), got, err, out)
	}
	return string(out)
}
