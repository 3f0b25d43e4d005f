package appliance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

// needRestart are the keys whose changes count from the next start on, by
// themselves and all below them. Everything else counts from a SIGHUP on.
//
// The listening sockets, the files and the directory that they name are open;
// domain is in the certificate and in the log's name; and what is known of GitHub is
// known of the GitHub at that address.
func needRestart() []string {
	return []string{
		"domain",
		"listen.https", "listen.http", "listen.admin",
		"tls",
		"github.api_url", "github.ca_file", "github.max_concurrent",
		"audit",
		"signer",
		"state_directory",
		"tracing",
	}
}

// keepWhatNeedsRestart puts back what only a restart changes, and returns the keys
// of it that differed.
func keepWhatNeedsRestart(running, next *Config) (waiting []string) {
	for _, key := range needRestart() {
		is, wanted := fieldOf(running, key), fieldOf(next, key)
		waiting = append(waiting, differing(key, is, wanted)...)
		wanted.Set(is)
	}
	// Without any secret there is no endpoint, and no queue that is worked on.
	if (len(running.Webhook.Secrets) > 0) != (len(next.Webhook.Secrets) > 0) {
		waiting = append(waiting, "webhook.secrets")
		next.Webhook = running.Webhook
	}
	return waiting
}

// fieldOf finds a field by its key, as the file nests it. There has to be one.
func fieldOf(c *Config, key string) reflect.Value {
	v := reflect.ValueOf(c).Elem()
	for name := range strings.SplitSeq(key, ".") {
		i := 0
		for v.Type().Field(i).Tag.Get("json") != name {
			i++ // beyond the last one is a mistake of the table's, and a panic
		}
		v = v.Field(i)
	}
	return v
}

// differing lists the keys at or below key whose values are not the same.
func differing(key string, a, b reflect.Value) (keys []string) {
	if a.Kind() != reflect.Struct {
		if !reflect.DeepEqual(a.Interface(), b.Interface()) {
			return []string{key}
		}
		return nil
	}
	for i := range a.NumField() {
		keys = append(keys, differing(key+"."+a.Type().Field(i).Tag.Get("json"), a.Field(i), b.Field(i))...)
	}
	return keys
}

// reloads is how the last one went.
type reloads struct {
	mu      sync.Mutex // guards what follows
	problem error      // why the file on disk is not in force; nil where it is
	waiting []string   // keys that need a restart
	good    time.Time  // when a configuration came into force last
}

func (r *reloads) status() (problem error, waiting []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.problem, r.waiting
}

func (r *reloads) lastGood() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.good
}

func (r *reloads) set(problem error, waiting []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.problem, r.waiting = problem, waiting
	if problem == nil {
		r.good = time.Now()
	}
}

// settleTime is for how long the file has to stay as it is to be believed: whoever
// writes it in place is not done with it when the first half is there. settleLimit
// is when that is given up.
const (
	settleTime  = 100 * time.Millisecond
	settleLimit = 5 * time.Second
)

// readSettled reads a file that nobody is writing.
func readSettled(ctx context.Context, file string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	before, lastErr := os.ReadFile(file)
	for {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("reading the configuration: %w", errors.Join(lastErr, errors.New("it was being written all the time")))
		case <-time.After(settleTime):
		}
		now, err := os.ReadFile(file)
		switch {
		case err == nil && lastErr == nil && bytes.Equal(before, now):
			return now, nil
		case err != nil && lastErr != nil: // an editor may take it away for a moment
			return nil, fmt.Errorf("reading the configuration: %w", err)
		}
		before, lastErr = now, err
	}
}

// reloadOnHangup takes the configuration up again on each SIGHUP, until ctx is done.
func (d *Daemon) reloadOnHangup(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.hangup:
		}
		d.notify.Reloading()
		waiting, err := d.takeUp(ctx)
		if ctx.Err() != nil {
			return
		}
		_, before := d.reloads.status()
		if err != nil {
			d.logger.Error("the configuration is not taken up, the one before stays in force", zap.String("file", d.file), zap.Error(err))
			waiting = before
		} else {
			d.logger.Info("configuration taken up", zap.String("file", d.file))
			if len(waiting) > 0 {
				d.logger.Warn("a change of the configuration needs a restart", zap.Strings("keys", waiting))
			}
		}
		d.reloads.set(err, waiting)
		d.tellStatus(ctx)
		d.notify.Ready()
	}
}

// takeUp changes everything or, where it returns an error, nothing but the
// certificate, which has an error of its own in its log lines and in /readyz.
func (d *Daemon) takeUp(ctx context.Context) (waiting []string, err error) {
	if d.certificates != nil {
		_ = d.certificates.reload() // which logs, and which /readyz shows
	}
	data, err := readSettled(ctx, d.file)
	if err != nil {
		return nil, err
	}
	c, err := parse(d.file, data)
	if err != nil {
		return nil, err
	}
	running := d.generations.current.Load()
	waiting = keepWhatNeedsRestart(running.config, c)
	next, err := d.parts.successor(ctx, running, c)
	if err != nil {
		return nil, err
	}
	callers := d.edge.rules.Load() // with what each caller still has
	if !reflect.DeepEqual(running.config.Limits, c.Limits) || !reflect.DeepEqual(running.config.Listen, c.Listen) {
		if callers, err = newRules(c); err != nil {
			return nil, err
		}
	}
	if d.webhook != nil {
		config, err := d.parts.webhookConfig(c, next.github)
		if err == nil {
			err = d.webhook.Reload(config)
		}
		if err != nil {
			return nil, err
		}
	}
	// Nothing from here on fails.
	d.edge.rules.Store(callers)
	d.generations.replace(d.background, next)
	return waiting, nil
}
