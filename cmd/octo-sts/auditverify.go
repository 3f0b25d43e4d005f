package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/term"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/audit/checkpoint"
)

func newAuditVerifyCommand() *cobra.Command {
	var keys, checkpoints []string
	var output string
	c := &cobra.Command{
		Use:   "verify [DIR [ARCHIVE...]]",
		Short: "Verify the whole audit log",
		Long: `Verify the whole audit log against its signed checkpoints. It needs no daemon and
no HSM: only the directory and the public key.

DIR is the log's directory, by default /var/log/octo-sts/audit. Segments that were
moved elsewhere count where their directories are named as well. Where they are
not, the hashes in DIR/tile stand for the oldest segments, and the report says
which entries were not seen; any other segment that is missing is a no.

The checkpoint in DIR is compared, and each that --checkpoint names: one that was
kept elsewhere also shows that the log was not cut or rolled back. Give --key
once for each HSM that may have signed. Without it no signature is checked, and
whoever can write the log's directory can have made it all up.

Exit status: 0 the log is what was signed, 1 it is not, 2 wrong usage, or a log
that cannot be read.`,
		Example: `  octo-sts audit verify --key /etc/octo-sts/audit.vkey
  octo-sts audit verify --key hsm1.vkey --key hsm2.vkey --checkpoint kept.checkpoint /var/log/octo-sts/audit /mnt/archive
  ssh loghost cat octo-sts.checkpoint | octo-sts audit verify --key audit.vkey --checkpoint -`,
		RunE: func(cmd *cobra.Command, args []string) error {
			config := audit.VerifyConfig{Directories: auditDirectories(args)}
			var err error
			if config.Keys, err = readKeys(keys); err != nil {
				return err
			}
			if config.Retained, err = readCheckpoints(checkpoints, cmd.InOrStdin()); err != nil {
				return err
			}
			if output != "text" && output != "json" {
				return fmt.Errorf("--output %q: want text or json", output)
			}
			bar := newProgressBar(os.Stderr)
			config.Progress = bar.show
			report, err := audit.Verify(cmd.Context(), config)
			bar.clear()
			if err != nil {
				return err
			}
			if output == "json" {
				encoder := json.NewEncoder(cmd.OutOrStdout())
				encoder.SetEscapeHTML(false)
				err = encoder.Encode(report)
			} else {
				_, err = io.WriteString(cmd.OutOrStdout(), reportText(report))
			}
			if err == nil && !report.OK {
				err = errNo
			}
			return err
		},
	}
	flags := c.Flags()
	flags.StringArrayVar(&keys, "key", nil, "verifier key (`VKEY`, or a file with one a line) of an HSM that signs; may be repeated")
	flags.StringArrayVar(&checkpoints, "checkpoint", nil, "`FILE` with a checkpoint that was kept elsewhere, - for standard input; may be repeated")
	flags.StringVar(&output, "output", "text", "text or json")
	return c
}

// auditDirectories returns the directories that were given, or the usual one.
func auditDirectories(args []string) []string {
	if len(args) == 0 {
		return []string{defaultAuditDirectory}
	}
	return args
}

// readKeys reads verifier keys, each given as such or as a file of them.
func readKeys(given []string) ([]note.Verifier, error) {
	var keys []note.Verifier
	for _, g := range given {
		lines := []string{g}
		if _, err := checkpoint.ParseKey(g); err != nil {
			data, err := readBounded(g)
			if err == nil {
				lines = strings.Split(string(data), "\n")
			} else if !strings.Contains(g, "+") {
				return nil, fmt.Errorf("--key: want a verifier key, NAME+ID+KEY, or a file with such: %w", err)
			}
		}
		before := len(keys)
		for _, line := range lines {
			if line = strings.TrimSpace(line); line == "" {
				continue
			}
			key, err := checkpoint.ParseKey(line)
			if err != nil {
				return nil, fmt.Errorf("--key %.80s: %w", g, err)
			}
			keys = append(keys, key)
		}
		if len(keys) == before {
			return nil, fmt.Errorf("--key %s: no key is in it", g)
		}
	}
	return keys, nil
}

