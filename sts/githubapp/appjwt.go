package githubapp

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"

	"github.com/octo-sts/appliance/sts/span"
)

const (
	// minJWTLife is what a JWT must still have: GitHub's clock may be ahead.
	minJWTLife = 30 * time.Second

	// jwtRetry bounds how often a signature is asked for, after a failure or
	// after GitHub refused a JWT.
	jwtRetry = time.Second
)

// appJWTCache keeps one App's JWT. From half of its life on it is renewed in the
// background, so that the JWT in hand always has at least that half left when
// the signer dies, and exchanges go on for as long.
type appJWTCache struct {
	appID  int64
	sign   func(ctx context.Context, appID int64) (string, time.Time, error)
	now    func() time.Time
	log    *zap.Logger
	flight singleflight.Group // one signature at a time

	mu        sync.Mutex // guards what follows
	jwt       string     // "": none
	expiry    time.Time
	renewAt   time.Time
	err       error // of the last attempt
	failedAt  time.Time
	droppedAt time.Time
}

// get returns a JWT with at least minJWTLife left.
func (j *appJWTCache) get(ctx context.Context) (string, error) {
	j.mu.Lock()
	jwt, usable := j.jwt, j.usable()
	err := j.err
	tooSoon := err != nil && j.now().Sub(j.failedAt) < jwtRetry
	j.mu.Unlock()
	switch {
	case usable:
		return jwt, nil
	case tooSoon:
		return "", err
	}
	return share(ctx, &j.flight, "", j.renew)
}

// usable needs j.mu.
func (j *appJWTCache) usable() bool {
	return j.jwt != "" && j.expiry.Sub(j.now()) >= minJWTLife
}

// renew asks for a new JWT, unless another flight has just brought one.
func (j *appJWTCache) renew(ctx context.Context) (string, error) {
	j.mu.Lock()
	jwt, current := j.jwt, j.usable() && j.now().Before(j.renewAt)
	j.mu.Unlock()
	if current {
		return jwt, nil
	}
	asked := j.now()
	jwt, expiry, err := j.sign(ctx, j.appID)
	if err == nil && (jwt == "" || expiry.Sub(j.now()) < minJWTLife) {
		err = fmt.Errorf("the JWT for App %d is empty or expires at %s, in less than %s", j.appID, expiry.UTC().Format(time.RFC3339), minJWTLife)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil {
		switch { // once, not each second
		case j.err != nil:
		case j.usable():
			j.log.Warn("no new App JWT: the one at hand is used until it expires", zap.Int64("app_id", j.appID), zap.Time("expiry", j.expiry), span.Field(ctx), zap.Error(err))
		default:
			j.log.Error("no App JWT: nothing can be done as this App until there is one", zap.Int64("app_id", j.appID), span.Field(ctx), zap.Error(err))
		}
		j.err, j.failedAt = err, j.now()
		return "", err
	}
	if j.err != nil {
		j.log.Info("App JWTs are to be had again", zap.Int64("app_id", j.appID))
	}
	j.jwt, j.expiry, j.renewAt, j.err = jwt, expiry, asked.Add(expiry.Sub(asked)/2), nil
	return jwt, nil
}

// drop forgets a JWT that GitHub refused and reports whether another one can be
// had. Within jwtRetry of the last drop it cannot: a GitHub that refuses
// everything must not turn into a signature for each call.
func (j *appJWTCache) drop(jwt string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.jwt != jwt {
		return true // somebody else did
	}
	if j.now().Sub(j.droppedAt) < jwtRetry {
		return false
	}
	j.jwt, j.renewAt, j.droppedAt = "", time.Time{}, j.now()
	return true
}

// keepFresh renews the JWT until ctx ends. A ticker, rather than a timer set for
// half-life, follows the clock where it is stepped or the host slept.
func (j *appJWTCache) keepFresh(ctx context.Context) {
	tick := time.NewTicker(jwtRetry)
	defer tick.Stop()
	for {
		j.mu.Lock()
		due := !j.now().Before(j.renewAt)
		j.mu.Unlock()
		if due {
			// The error is in Status, and was logged.
			_, _ = share(ctx, &j.flight, "", j.renew)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (j *appJWTCache) status() AppStatus {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := AppStatus{AppID: j.appID, LastError: j.err}
	if j.jwt != "" {
		s.CachedUntil = j.expiry.Add(-minJWTLife)
	}
	return s
}
