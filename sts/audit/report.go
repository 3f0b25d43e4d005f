package audit

import (
	"fmt"

	"golang.org/x/mod/sumdb/note"
)

// VerifyConfig says what to verify, and against what.
type VerifyConfig struct {
	// Directories hold the log: the first has the newest checkpoint and the tiles; segments in any others, to which older
	// ones were moved, count as if they were in the first.
	Directories []string
	// Retained are checkpoints that were kept elsewhere.
	Retained []RetainedCheckpoint
	// Keys are those that may have signed: at least one must have signed each checkpoint. None: no signature is checked.
	Keys []note.Verifier
	// Newest has the newest segment with an entry read alone. The hashes in the tiles stand for those before it: what is wrong with their
	// entries is not found, and where there are no such tiles, segments are missing.
	Newest bool
	// Progress, if not nil, is told now and then how many bytes of how many were read. It is called by one goroutine at a time.
	Progress func(read, total int64)
}

// RetainedCheckpoint is a signed checkpoint and where it was read from.
type RetainedCheckpoint struct {
	Name   string
	Signed []byte
}

// Report is what Verify found.
type Report struct {
	// OK: nothing contradicts the checkpoints, and they are what they should be. It is so exactly where Findings is empty.
	OK bool `json:"ok"`
	// Origin is the log's name by its checkpoints; empty without any.
	Origin string `json:"origin,omitempty"`
	// Entries is how many the log has, with those that were not seen.
	Entries uint64 `json:"entries"`
	// Covered is how many of them, from the first on, agree with a checkpoint, and with all smaller ones.
	Covered uint64 `json:"covered"`
	// Uncovered is how many come after the newest checkpoint: whether those were changed cannot be told, so far.
	Uncovered uint64 `json:"uncovered"`
	// Segments is how many files were read.
	Segments int `json:"segments"`
	// Unseen are entries that lie in no segment. Tiles with their hashes stood for them. Where OK they are the oldest.
	Unseen []EntryRange `json:"unseen,omitempty"`
	// Unfinished is the place, file:line, of a write at the very end that is not (or not yet) complete.
	Unfinished string `json:"unfinished,omitempty"`
	// Checkpoints are those that the log was compared with, smallest first.
	Checkpoints []CheckpointResult `json:"checkpoints"`
	// SignaturesChecked: keys were given.
	SignaturesChecked bool `json:"signatures_checked"`
	// Findings are the reasons for not OK: the first lie in the log, and what is wrong with checkpoints or tiles.
	Findings []Finding `json:"findings"`
}

// EntryRange is the entries From to To, both included.
type EntryRange struct {
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

// CheckpointResult is one checkpoint and what became of it.
type CheckpointResult struct {
	// Name says where it is from.
	Name   string `json:"name"`
	Origin string `json:"origin,omitempty"`
	Size   uint64 `json:"size"`
	Root   string `json:"root,omitempty"`
	// Signers are the given keys that signed it, as NAME+ID.
	Signers []string `json:"signers,omitempty"`
	// Result is "agrees", "disagrees", "beyond the end" (of the log), "not compared" (the log cannot be followed so far) or
	// "unusable" (what is wrong is among the findings).
	Result string `json:"result"`
}

// The values of CheckpointResult.Result.
const (
	resultAgrees      = "agrees"
	resultDisagrees   = "disagrees"
	resultBeyond      = "beyond the end"
	resultNotCompared = "not compared"
	resultUnusable    = "unusable"
)

// FindingKind says what sort of thing is wrong.
type FindingKind string

// The kinds of findings. The first five are about entries, and a report has at most one of them: the first lie.
const (
	// Altered: lines are not those that were signed: changed, added, removed or in another order.
	Altered FindingKind = "altered"
	// Truncated: the log ends before a checkpoint does.
	Truncated FindingKind = "truncated"
	// Missing: entries lie in no segment, and are not those of the oldest segments, or nothing says what they were.
	Missing FindingKind = "missing"
	// Overlap: two segments claim the same entries.
	Overlap FindingKind = "overlap"
	// Malformed: a line is no entry.
	Malformed FindingKind = "malformed"
	// BadCheckpoint: a checkpoint is missing, damaged, for another origin, or not signed by the keys.
	BadCheckpoint FindingKind = "checkpoint"
	// BadTile: a tile does not fit the entries, which are right.
	BadTile FindingKind = "tile"
	// BadFile: a file's name is none that a segment can have.
	BadFile FindingKind = "file"
)

// Finding is one thing that is wrong.
type Finding struct {
	Kind FindingKind `json:"kind"`
	// Entries is where the first lie is: at From exactly where To is the same, else at an entry from From to To. nil: the
	// finding is not about entries.
	Entries *EntryRange `json:"entries,omitempty"`
	// File, and Line from 1, are where entry To is, or would be. Line is 0 where the finding is about a whole file.
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
	// Text says it in words.
	Text string `json:"text"`
}

// String is the finding in one line.
func (f Finding) String() string {
	switch {
	case f.File != "" && f.Line > 0:
		return fmt.Sprintf("%s:%d: %s", f.File, f.Line, f.Text)
	case f.File != "":
		return f.File + ": " + f.Text
	}
	return f.Text
}

// describe makes a finding of the first lie.
func (v *verification) describe(l *fault, agreed, disagreed *anchor) Finding {
	f := Finding{Kind: l.kind, Entries: &EntryRange{l.from, l.to}}
	if l.segment.path != "" {
		f.File, f.Line = l.segment.path, int(l.to-l.segment.first)+1
	}
	where := fmt.Sprintf("entry %d", l.to)
	if l.from < l.to {
		where = fmt.Sprintf("the first lie is among the entries %d to %d", l.from, l.to)
	}
	reason := l.text
	switch {
	case l.kind == Truncated:
		last := v.anchors[len(v.anchors)-1]
		reason = fmt.Sprintf("the log ends before entry %d, and %s covers %d entries", l.to, v.nameOf(&last), last.Size)
		if l.from < l.to {
			reason += fmt.Sprintf("; nothing tells whether the entries from %d on are as they were", l.from)
		}
		return f.with(reason)
	case reason == "" && l.from == l.to:
		reason = "this line is not the one that was signed: it was changed, added or moved, or one before it was removed"
	case reason == "":
		reason = fmt.Sprintf("the log does not agree with %s", v.nameOf(disagreed))
		if agreed != nil {
			reason += fmt.Sprintf(", and agrees with %s", v.nameOf(agreed))
		}
	}
	text := where + ": " + reason
	if l.from < l.to && v.leafFault != nil && v.leafFault.index >= l.from && v.leafFault.index < l.to {
		s := v.segmentOf(v.leafFault.index)
		text += fmt.Sprintf(" (the tiles, for which nothing vouches here, differ from entry %d on, %s:%d)", v.leafFault.index, s.path, v.leafFault.index-s.first+1)
	}
	return f.with(text)
}

func (f Finding) with(text string) Finding {
	f.Text = text
	return f
}

// nameOf names a checkpoint.
func (v *verification) nameOf(a *anchor) string {
	return fmt.Sprintf("the checkpoint of size %d in %s", a.Size, v.report.Checkpoints[a.result].Name)
}
