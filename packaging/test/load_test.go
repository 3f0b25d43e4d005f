//go:build packages

package packaging_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// traffic is what many jobs get that exchange their ID tokens while something happens to the appliance.
type traffic struct {
	t       *testing.T
	stop    context.CancelFunc
	running sync.WaitGroup

	mu      sync.Mutex // guards the rest
	granted int
	refused map[string]int // answers other than 200
	broken  map[string]int // connections that were refused, reset or cut off, by what went wrong
}

// startTraffic has jobs ask rate times a second, every other one over a connection of its own.
func startTraffic(t *testing.T, w *world, rate int) *traffic {
	t.Helper()
	idTokens := make([]string, 50)
	for i := range idTokens {
		idTokens[i] = w.idToken()
	}
	ctx, stop := context.WithCancel(t.Context())
	x := &traffic{t: t, stop: stop, refused: map[string]int{}, broken: map[string]int{}}
	t.Cleanup(func() { stop(); x.running.Wait() })
	var clients []*http.Client
	for _, keep := range []bool{true, false} {
		clients = append(clients, &http.Client{
			Transport: &http.Transport{DisableKeepAlives: !keep, MaxIdleConnsPerHost: 100, ForceAttemptHTTP2: keep},
			Timeout:   2 * time.Minute,
		})
	}
	x.running.Go(func() {
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				x.running.Go(func() { x.ask(clients[i%len(clients)], idTokens[i%len(idTokens)]) })
			}
		}
	})
	return x
}

// ask is one exchange. It is not cut short by the traffic's end.
func (x *traffic) ask(client *http.Client, idToken string) {
	request, err := http.NewRequest(http.MethodPost, "https://"+domain+"/sts/exchange?scope=acme/widgets&identity=deploy", nil)
	if err != nil {
		panic(err)
	}
	request.Header.Set("Authorization", "Bearer "+idToken)
	response, err := client.Do(request)
	var body []byte
	if err == nil {
		body, err = io.ReadAll(response.Body)
		response.Body.Close()
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case err != nil:
		text := err.Error()
		x.broken[text[strings.LastIndex(text, ": ")+1:]]++
	case response.StatusCode != http.StatusOK:
		text, _, _ := strings.Cut(string(body), "(request")
		x.refused[fmt.Sprint(response.StatusCode, " ", text)]++
	default:
		x.granted++
	}
}

// end ends the traffic and waits for its last answer.
func (x *traffic) end() (granted int) {
	x.t.Helper()
	x.stop()
	x.running.Wait()
	for err, n := range x.broken {
		x.t.Errorf("%d connections were broken: %s", n, err)
	}
	for answer, n := range x.refused {
		x.t.Errorf("%d answers were %s", n, answer)
	}
	return x.granted
}

// grantsInLog is how many tokens the audit log says were given out.
func (a *appliance) grantsInLog() int {
	a.t.Helper()
	return strings.Count(a.run("octo-sts audit show --decision granted --kind outcome --output json /var/log/octo-sts/audit"), `"kind":"outcome"`)
}

// verifyLog has the audit log checked against the verifier key that setup gave out.
func (a *appliance) verifyLog() {
	a.t.Helper()
	a.run("octo-sts audit verify --key '" + a.verifierKey + "' /var/log/octo-sts/audit")
}

// grantsInJournal are the copies of those lines in the journal.
func (a *appliance) grantsInJournal() []map[string]any {
	a.t.Helper()
	var entries []map[string]any
	for line := range strings.Lines(a.run("journalctl --no-pager --output=json -u octo-stsd OCTO_STS_DECISION=granted OCTO_STS_KIND=outcome")) {
		var entry map[string]any
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			a.t.Fatalf("%v: %s", err, line)
		}
		entries = append(entries, entry)
	}
	return entries
}

// exchange is an exchange as a job does it, which has to succeed.
func (a *appliance) exchange() {
	a.t.Helper()
	x := &traffic{t: a.t, stop: func() {}, refused: map[string]int{}, broken: map[string]int{}}
	x.ask(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}, a.world.idToken())
	if x.end() != 1 {
		a.t.Errorf("an exchange was answered %v %v", x.refused, x.broken)
	}
}
