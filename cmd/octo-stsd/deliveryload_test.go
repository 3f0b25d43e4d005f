package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/ststest"
)

// pushedPolicy is a push that changed a policy, and what has to come of it.
type pushedPolicy struct {
	repository, path, sha string
	guid                  string // of the event push
	conclusion            string // of the commit's check run
	audited               bool   // it was to the default branch
}

// policyVersion is a text that no other n has, and the conclusion that its check
// must come to: every third is broken.
func (r *rig) policyVersion(n int) (text, conclusion string) {
	text = fmt.Sprintf("# %d\nissuer: %s\nsubject: repo:acme/app:ref:refs/heads/main\npermissions: {issues: write}\n", n, r.Issuer.URL())
	if n%3 == 0 {
		return text + "nonsense: true\n", "failure"
	}
	return text, "success"
}

// pushPolicy pushes the nth version of a policy.
func (r *rig) pushPolicy(repository, branch, identity string, n int) (pushedPolicy, []ststest.DeliveryRecord) {
	path := ".github/chainguard/" + identity + ".sts.yaml"
	text, conclusion := r.policyVersion(n)
	pushed := r.GitHub.Push("acme", repository, branch, []ststest.Change{{Path: path, Content: text}})
	p := pushedPolicy{repository: repository, path: path, sha: pushed.After, conclusion: conclusion, audited: branch == "main"}
	for _, d := range pushed.Deliveries {
		if d.Event == "push" {
			p.guid = d.GUID
		}
	}
	return p, pushed.Deliveries
}

// checkPushed: each push to the default branch has one entry about the change,
// each commit one check run, with its verdict, and each push one entry about that.
func (r *rig) checkPushed(all []pushedPolicy) {
	r.t.Helper()
	changes, checks := map[string]int{}, map[string]int{} // changes by delivery and path, checks by delivery
	for _, e := range r.audited(audit.Filter{}) {
		switch {
		case e.Kind == audit.PolicyCheck:
			checks[e.RequestID]++
		case e.Kind == audit.TrustChange && e.PolicyRepository != "": // else it is about an installation
			changes[e.RequestID+" "+e.PolicyPath]++
		}
	}
	for _, p := range all {
		if key := p.guid + " " + p.path; p.audited {
			if changes[key] != 1 {
				r.t.Errorf("the push of %s to %s, delivery %s: %d entries about the change, want 1", p.sha, p.repository, p.guid, changes[key])
			}
			delete(changes, key)
		}
		runs := r.GitHub.CheckRuns("acme", p.repository, p.sha)
		if len(runs) != 1 || runs[0].Name != checkName || runs[0].Status != "completed" || runs[0].Conclusion != p.conclusion || checks[p.guid] != 1 {
			r.t.Errorf("the check of %s in %s, delivery %s, wants one run, %s, and one entry: %+v, %d entries", p.sha, p.repository, p.guid, p.conclusion, runs, checks[p.guid])
		}
	}
	if len(changes) > 0 {
		r.t.Errorf("%d entries about what nobody pushed: %v", len(changes), changes)
	}
}

// queueEmpty says whether all deliveries are done that the daemon took.
func (r *rig) queueEmpty() bool {
	r.t.Helper()
	_, _, checks := r.readiness()
	return strings.HasPrefix(checks["webhook"], "ready: 0 deliveries")
}

// recorder takes deliveries instead of sending them.
type recorder struct {
	mu   sync.Mutex
	sent []recordedDelivery // guarded by mu
}

// recordedDelivery is a delivery, ready to be sent.
type recordedDelivery struct {
	header http.Header
	body   []byte
}

func (rec *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.sent = append(rec.sent, recordedDelivery{req.Header.Clone(), body})
	return &http.Response{StatusCode: http.StatusAccepted, Body: http.NoBody, Request: req}, nil
}

// record returns the deliveries that GitHub would send because of what do does.
func (r *rig) record(do func()) []recordedDelivery {
	rec := &recorder{}
	live := ststest.Webhook{URL: r.URL() + "/webhook", Secret: r.WebhookSecret, Client: r.Client()}
	recording := live
	recording.Client = &http.Client{Transport: rec}
	r.GitHub.SetWebhook(ststest.DefaultApp, recording)
	do()
	r.GitHub.SetWebhook(ststest.DefaultApp, live)
	return rec.sent
}

// sent is how deliveries were answered.
type sent struct {
	status map[int]int
	took   []time.Duration // sorted
	all    time.Duration
}

