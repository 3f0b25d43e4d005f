package signer

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// goodConfig is a complete signer.yaml; MODULE stands for a file that exists.
const goodConfig = `socket: /run/octo-sts-signer/signer.sock
allow_users: [root, "1000"]
hsms:
  - module: MODULE
    token_label: octo-sts
    pin_credential: hsm-pin
apps:
  - id: 1234
    keys: [app-1234-2026, app-1234-2025]
  - id: 99
    keys:
      - app-99
checkpoint:
  origin: sts.example.com/audit
  key: audit-checkpoint
`

func moduleFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "module.so")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestConfig(t *testing.T) {
	module := moduleFile(t)
	path := filepath.Join(t.TempDir(), "signer.yaml")
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(goodConfig, "MODULE", module)), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := LoadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Socket:     "/run/octo-sts-signer/signer.sock",
		AllowUsers: []string{"root", "1000"},
		HSMs:       []HSMConfig{{Module: module, TokenLabel: "octo-sts", PINCredential: "hsm-pin", MaxSessions: 8}},
		Apps:       []AppConfig{{ID: 1234, Keys: []string{"app-1234-2026", "app-1234-2025"}}, {ID: 99, Keys: []string{"app-99"}}},
		Checkpoint: CheckpointConfig{Origin: "sts.example.com/audit", Key: "audit-checkpoint", StateDirectory: "/var/lib/octo-sts-signer"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if n := got.HSMs[0].ConcurrentSignatures(); n != 6 {
		t.Errorf("%d concurrent signatures with the default of 8 sessions, want 6", n)
	}
	if app, ok := got.AppOfKey("app-99"); !ok || app.ID != 99 {
		t.Errorf("app-99 belongs to %+v, %t", app, ok)
	}
}

var eightHSMs = func() string {
	var b strings.Builder
	for slot := range 8 {
		fmt.Fprintf(&b, "  - {module: MODULE, slot: %d, pin_credential: p}\n", slot)
	}
	return b.String()
}()

// Each case changes the good configuration in one place and names the line and the words of the problem.
func TestConfigProblems(t *testing.T) {
	module := moduleFile(t)
	for _, test := range []struct{ name, old, new, want string }{
		{"unknown key", "allow_users:", "allow_user: [x]\nallow_users:", "2: "},
		{"no socket", "socket: /run/octo-sts-signer/signer.sock\n", "", "socket is required"},
		{"relative socket", "/run/octo", "run/octo", "1: socket must be an absolute path"},
		{"nobody allowed", `[root, "1000"]`, "[]", "2: allow_users is empty"},
		{"unknown user", `"1000"`, "no-such-user-here", "2: allow_users[1]: user: unknown user no-such-user-here"},
		{"no HSM", "hsms:\n  - module: MODULE\n    token_label: octo-sts\n    pin_credential: hsm-pin\n", "", "hsms is required"},
		{"nine HSMs", "apps:", eightHSMs + "apps:", "3: hsms has 9 elements, at most 8 are supported"},
		{"one token twice", "apps:", "  - {module: MODULE, token_label: octo-sts, pin_credential: p}\napps:", "7: hsms[1] names the same token as hsms[0] (line 4)"},
		{"no module", "module: MODULE\n    token_label", "token_label", "hsms[0].module is required"},
		{"relative module", "MODULE", "softhsm.so", "4: hsms[0].module must be an absolute path"},
		{"missing module", "MODULE", "/no/such/module.so", "4: hsms[0].module cannot be used: stat /no/such/module.so: no such file"},
		{"module is a directory", "MODULE", "/usr", "4: hsms[0].module is not a file"},
		{"no token", "    token_label: octo-sts\n", "", "exactly one of token_label, token_serial, slot and uri, not by 0"},
		{"token named twice", "octo-sts\n", "octo-sts\n    slot: 0\n", "not by 2"},
		{"token named by a label and a URI", "octo-sts\n", "octo-sts\n    uri: pkcs11:token=x\n", "not by 2"},
		{"URI of an object", "token_label: octo-sts", "uri: pkcs11:object=x", "5: hsms[0].uri: "},
		{"empty token label", "label: octo-sts", `label: ""`, "5: hsms[0].token_label is empty"},
		{"no PIN credential", "    pin_credential: hsm-pin\n", "", "hsms[0].pin_credential is required"},
		{"PIN credential is a path", "hsm-pin", "../hsm-pin", "6: hsms[0].pin_credential: a credential name is one path segment"},
		{"too few sessions", "hsm-pin", "hsm-pin\n    max_sessions: 2", "7: hsms[0].max_sessions must be 3 to 256, not 2"},
		{"no sessions", "hsm-pin", "hsm-pin\n    max_sessions: 0", "7: hsms[0].max_sessions must be 3 to 256, not 0"},
		{"too many sessions", "hsm-pin", "hsm-pin\n    max_sessions: 257", "7: hsms[0].max_sessions must be 3 to 256, not 257"},
		{"sessions of a wrong type", "hsm-pin", "hsm-pin\n    max_sessions: many", "7: "},
		{"App without ID", "id: 99\n    keys:", "keys:", "10: apps[1].id is required"},
		{"App with a zero ID", "id: 99", "id: 0", "10: apps[1].id is empty"},
		{"App with a negative ID", "id: 99", "id: -1", "10: apps[1].id must be positive"},
		{"App listed twice", "id: 99", "id: 1234", "10: apps[1].id: App 1234 is listed already at apps[0].id (line 8)"},
		{"App without keys", "\n    keys:\n      - app-99", "", "apps[1].keys is required"},
		{"key of two Apps", "- app-99", "- app-1234-2025", `12: apps[1].keys[0]: key "app-1234-2025" is listed already at apps[0].keys[1] (line 9)`},
		{"empty label", "- app-99", `- ""`, "12: apps[1].keys[0] is empty"},
		{"label with a control character", "- app-99", `- "a\u0007b"`, "12: apps[1].keys[0] must have at most 128 bytes and no control"},
		{"no checkpoint", "checkpoint:\n  origin: sts.example.com/audit\n  key: audit-checkpoint\n", "", "checkpoint is required"},
		{"no origin", "  origin: sts.example.com/audit\n", "", "checkpoint.origin is required"},
		{"origin with a space", "com/audit", "com/the audit", "14: checkpoint.origin must have at most 256 bytes and no spaces"},
		{"origin with a Unicode space", "com/audit", "com/the\u2003audit", "14: checkpoint.origin must have"},
		{"origin with a plus", "com/audit", "com/a+b", "14: checkpoint.origin must have"},
		{"origin too long", "com/audit", strings.Repeat("x", 257), "14: checkpoint.origin must have"},
		{"no checkpoint key", "  key: audit-checkpoint\n", "", "checkpoint.key is required"},
		{"an App's key for checkpoints", "audit-checkpoint", "app-1234-2025", `15: checkpoint.key: key "app-1234-2025" belongs to App 1234`},
		{"relative state directory", "audit-checkpoint", "audit-checkpoint\n  state_directory: state", `16: checkpoint.state_directory must be an absolute path, not "state"`},
		{"empty state directory", "audit-checkpoint", "audit-checkpoint\n  state_directory: \"\"", "16: checkpoint.state_directory is empty"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if !strings.Contains(goodConfig, test.old) {
				t.Fatalf("the good configuration has no %q", test.old)
			}
			text := strings.ReplaceAll(strings.Replace(goodConfig, test.old, test.new, 1), "MODULE", module)
			_, err := parseConfig("signer.yaml", []byte(text))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			} else if n := strings.Count(err.Error(), "\n") + 1; n != 1 {
				t.Errorf("%d problems for one mistake:\n%v", n, err)
			}
		})
	}
}

