package audit

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/octo-sts/appliance/sts/audit/checkpoint"
)

// maxAttempts bounds how often Verify reads a log that changes while it does not verify.
const maxAttempts = 4

// Verify reads a whole log, computes its RFC 6962 tree and compares that with the checkpoint in its directory and with
// those that were retained elsewhere. It needs no daemon, changes nothing, and may run beside the daemon that appends, and
// beside whoever moves segments away: a log that does not verify is read again if it changed meanwhile.
//
// What is wrong with the log is in the report. An error means that it could not be read, or that c makes no sense.
func Verify(ctx context.Context, c VerifyConfig) (*Report, error) {
	r, err := verify(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("verifying the audit log: %w", err)
	}
	return r, nil
}

func verify(ctx context.Context, c VerifyConfig) (*Report, error) {
	if len(c.Directories) == 0 {
		return nil, errors.New("no directory is given")
	}
	for _, k := range c.Keys {
		if k.Name() != c.Keys[0].Name() {
			return nil, fmt.Errorf("the keys are of different logs, %s and %s", c.Keys[0].Name(), k.Name())
		}
	}
	for _, dir := range c.Directories {
		if _, err := os.ReadDir(dir); err != nil {
			return nil, err
		}
	}
	for attempt := 1; ; attempt++ {
		v := &verification{config: c, tiles: &tileStore{dir: c.Directories[0]}, report: &Report{
			Checkpoints: []CheckpointResult{}, Findings: []Finding{}, SignaturesChecked: len(c.Keys) > 0,
		}}
		before := v.state()
		if err := v.run(ctx); err != nil {
			return nil, err
		}
		v.report.OK = len(v.report.Findings) == 0
		if v.report.OK || attempt == maxAttempts || v.state() == before {
			return v.report, nil
		}
	}
}

// verification is one reading of a log.
type verification struct {
	config   VerifyConfig
	report   *Report
	anchors  []anchor // the usable checkpoints, by size
	compared int      // how many of them the tree has reached
	segments []segmentFile
	tiles    *tileStore
	total    int64 // bytes in them
	read     int64

	tree   frontier      // of the entries so far
	levels [][]tlog.Hash // of each level of tiles, the hashes since its last full tile
	tiled  uint64        // so many leaves, from the first on, were compared with tiles
	// leafFault is the first leaf that differs from its tile, tileFault the first tile of another level, or partial tile, that
	// differs. nil: none so far.
	leafFault, tileFault *tileFault
	fault                *fault // the first thing that is wrong with the segments as such; nil: nothing so far
	stopped              bool   // what follows the fault could not be read
}

// anchor is a checkpoint that the log has to agree with.
type anchor struct {
	checkpoint.Checkpoint
	result int // its place in the report
}

// fault is something wrong with entries. The first that is wrong is from or a later one, and to or an earlier one.
type fault struct {
	kind     FindingKind
	from, to uint64
	segment  segmentFile // in which it shows
	text     string
}

// tileFault is a tile that differs from the entries.
type tileFault struct {
	path  string
	index uint64 // of the first entry that it differs in, or that lies under the hash that it differs in
}

// state changes when the log does: when a checkpoint is signed, entries come, or segments come or go.
func (v *verification) state() string {
	var state bytes.Buffer
	signed, _ := readBounded(v.checkpointPath(), checkpoint.MaxNote) // an error here is one in run, too
	state.Write(signed)
	for _, dir := range v.config.Directories {
		files, _ := os.ReadDir(dir)
		for _, f := range files {
			if info, err := f.Info(); err == nil && strings.HasSuffix(f.Name(), segmentSuffix) {
				fmt.Fprintln(&state, dir, f.Name(), info.Size(), info.ModTime())
			}
		}
	}
	return state.String()
}

func (v *verification) checkpointPath() string {
	return filepath.Join(v.config.Directories[0], checkpointName)
}

