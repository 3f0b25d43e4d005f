package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/audit/checkpoint"
)

// auditor is somebody who has the log's public key, keeps checkpoints elsewhere, and runs the real octo-sts audit
// verify, whatever happens to the daemon meanwhile. Any goroutine may call its methods.
type auditor struct {
	t       *testing.T
	program string
	log     string // directory
	kept    string // directory of audit.vkey and the checkpoints

	mu    sync.Mutex // guards the rest
	files []string   // kept checkpoints, oldest first
	size  uint64     // of the newest
	runs  int        // of audit verify
}

func (r *rig) newAuditor() *auditor {
	r.t.Helper()
	programs, err := rigPrograms()
	if err != nil {
		r.t.Fatal(err)
	}
	a := &auditor{t: r.t, program: filepath.Join(programs, "octo-sts"), log: r.AuditDir, kept: r.t.TempDir()}
	if err := os.WriteFile(a.vkey(), []byte(r.Signer.VerifierKey()+"\n"), 0o600); err != nil {
		r.t.Fatal(err)
	}
	return a
}

func (a *auditor) vkey() string { return filepath.Join(a.kept, "audit.vkey") }

// keep keeps a copy of the checkpoint that is in the directory, where it is a newer one.
func (a *auditor) keep() {
	note, err := os.ReadFile(filepath.Join(a.log, "checkpoint"))
	if os.IsNotExist(err) {
		return // none was signed yet
	}
	var c checkpoint.Checkpoint
	if err == nil {
		c, err = checkpoint.Parse(note)
	}
	if err != nil {
		a.t.Errorf("the checkpoint to keep: %v", err)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.Size <= a.size {
		return
	}
	file := filepath.Join(a.kept, fmt.Sprintf("checkpoint-%d", c.Size))
	if err := os.WriteFile(file, note, 0o600); err != nil {
		a.t.Error(err)
		return
	}
	a.files, a.size = append(a.files, file), c.Size
}

// verify must say yes, with the oldest and the newest checkpoint that were kept. Before the first is signed, the answer
// would be no: nothing vouches for the log.
func (a *auditor) verify(when string) {
	a.t.Helper()
	a.keep()
	a.mu.Lock()
	files, size := a.files[:len(a.files):len(a.files)], a.size
	if size > 0 {
		a.runs++
	}
	a.mu.Unlock()
	if size == 0 {
		return
	}
	if n := len(files); n > 2 {
		files = []string{files[0], files[n-1]}
	}
	a.verifyWith(when, files, size)
}

// verifyAll is verify with every checkpoint that was kept, and how many those are.
func (a *auditor) verifyAll(when string) int {
	a.t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.runs++
	a.verifyWith(when, a.files, a.size)
	return len(a.files)
}

func (a *auditor) verifyWith(when string, files []string, size uint64) {
	a.t.Helper()
	report, text, err := a.run(files)
	if err != nil || !report.OK || report.Covered < size || len(report.Unseen) > 0 {
		a.t.Errorf("%s: octo-sts audit verify, with a checkpoint of size %d kept: %v\n%s", when, size, err, text)
	}
}

// verifyFinds must say no, and that there is a line that is no entry.
func (a *auditor) verifyFinds(when string) {
	a.t.Helper()
	report, text, err := a.run(nil)
	if exitStatus(err) != 1 || len(report.Findings) != 1 || report.Findings[0].Kind != audit.Malformed {
		a.t.Errorf("%s: octo-sts audit verify: %v\n%s", when, err, text)
	}
}

// run runs octo-sts audit verify with checkpoints that were kept. text is all that it said.
func (a *auditor) run(files []string) (report audit.Report, text string, err error) {
	args := []string{"audit", "verify", "--output", "json"}
	if len(files) > 0 {
		// Before the first checkpoint there is nothing that a key could be asked about.
		args = append(args, "--key", a.vkey())
	}
	for _, f := range files {
		args = append(args, "--checkpoint", f)
	}
	verify := exec.Command(a.program, append(args, a.log)...)
	var out, stderr bytes.Buffer
	verify.Stdout, verify.Stderr = &out, &stderr
	err = verify.Run()
	if out.Len() > 0 {
		err = errors.Join(err, json.Unmarshal(out.Bytes(), &report))
	}
	return report, out.String() + stderr.String(), err
}

// watch verifies again and again until stopped.
func (a *auditor) watch() (stop func()) {
	ended := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		for {
			select {
			case <-ended:
				return
			case <-time.After(time.Second):
			}
			a.keep()
			a.verify("beside everything else")
		}
	})
	return sync.OnceFunc(func() {
		close(ended)
		watching.Wait()
	})
}

// noFalseAlarm: the daemon never said that its log is not the one that was signed.
func (r *rig) noFalseAlarm() {
	r.t.Helper()
	for line := range strings.Lines(r.Logs()) {
		if strings.Contains(line, "IT IS NOT THE LOG THAT WAS SIGNED") {
			r.t.Errorf("a false alarm: %s", line)
		}
	}
}
