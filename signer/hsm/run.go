package hsm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"
)

// run owns the token: it alone opens it, checks its keys and closes it.
func (k *Keyring) run(ctx context.Context) {
	defer close(k.stopped)
	pause := time.Duration(0)
	for sleep(ctx, pause) {
		c, err := k.open(ctx)
		if ctx.Err() != nil && err != nil {
			return
		}
		if err != nil {
			k.unavailable(err)
			pause = k.nextPause(pause)
			if errors.Is(err, ErrPINRefused) {
				// The one failure that trying again makes worse. Only another process, with another PIN, goes on from here.
				<-ctx.Done()
				return
			}
			continue
		}
		k.set(c, nil)
		k.log.Info("HSM is open", zap.String("token", c.token.Info().String()), zap.Int("keys", len(c.keys)))
		err = k.watch(ctx, c)
		k.set(nil, err)
		if err := c.token.Close(); err != nil {
			k.log.Warn("closing the HSM failed", zap.Error(err))
		}
		if time.Since(c.opened) > settled {
			pause = 0
		} else {
			pause = k.nextPause(pause)
		}
	}
}

// unavailable notes why the token cannot be opened, and logs it once for as long as the reason stays the same.
func (k *Keyring) unavailable(err error) {
	k.mu.Lock()
	before := k.failure
	k.mu.Unlock()
	k.set(nil, err)
	if before == nil || before.Error() != err.Error() {
		k.log.Error("HSM is not available", zap.String("module", k.config.Token.Module), zap.Error(err))
	}
}

// open opens the token and looks at each key. One unfit key does not keep the others from signing.
func (k *Keyring) open(ctx context.Context) (*connection, error) {
	token, err := open(ctx, k.config.Token, k.clock)
	if err != nil {
		return nil, err
	}
	c := &connection{token: token, opened: time.Now(), broken: make(chan error, 1)}
	if err := k.look(c); err != nil {
		return nil, errors.Join(err, token.Close())
	}
	return c, nil
}

// watch returns, with the reason, when c is of no more use or ctx ends.
func (k *Keyring) watch(ctx context.Context, c *connection) error {
	alive := time.NewTicker(k.config.KeepAlive)
	defer alive.Stop()
	again := time.NewTicker(k.config.Retry)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return errors.New("the signer is stopping")
		case err := <-c.broken:
			return fmt.Errorf("a signature failed; opening it afresh: %w", err)
		case <-k.relabelled:
			if err := k.look(c); err != nil {
				return err
			}
		case <-alive.C:
			// Where every session is lent, others find out what works.
			if err := c.exercise(); err != nil && !errors.Is(err, errBusy) {
				k.log.Warn("test of the HSM failed, opening it afresh", zap.Error(err))
				return fmt.Errorf("its test failed; opening it afresh: %w", err)
			}
		case <-again.C:
			if len(c.unfit) == 0 {
				continue
			}
			// A token that has logged the user out shows no private keys: that is no verdict on them. Where it does not say,
			// and a key signs, nothing is wrong that would be worth an interruption.
			if err := c.token.checkLogin(); errors.Is(err, errBusy) {
				continue
			} else if err != nil {
				if len(c.keys) > 0 && c.exercise() == nil {
					continue
				}
				return fmt.Errorf("opening it afresh: %w", err)
			}
			if err := k.look(c); err != nil {
				return err
			}
		}
	}
}

// exercise makes a test signature with every key and in every idle session: the pool lends them in turn. Only run calls it.
func (c *connection) exercise() error {
	keys := slices.Collect(maps.Values(c.keys))
	if len(keys) == 0 {
		return nil
	}
	for i := range max(len(keys), c.token.sessions.waiting()) {
		if err := keys[i%len(keys)].SelfTest(); err != nil {
			return err
		}
	}
	return nil
}

// look fills in c's keys: all of them at first, later those that were missing or unfit. Operators import keys while the
// signer runs. Only run calls it, so reading c.keys and c.unfit there needs no lock.
//
// It fails where the connection itself seems at fault: something other than a verdict about the key kept it from being
// opened, and no other key works. While one works, its self-test is the better witness.
func (k *Keyring) look(c *connection) error {
	keys, unfit := map[string]*Key{}, map[string]error{}
	var fault error
	k.mu.Lock()
	labels := k.labels
	k.mu.Unlock()
	for _, label := range labels {
		if known, ok := c.keys[label]; ok {
			keys[label] = known
			continue
		}
		key, err := c.token.Key(label)
		if err == nil && k.config.Suits != nil {
			if unsuited := k.config.Suits(label, key.Public()); unsuited != nil {
				err = fmt.Errorf("%w %q of %s: %w", ErrKeyUnfit, label, c.token.Info(), unsuited)
			}
		}
		if err != nil {
			k.say(label, err)
			unfit[label] = err
			if !errors.Is(err, ErrKeyNotFound) && !errors.Is(err, ErrKeyUnfit) {
				fault = err
			}
			continue
		}
		k.say(label, nil)
		keys[label] = key
	}
	k.mu.Lock()
	c.keys, c.unfit = keys, unfit
	k.mu.Unlock()
	if len(keys) == 0 {
		return fault
	}
	return nil
}

// say logs the state of a key, once for as long as it stays the same: a fault that lasts is met at every attempt.
func (k *Keyring) say(label string, unfit error) {
	state := ""
	if unfit != nil {
		state = unfit.Error()
	}
	if before, ok := k.said[label]; ok && before == state {
		return
	}
	k.said[label] = state
	if unfit != nil {
		k.log.Error("key is not usable", zap.String("key", label), zap.Error(unfit))
	} else {
		k.log.Info("key is ready", zap.String("key", label))
	}
}

func (k *Keyring) set(c *connection, failure error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.connection, k.failure = c, failure
	if c != nil {
		k.last = c.token.Info()
	}
	close(k.changed)
	k.changed = make(chan struct{})
}

func (k *Keyring) nextPause(pause time.Duration) time.Duration {
	return min(max(2*pause, k.config.Retry/8), k.config.Retry)
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
