package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/octo-sts/appliance/sts/audit/checkpoint"
)

// UncoveredError says that there is no proof of an entry yet: no checkpoint covers it.
type UncoveredError struct {
	Index uint64
	// Covered is how many entries the newest checkpoint covers; 0 without one.
	Covered uint64
}

func (e *UncoveredError) Error() string {
	if e.Covered == 0 {
		return fmt.Sprintf("entry %d cannot be proven: the log has no checkpoint that covers an entry", e.Index)
	}
	return fmt.Sprintf("entry %d cannot be proven: the newest checkpoint covers the entries 0 to %d", e.Index, e.Covered-1)
}

// Prove returns a c2sp.org/tlog-proof of an entry against the newest checkpoint, of less than 5 KiB. The tiles and the
// checkpoint are in the first of dirs, segments in all. It is checked against the checkpoint's root, but not the
// checkpoint's signatures: that is for CheckProof. The error is an *UncoveredError where no checkpoint covers the entry.
func Prove(ctx context.Context, dirs []string, index uint64) (proof []byte, err error) {
	p, err := newProver(ctx, dirs)
	if err == nil {
		proof, err = p.prove(index, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("proving an entry of the audit log: %w", err)
	}
	return proof, nil
}

// prover makes proofs against one checkpoint. It belongs to one goroutine.
type prover struct {
	checkpoint.Checkpoint
	signed []byte
	tree   *diskTree
}

// newProver reads the newest checkpoint and the edge of its tree.
func newProver(ctx context.Context, dirs []string) (*prover, error) {
	if len(dirs) == 0 {
		return nil, errors.New("no directory is given")
	}
	if _, err := os.Stat(dirs[0]); err != nil {
		return nil, err
	}
	path := filepath.Join(dirs[0], checkpointName)
	p := &prover{}
	var err error
	if p.signed, err = readBounded(path, checkpoint.MaxNote); errors.Is(err, fs.ErrNotExist) {
		return p, nil // the checkpoint of size 0 covers nothing
	} else if err != nil {
		return nil, err
	}
	if p.Checkpoint, err = checkpoint.Parse(p.signed); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	p.tree = newDiskTree(ctx, dirs, p.Size)
	p.tree.edge, err = p.tree.readEdge()
	return p, err
}

// prove makes the proof of one entry, whose line is given if it was read already, and checks it.
func (p *prover) prove(index uint64, line []byte) ([]byte, error) {
	if index >= p.Size {
		return nil, &UncoveredError{index, p.Size}
	}
	hashes, err := tlog.ProveRecord(int64(p.Size), int64(index), p.tree)
	if err != nil {
		return nil, err
	}
	leaf := tlog.RecordHash(line)
	if line == nil {
		own, err := p.tree.ReadHashes([]int64{tlog.StoredHashIndex(0, int64(index))})
		if err != nil {
			return nil, err
		}
		leaf = own[0]
	}
	if err := tlog.CheckRecord(hashes, int64(p.Size), p.Root, int64(index), leaf); err != nil {
		return nil, fmt.Errorf("entry %d: the log does not agree with its checkpoint of size %d: octo-sts audit verify says where", index, p.Size)
	}
	return inclusionProof{index, hashes, p.signed}.encode(), nil
}
