package appliance

import (
	"context"
	"sync"
	"time"
)

// Bounds on asking something for the metrics. A scrape waits for scrapeWait at
// most; what it finds then is the answer before.
const (
	scrapeWait = 500 * time.Millisecond
	scrapeAge  = time.Second // an answer is given to whoever comes within it
	scrapeOld  = 5 * time.Second
)

// latest keeps the newest answer to a question that may take its time, for those
// who cannot wait. It is asked once at a time, however many come.
type latest[T any] struct {
	ask func(context.Context) T

	mu       sync.Mutex // guards what follows
	answer   T
	answered time.Time     // when answer came; zero: none has yet
	asking   chan struct{} // closed when the question that is under way is answered; nil: none is
}

// get returns an answer, and how old it is, which is more than scrapeOld where the
// question has not been answered lately, or never.
func (l *latest[T]) get() (answer T, age time.Duration) {
	l.mu.Lock()
	if time.Since(l.answered) > scrapeAge {
		if l.asking == nil {
			l.asking = make(chan struct{})
			go l.fetch(l.asking)
		}
		asking := l.asking
		l.mu.Unlock()
		patience := time.NewTimer(scrapeWait)
		select {
		case <-asking:
		case <-patience.C:
		}
		patience.Stop()
		l.mu.Lock()
	}
	defer l.mu.Unlock()
	if l.answered.IsZero() {
		return l.answer, time.Hour
	}
	return l.answer, time.Since(l.answered)
}

func (l *latest[T]) fetch(asking chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeOld)
	defer cancel()
	answer := l.ask(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answer, l.answered, l.asking = answer, time.Now(), nil
	close(asking)
}
