package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/octo-sts/appliance/sts/ststest"
)

const (
	burst            = 1000 // deliveries, within
	burstTime        = time.Second
	burstConnections = 64
	burstRounds      = 5
	exchangeRate     = 200 // a second
)

// delivery is a signed one, as it goes over the wire.
type delivery struct {
	event string
	bytes []byte
}

// span is what was measured while something went on.
type span struct {
	exchanges, deliveries []time.Duration // how long each took, sorted
	took                  time.Duration
	ours, floor, self     float64 // processors in use
}

// measureDeliveries prints how long exchanges take while deliveries arrive and
// are worked off, beside the same when nothing does, and beside the same requests
// going to a handler that only reads them, and beside the floor's own exchanges:
// what all of it costs the machine, of which this process, the generator and the
// stand-in for GitHub, has its share.
func (b *bench) measureDeliveries(ctx context.Context) error {
	for _, latency := range benchLatencies {
		b.service.GitHub.SetLatency(latency)
		for _, mix := range []struct {
			name   string
			record func(*bench, string) []delivery
		}{
			{"70% push no policy, 20% are about one, 10% others", (*bench).usualMix},
			{"each pushes a policy to a default branch", (*bench).hardMix},
		} {
			fmt.Printf("\n%d deliveries in %v beside %d exchanges a second: %s; GitHub answers after %v\n", burst, burstTime, exchangeRate, mix.name, latency)
			var rows [6][]*span
			for range burstRounds {
				if err := b.round(ctx, mix.record, &rows); err != nil {
					return err
				}
			}
			printSpans(rows)
		}
	}
	return nil
}

// round measures each row once.
func (b *bench) round(ctx context.Context, mix func(*bench, string) []delivery, rows *[6][]*span) error {
	b.repositories += 2
	deliveries := mix(b, fmt.Sprint("pushed-", b.repositories))
	others := mix(b, fmt.Sprint("pushed-", b.repositories+1)) // none is done twice
	runtime.GC()                                              // of what recording left
	sending := func(server *target, all []delivery) func(context.Context, *span) error {
		return func(ctx context.Context, s *span) error { return s.send(ctx, server.url, all) }
	}
	for i, step := range []struct {
		exchanges *target
		meanwhile func(context.Context, *span) error
	}{
		{b.ours, pause}, {b.ours, sending(b.floor, deliveries)}, {b.ours, sending(b.ours, deliveries)}, {b.ours, b.workedOff},
		{b.floor, pause}, {b.floor, sending(b.ours, others)},
	} {
		s, err := b.during(ctx, step.exchanges, step.meanwhile)
		if err != nil {
			return err
		}
		rows[i] = append(rows[i], s)
	}
	if err := b.workedOff(ctx, &span{}); err != nil {
		return err
	}
	b.service.GitHub.ForgetMints()
	return nil
}

// record returns the deliveries that GitHub would send because of what do does.
func (b *bench) record(do func()) []delivery {
	var all []delivery
	recorder := transport(func(r *http.Request) (*http.Response, error) {
		var wire bytes.Buffer
		if err := r.Write(&wire); err != nil {
			return nil, err
		}
		all = append(all, delivery{r.Header.Get("X-GitHub-Event"), wire.Bytes()})
		return &http.Response{StatusCode: http.StatusAccepted, Body: http.NoBody, Request: r}, nil
	})
	b.service.GitHub.SetWebhook(ststest.DefaultApp, ststest.Webhook{
		URL: b.service.URL() + "/webhook", Secret: b.service.WebhookSecret, Client: &http.Client{Transport: recorder},
	})
	do()
	b.service.GitHub.SetWebhook(ststest.DefaultApp, ststest.Webhook{})
	return all
}

type transport func(*http.Request) (*http.Response, error)

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) { return t(r) }

// take returns the first n deliveries of an event.
func take(n int, event string, all []delivery) []delivery {
	all = slices.DeleteFunc(slices.Clone(all), func(d delivery) bool { return d.event != event })
	return all[:n]
}

// hardMix is what costs the receiver most: for each an entry in the audit log and
// a check run.
func (b *bench) hardMix(repository string) []delivery {
	b.service.GitHub.AddRepository("acme", repository)
	return take(burst, "push", b.record(func() {
		for n := range burst {
			b.pushPolicy(repository, "main", n)
		}
	}))
}

