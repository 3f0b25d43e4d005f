package checkpoint

import (
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// MaxProof bounds a consistency proof, in hashes. It is more than any of MaxSize entries has.
const MaxProof = 64

// Request asks for a signature of a Checkpoint, which extends one of OldSize entries that was signed before.
type Request struct {
	Checkpoint
	OldSize uint64
	Proof   tlog.TreeProof // RFC 6962, section 2.1.2; empty where OldSize is 0 or Size
}

// Conflict is the error for a request that does not extend what was signed last. Whoever asked may make a proof from Last
// and ask again; if no proof can be made, the two are not states of one log.
type Conflict struct {
	Last   Checkpoint // what was signed last
	Reason string     // of this refusal
}

func (c *Conflict) Error() string {
	return fmt.Sprintf("the last checkpoint signed has size %d and root %s: %s", c.Last.Size, c.Last.Root, c.Reason)
}

// Extends tells whether the request is a later state of the log that old is a state of, or the same. The error is a
// *Conflict where another proof, or another log under this origin, might do; any other error is about the request alone.
func (r Request) Extends(old Checkpoint) error {
	if err := r.Check(); err != nil {
		return err
	}
	if len(r.Proof) > MaxProof {
		return fmt.Errorf("the consistency proof has %d hashes, more than %d", len(r.Proof), MaxProof)
	}
	if r.Origin != old.Origin {
		return fmt.Errorf("the checkpoint is for the origin %q, and only those of %q are signed here", r.Origin, old.Origin)
	}
	if err := r.consistent(old); err != nil {
		return &Conflict{Last: old, Reason: err.Error()}
	}
	return nil
}

func (r Request) consistent(old Checkpoint) error {
	switch {
	case r.OldSize != old.Size:
		return fmt.Errorf("the proof is from size %d", r.OldSize)
	case r.Size < old.Size:
		return fmt.Errorf("size %d is smaller", r.Size)
	case r.Size == old.Size && r.Root != old.Root:
		return fmt.Errorf("root %s of the same size is another", r.Root)
	case r.Size == old.Size || old.Size == 0:
		// Nothing needs proof, and tlog.CheckTree knows no empty tree.
		if len(r.Proof) > 0 {
			return errors.New("a proof is given where none is needed")
		}
		return nil
	}
	if err := tlog.CheckTree(r.Proof, int64(r.Size), r.Root, int64(old.Size), old.Root); err != nil {
		return fmt.Errorf("the proof does not show that size %d with root %s extends it", r.Size, r.Root)
	}
	return nil
}
