package signer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/octo-sts/appliance/sts/audit/checkpoint"
)

var (
	// ErrNoCheckpointState means that nothing says which checkpoint was signed last. Nothing is signed then: a state that
	// was lost is not a new beginning.
	ErrNoCheckpointState = errors.New("it is not known which checkpoint was signed last")
	// ErrCheckpointStateLocked means that another process works with the state.
	ErrCheckpointStateLocked = errors.New("another process uses the checkpoint state: stop octo-sts-signer serve first")
)

const (
	stateName = "checkpoint"
	// stateLockWait bounds the wait for a lock, which a process that was just killed gives back in a moment.
	stateLockWait = 500 * time.Millisecond
	// maxState bounds the file, in bytes. A signed note of one signature has some 500.
	maxState = 8 << 10
)

// SignedCheckpoint is a checkpoint with its signature.
type SignedCheckpoint struct {
	Checkpoint checkpoint.Checkpoint
	Key        string // the verifier key of the one HSM that signed
	Note       []byte // the signed note; not to be changed
}

// NewSignedCheckpoint verifies note with the verifier key that is said to have signed it.
func NewSignedCheckpoint(key string, note []byte) (SignedCheckpoint, error) {
	verifier, err := checkpoint.ParseKey(key)
	if err != nil {
		return SignedCheckpoint{}, err
	}
	c, err := checkpoint.Open(note, verifier)
	if err != nil {
		return SignedCheckpoint{}, err
	}
	return SignedCheckpoint{Checkpoint: c, Key: key, Note: note}, nil
}

// CheckpointState is the file DIRECTORY/checkpoint: the verifier key and the signed note of the last checkpoint that was
// signed. So it proves itself whole, whether or not the HSM that signed is there. Whoever holds a CheckpointState holds
// the lock DIRECTORY/checkpoint.lock, and is the only one that reads or writes the file.
type CheckpointState struct {
	path string
	lock *os.File
}

// OpenCheckpointState takes the lock in directory, which must exist. The error matches ErrCheckpointStateLocked where
// another process has it.
func OpenCheckpointState(directory string) (*CheckpointState, error) {
	path := filepath.Join(directory, stateName)
	lock, err := lockFile(path+".lock", stateLockWait)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return nil, fmt.Errorf("locking %s: %w", path+".lock", ErrCheckpointStateLocked)
	case err != nil:
		return nil, fmt.Errorf("locking the checkpoint state: %w", err)
	}
	return &CheckpointState{path: path, lock: lock}, nil
}

// Path is the file.
func (s *CheckpointState) Path() string { return s.path }

// Close gives the lock back.
func (s *CheckpointState) Close() error { return s.lock.Close() }

// Load reads the state. The error matches os.ErrNotExist where there is none. What Load returns is durable: the process
// that wrote it may have died before it was, and what it says may leave the signer now.
func (s *CheckpointState) Load() (SignedCheckpoint, error) {
	last, err := s.load()
	if err != nil {
		return SignedCheckpoint{}, fmt.Errorf("reading the checkpoint state %s: %w", s.path, err)
	}
	return last, nil
}

func (s *CheckpointState) load() (SignedCheckpoint, error) {
	file, err := os.OpenFile(s.path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return SignedCheckpoint{}, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxState+1))
	if err != nil {
		return SignedCheckpoint{}, err
	}
	key, note, ok := bytes.Cut(data, []byte("\n"))
	if !ok || len(data) > maxState {
		return SignedCheckpoint{}, errors.New("it is damaged: it is not a verifier key and a signed note")
	}
	last, err := NewSignedCheckpoint(string(key), note)
	if err != nil {
		return SignedCheckpoint{}, fmt.Errorf("it is damaged: %w", err)
	}
	return last, errors.Join(file.Sync(), syncDirectory(filepath.Dir(s.path)))
}

// Save makes last the state. When it returns nil, that is durable. After an error the old or the new state is there, whole.
func (s *CheckpointState) Save(last SignedCheckpoint) error {
	if err := s.stillLocked(); err != nil {
		return fmt.Errorf("writing the checkpoint state: %w", err)
	}
	data := append([]byte(last.Key+"\n"), last.Note...)
	if len(data) > maxState {
		return fmt.Errorf("writing the checkpoint state: it would have %d bytes, more than %d", len(data), maxState)
	}
	if err := replaceFile(s.path, data); err != nil {
		return fmt.Errorf("writing the checkpoint state: %w", err)
	}
	return nil
}

// stillLocked makes sure that the lock is the one that others find, too: where its file was removed, another process has
// taken a new one by now, or can.
func (s *CheckpointState) stillLocked() error {
	ours, err := s.lock.Stat()
	if err != nil {
		return err
	}
	there, err := os.Lstat(s.lock.Name())
	if err != nil || !os.SameFile(ours, there) {
		return fmt.Errorf("%s was removed or replaced while this process had it locked, so another one may be signing: make sure that only one octo-sts-signer uses the directory, and restart it", s.lock.Name())
	}
	return nil
}
