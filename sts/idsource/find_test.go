package idsource

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const wanted = "sts.example.com"

// testJWT looks like an ID token for an audience; nobody here verifies signatures.
func testJWT(audience any) string {
	payload, err := json.Marshal(map[string]any{"iss": "https://issuer.example", "sub": "job", "aud": audience})
	if err != nil {
		panic(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"RS256"}`)) + "." + encode(payload) + "." + encode([]byte("signature"))
}

// newTest is a finder on a machine of no kind, with that environment.
func newTest(t *testing.T, c Config, env map[string]string) *finder {
	t.Helper()
	if c.Audience == "" {
		c.Audience = wanted
	}
	c.Environ = func(name string) string { return env[name] }
	f := newFinder(c)
	f.dmi, f.projected = t.TempDir(), filepath.Join(t.TempDir(), "none")
	return f
}

// get finds the source and asks it.
func get(t *testing.T, f *finder) (string, error) {
	t.Helper()
	s, err := f.find()
	if err != nil {
		return "", err
	}
	return s.IDToken(t.Context())
}

// mustSay wants an error that says all of that, and no secret.
func mustSay(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one that says %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error is %q, want it to say %q", err, part)
		}
	}
	if strings.Contains(err.Error(), "eyJ") || strings.Contains(err.Error(), "-secret") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the error holds a secret: %q", err)
	}
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestTheSourceIsFoundByWhatIsLocal(t *testing.T) {
	file := write(t, "token", testJWT(wanted))
	for _, test := range []struct {
		what     string
		config   Config
		env      map[string]string
		firmware [2]string // file and text
		pod      bool
		want     string
		missing  string // instead: what the error says
	}{
		{what: "nothing", missing: "no ID token: give --token-file"},
		{what: "a file", config: Config{File: file}, want: "file"},
		{what: "a file that is named", config: Config{File: file, Name: "file"}, want: "file"},
		{what: "a file beats the job", config: Config{File: file}, env: map[string]string{"BUILDKITE": "true"}, want: "file"},
		{what: "a command", config: Config{Command: "x"}, want: "command"},
		{what: "standard input, named", config: Config{Name: "stdin"}, want: "stdin"},
		{what: "GitLab", env: map[string]string{"GITLAB_CI": "true", "OCTO_STS_ID_TOKEN": "x"}, want: "gitlab"},
		{what: "GitHub", env: map[string]string{"GITHUB_ACTIONS": "true", "ACTIONS_ID_TOKEN_REQUEST_URL": "u", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "t"}, want: "github"},
		{what: "SPIFFE", env: map[string]string{"SPIFFE_ENDPOINT_SOCKET": "unix:///x"}, want: "spiffe"},
		{what: "a pod", pod: true, want: "kubernetes"},
		{what: "a pod of EKS", pod: true, env: map[string]string{"AWS_WEB_IDENTITY_TOKEN_FILE": file}, want: "kubernetes"},
		{what: "EKS", env: map[string]string{"AWS_WEB_IDENTITY_TOKEN_FILE": file}, want: "aws"},
		{what: "ECS", env: map[string]string{"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/x"}, want: "aws"},
		{what: "an instance of EC2", firmware: [2]string{"sys_vendor", "Amazon EC2\n"}, want: "aws"},
		{what: "AKS", env: map[string]string{"AZURE_FEDERATED_TOKEN_FILE": file}, want: "azure"},
		{what: "a machine of Azure's", firmware: [2]string{"chassis_asset_tag", azureChassis + "\n"}, want: "azure"},
		{what: "a machine of Google's", firmware: [2]string{"product_name", "Google Compute Engine\n"}, want: "google"},
		{what: "Cloud Run", env: map[string]string{"K_SERVICE": "app"}, want: "google"},

		// A job is never the machine that it runs on.
		{what: "a GitLab job without id_tokens, at Google", env: map[string]string{"GITLAB_CI": "true"}, firmware: [2]string{"product_name", "Google Compute Engine"},
			missing: "give the job `id_tokens: {OCTO_STS_ID_TOKEN: {aud: sts.example.com}}`"},
		{what: "a GitHub job without the permission, at AWS", env: map[string]string{"GITHUB_ACTIONS": "true"}, firmware: [2]string{"sys_vendor", "Amazon EC2"},
			missing: "give the job `permissions: {id-token: write}`"},

		{what: "a name that is none", config: Config{Name: "jenkins"}, missing: `token source "jenkins": want one of file, command, stdin, gitlab,`},
		{what: "a file that is not there", config: Config{File: "/does/not/exist"}, missing: "reading the ID token: stat /does/not/exist: no such file"},
		{what: "file and command", config: Config{File: file, Command: "x"}, missing: "exclude each other"},
		{what: "a file with another source", config: Config{File: file, Name: "github"}, missing: "takes no token file"},
		{what: "no file", config: Config{Name: "file"}, missing: "--token-file"},
		{what: "no command", config: Config{Name: "command"}, missing: "--token-command"},
		{what: "no projected token", config: Config{Name: "kubernetes"}, missing: "`serviceAccountToken: {path: octo-sts, audience: sts.example.com}`"},
		{what: "no socket", config: Config{Name: "spiffe"}, missing: "SPIFFE_ENDPOINT_SOCKET is not set"},
		{what: "an odd socket", env: map[string]string{"SPIFFE_ENDPOINT_SOCKET": "tcp://spire.example:1"}, missing: "want unix:///PATH or tcp://ADDRESS:PORT"},
	} {
		t.Run(test.what, func(t *testing.T) {
			f := newTest(t, test.config, test.env)
			if test.firmware[0] != "" {
				if err := os.WriteFile(filepath.Join(f.dmi, test.firmware[0]), []byte(test.firmware[1]), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if test.pod {
				f.projected = file
			}
			s, err := f.find()
			switch {
			case test.missing != "":
				mustSay(t, err, test.missing)
			case err != nil:
				t.Error(err)
			case s.Name != test.want:
				t.Errorf("found %s, want %s", s.Name, test.want)
			}
		})
	}
}

// The real functions, on this machine: whatever it is, finding out asks nobody.
func TestFindOnThisMachine(t *testing.T) {
	s, err := Find(t.Context(), Config{Name: "google", Audience: wanted})
	if err != nil || s.Name != "google" {
		t.Errorf("%v, %v", s, err)
	}
}

func TestEverySourceIsDescribed(t *testing.T) {
	names := Names()
	if !slices.Contains(names, "github") || len(names) != 12 {
		t.Errorf("the names are %q", names)
	}
	for _, name := range names {
		if !strings.Contains(Describe(), "\n  "+name+" ") && !strings.HasPrefix(Describe(), "  "+name+" ") {
			t.Errorf("%s is not described", name)
		}
	}
}

func TestTokensThatWereGiven(t *testing.T) {
	jwt := testJWT(wanted)
	pod := newTest(t, Config{}, nil)
	pod.projected = write(t, "octo-sts", jwt)
	for what, f := range map[string]*finder{
		"a file":           newTest(t, Config{File: write(t, "token", jwt+"\n")}, nil),
		"a command":        newTest(t, Config{Command: "printf '%s\\n' " + jwt}, nil),
		"standard input":   newTest(t, Config{Name: "stdin", Stdin: strings.NewReader(jwt)}, nil),
		"GitLab's":         newTest(t, Config{}, map[string]string{"OCTO_STS_ID_TOKEN": jwt}),
		"a pod's":          pod,
		"EKS, for us":      newTest(t, Config{}, map[string]string{"AWS_WEB_IDENTITY_TOKEN_FILE": write(t, "token", testJWT([]string{"other", wanted}))}),
		"AKS, for us":      newTest(t, Config{}, map[string]string{"AZURE_FEDERATED_TOKEN_FILE": write(t, "token", jwt)}),
		"AKS, on purpose":  newTest(t, Config{Audience: "api://AzureADTokenExchange"}, map[string]string{"AZURE_FEDERATED_TOKEN_FILE": write(t, "token", testJWT("api://AzureADTokenExchange"))}),
		"CircleCI's, ours": newTest(t, Config{}, map[string]string{"CIRCLECI": "true", "CIRCLE_OIDC_TOKEN_V2": jwt}),
	} {
		for range 2 { // the second of an exchange that is made again
			if got, err := get(t, f); err != nil || strings.Count(got, ".") != 2 || strings.ContainsAny(got, "\n ") {
				t.Errorf("%s: %q, %v", what, got, err)
			}
		}
	}
}

// What was made for somebody else, and what is no ID token, goes nowhere.
func TestTokensThatAreNotSent(t *testing.T) {
	for what, test := range map[string]struct {
		f    *finder
		says string
	}{
		"EKS's own":     {newTest(t, Config{}, map[string]string{"AWS_WEB_IDENTITY_TOKEN_FILE": write(t, "token", testJWT("sts.amazonaws.com"))}), `for the audience ["sts.amazonaws.com"], not "sts.example.com"`},
		"AKS's own":     {newTest(t, Config{}, map[string]string{"AZURE_FEDERATED_TOKEN_FILE": write(t, "token", testJWT("api://AzureADTokenExchange"))}), "was made for others is not sent"},
		"CircleCI's":    {newTest(t, Config{}, map[string]string{"CIRCLECI": "true", "CIRCLE_OIDC_TOKEN_V2": testJWT("an-organization")}), "the program circleci is not on the PATH"},
		"a password":    {newTest(t, Config{File: write(t, "f", "hunter2")}, nil), "7 bytes that are no ID token"},
		"nothing":       {newTest(t, Config{File: write(t, "f", "")}, nil), "0 bytes that are no ID token"},
		"a key":         {newTest(t, Config{Command: "echo ghs_123456.x"}, nil), "no ID token"},
		"a large file":  {newTest(t, Config{File: write(t, "f", strings.Repeat("a", 20<<10))}, nil), "more than 16384 bytes"},
		"a large print": {newTest(t, Config{Command: "yes | head -c 100000"}, nil), "more than 16384 bytes"},
		"a failure":     {newTest(t, Config{Command: "echo denied: eyJhbGciOiJub25lIn0.e30.x >&2; exit 4"}, nil), "running sh: exit status 4: denied: [a token]"},
		"a blank in it": {newTest(t, Config{Name: "stdin", Stdin: strings.NewReader("eyJh.eyJh.eyJh eyJh")}, nil), "no ID token"},
	} {
		t.Run(what, func(t *testing.T) {
			_, err := get(t, test.f)
			mustSay(t, err, test.says)
		})
	}
}

func TestACommandIsNotWaitedForLongerThanItsCaller(t *testing.T) {
	s, err := newTest(t, Config{Command: "sleep 3600"}, nil).find()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.IDToken(ctx); err == nil {
		t.Error("it returned a token")
	}
}
