package main

import (
	"context"
	"fmt"
	"os"
	"reflect"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/octo-sts/appliance/signer"
)

const (
	// keyWait bounds the wait for a key that is to sign from a reload on.
	keyWait = 5 * time.Second
	keyPoll = 20 * time.Millisecond
)

// reloader takes up the apps and allow_users of signer.yaml while the signer serves.
type reloader struct {
	path    string
	config  *signer.Config // what is in force; socket, hsms, checkpoint and probe stay as they were at the start
	hsms    *signer.HSMs
	service *signer.Service
	server  *signer.Server
	manager *manager
	log     *zap.Logger
}

// run reads the file again on each hangup, until ctx ends.
func (r *reloader) run(ctx context.Context, hangups <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
		}
		r.manager.Reloading()
		err := r.takeUp(ctx)
		if err != nil {
			r.log.Error("the configuration is not taken up, the one before stays in force", zap.Error(err))
		}
		r.manager.reloaded(err)
	}
}

// takeUp changes everything or, where it returns an error, nothing.
func (r *reloader) takeUp(ctx context.Context) error {
	next, uids, err := loadServeConfig(r.path)
	if err != nil {
		return err
	}
	for key, differs := range map[string]bool{
		"socket":     next.Socket != r.config.Socket,
		"hsms":       !reflect.DeepEqual(next.HSMs, r.config.HSMs),
		"checkpoint": next.Checkpoint != r.config.Checkpoint,
		"probe":      next.Probe != r.config.Probe,
	} {
		if differs {
			r.log.Warn("a change of the configuration waits for a restart", zap.String("key", key))
		}
	}
	next.Socket, next.HSMs, next.Checkpoint, next.Probe = r.config.Socket, r.config.HSMs, r.config.Checkpoint, r.config.Probe
	if app, ok := next.AppOfKey(next.Checkpoint.Key); ok {
		return fmt.Errorf("App %d has the key %q, which signs checkpoints until a restart", app.ID, next.Checkpoint.Key)
	}
	if app, ok := next.AppOfKey(next.Probe.Key); ok {
		return fmt.Errorf("App %d has the key %q, which signs probes' ID tokens until a restart", app.ID, next.Probe.Key)
	}
	r.hsms.SetLabels(slices.Compact(slices.Sorted(slices.Values(slices.Concat(r.config.KeyLabels(), next.KeyLabels())))))
	if err := r.awaitKeys(ctx, next); err != nil {
		r.hsms.SetLabels(r.config.KeyLabels())
		return err
	}
	if err := r.server.SetAllowed(uids); err != nil {
		return err
	}
	if err := r.service.SetApps(next.Apps); err != nil {
		return err
	}
	r.hsms.SetLabels(next.KeyLabels())
	r.config = next
	r.log.Info("configuration taken up", zap.Int("apps", len(next.Apps)), zap.Uint32s("allow_uids", uids))
	return nil
}

// awaitKeys waits for the keys that are to sign in the place of others. The HSMs have not looked for them yet, and the
// others sign meanwhile. An App whose key signs must not lose it to one that does not.
func (r *reloader) awaitKeys(ctx context.Context, next *signer.Config) error {
	ctx, cancel := context.WithTimeout(ctx, keyWait)
	defer cancel()
	for _, app := range next.Apps {
		before, ok := r.config.App(app.ID)
		if !ok || before.Keys[0] == app.Keys[0] {
			continue
		}
		for {
			_, err := r.hsms.Public(app.Keys[0])
			if _, failing := r.hsms.Public(before.Keys[0]); err == nil || failing != nil {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("App %d would go from the key %q, which signs, to %q, which does not: %w", app.ID, before.Keys[0], app.Keys[0], err)
			case <-time.After(keyPoll):
			}
		}
	}
	return nil
}
