package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/signer/signertest"
	"github.com/octo-sts/appliance/sts/audit/checkpoint"
)

// faultCodes are the return values that every call must be recovered from.
var faultCodes = []struct {
	name  string
	value uint
}{
	{"CKR_DEVICE_REMOVED", 0x32}, {"CKR_DEVICE_ERROR", 0x30}, {"CKR_TOKEN_NOT_PRESENT", 0xE0}, {"CKR_SESSION_HANDLE_INVALID", 0xB3},
	{"CKR_SESSION_CLOSED", 0xB0}, {"CKR_SESSION_COUNT", 0xB1}, {"CKR_USER_NOT_LOGGED_IN", 0x101}, {"CKR_OBJECT_HANDLE_INVALID", 0x82},
	{"CKR_CRYPTOKI_NOT_INITIALIZED", 0x190}, {"CKR_HOST_MEMORY", 0x2}, {"CKR_FUNCTION_FAILED", 0x6}, {"CKR_GENERAL_ERROR", 0x5},
}

const (
	// answerLimit is what a caller may have to wait for an answer: the client's 2 s, and the time that a busy machine takes.
	answerLimit = 2500 * time.Millisecond
	// recoveryLimit is how soon after a fault's end everything must be signed again.
	recoveryLimit = 5 * time.Second
	// replaceLimit is how soon a worker must be replaced that hangs.
	replaceLimit = 10 * time.Second
	// reopening has a signature fail, once, so that the token is opened afresh and the calls of that are made.
	reopening = "C_Sign rv=0x30 count=1"
)

// subject is a signer behind the shim, and a caller that asks it for App JWTs and checkpoints without end, as octo-stsd
// would but oftener. Its methods belong to one goroutine.
type subject struct {
	signer *signertest.Signer
	shim   *signertest.Shim
	log    testLog
	signed int64 // size of the last checkpoint
}

func newSubject(t *testing.T, hsms int) *subject {
	t.Helper()
	s, shim := withShim(t, hsms)
	return &subject{signer: s, shim: shim}
}

// trial is one fault, its beginning and its end.
type trial struct {
	fault  []string             // lines for the shim
	after  func(*subject) error // what else is done once the fault is set; nil: nothing
	struck func(*subject) error // nil once the signer has run into the fault
	hold   time.Duration        // how long the fault lasts from then on
}

// outcome is what the caller saw of a trial.
type outcome struct {
	recovery time.Duration // from the fault's end until JWTs and checkpoints were signed, and went on being signed
	refused  int           // calls that got an error
	cutOff   int           // those of them that did not get it from the signer
	slowest  time.Duration // of all calls
	said     []string      // every different reason that the status gave
	signers  map[int]bool  // HSMs that were in use
}

// run makes a trial. Its error is what must not be.
func (s *subject) run(ctx context.Context, c trial) (*outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*safety)
	defer cancel()
	if err := s.shim.ForgetCalls(); err != nil {
		return nil, err
	}
	if err := s.shim.Set(c.fault...); err != nil {
		return nil, err
	}
	defer func() { _ = s.shim.Clear() }() // after an error, so that another trial can be made
	seen := &sightings{outcome: outcome{signers: map[int]bool{}}}
	watching, stop := context.WithCancel(ctx)
	var watchers sync.WaitGroup
	watchers.Go(func() { s.watchJWTs(watching, seen) })
	watchers.Go(func() { s.watchCheckpoints(watching, seen) })
	watchers.Go(func() { s.watchStatus(watching, seen) })
	defer watchers.Wait()
	defer stop()
	if c.after != nil {
		if err := c.after(s); err != nil {
			return nil, err
		}
	}
	if err := await(ctx, "running into the fault", func() error { return c.struck(s) }); err != nil {
		return nil, err
	}
	time.Sleep(c.hold)
	if err := s.shim.Clear(); err != nil {
		return nil, err
	}
	end := time.Now()
	if err := await(ctx, "signing after the fault", seen.steady(end)); err != nil {
		return nil, err
	}
	stop()
	watchers.Wait()
	result := seen.outcome
	result.recovery = max(seen.jwts.since(end), seen.checkpoints.since(end))
	return &result, nil
}

