package appliance

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/octo-sts/appliance/sts/audit"
)

// stuckExchanges is for how long requests may be under way without any of them
// ending. One alone ends within writeTimeout, whatever GitHub, the signer or the
// disk do.
const stuckExchanges = writeTimeout + 25*time.Second

// stuck names what does not move and would in a new process; "" where everything
// does. It takes as long as that at most.
func (d *Daemon) stuck(ctx context.Context, within time.Duration) string {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	found := make(chan string, 1)
	if !d.checking.TryLock() {
		return "the check before has not ended"
	}
	go func() {
		defer d.checking.Unlock()
		found <- d.findStuck(ctx)
	}()
	select {
	case what := <-found:
		return what
	case <-ctx.Done():
		return "the check does not end"
	}
}

func (d *Daemon) findStuck(ctx context.Context) string {
	if err := d.audit.Err(); errors.Is(err, audit.ErrFailed) || errors.Is(err, audit.ErrStalled) {
		return err.Error()
	}
	if since := d.generations.stuckFor(); since > stuckExchanges {
		return fmt.Sprintf("no exchange has ended for %s, and some are under way", since.Round(time.Second))
	}
	// Whatever the answer is, a handler gave it.
	request, err := http.NewRequestWithContext(context.WithValue(ctx, selfCheckKey{}, true), http.MethodGet, "/", http.NoBody)
	if err != nil {
		return err.Error()
	}
	d.edge.ServeHTTP(discard{http.Header{}}, request)
	for _, l := range d.stoppable {
		if !l.accepts(ctx) {
			return "connections to " + l.Addr().String() + " are not accepted"
		}
	}
	return ""
}

type selfCheckKey struct{}

// isSelfCheck tells the daemon's own requests from others'.
func isSelfCheck(r *http.Request) bool { return r.Context().Value(selfCheckKey{}) != nil }

// discard is a http.ResponseWriter for nobody.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}
