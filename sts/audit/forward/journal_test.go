package forward

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"

	"github.com/octo-sts/appliance/sts/audit"
)

func newTestJournal(t testing.TB, m *machine, socket string) *Journal {
	t.Helper()
	logger, _ := recorder()
	j, err := NewJournal(context.Background(), JournalConfig{Log: m.log, Cursors: m.cursors, Socket: socket, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// hostile is text that commands a terminal, looks like fields of the journal's, and is in other scripts.
const hostile = "a\x1b[2J\x1b]0;owned\x07\nPRIORITY=0\nMESSAGE_ID=00\r\u202egnp\u0085\x7f, for \"root\" \\ größe"

// A real journald gives back every field as it was, whatever it holds, and with the line its leaf.
func TestJournalFields(t *testing.T) {
	d, m := newJournald(t), newMachine(t)
	d.tell(t, "listen")
	d.tell(t, "start")
	m.fill(t, 2) // before the first start ever: not copied
	j := newTestJournal(t, m, d.socket())
	granted := audit.Entry{Kind: audit.Outcome, Decision: audit.DecisionGranted, Scope: "my-org/my-repo", Identity: "deploy",
		Issuer: "https://token.actions.githubusercontent.com", Subject: "repo:my-org/my-repo:ref:refs/heads/main", RequestID: "r-1"}
	denied := audit.Entry{Kind: audit.Denied, Decision: audit.DecisionDenied, Scope: hostile, Identity: hostile, Issuer: hostile,
		Subject: hostile, RequestID: hostile, Reason: hostile, UserAgent: strings.Repeat("<&>", 100)}
	failed := audit.Entry{Kind: audit.PolicyCheck, Decision: audit.DecisionFailed, Scope: "my-org", Reason: "no answer"}
	for _, e := range []audit.Entry{granted, denied, failed, {Kind: "later"}} {
		m.append(t, e)
	}
	running(t, j.Run)
	d.awaitIndices(t, 2, 6)

	lines := m.lines(t)
	seen, _ := audit.ParseEntry([]byte(lines[3])) // hostile text as the log has it
	want := []map[string]string{
		{"MESSAGE": "outcome granted: my-org/my-repo deploy, for repo:my-org/my-repo:ref:refs/heads/main of https://token.actions.githubusercontent.com",
			"MESSAGE_ID": MessageOutcome, "PRIORITY": "6", "OCTO_STS_INDEX": "2", "OCTO_STS_KIND": "outcome", "OCTO_STS_DECISION": "granted",
			"OCTO_STS_SCOPE": granted.Scope, "OCTO_STS_IDENTITY": granted.Identity, "OCTO_STS_ISSUER": granted.Issuer,
			"OCTO_STS_SUBJECT": granted.Subject, "OCTO_STS_REQUEST_ID": "r-1", "OCTO_STS_ENTRY": lines[2]},
		{"MESSAGE": describe(seen),
			"MESSAGE_ID": MessageDenied, "PRIORITY": "5", "OCTO_STS_INDEX": "3", "OCTO_STS_KIND": "denied", "OCTO_STS_DECISION": "denied",
			"OCTO_STS_SCOPE": seen.Scope, "OCTO_STS_IDENTITY": seen.Identity, "OCTO_STS_ISSUER": seen.Issuer, "OCTO_STS_SUBJECT": seen.Subject,
			"OCTO_STS_REQUEST_ID": seen.RequestID, "OCTO_STS_REASON": seen.Reason, "OCTO_STS_ENTRY": lines[3]},
		{"MESSAGE": "policy_check failed: my-org: no answer", "MESSAGE_ID": MessagePolicyCheck, "PRIORITY": "4", "OCTO_STS_INDEX": "4",
			"OCTO_STS_KIND": "policy_check", "OCTO_STS_DECISION": "failed", "OCTO_STS_SCOPE": "my-org", "OCTO_STS_REASON": "no answer", "OCTO_STS_ENTRY": lines[4]},
		{"MESSAGE": "later", "MESSAGE_ID": MessageOther, "PRIORITY": "6", "OCTO_STS_INDEX": "5", "OCTO_STS_KIND": "later", "OCTO_STS_ENTRY": lines[5]},
	}
	got := d.entries(t)
	for i := range got {
		maps.DeleteFunc(got[i], func(name, _ string) bool { return strings.HasPrefix(name, "_") })
		want[i]["SYSLOG_IDENTIFIER"] = "octo-stsd"
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// The lines come back from the journal as they are in the segment.
	if out := string(d.ctl(t, "OCTO_STS_INDEX=2", "OCTO_STS_INDEX=3", "--output=cat", "--output-fields=OCTO_STS_ENTRY")); out != lines[2]+"\n"+lines[3]+"\n" {
		t.Errorf("the lines come back as %q", out)
	}
	if seen.Subject != hostile {
		t.Fatalf("the log changed the text: %q", seen.Subject)
	}
	if out := string(d.ctl(t, "--output=cat", "OCTO_STS_INDEX=3")); out != describe(seen)+"\n" || strings.ContainsAny(out, "\x1b\r\x07\x7f\u202e\u0085") {
		t.Errorf("journalctl prints %q", out)
	}
}

// The command of docs/audit.md gives back the newest checkpoint, byte for byte.
func TestJournalCheckpoint(t *testing.T) {
	d, m := newJournald(t), newMachine(t)
	d.tell(t, "listen")
	d.tell(t, "start")
	j := newTestJournal(t, m, d.socket())
	running(t, j.Run)
	const signed = "sts.example.com/audit\n41\nqINS1GRFhWHwdkUeqLEoP4yEMkTBBzxBkGwGQlVlVcs=\n\n— sts.example.com/audit 4ftE6lD+kcyS1pE9HHQhvJNWbmQ=\n"
	j.Checkpoint([]byte(strings.Replace(signed, "41", "40", 1)))
	eventually(t, "the first checkpoint", func() bool { return len(d.entries(t)) == 1 })
	j.Checkpoint([]byte(signed))
	eventually(t, "the second checkpoint", func() bool { return len(d.entries(t)) == 2 })
	document, err := os.ReadFile("../../../docs/audit-copies.md")
	if err != nil {
		t.Fatal(err)
	}
	command := regexp.MustCompile(`(?m)^journalctl (.*CHECKPOINT) \|$`).FindSubmatch(document)
	if command == nil {
		t.Fatal("docs/audit-copies.md has no command for the newest checkpoint")
	}
	args := strings.Fields(strings.Replace(string(command[1]), "_SYSTEMD_UNIT=octo-stsd.service", fmt.Sprint("_PID=", os.Getpid()), 1)) // there are no units here
	if out := d.ctl(t, args...); string(out) != signed {
		t.Errorf("journalctl %s prints %q", args, out)
	}
	if out := d.ctl(t, "--output=cat", "--output-fields=OCTO_STS_ENTRY"); len(out) > 0 {
		t.Errorf("what is no entry comes among the lines: %q", out)
	}
	message := d.entries(t)[1]["MESSAGE"]
	if message != "audit log sts.example.com/audit: checkpoint of 41 entries" {
		t.Errorf("MESSAGE %q", message)
	}
}

// While journald hangs, is killed, or is not there, entries are appended as ever, and are copied afterwards: each once, in
// order. What journald had in its socket when it was killed is still there, because systemd holds the socket.
func TestJournaldFails(t *testing.T) {
	d, m := newJournald(t), newMachine(t)
	j := newTestJournal(t, m, d.socket())
	running(t, j.Run)

	m.fill(t, 5)
	eventually(t, "the status without journald", func() bool { return errors.Is(j.Status().Err, ErrNoJournald) })
	d.tell(t, "listen")
	d.tell(t, "start")
	d.awaitIndices(t, 0, 5)
	if s := j.Status(); s.Err != nil || s.Behind != 0 {
		t.Errorf("with journald: %+v", s)
	}

	d.tell(t, "hang")
	m.fill(t, 300) // more than the socket holds
	if s := j.Status(); s.Behind == 0 {
		t.Error("journald was to hang, but takes entries")
	}
	waited := make(chan struct{})
	go func() {
		defer close(waited)
		for range 20 {
			j.Checkpoint([]byte("does not wait"))
		}
	}()
	select {
	case <-waited:
	case <-time.After(limit):
		t.Fatal("Checkpoint waits for journald")
	}
	d.tell(t, "go on")
	d.awaitIndices(t, 0, 305)

	d.tell(t, "hang")
	m.fill(t, 100)
	d.tell(t, "kill")
	m.fill(t, 100)
	d.tell(t, "start")
	d.awaitIndices(t, 0, 505)
}

// The last checkpoint is signed when the log is closed, and comes when its entries were copied. It is copied nonetheless,
// also where the copy is told to end in the same moment.
func TestJournalLastCheckpoint(t *testing.T) {
	d, m := newJournald(t), newMachine(t)
	d.tell(t, "listen")
	d.tell(t, "start")
	j := newTestJournal(t, m, d.socket())
	stop := running(t, j.Run)
	m.fill(t, 1)
	if err := m.log.Close(); err != nil {
		t.Fatal(err)
	}
	d.awaitIndices(t, 0, 1)
	j.Checkpoint([]byte("o\n1\nAAAA\n"))
	eventually(t, "the checkpoint", func() bool { return len(d.entries(t)) == 2 })
	stop()

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	j.Checkpoint([]byte("o\n1\nBBBB\n"))
	j.Run(ctx)
	eventually(t, "the checkpoint at the end", func() bool { return len(d.entries(t)) == 3 })
}

// However entries come, the place is written once a second: each time it is a sync of its own.
func TestPlaceIsWrittenSeldom(t *testing.T) {
	m := newMachine(t)
	socket := filepath.Join(t.TempDir(), "socket")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() {
		for buf := make([]byte, 64<<10); err == nil; {
			_, err = conn.Read(buf)
		}
	}()
	j := newTestJournal(t, m, socket)
	transaction := func() (id int) {
		if err := m.db.View(func(tx *bbolt.Tx) error { id = tx.ID(); return nil }); err != nil {
			t.Fatal(err)
		}
		return id
	}
	before, began := transaction(), time.Now()
	running(t, j.Run)
	for range 100 {
		m.fill(t, 1)
		eventually(t, "the copy", func() bool { return j.Status().Behind == 0 })
	}
	if writes, seconds := transaction()-before, int(time.Since(began)/saveInterval); writes > seconds+2 {
		t.Errorf("the place was written %d times in %d seconds", writes, seconds)
	}
	eventually(t, "the place on the disk", func() bool {
		next, known, err := m.cursors.load("journal", "journald")
		return err == nil && known && next == m.log.Size()
	})
}

// A restart goes on where the copy was, and not at the end again.
func TestJournalGoesOn(t *testing.T) {
	d, m := newJournald(t), newMachine(t)
	d.tell(t, "listen")
	d.tell(t, "start")
	stop := running(t, newTestJournal(t, m, d.socket()).Run)
	m.fill(t, 10)
	d.awaitIndices(t, 0, 10)
	stop()
	m.fill(t, 10)
	m.shutdown(t)
	m.boot(t)
	m.fill(t, 10)
	running(t, newTestJournal(t, m, d.socket()).Run)
	d.awaitIndices(t, 0, 30)
}

// Entries that were moved away before they were copied are passed over, with an error: the journal is to go on.
func TestJournalPassesOver(t *testing.T) {
	d, m := newJournald(t), newMachine(t)
	newTestJournal(t, m, d.socket()) // there is no journald yet
	m.fill(t, 10)
	m.shutdown(t)
	m.boot(t)
	m.fill(t, 3)
	if err := os.Rename(filepath.Join(m.logDirectory(), "00000000000000000000.jsonl"), filepath.Join(m.dir, "moved")); err != nil {
		t.Fatal(err)
	}
	d.tell(t, "listen")
	d.tell(t, "start")
	logger, logs := recorder()
	j, err := NewJournal(context.Background(), JournalConfig{Log: m.log, Cursors: m.cursors, Socket: d.socket(), Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	running(t, j.Run)
	d.awaitIndices(t, 10, 13)
	if told := logs.FilterMessageSnippet("moved away").All(); len(told) != 1 || !strings.Contains(told[0].ContextMap()["error"].(string), "entries 0 to 9 ") {
		t.Errorf("logged: %+v", told)
	}
}
