package appliance

import (
	"bytes"
	"container/list"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/octo-sts/appliance/sts"
)

// maxBodies bounds how many bodies of requests other than deliveries arrive at
// once, and with sts.MaxBody what they take.
const maxBodies = 1024

var errBodyGaveWay = errors.New("the body was slow, and made way for others")

// bodies are those that arrive now. Where there are too many, the oldest gives way:
// a body of ours comes in one piece with its header, or nearly.
type bodies struct {
	mu       sync.Mutex
	arriving list.List // of *arrival, the oldest first; guarded by mu
}

// arrival is one body. Its owner may use its stop only while it is on the list:
// net/http allows it no longer than the request is served.
type arrival struct {
	stop    func()
	gaveWay bool // guarded by bodies.mu
}

// read takes in the whole body, as far as anything will read of it, before the
// request gets a slot: whoever sends slowly keeps nobody else waiting.
func (b *bodies) read(w http.ResponseWriter, r *http.Request) error {
	if r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	one := &arrival{stop: func() {
		// A writer that knows no deadlines has none to enforce, as in a test.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now())
	}}
	at := b.begin(one)
	data, err := io.ReadAll(io.LimitReader(r.Body, sts.MaxBody+1))
	if b.end(at, one) && err != nil {
		return errBodyGaveWay
	}
	r.Body = io.NopCloser(bytes.NewReader(data))
	return err
}

func (b *bodies) begin(one *arrival) *list.Element {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.arriving.Len() >= maxBodies {
		oldest := b.arriving.Remove(b.arriving.Front()).(*arrival)
		oldest.gaveWay = true
		oldest.stop()
	}
	return b.arriving.PushBack(one)
}

// end tells whether the body had to give way.
func (b *bodies) end(at *list.Element, one *arrival) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !one.gaveWay {
		b.arriving.Remove(at)
	}
	return one.gaveWay
}
