package forward

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/octo-sts/appliance/sts/audit"
)

const catalogFile = "../../../packaging/octo-sts.catalog"

var messageIDs = []string{MessageIntent, MessageOutcome, MessageDenied, MessageRevocation, MessagePolicyCheck, MessageTrustChange, MessageAdmin, MessageOther, MessageCheckpoint}

// readCatalog returns each explanation by its MESSAGE_ID.
func readCatalog(t testing.TB) (ids []string, texts map[string]string) {
	t.Helper()
	content, err := os.ReadFile(catalogFile)
	if err != nil {
		t.Fatal(err)
	}
	texts = map[string]string{}
	for _, part := range strings.Split(string(content), "\n-- ")[1:] {
		id, text, _ := strings.Cut(part, "\n")
		ids, texts[id] = append(ids, id), text
	}
	return ids, texts
}

// There is one explanation for each MESSAGE_ID, and it names no field that the journal shows raw and somebody outside fills.
func TestCatalog(t *testing.T) {
	ids, texts := readCatalog(t)
	if !slices.Equal(ids, messageIDs) {
		t.Errorf("the catalogue explains\n%v\nand there are\n%v", ids, messageIDs)
	}
	safe := []string{"OCTO_STS_SCOPE", "OCTO_STS_IDENTITY", "OCTO_STS_ISSUER", "OCTO_STS_DECISION", "OCTO_STS_REQUEST_ID", "OCTO_STS_INDEX"}
	for id, text := range texts {
		for _, header := range []string{"Subject: ", "\nDefined-By: octo-sts\n", "\nSupport: https://", "\nDocumentation: https://"} {
			if !strings.Contains(text, header) {
				t.Errorf("%s has no %q", id, header)
			}
		}
		for _, field := range regexp.MustCompile(`@([A-Z_]*)@`).FindAllStringSubmatch(text, -1) {
			if !slices.Contains(safe, field[1]) {
				t.Errorf("%s prints %s", id, field[1])
			}
		}
	}
}

// journalctl takes the catalogue, and explains a real entry by it.
func TestCatalogExplains(t *testing.T) {
	root := t.TempDir()
	source := filepath.Join(root, "usr/lib/systemd/catalog")
	if err := os.MkdirAll(source, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(root, "var/lib/systemd/catalog"), 0o755); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(catalogFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(source, "octo-sts.catalog"), content, 0o644); err != nil {
		t.Fatal(err)
	}
	// Errors in a catalogue are on standard error, with status 0.
	if out, err := exec.CommandContext(t.Context(), "journalctl", "--update-catalog", "--root="+root).CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("journalctl --update-catalog: %v: %s", err, out)
	}

	d, m := newJournald(t), newMachine(t)
	d.tell(t, "listen")
	d.tell(t, "start")
	j, err := NewJournal(context.Background(), JournalConfig{Log: m.log, Cursors: m.cursors, Socket: d.socket()})
	if err != nil {
		t.Fatal(err)
	}
	running(t, j.Run)
	m.append(t, audit.Entry{Kind: audit.Denied, Decision: audit.DecisionDenied, Scope: "my-org/my-repo", Identity: "deploy",
		Issuer: "https://i.example", Subject: hostile, RequestID: "r-1", Reason: "the claim \x1b[2J does not match"})
	j.Checkpoint([]byte("sts.example.com/audit\n1\nAAAA\n\n— sts.example.com/audit AAAA\n"))
	eventually(t, "both entries", func() bool { return len(d.entries(t)) == 2 })

	// A copy, for where user namespaces separate this journalctl from the journal.
	if err := os.CopyFS(filepath.Join(root, "journal"), os.DirFS(d.root+"/run/log/journal")); err != nil {
		t.Fatal(err)
	}
	script := `mount --bind "$1/var/lib/systemd/catalog" /var/lib/systemd/catalog && exec journalctl --catalog --no-pager --directory="$1/journal" --identifier=octo-stsd`
	wrapper := []string{"--mount", "--propagation", "private"}
	if os.Geteuid() != 0 {
		wrapper = append(wrapper, "--map-root-user")
	}
	out, err := exec.CommandContext(t.Context(), "unshare", append(wrapper, "sh", "-ec", script, "sh", root)...).CombinedOutput()
	if err != nil {
		t.Fatalf("journalctl --catalog: %v: %s", err, out)
	}
	for _, want := range []string{
		" Subject: Audit: request for a token for my-org/my-repo denied\n",
		" Defined-By: octo-sts\n",
		`Somebody with a valid ID token of https://i.example asked for a token for`,
		" Subject: Audit: the signer has signed a checkpoint of the log\n",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("there is no %q in\n%s", want, out)
		}
	}
	if strings.ContainsAny(string(out), "\x1b\r\x07") {
		t.Errorf("journalctl prints what a terminal obeys: %q", out)
	}
}