// run reads the checkpoint before anything else: what it covers was in the log before it was signed.
func (v *verification) run(ctx context.Context) error {
	if err := v.readCheckpoints(); err != nil {
		return err
	}
	ok, err := v.listSegments()
	if err == nil && ok {
		err = v.follow(ctx)
	}
	if err == nil && ok {
		err = v.conclude(ctx)
	}
	return err
}

// readCheckpoints finds out which checkpoints can be relied on.
func (v *verification) readCheckpoints() error {
	all := slices.Clone(v.config.Retained)
	signed, err := readBounded(v.checkpointPath(), checkpoint.MaxNote)
	if err == nil {
		all = append([]RetainedCheckpoint{{v.checkpointPath(), signed}}, all...)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(all) == 0 {
		v.find(Finding{Kind: BadCheckpoint, File: v.checkpointPath(), Text: "there is no checkpoint, so nothing in this log is signed"})
	}
	if len(v.config.Keys) > 0 {
		v.report.Origin = v.config.Keys[0].Name()
	}
	for _, c := range all {
		v.report.Checkpoints = append(v.report.Checkpoints, v.readCheckpoint(c))
	}
	slices.SortStableFunc(v.report.Checkpoints, func(a, b CheckpointResult) int { return cmp.Compare(a.Size, b.Size) })
	for i, r := range v.report.Checkpoints {
		if r.Result == resultUnusable {
			continue
		}
		root, err := tlog.ParseHash(r.Root)
		if err != nil {
			return err
		}
		v.anchors = append(v.anchors, anchor{checkpoint.Checkpoint{Origin: r.Origin, Size: r.Size, Root: root}, i})
	}
	return nil
}

// readCheckpoint checks one checkpoint by itself: its form, its signatures, its origin.
func (v *verification) readCheckpoint(given RetainedCheckpoint) CheckpointResult {
	result := CheckpointResult{Name: given.Name, Result: resultUnusable}
	c, err := checkpoint.Parse(given.Signed)
	if err == nil {
		result.Origin, result.Size, result.Root = c.Origin, c.Size, c.Root.String()
		if v.report.Origin == "" {
			v.report.Origin = c.Origin
		}
		if c.Origin != v.report.Origin {
			err = fmt.Errorf("it is a checkpoint of %s, and this log is %s", c.Origin, v.report.Origin)
		} else if len(v.config.Keys) > 0 {
			_, err = checkpoint.Open(given.Signed, v.config.Keys...)
		}
	}
	if err != nil {
		v.find(Finding{Kind: BadCheckpoint, File: given.Name, Text: err.Error()})
		return result
	}
	for _, k := range v.config.Keys {
		if _, err := checkpoint.Open(given.Signed, k); err == nil {
			result.Signers = append(result.Signers, fmt.Sprintf("%s+%08x", k.Name(), k.KeyHash()))
		}
	}
	result.Result = resultNotCompared
	return result
}

// listSegments finds the segments of all directories. ok is false where a file among them cannot be one.
func (v *verification) listSegments() (ok bool, err error) {
	v.segments, err = segmentsOf(v.config.Directories)
	if pathError := (*fs.PathError)(nil); errors.As(err, &pathError) {
		return false, err
	} else if err != nil {
		v.find(Finding{Kind: BadFile, Text: err.Error()})
		return false, nil
	}
	for v.config.Newest && len(v.segments) > 1 && slices.ContainsFunc(v.segments[1:], isFilled) {
		v.segments = v.segments[1:]
	}
	for _, s := range v.segments {
		if info, err := os.Stat(s.path); err == nil { // where it was moved away, follow finds it
			v.total += min(info.Size(), math.MaxInt64-v.total) // files with holes can have any size
		}
	}
	return true, nil
}

// isFilled tells whether a segment has anything in it: a daemon that starts makes one that stays empty until there is an entry.
func isFilled(s segmentFile) bool {
	info, err := os.Stat(s.path)
	return err == nil && info.Size() > 0
}

func (v *verification) find(f Finding) { v.report.Findings = append(v.report.Findings, f) }
