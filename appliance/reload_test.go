package appliance

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The manual lists the keys that need a restart, and each of them is one.
func TestKeysThatNeedARestartAreDocumented(t *testing.T) {
	manual, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(manual), "## Reloading\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var documented []string
	for _, found := range regexp.MustCompile("(?m)^- `(.*)`$").FindAllStringSubmatch(section, -1) {
		documented = append(documented, found[1])
	}
	if diff := cmp.Diff(needRestart(), documented); diff != "" {
		t.Errorf("docs/configuration.md does not list the keys that need a restart (-code +manual):\n%s", diff)
	}
	for _, key := range needRestart() {
		if !fieldOf(&Config{}, key).CanSet() {
			t.Errorf("%s is no key", key)
		}
	}
}

// Only what needs a restart is kept, and named by the key that changed.
func TestKeepWhatNeedsRestart(t *testing.T) {
	age := time.Minute
	running := &Config{Domain: "sts.example.com", Listen: Listen{HTTPS: ":443"}, Audit: Audit{Directory: "/a"},
		GitHub: GitHub{PolicyMaxAge: &age, Apps: []App{{ID: 1}}}, Webhook: Webhook{Secrets: []string{"one"}}}
	next := &Config{Domain: "sts.example.com", Listen: Listen{HTTPS: ":444", Proxies: []string{"unix"}}, Audit: Audit{Directory: "/b"},
		GitHub: GitHub{PolicyMaxAge: &age, Apps: []App{{ID: 2}}}, Webhook: Webhook{Secrets: []string{"two"}}, Signer: Signer{Socket: "/s"}}
	waiting := keepWhatNeedsRestart(running, next)
	if want := []string{"listen.https", "audit.directory", "signer.socket"}; !slices.Equal(waiting, want) {
		t.Errorf("waiting for a restart: %v, want %v", waiting, want)
	}
	if next.Listen.HTTPS != ":443" || next.Audit.Directory != "/a" || next.Signer.Socket != "" {
		t.Errorf("not kept: %+v", next)
	}
	if next.GitHub.Apps[0].ID != 2 || next.Webhook.Secrets[0] != "two" || next.Listen.Proxies == nil {
		t.Errorf("kept: %+v", next)
	}
	next.Webhook.Secrets = nil
	if waiting := keepWhatNeedsRestart(running, next); !slices.Equal(waiting, []string{"webhook.secrets"}) || next.Webhook.Secrets[0] != "one" {
		t.Errorf("a webhook that goes away: %v, %+v", waiting, next.Webhook)
	}
}

// A file that changes under the reader is read again, and one that is gone is an
// error.
func TestReadSettled(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	if _, err := readSettled(t.Context(), file); err == nil {
		t.Error("a file that is not there was read")
	}
	if err := os.WriteFile(file, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(settleTime/2, func() { _ = os.WriteFile(file, []byte("half and half"), 0o600) })
	if data, err := readSettled(t.Context(), file); err != nil || string(data) != "half and half" {
		t.Errorf("%q, %v", data, err)
	}
}
