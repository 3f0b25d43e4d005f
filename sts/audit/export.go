package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Exported is one line of an export: an entry that can be verified by itself.
type Exported struct {
	Index uint64 `json:"index"`
	// Entry is the log's line, as a string: JSON keeps a string as it is through any tool, and the entry's hash is over its
	// very bytes.
	Entry string `json:"entry"`
	// Proof is a c2sp.org/tlog-proof of the entry.
	Proof string `json:"proof"`
}

// ExportResult is what an export holds, and what it lacks.
type ExportResult struct {
	// Exported is how many entries were written.
	Exported int
	// Uncovered is how many would have been, had a checkpoint covered them.
	Uncovered int
	// Absent is how many entries come before the oldest that was found, and may belong to the period; 0 where that one is
	// from before it.
	Absent uint64
}

// Export writes the entries that filter picks as JSON lines, an Exported each, with proofs against the checkpoint that is
// the newest when it begins. Segments are in all of dirs, tiles and checkpoint in the first. It needs no daemon and may run
// beside one. Each line was checked against the checkpoint's root before it is written.
func Export(ctx context.Context, w io.Writer, dirs []string, filter Filter) (ExportResult, error) {
	r, err := export(ctx, w, dirs, filter)
	if err != nil {
		err = fmt.Errorf("exporting the audit log: %w", err)
	}
	return r, err
}

func export(ctx context.Context, w io.Writer, dirs []string, filter Filter) (result ExportResult, err error) {
	p, err := newProver(ctx, dirs)
	if err != nil {
		return result, err
	}
	segments, err := segmentsOf(dirs)
	if err != nil {
		return result, err
	}
	if len(segments) > 0 && segments[0].first > 0 {
		if t, ok := firstEntryTime(segments); !ok || filter.Since.IsZero() || !t.Before(filter.Since.Add(-clockSlack)) {
			result.Absent = segments[0].first
		}
	}
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	var each error
	err = readSegments(dirs, filter.Since, func(r Record, err error) bool {
		if each = errors.Join(err, ctx.Err()); each != nil || !filter.Match(r.Entry) {
			return each == nil
		}
		if r.Index >= p.Size {
			result.Uncovered++
			return true
		}
		proof, err := p.prove(r.Index, r.Line)
		if err == nil {
			err = encoder.Encode(Exported{r.Index, string(r.Line), string(proof)})
		}
		if each = err; err == nil {
			result.Exported++
		}
		return err == nil
	})
	return result, errors.Join(err, each)
}

// firstEntryTime returns the time of the oldest entry; ok is false where that cannot be told.
func firstEntryTime(segments []segmentFile) (t time.Time, ok bool) {
	for _, s := range segments {
		_, err := readSegment(s.path, true, func(_ []byte, e Entry) bool {
			t, ok = e.Time, true
			return false
		})
		if err != nil || ok {
			break
		}
	}
	return t, ok
}
