package forward

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"go.etcd.io/bbolt"

	"github.com/octo-sts/appliance/sts/audit"
)

// appendAndForward is a daemon in small: it appends, and sends what it appends, until it is killed.
func appendAndForward() {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	dir := os.Getenv("FORWARD_TEST_DIR")
	log, err := audit.Open(context.Background(), audit.Config{Directory: filepath.Join(dir, "audit"), SegmentSize: 50_000})
	fail(err)
	db, err := bbolt.Open(filepath.Join(dir, "state.db"), 0o600, &bbolt.Options{Timeout: limit})
	fail(err)
	cursors, err := NewCursors(db)
	fail(err)
	p := quick
	p.attempt = 200 * time.Millisecond
	events, err := newEvents(context.Background(), EventsConfig{Log: log, Cursors: cursors, Origin: "sts.example.com/audit", URL: os.Getenv("FORWARD_TEST_SINK")}, p)
	fail(err)
	go events.Run(context.Background())
	fmt.Println("ready")
	for i := 0; ; i++ {
		_, err := log.Append(context.Background(), audit.Entry{Kind: audit.Intent, RequestID: fmt.Sprint(i)})
		fail(err)
		if i%50 == 49 {
			time.Sleep(30 * time.Millisecond) // so that the copy catches up now and then
		}
	}
}

// Whatever the sink does and however often the daemon is killed, the sink has every entry in the end, its first occurrence
// after those of all before it.
func TestKilled(t *testing.T) {
	lives := 25
	if testing.Short() {
		lives = 6
	}
	c := newCollector(t)
	c.setFaults(func(int, []event.Event) fault {
		faults := []fault{nil, nil, nil, nil, status(500), status(429, "Retry-After", "0"), status(413), reset(""), c.takenAndReset, hang,
			reset("HTTP/1.1 200 OK\r\nContent-Le"), func(w http.ResponseWriter, r *http.Request, events []event.Event) {
				c.take(events)
				hang(w, r, events)
			}}
		return faults[rand.IntN(len(faults))]
	})
	m := &machine{dir: t.TempDir()}
	for range lives {
		cmd := childCommand(t, "daemon")
		cmd.Env = append(cmd.Env, "FORWARD_TEST_DIR="+m.dir, "FORWARD_TEST_SINK="+c.URL)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 8)); err != nil {
			t.Fatalf("the daemon does not start: %v", cmd.Wait())
		}
		time.Sleep(time.Duration(rand.IntN(200)) * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // "signal: killed" is what was wanted
	}
	requests, taken, repeated := c.state()
	t.Logf("%d kills, %d requests, %d entries taken, %d repeated", lives, requests, taken, repeated)
	c.setFaults(nil)
	m.boot(t)
	t.Cleanup(func() { m.shutdown(t) })
	running(t, newTestEvents(t, m, EventsConfig{URL: c.URL}).Run)
	c.await(m, 0)
	requests, taken, repeated = c.state()
	t.Logf("in the end %d requests, %d entries, %d repeated", requests, taken, repeated)
	if taken < lives*20 || repeated == 0 {
		t.Errorf("%d entries, %d repeated: this was no trial", taken, repeated)
	}
}