// usualMix is nearer to what an organization's days are like.
func (b *bench) usualMix(repository string) []delivery {
	github := b.service.GitHub
	github.AddRepository("acme", repository)
	code := func(branch string, n int) {
		github.Push("acme", repository, branch, []ststest.Change{{Path: "main.go", Content: fmt.Sprint("// ", n)}})
	}
	for n := range burst / 20 {
		code(fmt.Sprint("pulled-", n), n)
	}
	code("feature", -1)
	ordinary := b.record(func() {
		for n := range burst * 7 / 10 {
			code("feature", n)
		}
	})
	policies := b.record(func() {
		for n := range burst / 10 {
			b.pushPolicy(repository, "main", n)
		}
		for n := range burst / 20 {
			b.pushPolicy(repository, "feature", n)
		}
	})
	pulls := b.record(func() {
		for n := range burst / 20 {
			github.OpenPull("acme", repository, fmt.Sprint("pulled-", n), "main")
		}
	})
	all := slices.Concat(take(burst*7/10, "push", ordinary), take(burst/10, "check_suite", ordinary),
		take(burst*3/20, "push", policies), take(burst/20, "pull_request", pulls))
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

func (b *bench) pushPolicy(repository, branch string, n int) {
	b.service.GitHub.Push("acme", repository, branch, []ststest.Change{{
		Path:    ".github/chainguard/pushed.sts.yaml",
		Content: fmt.Sprintf("# %d\nissuer: %s\nsubject: someone\npermissions:\n  contents: read\n", n, b.service.Issuer.URL()),
	}})
}

// during measures exchanges of a server's at an even rate while do goes on.
func (b *bench) during(ctx context.Context, server *target, do func(context.Context, *span) error) (*span, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &span{}
	var mu sync.Mutex // guards s.exchanges
	var asking sync.WaitGroup
	ended := make(chan struct{})
	ours, floor, self, start := b.ours.cpu(), b.floor.cpu(), selfCPU(), time.Now()
	asking.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-ended:
				return
			case <-time.After(time.Until(start.Add(time.Second * time.Duration(n) / exchangeRate))):
			}
			asking.Go(func() {
				began := time.Now()
				if err := server.ask(ctx, b.idTokens[n%len(b.idTokens)]); err != nil {
					cancel(err)
				}
				mu.Lock()
				defer mu.Unlock()
				s.exchanges = append(s.exchanges, time.Since(began))
			})
		}
	})
	if err := do(ctx, s); err != nil {
		cancel(err)
	}
	close(ended)
	s.took = time.Since(start)
	for _, one := range []struct {
		before, after time.Duration
		into          *float64
	}{{ours, b.ours.cpu(), &s.ours}, {floor, b.floor.cpu(), &s.floor}, {self, selfCPU(), &s.self}} {
		*one.into = float64(one.after-one.before) / float64(s.took)
	}
	asking.Wait()
	slices.Sort(s.exchanges)
	slices.Sort(s.deliveries)
	return s, context.Cause(ctx)
}

// selfCPU is the processor time that this process has used.
func selfCPU() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// pause is how long deliveries arrive, without any.
func pause(ctx context.Context, _ *span) error {
	select {
	case <-ctx.Done():
	case <-time.After(burstTime):
	}
	return context.Cause(ctx)
}

// workedOff ends when nothing is left in the queue.
func (b *bench) workedOff(ctx context.Context, s *span) error {
	for {
		if err := pause(ctx, s); err != nil {
			return err
		}
		response, err := b.service.Client().Get(b.service.AdminURL() + "/readyz")
		if err != nil {
			return err
		}
		report, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || bytes.Contains(report, []byte(`"0 deliveries wait`)) {
			return err
		}
	}
}

// send sends deliveries evenly over burstTime to a server, over connections that
// are there already.
func (s *span) send(ctx context.Context, server string, all []delivery) error {
	where, err := url.Parse(server)
	if err != nil {
		return err
	}
	connections := make([]net.Conn, burstConnections)
	for i := range connections {
		if connections[i], err = (&net.Dialer{}).DialContext(ctx, "tcp", where.Host); err != nil {
			return err
		}
		defer connections[i].Close()
	}
	s.deliveries = make([]time.Duration, len(all))
	errs := make([]error, len(connections))
	var next atomic.Int64
	var senders sync.WaitGroup
	start := time.Now()
	for i, connection := range connections {
		senders.Go(func() {
			answers := bufio.NewReader(connection)
			for n := int(next.Add(1)) - 1; n < len(all) && errs[i] == nil; n = int(next.Add(1)) - 1 {
				time.Sleep(time.Until(start.Add(burstTime * time.Duration(n) / time.Duration(len(all)))))
				began := time.Now()
				errs[i] = exchangeBytes(connection, answers, all[n].bytes)
				s.deliveries[n] = time.Since(began)
			}
		})
	}
	senders.Wait()
	return errors.Join(errs...)
}

// exchangeBytes sends a request and reads its answer, which must be a success.
func exchangeBytes(connection net.Conn, answers *bufio.Reader, request []byte) error {
	if _, err := connection.Write(request); err != nil {
		return err
	}
	response, err := http.ReadResponse(answers, nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("a delivery was answered %s", response.Status)
	}
	return nil
}
