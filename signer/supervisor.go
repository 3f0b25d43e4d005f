package signer

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"time"

	"go.uber.org/zap"
)

const (
	// firstRestart and lastRestart bound the pause before a worker is started again.
	firstRestart = 250 * time.Millisecond
	lastRestart  = 2 * time.Second
	// settledAfter is how long a worker must have run for its end to be met with the shortest pause again.
	settledAfter = 10 * time.Second
	// pollEvery is how often a worker is asked for its state; pollSoon is how often for fresh after it was started or told
	// of other keys.
	pollEvery = 500 * time.Millisecond
	pollSoon  = 50 * time.Millisecond
	fresh     = 5 * time.Second
	// answerWait is how long a worker may take to answer that. It never waits for its module, so then it is stopped.
	answerWait = 5 * time.Second
	// callLimit is how long one call into a module may last. No cgo call can be cancelled: the process is killed.
	callLimit = 6 * time.Second
	// crashed is the exit status with which the Go runtime ends where C code does what ends a process (SIGSEGV).
	crashed = 2
)

// supervise keeps a worker running for one HSM until ctx ends. It keeps its thread, which its workers die with.
func (h *HSMs) supervise(ctx context.Context, m *member) {
	runtime.LockOSThread()
	log := h.log.With(zap.Int("hsm", m.index))
	pause := time.Duration(0)
	for sleep(ctx, pause) {
		h.mu.Lock()
		setup := WorkerSetup{HSM: m.config, Labels: h.labels, CheckpointKey: h.checkpointKey, ProbeKey: h.probeKey, StateDirectory: h.state}
		h.mu.Unlock()
		w, err := h.start(m.index, setup)
		if err != nil {
			log.Error("HSM worker cannot be started", zap.Error(err))
			h.update(func() { m.lose(err.Error()) })
			pause = nextPause(pause)
			continue
		}
		started := time.Now()
		log.Info("HSM worker started", zap.Int("worker_pid", w.pid))
		h.update(func() { m.worker, m.token.Open, m.token.Error = w, false, "its worker is starting" })
		err = h.watch(ctx, m, w)
		if ctx.Err() != nil {
			w.stop(ctx, stopWait)
			h.update(func() { m.lose("the signer is stopping") })
			return
		}
		log.Warn("HSM worker is replaced", zap.Int("worker_pid", w.pid), zap.Error(err))
		h.update(func() {
			m.lose(err.Error() + "; another is being started")
			m.restarts++
		})
		w.stop(ctx, 0)
		if time.Since(started) > settledAfter {
			pause = 0
		}
		pause = nextPause(pause)
	}
}

// watch keeps m up to date and returns, with the reason, when its worker is of no more use or ctx ends.
func (h *HSMs) watch(ctx context.Context, m *member, w *worker) error {
	quickUntil := time.Now().Add(fresh)
	for {
		status, err := h.poll(ctx, w)
		if err != nil {
			return err
		}
		if status.CallAge > callLimit {
			return fmt.Errorf("a call into the module has lasted for %v", status.CallAge.Round(time.Millisecond))
		}
		h.update(func() { m.take(status, time.Now()) })
		pause := pollEvery
		if time.Now().Before(quickUntil) {
			pause = pollSoon
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-w.ended:
			timer.Stop()
			return ended(w)
		case <-m.relabel:
			timer.Stop()
			h.mu.Lock()
			labels := h.labels
			h.mu.Unlock()
			short, cancel := context.WithTimeout(ctx, answerWait)
			err := w.setLabels(short, labels)
			cancel()
			if err != nil {
				return err
			}
			quickUntil = time.Now().Add(fresh)
		case <-timer.C:
		}
	}
}

// poll asks the worker for its state once.
func (h *HSMs) poll(ctx context.Context, w *worker) (WorkerStatus, error) {
	short, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	status, err := w.status(short)
	if err == nil {
		return status, nil
	}
	// Where the process has died, how it did says more.
	select {
	case <-w.ended:
		err = ended(w)
	case <-time.After(100 * time.Millisecond):
	}
	return WorkerStatus{}, err
}

func ended(w *worker) error {
	var exit *exec.ExitError
	if errors.As(w.how, &exit) && exit.ExitCode() == crashed {
		return fmt.Errorf("its worker crashed, most likely in the module's own code, and its last lines in the log say how: %w", w.how)
	}
	if w.how != nil {
		return fmt.Errorf("its worker ended: %w", w.how)
	}
	return errors.New("its worker ended")
}

// take notes what m's worker said at the time now. The caller holds HSMs.mu.
func (m *member) take(status WorkerStatus, now time.Time) {
	switch {
	case status.Token.Open && !m.token.Open:
		m.since = now
	case !status.Token.Open && m.token.Open:
		m.failed = now
	}
	m.token = status.Token
	if !m.token.Open {
		return // what its keys were is still of use: see HSMs.reference
	}
	clear(m.public)
	clear(m.unfit)
	for label, key := range status.Keys {
		public, err := x509.ParsePKIXPublicKey(key.Public)
		switch {
		case key.Error != "":
			m.unfit[label] = key.Error
		case err != nil:
			m.unfit[label] = fmt.Sprintf("reading its public half: %v", err)
		default:
			m.public[label] = &memberKey{key.Public, public}
		}
	}
}

// lose notes that m has no worker. The caller holds HSMs.mu.
func (m *member) lose(problem string) {
	if m.worker != nil {
		m.failed = time.Now()
	}
	m.worker, m.problem, m.token.Open = nil, problem, false
}

func nextPause(pause time.Duration) time.Duration {
	return min(max(2*pause, firstRestart), lastRestart)
}

// sleep returns false as soon as ctx ends.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return ctx.Err() == nil
	}
}
