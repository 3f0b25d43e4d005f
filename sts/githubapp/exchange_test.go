package githubapp_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/ststest"
)

// exchange does what one exchange asks of this package.
func (w *world) exchange() error {
	inst, err := w.client.Installation(w.ctx, "acme", "app")
	if err != nil {
		return err
	}
	if _, err := w.read(inst); err != nil {
		return err
	}
	_, err = w.client.Mint(w.ctx, inst, readIssues)
	return err
}

// TestCalls counts what an exchange costs.
func TestCalls(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.wants(w.exchange(), "ok")
	w.calls(ststest.RepoInstallRoute, ststest.ContentsRoute, ststest.MintRoute+"*2")

	w.github.ResetCalls()
	for range 100 {
		w.wants(w.exchange(), "ok")
	}
	w.calls(ststest.MintRoute + "*100")
	if n := w.signer.signed.Load(); n > 2 {
		t.Errorf("%d App JWTs were signed, want at most 2", n)
	}
}

// TestIdenticalColdRequests lets a thousand callers come at once.
func TestIdenticalColdRequests(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *options) { o.github.Latency = 50 * time.Millisecond })
	start := make(chan struct{})
	var group sync.WaitGroup
	for range 1000 {
		group.Go(func() {
			<-start
			inst, err := w.client.Installation(w.ctx, "Acme", "App")
			if err == nil {
				_, err = w.read(inst)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	close(start)
	group.Wait()
	w.calls(ststest.RepoInstallRoute, ststest.ContentsRoute, ststest.MintRoute)
	if n := w.signer.signed.Load(); n != 1 {
		t.Errorf("%d App JWTs were signed, want 1", n)
	}
}

// TestCallerWhoLeaves must not fail those who wait for the same answer.
func TestCallerWhoLeaves(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	inst := w.installation()
	fault := w.github.Fail(ststest.Fault{Route: ststest.ContentsRoute, Delay: 500 * time.Millisecond})
	leaving, leave := context.WithCancel(w.ctx)
	left := make(chan error)
	go func() {
		_, err := w.client.File(leaving, inst, "app", policyPath)
		left <- err
	}()
	eventually(t, "the first caller's request is under way", func() bool { return fault.Hits() == 1 })
	stayed := make(chan error)
	go func() {
		_, err := w.read(inst)
		stayed <- err
	}()
	leave()
	err := <-left
	w.wants(err, "unavailable")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the caller who left got %v, want context.Canceled in it", err)
	}
	w.wants(<-stayed, "ok")
	w.calls(ststest.ContentsRoute, ststest.MintRoute)
}

// faultCase is one odd answer of GitHub's, and what each step makes of it.
type faultCase struct {
	name  string
	fault ststest.Fault
	// resolve, read and mint are kinds.
	resolve, read, mint string
	words               string
	// attempts the step makes before it gives up; 0 is 1.
	attempts int
}

func faultCases() []faultCase {
	moved := map[string]string{"Location": "https://elsewhere.example/repositories/1"}
	down := func(status int) faultCase {
		return faultCase{fault: ststest.Fault{Status: status}, resolve: "unavailable", read: "unavailable", mint: "unavailable", words: "GitHub answered 5"}
	}
	limited := func(f ststest.Fault) faultCase {
		return faultCase{fault: f, resolve: "rate limited", read: "rate limited", mint: "rate limited", words: "no call leaves for"}
	}
	same := func(f ststest.Fault, kind, words string) faultCase {
		return faultCase{fault: f, resolve: kind, read: kind, mint: kind, words: words}
	}
	named := func(name string, c faultCase) faultCase { c.name = name; return c }
	unauthorized := same(ststest.Fault{Status: 401}, "unavailable", "GitHub answered 401")
	unauthorized.attempts = 2
	return []faultCase{
		named("500", down(500)), named("502", down(502)), named("503", down(503)), named("504", down(504)),
		named("503 as a page", same(ststest.Fault{Status: 503, Body: "<html>Unicorn!</html>"}, "unavailable", "Unicorn")),
		named("503 with retry-after", same(ststest.Fault{Status: 503, Header: map[string]string{"Retry-After": "20"}}, "unavailable", "again in 20s")),
		named("time-out", same(ststest.Fault{Delay: 2 * time.Second}, "unavailable", "deadline")),
		named("reset", same(ststest.Fault{Reset: true}, "unavailable", "")),
		named("reset after it was done", same(ststest.Fault{Lost: true}, "unavailable", "")),
		named("truncated JSON", same(ststest.Fault{Truncate: true}, "unavailable", "JSON")),
		named("garbage", same(ststest.Fault{Garbage: true}, "unavailable", "JSON")),
		named("empty object", same(ststest.Fault{Status: 200, Body: "{}"}, "unavailable", "GitHub")),
		named("null", same(ststest.Fault{Status: 200, Body: "null"}, "unavailable", "GitHub")),
		named("202", same(ststest.Fault{Status: 202, Body: "{}"}, "unavailable", "GitHub answered 202")),
		named("304 unasked", same(ststest.Fault{Status: 304}, "unavailable", "GitHub answered 304")),
		named("403 primary limit", limited(ststest.PrimaryRateLimit(403, time.Now().Add(25*time.Second)))),
		named("429 primary limit", limited(ststest.PrimaryRateLimit(429, time.Now().Add(25*time.Second)))),
		named("403 secondary limit", limited(ststest.SecondaryRateLimit(403, 25*time.Second))),
		named("429 secondary limit", limited(ststest.SecondaryRateLimit(429, 25*time.Second))),
		named("403 plain", same(ststest.Fault{Status: 403, Body: `{"message":"Resource not accessible by integration"}`}, "refused", "Resource not accessible")),
		named("401", unauthorized),
		named("404", faultCase{fault: ststest.Fault{Status: 404}, resolve: "not installed", read: "not found", mint: "refused", words: "GitHub answered 404"}),
		named("422", same(ststest.Fault{Status: 422, Body: `{"message":"no","errors":[{"resource":"Thing","code":"missing"}]}`}, "refused", "Thing")),
		named("451", same(ststest.Fault{Status: 451}, "refused", "GitHub answered 451")),
		named("301", same(ststest.Fault{Status: 301, Header: moved}, "refused", "new name")),
		named("307", same(ststest.Fault{Status: 307, Header: moved}, "refused", "new name")),
		named("two megabytes too much", faultCase{fault: ststest.Fault{Status: 200, Body: string(make([]byte, 4<<20))},
			resolve: "unavailable", read: "not a file", mint: "unavailable"}),
	}
}

// TestFaults walks the odd answers through each step: the right kind of error,
// words for the operator, no early retry, and recovery within 30 s (of a 404 in
// place of a file, within PolicyMaxAge).
func TestFaults(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"resolve", "read", "mint"} {
		for _, c := range faultCases() {
			t.Run(step+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				inst := w.installation()
				// A read token that has been used, so that what is tried is the step.
				if _, err := w.client.File(w.ctx, inst, ".github", "absent"); kindOf(err) != "not found" {
					t.Fatal(err)
				}
				act := map[string]func(context.Context) error{
					"resolve": func(ctx context.Context) error {
						_, err := w.client.Installation(ctx, "other", "thing")
						return err
					},
					"read": func(ctx context.Context) error {
						_, err := w.client.File(ctx, inst, "app", policyPath)
						return err
					},
					"mint": func(ctx context.Context) error {
						_, err := w.client.Mint(ctx, inst, readIssues)
						return err
					},
				}[step]
				w.github.AddRepository("other", "thing")
				w.github.Install(appID, "other", ststest.InstallOptions{})

				c.fault.Route = map[string]string{"resolve": ststest.RepoInstallRoute, "read": ststest.ContentsRoute, "mint": ststest.MintRoute}[step]
				fault := w.github.Fail(c.fault)
				ctx := w.ctx
				if c.fault.Delay > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, 300*time.Millisecond)
					defer cancel()
				}
				err := act(ctx)
				w.wants(err, map[string]string{"resolve": c.resolve, "read": c.read, "mint": c.mint}[step], c.words)
				attempts := max(1, c.attempts)
				if step == "read" && c.attempts == 2 {
					// The proven token is replaced; the new one is young, and given time.
					attempts = fault.Hits()
				}
				if fault.Hits() != attempts {
					t.Errorf("%d calls were made, want %d: %v", fault.Hits(), attempts, err)
				}
				if limit := (*githubapp.RateLimitError)(nil); errors.As(err, &limit) && (limit.RetryAfter <= 0 || limit.RetryAfter > 27*time.Second) {
					t.Errorf("RetryAfter is %s, want what GitHub said", limit.RetryAfter)
				}

				fault.Clear()
				w.clock.advance(27 * time.Second)
				if step == "read" && (c.read == "not found" || c.read == "not a file") {
					w.clock.advance(34 * time.Second) // kept as long as a file is
				}
				eventually(t, "it works again", func() bool { return act(w.ctx) == nil })
			})
		}
	}
}

