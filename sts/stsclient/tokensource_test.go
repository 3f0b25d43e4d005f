package stsclient

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"golang.org/x/oauth2"
)

// event is something that happens to a source: time passes, then a token is asked for.
type event struct {
	passes    time.Duration
	exchange  error // what an exchange would come to now; nil: a token for an hour
	exchanges int   // so many are made by then, in all
	token     int   // the exchange whose token is returned; 0: the error
}

// When an exchange is made, and what is returned meanwhile.
func TestRenewal(t *testing.T) {
	refused := &RefusedError{Status: http.StatusForbidden}
	busy := &RefusedError{Status: http.StatusTooManyRequests, RetryAfter: 20 * time.Minute}
	away := errors.New("nobody answers")
	for name, events := range map[string][]event{
		"one token for almost an hour": {{0, nil, 1, 1}, {54 * time.Minute, nil, 1, 1}, {2 * time.Minute, nil, 2, 2}, {50 * time.Minute, nil, 2, 2}},
		"a renewal that fails leaves the token that is there, and is tried again each minute": {
			{0, nil, 1, 1}, {56 * time.Minute, away, 2, 1}, {30 * time.Second, away, 2, 1}, {31 * time.Second, away, 3, 1}, {61 * time.Second, nil, 4, 4},
		},
		"the token dies meanwhile": {{0, nil, 1, 1}, {59 * time.Minute, away, 2, 1}, {time.Minute, away, 3, 0}, {2 * time.Second, nil, 4, 4}},
		"a refusal stands for a minute": {
			{0, refused, 1, 0}, {30 * time.Second, nil, 1, 0}, {31 * time.Second, nil, 2, 2},
		},
		"a renewal that is refused": {{0, nil, 1, 1}, {56 * time.Minute, refused, 2, 1}, {30 * time.Second, nil, 2, 1}, {31 * time.Second, nil, 3, 3}},
		"the appliance says when":   {{0, busy, 1, 0}, {19 * time.Minute, nil, 1, 0}, {2 * time.Minute, nil, 2, 2}},
		"who waited together shares a failure, and who comes later does not": {
			{0, away, 1, 0}, {500 * time.Millisecond, nil, 1, 0}, {time.Second, nil, 2, 2},
		},
		"after a long sleep": {{0, nil, 1, 1}, {5 * time.Hour, nil, 2, 2}},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
			made, outcome := 0, error(nil)
			r := &renewal{ctx: t.Context(), now: func() time.Time { return now }, exchange: func(context.Context) (InstallationToken, error) {
				made++
				if outcome != nil {
					return InstallationToken{}, outcome
				}
				return InstallationToken{Value: string(rune('0' + made)), Expiry: now.Add(time.Hour)}, nil
			}}
			var kept *oauth2.Token // as package oauth2 keeps it
			for i, e := range events {
				now, outcome = now.Add(e.passes), e.exchange
				token, err := kept, error(nil)
				if kept == nil || !now.Before(kept.Expiry.Add(-renewBefore)) {
					if token, err = r.Token(); err == nil {
						kept = token
					}
				}
				want := ""
				if e.token > 0 {
					want = string(rune('0' + e.token))
				}
				if got := value(token); made != e.exchanges || got != want || (err == nil) != (e.token > 0) {
					t.Fatalf("event %d: token %q, %v after %d exchanges; want %+v", i+1, got, err, made, e)
				}
			}
		})
	}
}

func value(t *oauth2.Token) string {
	if t == nil {
		return ""
	}
	return t.AccessToken
}

// However many ask at once, one exchange is made; and what package oauth2 builds on a
// source keeps its five minutes.
func TestTokenSourceIsOneFlight(t *testing.T) {
	s := serve(t, step{status: http.StatusOK, body: `{"token":"ghs_secret","expiry":"` + time.Now().Add(time.Hour).Format(time.RFC3339) + `"}`})
	c, _ := client(t, s.URL)
	source := c.TokenSource(t.Context())
	if again := oauth2.ReuseTokenSource(nil, source); again != source {
		t.Error("package oauth2 wraps the source in another one, which would renew later")
	}
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if token, err := source.Token(); err != nil || token.AccessToken != "ghs_secret" {
				t.Errorf("%v, %v", token, err)
			}
		})
	}
	all.Wait()
	if len(s.asked()) != 1 {
		t.Errorf("%d exchanges", len(s.asked()))
	}

	refusing := serve(t, denied)
	c, _ = client(t, refusing.URL)
	source = c.TokenSource(t.Context())
	for range 20 {
		all.Go(func() {
			var refused *RefusedError
			if _, err := source.Token(); !errors.As(err, &refused) {
				t.Errorf("%v", err)
			}
		})
	}
	all.Wait()
	if len(refusing.asked()) != 1 {
		t.Errorf("a refused exchange was repeated: %d", len(refusing.asked()))
	}
}
