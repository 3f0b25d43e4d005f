package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"

	"github.com/octo-sts/appliance/sts/audit"
)

// deletion is a delivery with one audit entry and nothing to report.
func deletion(repository string) object {
	return aboutRepository(object{"action": "deleted", "repository": having(testRepository(), object{"name": repository})})
}

func scopes(entries []audit.Entry) []string {
	var all []string
	for _, e := range entries {
		all = append(all, e.Scope)
	}
	return all
}

func TestADeliveryIsDoneOnce(t *testing.T) {
	r := newRig(t, testApp, 99)
	if status := r.deliver("repository", 1, deletion("a")); status != 202 {
		t.Fatalf("the first time: %d", status)
	}
	if status := r.deliver("repository", 1, deletion("a")); status != 200 {
		t.Errorf("while it waits: %d", status)
	}
	upper := r.request("repository", 1, deletion("a"))
	upper.Header.Set("X-GitHub-Delivery", "00000000-0000-4000-8000-00000000000A")
	lower := r.request("repository", 10, deletion("a"))
	if first, _ := r.send(upper); first != 202 {
		t.Errorf("another GUID: %d", first)
	}
	if second, _ := r.send(lower); second != 200 {
		t.Errorf("the same GUID in lower case: %d", second)
	}
	other := r.request("repository", 1, deletion("a"))
	other.Header.Set("X-GitHub-Hook-Installation-Target-ID", "99")
	if status, _ := r.send(other); status != 202 {
		t.Errorf("the same event, delivered to another App: %d", status)
	}
	r.reopen()
	if status := r.deliver("repository", 1, deletion("a")); status != 200 {
		t.Errorf("while it waits, after a restart: %d", status)
	}
	stop := r.run()
	r.idle()
	if status := r.deliver("repository", 1, deletion("a")); status != 200 {
		t.Errorf("when it is done: %d", status)
	}
	stop()
	r.reopen()
	if status := r.deliver("repository", 1, deletion("a")); status != 200 {
		t.Errorf("when it is done, after a restart: %d", status)
	}
	var apps []int64
	for _, e := range r.entries(audit.TrustChange) {
		apps = append(apps, e.AppID)
	}
	slices.Sort(apps)
	if diff := cmp.Diff([]int64{99, testApp, testApp}, apps); diff != "" {
		t.Errorf("audit entries: %s", diff)
	}
}

// Between the audit entries of a delivery and its mark on disk a process may die,
// and then does not write the entries again.
func TestAuditEntriesAreWrittenOnceOverACrash(t *testing.T) {
	for written := range 4 {
		r := newRig(t)
		if status := r.deliver("push", 1, pushTo("main", policy, issuers, ".github/chainguard/x.sts.yaml")); status != 202 {
			t.Fatal(status)
		}
		r.deliver("repository", 2, deletion("b"))
		items := must(r.receiver.store.items([]*entry{{seq: 1}}))(t)
		for _, e := range items[0].changeEntries()[:written] {
			must(r.audit.Append(t.Context(), e))(t)
		}
		r.reopen()
		r.run()
		eventually(t, "the entries are written", func() bool { return len(r.entries(audit.TrustChange)) >= 4 })
		var paths []string
		for _, e := range r.entries(audit.TrustChange) {
			paths = append(paths, e.PolicyPath)
		}
		slices.Sort(paths)
		if diff := cmp.Diff([]string{"", policy, issuers, ".github/chainguard/x.sts.yaml"}, paths); diff != "" {
			t.Errorf("after %d of 3: %s", written, diff)
		}
	}
}

// A receiver that is cut off anywhere has handled each delivery once when its
// successors are through.
func TestNothingIsLostOrDoneTwiceOverRestarts(t *testing.T) {
	r := newRig(t)
	const deliveries = 60
	var want []string
	for n := range deliveries {
		name := fmt.Sprintf("r%02d", n)
		want = append(want, "acme/"+name)
		if status := r.deliver("repository", n, deletion(name)); status != 202 {
			t.Fatal(status)
		}
		if n%6 == 5 {
			// Run ends wherever it is; what it did not mark is there again.
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Duration(n%5)*time.Millisecond, cancel)
			if err := r.receiver.Run(ctx); err != nil {
				t.Fatal(err)
			}
			r.reopen()
		}
	}
	r.run()
	r.idle()
	got := scopes(r.entries(audit.TrustChange))
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAFailedDeliveryIsDoneOnRedelivery(t *testing.T) {
	for _, recorded := range []bool{false, true} {
		r := newRig(t)
		if status := r.deliver("push", 1, pushTo("main", policy)); status != 202 {
			t.Fatal(status)
		}
		end := byte(stateFailed)
		if recorded {
			end = stateFailedRecorded
		}
		entries, _ := r.receiver.schedule.take(time.Now())
		if err := r.receiver.store.settle([]settlement{{entries[0], end}}, time.Now()); err != nil {
			t.Fatal(err)
		}
		r.reopen()
		if n := r.receiver.Status().Queued; n != 0 {
			t.Errorf("%d queued after it failed", n)
		}
		if status := r.deliver("push", 1, pushTo("main", policy)); status != 202 {
			t.Errorf("redelivered: %d", status)
		}
		entries, _ = r.receiver.schedule.take(time.Now())
		items := must(r.receiver.store.items(entries))(t)
		if got := items[0].Change == nil; got != recorded || items[0].Check == nil {
			t.Errorf("recorded %v: is to be done: %+v", recorded, items[0])
		}
	}
}