// sendWithin sends deliveries over a few connections, evenly within a time as far
// as the answers come fast enough.
func (r *rig) sendWithin(span time.Duration, connections int, all []recordedDelivery) sent {
	r.t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: connections, MaxConnsPerHost: connections}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: patience}
	var mu sync.Mutex
	s := sent{status: map[int]int{}, took: make([]time.Duration, len(all))}
	var next atomic.Int64
	var senders sync.WaitGroup
	start := time.Now()
	for range connections {
		senders.Go(func() {
			for {
				n := int(next.Add(1)) - 1
				if n >= len(all) {
					return
				}
				time.Sleep(time.Until(start.Add(span * time.Duration(n) / time.Duration(len(all)))))
				began := time.Now()
				status, err := post(r.t.Context(), client, r.URL()+"/webhook", all[n])
				s.took[n] = time.Since(began)
				mu.Lock()
				s.status[status]++
				mu.Unlock()
				if err != nil {
					r.t.Errorf("sending a delivery: %v", err)
				}
			}
		})
	}
	senders.Wait()
	s.all = time.Since(start)
	slices.Sort(s.took)
	return s
}

func post(ctx context.Context, client *http.Client, url string, d recordedDelivery) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(d.body))
	if err != nil {
		return 0, err
	}
	req.Header = d.header
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// startPaced starts exchanges at even intervals, whether or not the last ones
// were answered, up to a number under way that no healthy daemon reaches.
func (r *rig) startPaced(perSecond int, identities []string, scopes []string) *load {
	r.t.Helper()
	const most = 256
	idTokens := make([]string, 20)
	for i := range idTokens {
		idTokens[i] = r.job(nil)
	}
	l := &load{stop: make(chan struct{}), status: map[int]int{}, refused: map[string]int{}}
	slots := make(chan struct{}, most)
	l.callers.Go(func() {
		tick := time.NewTicker(time.Second / time.Duration(perSecond))
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-l.stop:
				return
			case <-tick.C:
			}
			slots <- struct{}{}
			l.callers.Go(func() {
				defer func() { <-slots }()
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				defer cancel()
				l.note(r.Exchange(ctx, scopes[n%len(scopes)], identities[n%len(identities)], idTokens[n%len(idTokens)]))
			})
		}
	})
	r.t.Cleanup(l.end)
	return l
}

// A thousand policies are pushed to default branches, and pull requests opened,
// within a second, while exchanges go on, also under the policies that change:
// everything is done once, and nobody is refused.
func TestThousandDeliveriesInASecond(t *testing.T) {
	const pushes, pulls, repositories = 1000, 50, 10
	r := newRig(t, ststest.ServiceConfig{Webhook: true})
	scopes := []string{"acme/app"}
	for i := range repositories {
		r.GitHub.AddRepository("acme", fmt.Sprint("service-", i))
		scopes = append(scopes, fmt.Sprint("acme/service-", i))
	}
	var pushed []pushedPolicy
	push := func(repository, branch, identity string) {
		p, _ := r.pushPolicy(repository, branch, identity, len(pushed))
		pushed = append(pushed, p)
	}
	deliveries := r.record(func() {
		for n := range pushes {
			identity := fmt.Sprint("changes-", n%7)
			if n < repositories {
				identity = "reader" // which exchanges ask for
			}
			push(fmt.Sprint("service-", n%repositories), "main", identity)
		}
	})
	deliveries = slices.DeleteFunc(deliveries, func(d recordedDelivery) bool {
		return d.header.Get("X-GitHub-Event") != "push" // the suites that GitHub makes ask for nothing here
	})
	deliveries = append(deliveries, r.record(func() {
		for n := range pulls { // three deliveries about each of their commits
			repository, branch := fmt.Sprint("service-", n%repositories), fmt.Sprint("feature-", n)
			push(repository, branch, "proposed")
			r.GitHub.OpenPull("acme", repository, branch, "main")
		}
	})...)
	rand.Shuffle(len(deliveries), func(i, j int) { deliveries[i], deliveries[j] = deliveries[j], deliveries[i] })
	for i := range repositories {
		r.GitHub.PutPolicy("acme", fmt.Sprint("service-", i), "reader", "issuer: "+r.Issuer.URL()+"\n"+rigPolicies["app/reader"])
	}
	exchanges := r.startPaced(200, []string{"reader"}, scopes)
	r.eventually("exchanges go on", func() bool { return exchanges.granted() > 50 })
	s := r.sendWithin(time.Second, 32, deliveries)
	enough := exchanges.granted() + 400
	r.eventually("exchanges go on while checks are made", func() bool { return exchanges.granted() >= enough })
	exchanges.allGranted(t)
	r.eventually("all deliveries are done", r.queueEmpty)
	if len(deliveries) != pushes+3*pulls || s.status[http.StatusAccepted] != len(deliveries) {
		t.Errorf("%d deliveries were answered %v", len(deliveries), s.status)
	}
	r.checkPushed(pushed)
	t.Logf("%d deliveries in %s, half of them answered within %s, 99%% within %s, all within %s; %d exchanges meanwhile",
		len(deliveries), s.all.Round(time.Millisecond), s.took[len(s.took)/2], s.took[len(s.took)*99/100], s.took[len(s.took)-1], len(exchanges.answers))
}
