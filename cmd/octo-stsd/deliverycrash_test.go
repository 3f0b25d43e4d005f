package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/octo-sts/appliance/sts/ststest"
)

// kill -9 between taking a delivery and doing what it asks for, again and again:
// each that was taken is done once, and each that was not is asked for at GitHub
// and done once.
func TestKilledBetweenDeliveryAndWork(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{Webhook: true})
	// A delivery that failed is asked for again when it is half a minute old.
	r.GitHub.SetClockOffset(-40 * time.Second)
	// GitHub's answers are what holds the work back, and is cut off.
	for _, route := range []string{ststest.CompareRoute, ststest.CreateCheckRoute} {
		r.GitHub.Fail(ststest.Fault{Route: route, Delay: 30 * time.Millisecond})
	}
	p := r.startPushes(4)
	hit, waiting := 0, 0
	rounds := kills(t, 10)
	for range rounds {
		enough := p.taken() + 1 + rand.IntN(20)
		r.eventually("deliveries are taken", func() bool { return p.taken() >= enough })
		time.Sleep(time.Duration(rand.IntN(20_000)) * time.Microsecond)
		if err := r.Kill(); err != nil {
			t.Fatal(err)
		}
		if n := r.queued(); n > 0 {
			hit++
			waiting += n
		}
		if err := r.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	p.end()
	settled := func() bool {
		return r.queueEmpty() && !slices.ContainsFunc(p.pushed, func(p pushedPolicy) bool { return len(r.GitHub.CheckRuns("acme", p.repository, p.sha)) == 0 })
	}
	// A start may look for deliveries that failed before the last one has: it may be under
	// way to the daemon before. The next look is minutes away, or at the next start.
	for starts := 0; !settled() && starts < 5; starts++ {
		if err := r.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(10 * time.Second); !settled() && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond)
		}
	}
	r.eventually("each commit has its check", settled)
	// What somebody has GitHub send once more, from the App's settings, is done already.
	known := r.GitHub.Deliveries(ststest.DefaultApp)
	for _, d := range known[:min(len(known), 100)] {
		if again := r.GitHub.Redeliver(ststest.DefaultApp, d.ID); again.StatusCode/100 != 2 {
			t.Errorf("delivery %s, sent once more: %d %s", d.GUID, again.StatusCode, again.Body)
		}
	}
	r.eventually("all deliveries are done", r.queueEmpty)
	r.checkPushed(p.pushed)
	t.Logf("%d kills, %d of them with pushes in the queue, %d in all; %d pushes, %d of them not answered at first",
		rounds, hit, waiting, len(p.pushed), p.lost)
	if hit == 0 || p.lost == 0 {
		t.Error("no kill came between taking a delivery and its work, or none cut one off: nothing was tested")
	}
}

// queued is how many pushes the daemon that was killed had in its queue on disk;
// other deliveries may have been there because it was too early for them.
func (r *rig) queued() (n int) {
	r.t.Helper()
	file := filepath.Join(r.Dir, "state", "state.db")
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{ReadOnly: true, Timeout: patience})
	if err != nil {
		r.t.Fatal(err)
	}
	defer db.Close()
	err = db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("webhook-queue")).ForEach(func(_, item []byte) error {
			if bytes.Contains(item, []byte(`"event":"push"`)) {
				n++
			}
			return nil
		})
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return n
}

// pushes are people who push policies, until stopped.
type pushes struct {
	stop    chan struct{}
	pushers sync.WaitGroup

	mu     sync.Mutex
	pushed []pushedPolicy // guarded by mu
	lost   int            // guarded by mu: how many were not answered
}

// startPushes starts some, each with a repository, who push to the default branch
// and now and then to a new one.
func (r *rig) startPushes(pushers int) *pushes {
	p := &pushes{stop: make(chan struct{})}
	for i := range pushers {
		repository := fmt.Sprint("service-", i)
		r.GitHub.AddRepository("acme", repository)
		p.pushers.Go(func() {
			for n := i; ; n += pushers {
				select {
				case <-p.stop:
					return
				case <-time.After(time.Duration(20+rand.IntN(60)) * time.Millisecond):
				}
				branch := "main"
				if n%5 == 0 {
					branch = fmt.Sprint("topic-", n)
				}
				p.note(r.pushPolicy(repository, branch, fmt.Sprint("changes-", n%3), n))
			}
		})
	}
	r.t.Cleanup(p.end)
	return p
}

func (p *pushes) note(pushed pushedPolicy, deliveries []ststest.DeliveryRecord) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pushed = append(p.pushed, pushed)
	if slices.ContainsFunc(deliveries, func(d ststest.DeliveryRecord) bool { return d.Event == "push" && d.StatusCode/100 != 2 }) {
		p.lost++
	}
}

// taken is how many pushes the daemon has answered.
func (p *pushes) taken() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.pushed) - p.lost
}

// end stops the pushes and waits for them. Afterwards the fields may be read.
func (p *pushes) end() {
	p.mu.Lock()
	select {
	case <-p.stop:
	default:
		close(p.stop)
	}
	p.mu.Unlock()
	p.pushers.Wait()
}