func TestDeliveriesAreForgotten(t *testing.T) {
	r := newRig(t)
	s := r.receiver.store
	s.maxKnown = 5
	put := func(n int, at time.Time) {
		i := &item{AppID: testApp, Owner: "acme", Received: at}
		i.Delivery[0] = byte(n)
		seq, size := func() (uint64, int) {
			seq, size, err := s.enqueue(i)
			if err != nil || seq == 0 {
				t.Fatal(seq, err)
			}
			return seq, size
		}()
		if err := s.settle([]settlement{{newEntry(seq, *i, size), stateDone}}, at); err != nil {
			t.Fatal(err)
		}
	}
	known := func() (all []int) {
		for n := range 20 {
			if must(s.knows(deliveryKey{testApp, deliveryID{byte(n)}}))(t) {
				all = append(all, n)
			}
		}
		return all
	}
	now := time.Now()
	for n := range 7 {
		put(n, now.Add(time.Duration(n)*time.Hour))
	}
	if diff := cmp.Diff([]int{2, 3, 4, 5, 6}, known()); diff != "" {
		t.Errorf("too many: %s", diff)
	}
	if err := s.sweep(now.Add(keepDone + 4*time.Hour + time.Minute)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int{5, 6}, known()); diff != "" {
		t.Errorf("four days later: %s", diff)
	}
	err := r.state.View(func(tx *bbolt.Tx) error {
		for _, bucket := range [][]byte{bucketDeliveries, bucketEnded} {
			if n := tx.Bucket(bucket).Stats().KeyN; n != 2 {
				t.Errorf("%d in %s", n, bucket)
			}
		}
		if n := tx.Bucket(bucketEnded).Sequence(); n != 2 {
			t.Errorf("counted as %d", n)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestAFullQueueSaysSo(t *testing.T) {
	r := newRig(t)
	r.receiver.schedule.bytes = maxQueuedBytes
	if status := r.deliver("repository", 1, deletion("a")); status != 503 {
		t.Errorf("over its bytes: %d", status)
	}
	r.receiver.schedule.bytes = 0
	if err := r.state.Close(); err != nil {
		t.Fatal(err)
	}
	if status, body := r.send(r.request("repository", 1, deletion("a"))); status != 503 {
		t.Errorf("without its file: %d %s", status, body)
	}
}

func TestCommitsAreShared(t *testing.T) {
	r := newRig(t)
	written := func() int64 {
		stats := r.state.Stats()
		return stats.TxStats.GetWrite()
	}
	earlier := written()
	var all sync.WaitGroup
	for n := range 200 {
		all.Go(func() {
			if status := r.deliver("repository", n, deletion("a")); status != 202 {
				t.Errorf("%d", status)
			}
		})
	}
	all.Wait()
	if n := written() - earlier; n > 1000 {
		t.Errorf("%d writes for 200 deliveries", n)
	}
	if n := r.receiver.Status().Queued; n != 200 {
		t.Errorf("%d queued", n)
	}
}

// Each of a thousand comes twice, all in a moment, while the queue is worked on.
func TestAThousandDeliveries(t *testing.T) {
	r := newRig(t)
	r.run()
	const deliveries, callers = 1000, 50
	work := make(chan int)
	var taken atomic.Int32
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for n := range work {
				switch status := r.deliver("repository", n, deletion(fmt.Sprintf("r%03d", n))); status {
				case 202:
					taken.Add(1)
				case 200:
				default:
					t.Errorf("delivery %d: %d", n, status)
				}
			}
		})
	}
	var want []string
	for n := range deliveries {
		want = append(want, fmt.Sprintf("acme/r%03d", n))
		work <- n
		work <- n
	}
	close(work)
	all.Wait()
	r.idle()
	got := scopes(r.entries(audit.TrustChange))
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" || taken.Load() != deliveries {
		t.Errorf("%d taken: %s", taken.Load(), diff)
	}
}

func TestItemsAreKeptAsJSON(t *testing.T) {
	e, err := interpretJSON(t, "push", pushTo("main", policy))
	if err != nil {
		t.Fatal(err)
	}
	stored := must(json.Marshal(e.item))(t)
	var back item
	if err := json.Unmarshal(stored, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(e.item, back); diff != "" {
		t.Error(diff)
	}
}