func TestConfigReportsEverythingAtOnce(t *testing.T) {
	_, err := parseConfig("signer.yaml", []byte("socket: x\nallow_users: []\ncolour: blue\nhsms:\n  - slot: one\napps:\n  - id: 1\n"))
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		"signer.yaml:1: socket must be an absolute path",
		"signer.yaml:3: ",
		"signer.yaml:5: hsms[0].slot",
		"hsms[0].module is required",
		"hsms[0].pin_credential is required",
		"apps[0].keys is required",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in:\n%v", want, err)
		}
	}
}

func TestReadCredential(t *testing.T) {
	directory := t.TempDir()
	for name, content := range map[string]string{
		"plain": "1234", "newline": "1234\n", "crlf": "1234\r\n", "spaces": " 12 34 ", "empty": "", "only-newline": "\n",
		"two-lines": "1234\n5678\n", "nul": "12\x0034", "long": strings.Repeat("1", maxCredential+1),
	} {
		if err := os.WriteFile(filepath.Join(directory, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct{ directory, name, want, wantErr string }{
		{directory, "plain", "1234", ""},
		{directory, "newline", "1234", ""},
		{directory, "crlf", "1234", ""},
		{directory, "spaces", " 12 34 ", ""},
		{directory, "empty", "", "is empty"},
		{directory, "only-newline", "", "is empty"},
		{directory, "two-lines", "", "more than one line"},
		{directory, "nul", "", "NUL"},
		{directory, "long", "", "more than 4096 bytes"},
		{directory, "absent", "", "no such file"},
		{directory, "../plain", "", "one path segment"},
		{directory, "..", "", "one path segment"},
		{directory, "", "", "one path segment"},
		{"", "plain", "", "$CREDENTIALS_DIRECTORY is not set"},
	} {
		got, err := ReadCredential(test.directory, test.name)
		if got != test.want || (err == nil) != (test.wantErr == "") || err != nil && !strings.Contains(err.Error(), test.wantErr) {
			t.Errorf("%q: %q, %v; want %q, %q", test.name, got, err, test.want, test.wantErr)
		}
		if err != nil && strings.Contains(fmt.Sprint(err), "1234") {
			t.Errorf("%q: the error holds the secret: %v", test.name, err)
		}
	}
}

func TestResolveUsers(t *testing.T) {
	got, err := ResolveUsers([]string{"root", "4711", "0"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]uint32{0, 4711}, got); diff != "" {
		t.Error(diff)
	}
	if _, err := ResolveUsers([]string{"root", "no-such-user-1", "-1"}); err == nil || !strings.Contains(err.Error(), "no-such-user-1") || !strings.Contains(err.Error(), `"-1"`) {
		t.Errorf("unknown users: %v", err)
	}
}
