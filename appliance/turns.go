package appliance

import (
	"context"
	"sync"
	"time"
)

// A caller of HTTP/2 opens as many streams at once as it may, and where it takes them
// back at once, they are all that the processor does: each step of a good caller's
// exchange would wait for all of them. So only turns requests of one connection begin
// at once. turnTime is enough to refuse one that is to be refused before GitHub is
// asked; whatever goes on makes way for the next. That is 160 a second for a connection,
// as much as an address has by default.
const (
	turns    = 2
	turnTime = 12 * time.Millisecond
)

// waitAMoment is for a caller of HTTP/2 who asks too often. It takes that long of one
// of its connection's turns, so that it is not answered as fast as it can ask.
func waitAMoment(ctx context.Context) {
	timer := time.NewTimer(turnTime / 2)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// turn waits until a request may begin, and reports false where its caller took it
// back meanwhile. Then it has cost next to nothing.
func (conn *connection) turn(ctx context.Context) (done func(), ok bool) {
	select {
	case conn.turns <- struct{}{}:
	case <-ctx.Done():
		return nil, false
	}
	var once sync.Once
	end := func() { once.Do(func() { <-conn.turns }) }
	timer := time.AfterFunc(turnTime, end)
	return func() {
		timer.Stop()
		end()
	}, true
}
