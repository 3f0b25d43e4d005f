package forward

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/octo-sts/appliance/sts/audit"
)

const (
	// maxEvents and maxBytes bound one request: so many events, or so many bytes of its body.
	maxEvents = 100
	maxBytes  = 512 << 10
)

// pace is when things are done.
type pace struct {
	gather  time.Duration // how long an event waits for others to share a request with
	attempt time.Duration // for one request and its answer
	first   time.Duration // the pause after a failure; each further one doubles it
	longest time.Duration // the longest such pause
	asked   time.Duration // the longest pause that a sink can ask for (Retry-After)
}

var eventsPace = pace{gather: time.Second, attempt: 30 * time.Second, first: time.Second, longest: time.Minute, asked: time.Hour}

// EventsConfig says what is sent, and where to.
type EventsConfig struct {
	Log     *audit.Log
	Cursors *Cursors
	// Origin is the log's: the events' source. Required.
	Origin string
	// URL takes batches of CloudEvents by POST: https, or http on a loopback address. Without user name and fragment.
	// HTTPS_PROXY and NO_PROXY are honoured. No redirect is followed.
	URL string
	// CAFile holds PEM roots to trust for URL instead of the system's. May be empty.
	CAFile string
	// Credential is sent as "Authorization: Bearer …" where it is not empty. It is in no log and no error.
	Credential string
	// From is the first entry to send, where the copy has not come that far: what is before it is left out.
	From uint64
	// Logger hears of each failed attempt. nil: nobody does.
	Logger *zap.Logger
}

// Events sends the log to a collector of CloudEvents, each entry at least once and in order.
//
// A batch counts as taken when the answer is 2xx; only then its entries are passed, in memory and then on disk. Any other
// answer, and none, has it sent again, after a pause of 1 s that doubles up to 60 s, or the one that Retry-After names.
// A batch that is refused for what it holds (400, 413, 422) is sent in parts, so that one event alone is held in the
// end; nothing after it is sent before it is taken, or left out with EventsConfig.From.
type Events struct {
	follower
	sink   *sink
	source string
	pace   pace

	// These belong to the goroutine of Run.
	pending  []encoded // read and not yet taken, in order; the first one's index is follower.next
	due      time.Time // when pending is sent although it is not full
	limit    int       // how many events at most are sent at once
	failures int       // in a row
}

// NewEvents sends nothing yet. A sink that is new (its URL is not the one before) gets the log from its oldest entry on.
func NewEvents(ctx context.Context, c EventsConfig) (*Events, error) {
	e, err := newEvents(ctx, c, eventsPace)
	if err != nil {
		return nil, fmt.Errorf("audit.cloudevents_sink: %w", err)
	}
	return e, nil
}

func newEvents(_ context.Context, c EventsConfig, p pace) (*Events, error) {
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.Origin == "" {
		return nil, errors.New("the log has no origin, which is the events' source")
	}
	sink, err := newSink(c)
	if err != nil {
		return nil, err
	}
	oldest, err := c.Log.First()
	if err != nil {
		return nil, err
	}
	e := &Events{
		follower: follower{
			log: c.Log, cursors: c.Cursors, name: "cloudevents", target: c.URL,
			logger: c.Logger.With(zap.String("copy", "cloudevents"), zap.String("sink", sink.name)),
		},
		sink:   sink,
		source: source(c.Origin),
		pace:   p,
		limit:  maxEvents,
	}
	if err := e.open(oldest); err != nil {
		return nil, err
	}
	if size := c.Log.Size(); c.From > size {
		return nil, fmt.Errorf("the first entry to send is to be %d, but the log has %d entries", c.From, size)
	}
	if c.From > e.next {
		e.logger.Warn("entries are left out, as configured", zap.Uint64("from", e.next), zap.Uint64("before", c.From))
		e.next = c.From
	}
	return e, nil
}

// Run sends until ctx ends or the log is closed, whichever is first.
func (e *Events) Run(ctx context.Context) {
	defer e.forget()
	defer e.save()
	for {
		err := e.gather(ctx)
		if err != nil && isOver(ctx, err) {
			return
		}
		var pause time.Duration
		if err == nil {
			pause, err = e.deliver(ctx)
		}
		if err == nil {
			continue
		}
		if ctx.Err() != nil {
			return
		}
		pause = max(pause, e.backoff())
		e.failed(err)
		e.logger.Error("audit entries are not sent", zap.Error(err), zap.Uint64("next", e.next), zap.Duration("pause", pause))
		if !sleep(ctx, pause) {
			return
		}
	}
}

// backoff is the pause after one more failure.
func (e *Events) backoff() time.Duration {
	pause := e.pace.longest
	if e.failures < 16 { // else the shift overflows
		pause = min(pause, e.pace.first<<e.failures)
	}
	e.failures++
	return pause
}

// gather reads until there is a batch to send: a full one, or one that has waited long enough.
func (e *Events) gather(ctx context.Context) error {
	for e.size() < maxBytes && len(e.pending) < maxEvents {
		line, ok, err := e.read(e.next + uint64(len(e.pending)))
		if ok {
			err = e.add(line)
		}
		switch {
		case err != nil && len(e.pending) > 0:
			return nil // first what could be read
		case err != nil:
			return err
		case ok:
			continue
		case len(e.pending) == 0:
			if err := e.wait(ctx); err != nil {
				return err
			}
			continue
		}
		until, cancel := context.WithDeadline(ctx, e.due)
		err = e.wait(until)
		cancel()
		if err != nil { // it is due, or the log was closed
			return ctx.Err()
		}
	}
	return nil
}

func (e *Events) add(line audit.Line) error {
	event, err := encode(e.source, line)
	if err != nil {
		e.forget()
		return err
	}
	if len(e.pending) == 0 {
		e.due = time.Now().Add(e.pace.gather)
	}
	e.pending = append(e.pending, event)
	return nil
}

// size is how long a body with all that is pending would be.
func (e *Events) size() int {
	n := 1
	for _, event := range e.pending {
		n += len(event) + 1
	}
	return n
}

// deliver sends the first of what is pending, as much as a request may hold.
func (e *Events) deliver(ctx context.Context) (pause time.Duration, err error) {
	body, n := batch(e.pending[:min(len(e.pending), e.limit)], maxBytes)
	ctx, cancel := context.WithTimeout(ctx, e.pace.attempt)
	defer cancel()
	err = e.sink.post(ctx, body)
	if err == nil {
		e.failures = 0
		e.limit = min(e.limit+1, maxEvents)
		e.pending = e.pending[n:]
		e.works()
		e.copied(e.next + uint64(n))
		return 0, nil
	}
	var refused *refusal
	if !errors.As(err, &refused) {
		return 0, err
	}
	if refused.isAboutContent() && n > 1 {
		e.limit = n / 2
		e.logger.Warn("a batch of audit entries was refused; sending it in parts", zap.Error(err), zap.Int("entries", n))
		return 0, nil
	}
	if refused.isAboutContent() {
		err = fmt.Errorf("entry %d is held, and all after it: %w", e.next, err)
	}
	return min(refused.retryAfter, e.pace.asked), err
}
