package hsm

import (
	"context"
	"errors"
	"fmt"
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
			k.set(nil, err)
			k.log.Error("HSM is not available", zap.String("module", k.config.Token.Module), zap.Error(err))
			if errors.Is(err, ErrPINRefused) {
				// The one failure that trying again makes worse. Only a restart, with another PIN, goes on from here.
				<-ctx.Done()
				return
			}
			pause = nextPause(pause)
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
			pause = nextPause(pause)
		}
	}
}

// open opens the token and looks at each key. One unfit key does not keep the others from signing.
func (k *Keyring) open(ctx context.Context) (*connection, error) {
	token, err := Open(ctx, k.config.Token)
	if err != nil {
		return nil, err
	}
	c := &connection{token: token, opened: time.Now(), broken: make(chan struct{}, 1)}
	if err := k.look(c); err != nil {
		return nil, errors.Join(err, token.Close())
	}
	return c, nil
}

// watch returns, with the reason, when c is of no more use or ctx ends.
func (k *Keyring) watch(ctx context.Context, c *connection) error {
	for {
		interval := keepAlive
		if len(c.unfit) > 0 {
			interval = lookAgain
		}
		timer := time.NewTimer(interval)
		select {
		case <-ctx.Done():
			timer.Stop()
			return errors.New("the signer is stopping")
		case <-c.broken:
			timer.Stop()
			return errors.New("a signature failed; opening it afresh")
		case <-timer.C:
			for label, key := range c.keys {
				if err := key.SelfTest(); err != nil {
					k.log.Warn("self-test failed, opening the token afresh", zap.String("key", label), zap.Error(err))
					return fmt.Errorf("the self-test of key %q failed; opening it afresh: %w", label, err)
				}
			}
			if err := k.look(c); err != nil {
				return err
			}
		}
	}
}

// look fills in c's keys: all of them at first, later those that were missing or unfit. Operators import keys while the
// signer runs. Only run calls it, so reading c.keys and c.unfit there needs no lock.
//
// It fails where the connection itself seems at fault: something other than a verdict about the key kept it from being
// opened, and no other key works. While one works, its self-test is the better witness.
func (k *Keyring) look(c *connection) error {
	keys, unfit := map[string]*Key{}, map[string]error{}
	var fault error
	for _, label := range k.config.Labels {
		if known, ok := c.keys[label]; ok {
			keys[label] = known
			continue
		}
		key, err := c.token.Key(label)
		if err != nil {
			if before := c.unfit[label]; before == nil || before.Error() != err.Error() {
				k.log.Error("key is not usable", zap.String("key", label), zap.Error(err))
			}
			unfit[label] = err
			if !errors.Is(err, ErrKeyNotFound) && !errors.Is(err, ErrKeyUnfit) {
				fault = err
			}
			continue
		}
		k.log.Info("key is ready", zap.String("key", label))
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

func nextPause(pause time.Duration) time.Duration {
	return min(max(2*pause, firstRetry), lastRetry)
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