// await tries again until there is no error.
func await(ctx context.Context, what string, done func() error) error {
	for {
		err := done()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w, not before the safety limit", what, err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// struckBy says whether the signer has run into a return value.
func struckBy(function string, value uint) func(*subject) error {
	return func(s *subject) error {
		calls, err := s.shim.Calls()
		if err != nil {
			return err
		}
		result := fmt.Sprintf("%#x", value)
		if !slices.ContainsFunc(calls, func(c signertest.Call) bool { return c.Result == result && (function == "*" || c.Function == function) }) {
			return errors.New("no call has met it yet")
		}
		return nil
	}
}

// streak is the successes since the last failure.
type streak struct {
	began  time.Time // end of the first of them
	length int
}

func (s *streak) note(err error) {
	if err != nil {
		*s = streak{}
		return
	}
	if s.length == 0 {
		s.began = time.Now()
	}
	s.length++
}

// since is how long after the end of a fault the streak began: 0 for one that never broke.
func (s *streak) since(end time.Time) time.Duration { return max(0, s.began.Sub(end)) }

// sightings is what the watchers write while a trial lasts.
type sightings struct {
	mu          sync.Mutex
	outcome     outcome                             // guarded by mu
	jwts        streak                              // guarded by mu
	checkpoints streak                              // guarded by mu
	last        struct{ jwt, checkpoint time.Time } // ends of the last successes; guarded by mu
}

// steady says whether the signer has signed since end, several times over and without a failure after the first.
func (g *sightings) steady(end time.Time) func() error {
	return func() error {
		g.mu.Lock()
		defer g.mu.Unlock()
		// What breaks late shows within this time: the worker is asked for its state twice a second.
		settled := end.Add(time.Second)
		switch {
		case g.jwts.length < 10 || g.last.jwt.Before(settled):
			return errors.New("not enough App JWTs")
		case g.checkpoints.length < 2 || g.last.checkpoint.Before(end):
			return errors.New("not enough checkpoints")
		}
		return nil
	}
}

func (s *subject) watchJWTs(ctx context.Context, seen *sightings) {
	client := s.signer.Client()
	defer client.Close()
	for ctx.Err() == nil {
		began := time.Now()
		_, err := client.AppJWT(context.Background(), 1)
		seen.mu.Lock()
		seen.outcome.slowest = max(seen.outcome.slowest, time.Since(began))
		seen.jwts.note(err)
		if err == nil {
			seen.last.jwt = time.Now()
		} else {
			seen.outcome.refuse(err)
		}
		seen.mu.Unlock()
		time.Sleep(25 * time.Millisecond)
	}
}

func (s *subject) watchCheckpoints(ctx context.Context, seen *sightings) {
	client := s.signer.Client()
	defer client.Close()
	for ctx.Err() == nil {
		began := time.Now()
		err := s.checkpoint(client)
		if err != nil && strings.Contains(err.Error(), signer.ErrCheckpointRate.Error()) {
			time.Sleep(50 * time.Millisecond)
			continue
		}
		seen.mu.Lock()
		seen.outcome.slowest = max(seen.outcome.slowest, time.Since(began))
		seen.checkpoints.note(err)
		if err == nil {
			seen.last.checkpoint = time.Now()
		} else {
			seen.outcome.refuse(err)
		}
		seen.mu.Unlock()
		time.Sleep(50 * time.Millisecond)
	}
}

// checkpoint asks for one more entry to be covered.
func (s *subject) checkpoint(client *signer.Client) error {
	request, err := s.log.request(s.signed, s.signed+1)
	if err != nil {
		return err
	}
	note, err := client.Checkpoint(context.Background(), request)
	var conflict *checkpoint.Conflict
	if errors.As(err, &conflict) && int64(conflict.Last.Size) == s.signed+1 {
		s.signed++ // it was signed before, and the answer came too late
	}
	if err != nil {
		return err
	}
	key, err := checkpoint.ParseKey(s.signer.VerifierKey())
	if err != nil {
		return err
	}
	if _, err := checkpoint.Open(note, key); err != nil && s.only() {
		return fmt.Errorf("a checkpoint got out that does not verify: %w", err)
	}
	s.signed++
	return nil
}

// only says whether there is one HSM, and so one checkpoint key.
func (s *subject) only() bool { return s.signer.WorkerPID(1) == 0 }

func (s *subject) watchStatus(ctx context.Context, seen *sightings) {
	client := s.signer.Client()
	defer client.Close()
	for ctx.Err() == nil {
		status, err := client.Status(context.Background())
		seen.mu.Lock()
		if err != nil {
			seen.outcome.add("no status: " + err.Error())
		} else {
			seen.outcome.note(status)
		}
		seen.mu.Unlock()
		time.Sleep(20 * time.Millisecond)
	}
}

func (o *outcome) refuse(err error) {
	o.refused++
	if !strings.Contains(err.Error(), "HTTP 503") {
		o.cutOff++
	}
}

func (o *outcome) note(status signer.Status) {
	for i, h := range status.HSMs {
		if h.Active {
			o.signers[i] = true
		}
		o.add(h.Error)
		for _, k := range h.Keys {
			o.add(k.Error)
		}
	}
	for _, a := range status.Apps {
		o.add(a.Error)
	}
	o.add(status.Checkpoint.Error)
}

func (o *outcome) add(reason string) {
	if reason != "" && !slices.Contains(o.said, reason) && len(o.said) < 200 {
		o.said = append(o.said, reason)
	}
}

// says looks for words among the reasons.
func (o *outcome) says(words string) bool {
	return slices.ContainsFunc(o.said, func(reason string) bool { return strings.Contains(reason, words) })
}

// verdict is what the caller must be spared, whatever the fault. cause is how the status may explain a refusal.
func (o *outcome) verdict(cause ...string) error {
	var errs []error
	if o.recovery > recoveryLimit {
		errs = append(errs, fmt.Errorf("signing again took %v from the fault's end", o.recovery))
	}
	if o.slowest > answerLimit {
		errs = append(errs, fmt.Errorf("a call took %v", o.slowest))
	}
	if o.says("no status: ") {
		errs = append(errs, errors.New("the status could not be had"))
	}
	if o.refused > 0 && o.cutOff == o.refused {
		errs = append(errs, errors.New("no caller heard a reason"))
	}
	if o.refused > 0 && !slices.ContainsFunc(cause, o.says) {
		errs = append(errs, fmt.Errorf("%d calls were refused, and the status never said %q", o.refused, cause))
	}
	if len(errs) > 0 {
		errs = append(errs, fmt.Errorf("the status said: %s", strings.Join(o.said, "\n\t")))
	}
	return errors.Join(errs...)
}

// around is a time near d, so that trials do not all end at the same moment of a pause between attempts.
func around(d time.Duration) time.Duration { return d*3/4 + rand.N(d/2) }
