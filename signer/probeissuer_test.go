package signer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestProbeIDTokenIsExactlyThis(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	kid, err := ProbeKeyID(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 8, 1, 12, 0, 0, 987654321, time.UTC)
	config := ProbeConfig{Issuer: "https://sts.example.com/probe-issuer", Key: "probe-issuer"}
	for kind, want := range map[ProbeKind]string{
		ProbeGood:          `{"iss":"https://sts.example.com/probe-issuer","sub":"probe","aud":"sts.example.com","iat":1785585600,"exp":1785585720,"jti":"JTI"}`,
		ProbeWrongAudience: `{"iss":"https://sts.example.com/probe-issuer","sub":"probe","aud":"wrong-audience.invalid","iat":1785585600,"exp":1785585720,"jti":"JTI"}`,
		ProbeWrongSubject:  `{"iss":"https://sts.example.com/probe-issuer","sub":"stranger-to-every-policy","aud":"sts.example.com","iat":1785585600,"exp":1785585720,"jti":"JTI"}`,
	} {
		got, err := SignProbeIDToken(key, config, kind, now)
		if err != nil {
			t.Fatal(err)
		}
		parts := strings.Split(got.IDToken, ".")
		decoded := make([][]byte, len(parts))
		for i := range parts {
			if decoded[i], err = base64.RawURLEncoding.DecodeString(parts[i]); err != nil {
				t.Fatal(err)
			}
		}
		var claims struct{ JTI string }
		if err := json.Unmarshal(decoded[1], &claims); err != nil || len(claims.JTI) < 20 {
			t.Errorf("%s: jti %q, %v", kind, claims.JTI, err)
		}
		if header := string(decoded[0]); header != `{"alg":"ES256","typ":"JWT","kid":"`+kid+`"}` {
			t.Errorf("%s: header %s", kind, header)
		}
		if text := strings.Replace(string(decoded[1]), claims.JTI, "JTI", 1); text != want {
			t.Errorf("%s: claims %s, want %s", kind, text, want)
		}
		digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
		r, s := new(big.Int).SetBytes(decoded[2][:32]), new(big.Int).SetBytes(decoded[2][32:])
		if len(decoded[2]) != 64 || !ecdsa.Verify(&key.PublicKey, digest[:], r, s) {
			t.Errorf("%s: the signature does not verify", kind)
		}
	}
	if _, err := SignProbeIDToken(key, config, "admin", now); err == nil {
		t.Error("an ID token of another kind was signed")
	}
	if _, err := SignProbeIDToken(newRSAKey(t, 2048), config, ProbeGood, now); err == nil {
		t.Error("an ID token was signed with an RSA key")
	}
}

func TestProbeConfigIsChecked(t *testing.T) {
	for _, c := range []struct{ section, problem string }{
		{"probe: {issuer: \"https://sts.example.com/probe-issuer\", key: probe-issuer}", ""},
		{"probe: {issuer: \"https://sts.example.com/probe-issuer\"}", "probe.key is required"},
		{"probe: {key: probe-issuer}", "probe.issuer is required"},
		{"probe: {issuer: \"http://sts.example.com/probe-issuer\", key: probe-issuer}", "want https://{domain}/probe-issuer"},
		{"probe: {issuer: \"https://sts.example.com\", key: probe-issuer}", "want https://{domain}/probe-issuer"},
		{"probe: {issuer: \"https://sts.example.com:8443/probe-issuer\", key: probe-issuer}", "want https://{domain}/probe-issuer"},
		{"probe: {issuer: \"https://token.actions.githubusercontent.com\", key: probe-issuer}", "want https://{domain}/probe-issuer"},
		{"probe: {issuer: \"https://sts.example.com/probe-issuer\", key: app-1}", "belongs to App 1"},
		{"probe: {issuer: \"https://sts.example.com/probe-issuer\", key: audit-checkpoint}", "signs checkpoints"},
	} {
		text := "socket: /run/s\nallow_users: [\"0\"]\nhsms: [{module: /bin/true, token_label: t, pin_credential: pin}]\n" +
			"apps: [{id: 1, keys: [app-1]}]\ncheckpoint: {origin: o, key: audit-checkpoint}\n" + c.section + "\n"
		config, err := parseConfig("signer.yaml", []byte(text))
		switch {
		case c.problem == "" && err != nil:
			t.Errorf("%s: %v", c.section, err)
		case c.problem == "" && !slices.Contains(config.KeyLabels(), "probe-issuer"):
			t.Errorf("%s: the key is not kept usable: %v", c.section, config.KeyLabels())
		case c.problem != "" && (err == nil || !strings.Contains(err.Error(), c.problem)):
			t.Errorf("%s: %v, want %q", c.section, err, c.problem)
		}
	}
}
