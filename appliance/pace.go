package appliance

import (
	"runtime"
	"time"
)

// The runtime looks at the network only when a processor has nothing else to do, and
// otherwise every 10 ms. A flood that always leaves something to do therefore delays
// every step of a good caller's exchange by as much, long before it takes all of the
// processor. So what strangers send is worked on in small portions with pauses between
// them.

// What asks nothing is read slowly once it is more than a long header: unpaced bytes
// come at once, then a piece at a time, and between two pieces as many pauses as there
// are connections like this one. So all of them together cost what one of them may.
const (
	unpaced = 32 << 10 // bytes
	piece   = 4 << 10  // bytes
	pause   = 20 * time.Millisecond
)

// A stranger's connection is one whose network is no guest. Its handshake and
// its first request are read at once, in so many reads, and what follows with as many
// pauses between two reads as there are connections like this one, up to strangerWait:
// those who are shed because of load are strangers too, and good ones.
const (
	firstReads    = 8
	strangerPause = time.Millisecond
	strangerWait  = 20 * time.Millisecond
)

// readAtPace is for the connection's reader, which alone waits.
func (conn *connection) readAtPace(b []byte) (int, error) {
	switch {
	case conn.idle.Load() > unpaced:
		conn.wait(pause, readHeaderTimeout)
		b = b[:min(len(b), piece)]
	case !conn.known.Load() && conn.bodies.Load() == 0 && conn.reads.Add(1) > firstReads:
		conn.wait(strangerPause, strangerWait)
	}
	return conn.Conn.Read(b)
}

func (conn *connection) wait(pause, most time.Duration) {
	others := conn.owner.paced.Add(1)
	time.Sleep(min(time.Duration(others)*pause, most))
	conn.owner.paced.Add(-1)
}

// steps are the places for what is done about strangers' bytes: as many as there are
// processors. After each step its place stays empty for restShare times as long as that
// took, up to longestRest: who waited for the network meanwhile comes first.
type steps chan struct{}

const (
	restShare   = 3
	longestRest = time.Millisecond // a step with an RSA key is a long one
)

func newSteps() steps { return make(steps, runtime.NumCPU()) }

func (s steps) end(began time.Time) {
	time.AfterFunc(min(restShare*time.Since(began), longestRest), func() { <-s })
}

// A step is what is done about a stranger's bytes between one read and the next, or
// what goes to it: arithmetic of a handshake, frames of HTTP/2. As many are under way as
// there are processors; the others wait for a place, and not for the processor.
//
// The step of a request of HTTP/1.1 ends when the request is known, since that is served
// by the one who read it.
func (conn *connection) beginStep() {
	if conn.stepless() || conn.step.Load() != nil {
		return
	}
	conn.owner.steps <- struct{}{}
	began := time.Now()
	conn.step.Store(&began)
	if conn.stepless() { // meanwhile
		conn.endStep()
	}
}

func (conn *connection) stepless() bool {
	return conn.known.Load() || conn.asks.Load() || conn.gone.Load()
}

func (conn *connection) endStep() {
	if began := conn.step.Swap(nil); began != nil {
		conn.owner.steps.end(*began)
	}
}

// closing ends the last step.
func (conn *connection) closing() {
	conn.gone.Store(true)
	conn.endStep()
}

// atOnce connections are accepted without a pause.
const (
	atOnce      = 8
	acceptPause = time.Millisecond
)

// batch counts the connections that were accepted without a pause. Its owner is the
// goroutine that accepts.
type batch struct {
	began time.Time
	count int
}

// pace waits where many connections come at once.
func (b *batch) pace() {
	if now := time.Now(); now.Sub(b.began) > acceptPause {
		b.began, b.count = now, 0
	}
	if b.count++; b.count > atOnce {
		time.Sleep(acceptPause)
	}
}
