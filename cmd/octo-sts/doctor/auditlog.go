package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/octo-sts/appliance/sts/audit"
)

// auditLimit bounds the reading of the log: a whole one may be of many gigabytes.
const auditLimit = 30 * time.Second

// unsignedFor is how much older than the log a checkpoint may be while no daemon runs to say so.
const unsignedFor = 5 * time.Minute

// checkAuditLog verifies the newest segment against the checkpoint. Only where that does not do, it reads everything.
func checkAuditLog(ctx context.Context, m *machine) []Finding {
	directory := m.path(m.auditDirectory())
	files, err := os.ReadDir(directory)
	switch {
	case isHidden(err):
		return []Finding{{Severity: Unseen, What: "the audit log cannot be read by this user", Command: "sudo octo-sts doctor"}}
	case err != nil:
		return nil // the check of directories misses it
	}
	newest := time.Time{}
	for _, f := range files {
		if info, err := f.Info(); err == nil && filepath.Ext(f.Name()) == ".jsonl" && info.Size() > 0 {
			newest = info.ModTime()
		}
	}
	if newest.IsZero() {
		return nil // nothing was ever logged
	}
	verify := "octo-sts audit verify --key VERIFIER-KEY " + m.auditDirectory()
	signed, err := os.Stat(filepath.Join(directory, "checkpoint"))
	if errors.Is(err, fs.ErrNotExist) && time.Since(newest) < unsignedFor {
		return nil // the first one is on its way
	}
	if m.ready == nil && (err != nil || newest.Sub(signed.ModTime()) > unsignedFor) {
		return []Finding{{
			Severity: Warning, What: "the newest entries of the audit log are in no signed checkpoint", Why: "they could be changed unnoticed",
			Command: "systemctl start " + target, Advice: "the signer signs the log while the daemon runs",
		}}
	}
	ctx, cancel := context.WithTimeout(ctx, auditLimit)
	defer cancel()
	config := audit.VerifyConfig{Directories: []string{directory}, Newest: true}
	report, err := audit.Verify(ctx, config)
	if err == nil && !report.OK {
		config.Newest = false
		report, err = audit.Verify(ctx, config)
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return []Finding{{Severity: Unseen, What: "the audit log is too long to be read as a whole here", Command: verify}}
	case err != nil:
		return []Finding{{Severity: Problem, What: shorten(err.Error()), Why: "the audit log cannot be read", Command: "chown -R " + daemonUser + ": " + m.auditDirectory()}}
	case !report.OK:
		return []Finding{{
			Severity: Problem, What: fmt.Sprintf("the audit log is not what was signed: %s", shorten(report.Findings[0].String())), Why: "somebody changed it, or its disk did",
			Advice: "keep it as it is (cp -a), and look at all of it: " + verify + "; what to do then: file:///usr/share/doc/octo-sts/audit.md, \"What a no means\"",
		}}
	}
	return nil
}
