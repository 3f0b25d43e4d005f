package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/audit/checkpoint"
)

const (
	// moreExchanges fill the first tile of the log's tree, so that verifying can name the very entry that was changed.
	moreExchanges = 150
	// provenEntry is of one of them.
	provenEntry = 100
)

func (t *tour) vkey() string { return filepath.Join(t.dir, "audit.vkey") }

// verifyLog shows the signed checkpoint, and what it is good for.
func (t *tour) verifyLog(ctx context.Context) error {
	step(fmt.Sprintf("%d jobs later", moreExchanges))
	idToken, err := os.ReadFile(t.idToken("job"))
	if err != nil {
		return err
	}
	for range moreExchanges {
		x, err := t.service.Exchange(ctx, organization+"/"+repository, identity, string(idToken))
		if err != nil {
			return err
		}
		if x.Token == "" {
			return fmt.Errorf("a job was refused: %s", x.Message)
		}
	}
	signed, err := t.awaitCheckpoint(ctx)
	if err != nil {
		return err
	}
	say("Within a second of each entry the HSM signs how long the audit log is, and a hash of all of it. It signs no log that was rewritten.")
	fmt.Printf("    $ cat %s\n", filepath.Join(t.service.AuditDir, "checkpoint"))
	indent(signed)
	if err := os.WriteFile(t.vkey(), []byte(t.service.Signer.VerifierKey()+"\n"), 0o600); err != nil {
		return err
	}
	step("Who has the public key can verify the log, without the daemon, the HSM or a network")
	out, err := t.command(ctx, "octo-sts", "audit", "verify", "--key", t.vkey(), t.service.AuditDir)
	indent(out)
	return err
}

// awaitCheckpoint waits until all entries are covered.
func (t *tour) awaitCheckpoint(ctx context.Context) (signed string, err error) {
	ctx, cancel := context.WithTimeout(ctx, checkWait)
	defer cancel()
	for {
		entries := uint64(0)
		for _, err := range audit.Read(t.service.AuditDir) {
			if err != nil {
				return "", err
			}
			entries++
		}
		note, err := os.ReadFile(filepath.Join(t.service.AuditDir, "checkpoint"))
		if err == nil {
			c, err := checkpoint.Parse(note)
			if err != nil || c.Size >= entries {
				return string(note), err
			}
		} else if !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
		select {
		case <-ctx.Done():
			return "", errors.New("no checkpoint of all entries came")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// rewriteLog shows what comes of changing what was signed.
func (t *tour) rewriteLog(ctx context.Context) error {
	step("Somebody with root changes one byte of an entry, here in a copy of the log. Verifying names the entry")
	rewritten := filepath.Join(t.dir, "rewritten")
	if err := os.CopyFS(rewritten, os.DirFS(t.service.AuditDir)); err != nil {
		return err
	}
	segment := filepath.Join(rewritten, filepath.Base(t.firstSegment()))
	text, err := os.ReadFile(segment)
	if err != nil {
		return err
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	was, is := []byte(`"scope":"acme/widgets"`), []byte(`"scope":"acme/gidgets"`)
	lines[provenEntry] = bytes.Replace(lines[provenEntry], was, is, 1)
	if err := os.WriteFile(segment, bytes.Join(lines, nil), 0o600); err != nil {
		return err
	}
	say("%s becomes %s", was, is)
	out, err := t.command(ctx, "octo-sts", "audit", "verify", "--key", t.vkey(), rewritten)
	indent(out)
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		return fmt.Errorf("audit verify should say no: %w", err)
	}
	return nil
}

// proveEntry shows a proof of one entry.
func (t *tour) proveEntry(ctx context.Context) error {
	step("One entry can be proven to somebody who has the key, and is shown that entry and no other")
	entry, proof := filepath.Join(t.dir, "entry.json"), filepath.Join(t.dir, "entry.tlog-proof")
	text, err := os.ReadFile(t.firstSegment())
	if err != nil {
		return err
	}
	fmt.Printf("    $ sed -n %dp %s > %s\n", provenEntry+1, t.firstSegment(), entry)
	if err := os.WriteFile(entry, bytes.SplitAfter(text, []byte("\n"))[provenEntry], 0o600); err != nil {
		return err
	}
	out, err := t.command(ctx, "octo-sts", "audit", "prove", "--index", fmt.Sprint(provenEntry), "--out", proof, t.service.AuditDir)
	indent(out)
	if err != nil {
		return err
	}
	out, err = t.command(ctx, "octo-sts", "audit", "check-proof", "--key", t.vkey(), proof, entry)
	indent(out)
	return err
}

// firstSegment is the file with the log's first entries: the daemon was started once.
func (t *tour) firstSegment() string {
	return filepath.Join(t.service.AuditDir, fmt.Sprintf("%020d.jsonl", 0))
}