// TestNothingSecretIsSaid looks for tokens and JWTs in logs and errors.
func TestNothingSecretIsSaid(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zapcore.DebugLevel)
	w := newWorld(t, func(o *options) { o.config.Logger = zap.New(core) })
	inst := w.installation()
	minted, err := w.client.Mint(w.ctx, inst, readIssues)
	w.wants(err, "ok")
	var said []error
	for _, fault := range []ststest.Fault{
		{Status: 401}, {Status: 500}, {Reset: true}, {Garbage: true}, {Truncate: true}, {Status: 403},
		ststest.SecondaryRateLimit(429, 20*time.Second),
		{Status: 201, Body: `{"token":"` + minted.Token + `","expires_at":"2001-01-01T00:00:00Z"}`},
	} {
		active := w.github.Fail(fault)
		_, mintErr := w.client.Mint(w.ctx, inst, readIssues)
		said = append(said, mintErr, w.client.Revoke(w.ctx, minted.Token))
		active.Clear()
		w.clock.advance(time.Minute)
	}
	said = append(said, w.client.Revoke(w.ctx, minted.Token+"\n"))
	for _, entry := range logs.All() {
		text, err := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()).EncodeEntry(entry.Entry, entry.Context)
		if err != nil {
			t.Fatal(err)
		}
		said = append(said, errors.New(text.String()))
	}
	for _, err := range said {
		if err != nil && containsAny(err.Error(), minted.Token, "eyJ") {
			t.Errorf("this gives a secret away: %v", err)
		}
	}
}
