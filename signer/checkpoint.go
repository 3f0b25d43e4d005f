package signer

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/octo-sts/appliance/sts/audit/checkpoint"
)

var (
	// ErrCheckpointRefused means that the request makes no sense here: another log's origin, a size or a proof out of
	// range. Trying again does not help.
	ErrCheckpointRefused = errors.New("the checkpoint is refused")
	// ErrCheckpointNotReady means that the HSM cannot sign, or that the state cannot be written.
	ErrCheckpointNotReady = errors.New("no checkpoint can be signed at the moment")
	// ErrCheckpointRate means that checkpoints are asked for faster than they are signed.
	ErrCheckpointRate = errors.New("too many checkpoints: at most two a second are signed")
)

const (
	// checkpointRate bounds the signatures a second, so that a compromised daemon cannot keep the HSM busy. An honest one
	// asks once a second.
	checkpointRate = 2
	// complaintEvery bounds how often the log tells of a failure. The daemon asks again each second, and a compromised one
	// as often as it likes.
	complaintEvery = 10 * time.Second
)

// CountersignerConfig configures a Countersigner.
type CountersignerConfig struct {
	Origin    string // of the one log whose checkpoints are signed
	Directory string // of the state; see CheckpointState
	// UseKey lends use the checkpoint key of the HSMs, one after the other in order of preference, until use returns nil;
	// its own error is why none would do. It returns soon after ctx ends. Required.
	UseKey func(ctx context.Context, use func(key crypto.Signer) error) error
	Logger *zap.Logger
}

// Countersigner signs checkpoints of one log, each an extension of the one that it signed before, whatever it is asked
// and whenever it is killed. It is safe for concurrent use.
type Countersigner struct {
	config CountersignerConfig

	// turn admits one request at a time; whoever holds its element owns the fields below.
	turn      chan struct{}
	state     *CheckpointState // nil while there is none to go on from
	last      SignedCheckpoint // what state holds, durably; of no meaning while state is nil
	limiter   *rate.Limiter
	complaint rate.Sometimes

	status atomic.Pointer[CheckpointStatus] // written by whoever has the turn
}

// NewCountersigner opens the state. That there is none, or none of use, is not an error: checkpoints are refused until
// an operator has made or restored it. That another process has it is one.
func NewCountersigner(c CountersignerConfig) (*Countersigner, error) {
	if c.UseKey == nil || c.Logger == nil {
		return nil, errors.New("configuring the countersigner: UseKey and Logger are required")
	}
	if err := checkpoint.CheckOrigin(c.Origin); err != nil {
		return nil, fmt.Errorf("configuring the countersigner: %w", err)
	}
	s := &Countersigner{
		config:    c,
		turn:      make(chan struct{}, 1),
		limiter:   rate.NewLimiter(checkpointRate, checkpointRate),
		complaint: rate.Sometimes{Interval: complaintEvery},
	}
	err := s.open()
	if errors.Is(err, ErrNoCheckpointState) {
		c.Logger.Error("no checkpoint will be signed", zap.Error(err))
	} else if err != nil {
		return nil, err
	}
	s.note(err)
	return s, nil
}

// Close gives the state back, after the request under way.
func (s *Countersigner) Close() error {
	s.turn <- struct{}{} // never given back
	if s.state == nil {
		return nil
	}
	return s.state.Close()
}

// open takes the state over where there is one to go on from. Where there is none, the lock is not kept, so that an
// operator can make one while this process serves App JWTs.
func (s *Countersigner) open() error {
	state, err := OpenCheckpointState(s.config.Directory)
	if err != nil {
		return err
	}
	last, err := state.Load()
	if err == nil && last.Checkpoint.Origin != s.config.Origin {
		err = fmt.Errorf("the checkpoint state %s is of the log %s, and checkpoint.origin is %s", state.Path(), last.Checkpoint.Origin, s.config.Origin)
	}
	switch {
	case errors.Is(err, os.ErrNotExist):
		err = fmt.Errorf("%w: %w; for a log that is new, run octo-sts-signer key generate; where the state was lost, run octo-sts-signer checkpoint restore with the newest checkpoint that you have", ErrNoCheckpointState, err)
	case err != nil:
		err = fmt.Errorf("%w: %w; run octo-sts-signer checkpoint restore with the newest checkpoint that you have", ErrNoCheckpointState, err)
	}
	if err != nil {
		return errors.Join(err, state.Close())
	}
	s.state, s.last = state, last
	return nil
}

// Countersign returns a signed note of the request's checkpoint where that extends the last one signed. It is durably
// the last one itself before it is returned. Asked for the last one again, it gives the same note again.
//
// The error is a *checkpoint.Conflict where the request does not extend the last one, or matches ErrCheckpointRefused,
// ErrCheckpointRate, ErrNoCheckpointState, or ErrCheckpointNotReady.
func (s *Countersigner) Countersign(ctx context.Context, r checkpoint.Request) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, signTimeout)
	defer cancel()
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: waiting for another checkpoint: %w", ErrCheckpointNotReady, ctx.Err())
	}
	note, err := s.countersign(ctx, r)
	s.note(err)
	if err != nil {
		s.complaint.Do(func() {
			s.config.Logger.Warn("checkpoint not signed", zap.Uint64("size", r.Size), zap.Stringer("root", r.Root), zap.Error(err))
		})
	}
	return note, err
}

func (s *Countersigner) countersign(ctx context.Context, r checkpoint.Request) ([]byte, error) {
	if s.state == nil {
		if err := s.open(); err != nil {
			return nil, err
		}
	}
	var conflict *checkpoint.Conflict
	if err := r.Extends(s.last.Checkpoint); errors.As(err, &conflict) {
		return nil, err
	} else if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCheckpointRefused, err)
	}
	if r.Checkpoint == s.last.Checkpoint {
		return s.last.Note, nil
	}
	if !s.limiter.Allow() {
		return nil, ErrCheckpointRate
	}
	next, err := s.sign(ctx, r.Checkpoint)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCheckpointNotReady, err)
	}
	if err := s.state.Save(next); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCheckpointNotReady, err)
	}
	s.last = next
	return next.Note, nil
}

func (s *Countersigner) sign(ctx context.Context, c checkpoint.Checkpoint) (next SignedCheckpoint, err error) {
	err = s.config.UseKey(ctx, func(key crypto.Signer) error {
		next, err = SignCheckpoint(c, key)
		return err
	})
	return next, err
}

// SignCheckpoint signs c whatever was signed before; the signature has been verified in software. Only whoever holds the
// state may call it.
func SignCheckpoint(c checkpoint.Checkpoint, key crypto.Signer) (SignedCheckpoint, error) {
	note, err := checkpoint.Sign(c, key)
	if err != nil {
		return SignedCheckpoint{}, err
	}
	vkey, err := checkpoint.EncodeKey(c.Origin, key.Public())
	if err != nil {
		return SignedCheckpoint{}, err
	}
	return NewSignedCheckpoint(vkey, note)
}

// note keeps for Status how a request went.
func (s *Countersigner) note(err error) {
	status := CheckpointStatus{Origin: s.config.Origin, Ready: s.state != nil, Size: s.last.Checkpoint.Size, Key: s.last.Key}
	if err != nil {
		status.Error = err.Error()
	}
	s.status.Store(&status)
}

// Status says which checkpoint was signed last. It waits for nothing.
func (s *Countersigner) Status() CheckpointStatus { return *s.status.Load() }