// readCheckpoints reads signed checkpoints, one a file.
func readCheckpoints(given []string, stdin io.Reader) ([]audit.RetainedCheckpoint, error) {
	var all []audit.RetainedCheckpoint
	for _, name := range given {
		var signed []byte
		var err error
		if name == "-" {
			name = "standard input"
			signed, err = io.ReadAll(io.LimitReader(stdin, maxInput))
		} else {
			signed, err = readBounded(name)
		}
		if err != nil {
			return nil, fmt.Errorf("--checkpoint: %w", err)
		}
		all = append(all, audit.RetainedCheckpoint{Name: name, Signed: signed})
	}
	return all, nil
}

// maxInput bounds keys, checkpoints, proofs and entries that are read, in bytes.
const maxInput = 1 << 20

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxInput))
}

// reportText is a report for a person: yes or no first, then why, then what was and was not looked at.
func reportText(r *audit.Report) string {
	var b strings.Builder
	name := r.Origin
	if name == "" {
		name = "the log"
	}
	switch {
	case !r.OK:
		fmt.Fprintf(&b, "no: %s is not as it should be\n", printable(name))
	case !r.SignaturesChecked:
		fmt.Fprintf(&b, "yes, but no signature was checked: nothing is wrong with %s in itself\n", printable(name))
	default:
		fmt.Fprintf(&b, "yes: nothing is wrong with %s\n", printable(name))
	}
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "  %s: %s\n", f.Kind, printable(f.String()))
	}
	segments := "segments"
	if r.Segments == 1 {
		segments = "segment"
	}
	fmt.Fprintf(&b, "entries:      %d, in %d %s\n", r.Entries, r.Segments, segments)
	if r.Covered > 0 {
		fmt.Fprintf(&b, "covered:      the first %d agree with a checkpoint\n", r.Covered)
	} else {
		b.WriteString("covered:      none: no checkpoint vouches for an entry\n")
	}
	if r.Uncovered > 0 {
		fmt.Fprintf(&b, "not covered:  the last %d, so far: nothing shows whether these were changed\n", r.Uncovered)
	}
	for _, u := range r.Unseen {
		fmt.Fprintf(&b, "not seen:     entries %d to %d are in no segment here; the hashes in the tiles stood for them\n", u.From, u.To)
	}
	if r.Unfinished != "" {
		fmt.Fprintf(&b, "unfinished:   %s is not (yet) a whole line, and was passed over\n", printable(r.Unfinished))
	}
	for _, c := range r.Checkpoints {
		size := ""
		if c.Origin != "" { // it could be read
			size = fmt.Sprintf("size %d: ", c.Size)
		}
		fmt.Fprintf(&b, "checkpoint:   %s%s (%s%s)\n", size, c.Result, printable(c.Name), signedBy(c.Signers))
	}
	if !r.SignaturesChecked {
		b.WriteString(`signatures:   NOT CHECKED: whoever can write the directory can have made it all up. Give --key:
              "octo-sts-signer key list" prints it where the HSM is; keep it elsewhere
`)
	}
	return b.String()
}

func signedBy(signers []string) string {
	if len(signers) == 0 {
		return ""
	}
	return ", signed by " + printable(strings.Join(signers, " and "))
}

// progressBar shows on a terminal how far a long command is.
type progressBar struct {
	out   *os.File // nil: no terminal
	begun time.Time
	shown time.Time
}

func newProgressBar(out *os.File) *progressBar {
	if !term.IsTerminal(int(out.Fd())) {
		out = nil
	}
	return &progressBar{out: out, begun: time.Now()}
}

// show draws the bar, at most ten times a second and not within the first half of a second.
func (b *progressBar) show(done, total int64) {
	now := time.Now()
	if b.out == nil || total <= 0 || now.Sub(b.begun) < 500*time.Millisecond || now.Sub(b.shown) < 100*time.Millisecond {
		return
	}
	b.shown = now
	const width = 40
	fraction := min(max(float64(done)/float64(total), 0), 1)
	filled := int(width * fraction)
	fmt.Fprintf(b.out, "\r[%s%s] %3d%%  %d of %d MB", strings.Repeat("=", filled), strings.Repeat(" ", width-filled), int(100*fraction), done/1e6, total/1e6)
}

// clear takes the bar away.
func (b *progressBar) clear() {
	if !b.shown.IsZero() {
		fmt.Fprint(b.out, "\r\x1b[K")
	}
}
