package main

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/ststest"
)

// recovery is how long after the end of a fault of GitHub's an exchange may
// still be refused.
const recovery = 30 * time.Second

// step is where an exchange meets GitHub.
type step struct {
	name, route string
	path        string // what the path of its request holds; ORG and ID are filled in
	warm        bool   // something was exchanged before
}

var (
	resolving = step{"resolve", ststest.RepoInstallRoute, "/repos/ORG/app/installation", false}
	preparing = step{"token to read with", ststest.MintRoute, "/app/installations/ID/access_tokens", false}
	reading   = step{"read", ststest.ContentsRoute, "/repos/ORG/app/contents/.github/chainguard/reader.sts.yaml", false}
	rereading = step{"read again", ststest.ContentsRoute, reading.path, true}
	minting   = step{"mint", ststest.MintRoute, preparing.path, true}
)

// ending is what an exchange comes to while GitHub does something odd: the
// caller's status, and the beginning of the operator's reason with something that
// it says.
type ending struct {
	status       int
	reason, says string
}

var goesOn = ending{status: http.StatusOK}

func fails(says string) ending {
	return ending{http.StatusServiceUnavailable, "github_unavailable: ", says}
}

func limits() ending {
	return ending{http.StatusServiceUnavailable, "github_rate_limited: ", "GitHub answered 4"}
}

func refuses(reason, says string) ending {
	return ending{http.StatusForbidden, reason + ": ", says}
}

// oddity is one way in which GitHub can answer.
type oddity struct {
	name  string
	fault func() ststest.Fault
	ends  ending
	at    map[string]ending // by the step's name, where it is another one
	wait  time.Duration     // that GitHub asks for, at least
}

func always(f ststest.Fault) func() ststest.Fault { return func() ststest.Fault { return f } }

func answering(code int) func() ststest.Fault { return always(ststest.Fault{Status: code}) }

// cell is an oddity at a step, with an organization of its own. Its methods may
// run beside those of other cells: what is wrong is collected.
type cell struct {
	*rig
	oddity
	step
	org          string
	installation int64

	mu    sync.Mutex  // guards what follows
	hit   time.Time   // when the oddity was met first
	asked []time.Time // when GitHub was asked what it counts together with that

	first, stranger ststest.Exchanged // while it lasted
	recovered       time.Duration     // from its end to a grant
	problems        []string
}

func (r *rig) newCell(n int, o oddity, s step) *cell {
	c := &cell{rig: r, oddity: o, step: s, org: fmt.Sprintf("org-%d", n)}
	c.installation = r.addOrganization(c.org, "")
	return c
}

func (c *cell) wrong(format string, args ...any) {
	c.problems = append(c.problems, fmt.Sprintf(format, args...))
}

// ask asks for an exchange, as a job of a repository: acme/app, or another one,
// which no policy knows.
func (c *cell) ask(repository string) ststest.Exchanged {
	idToken, err := c.signJob(map[string]any{"sub": "repo:" + repository + ":ref:refs/heads/main"})
	var x ststest.Exchanged
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		x, err = c.Exchange(ctx, c.org+"/app", "reader", idToken)
	}
	if err != nil {
		c.wrong("no answer: %v", err)
	}
	if repository != "acme/app" && x.Status == http.StatusOK {
		c.wrong("a stranger was granted a token")
	}
	if x.Status == http.StatusOK {
		c.checkGrant(x)
	}
	return x
}

// checkGrant: a token is what the policy says, and no more.
func (c *cell) checkGrant(x ststest.Exchanged) {
	hash := tokenSHA256(x.Token)
	mints := c.GitHub.Mints()
	i := slices.IndexFunc(mints, func(m ststest.Mint) bool { return m.TokenSHA256 == hash })
	if i < 0 {
		c.wrong("granted a token that GitHub never minted")
		return
	}
	m := mints[i]
	if m.Owner != c.org || m.AllRepositories || !slices.Equal(m.Repositories, []string{"app"}) ||
		!maps.Equal(m.Permissions, map[string]string{"contents": "read", "metadata": "read"}) {
		c.wrong("granted %+v, which is not what the policy says", m)
	}
}

// run plays the cell: the oddity begins, exchanges meet it, it ends, and sooner or
// later an exchange is granted. All the while it is written down when GitHub was
// asked.
func (c *cell) run() {
	if c.warm {
		if x := c.ask("acme/app"); x.Status != http.StatusOK {
			c.wrong("before the fault: %d %s", x.Status, x.Body)
		}
	}
	watch, fault := c.begin()
	defer watch.Clear()
	c.first = c.ask("acme/app")
	if fault.Count == 0 && fault.Delay == 0 {
		c.stranger = c.ask("evil/app")
	}
	c.heedWait()
	fault.Clear()
	over := time.Now()
	for c.ask("acme/app").Status != http.StatusOK {
		if c.recovered = time.Since(over); c.recovered > recovery {
			c.wrong("nothing is granted %s after the fault's end", c.recovered)
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	c.checkAsked()
}

// begin makes GitHub odd.
func (c *cell) begin() (watch, fault *ststest.ActiveFault) {
	fill := strings.NewReplacer("ORG", c.org, "ID", strconv.FormatInt(c.installation, 10))
	path := fill.Replace(c.path)
	together := []string{fill.Replace("/repos/ORG/app/contents/"), fill.Replace("/installations/ID/")}
	if c.step.name == resolving.name {
		together = []string{"/app/installation"} // of whatever owner: GitHub counts them for the App
	}
	watch = c.GitHub.Fail(ststest.Fault{Match: func(req *http.Request) bool {
		if slices.ContainsFunc(together, func(part string) bool { return strings.Contains(req.URL.Path, part) }) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.asked = append(c.asked, time.Now())
		}
		return false // it only watches
	}})
	f := c.fault()
	f.Route = c.route
	f.Match = func(req *http.Request) bool {
		if !strings.HasSuffix(req.URL.Path, path) {
			return false
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.hit.IsZero() {
			c.hit = time.Now()
		}
		return true
	}
	return watch, c.GitHub.Fail(f)
}

// heedWait goes on asking for as long as GitHub said to wait.
func (c *cell) heedWait() {
	if c.wait == 0 {
		return
	}
	for began := time.Now(); time.Since(began) < c.wait/2; time.Sleep(100 * time.Millisecond) {
		x := c.ask("acme/app")
		if x.Status != http.StatusServiceUnavailable || c.ends == limits() && x.Header.Get("Retry-After") == "" {
			c.wrong("while GitHub says to wait: %d %s, Retry-After %q", x.Status, x.Body, x.Header.Get("Retry-After"))
		}
	}
}

// checkAsked: after an answer that said to wait, nothing left before.
func (c *cell) checkAsked() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hit.IsZero() {
		c.wrong("GitHub was not asked")
	}
	for _, at := range c.asked {
		if since := at.Sub(c.hit); since > 0 && since < c.wait {
			c.wrong("GitHub said to wait %s, and was asked again after %s", c.wait, since)
		}
	}
}

// report says what is wrong with a cell that was run, by what it saw and by what
// the audit log says.
func (c *cell) report(t *testing.T, lines map[string][]audit.Entry) {
	t.Helper()
	for _, problem := range c.problems {
		t.Error(problem)
	}
	want, other := c.at[c.step.name]
	if !other {
		want = c.ends
	}
	c.checkAnswer(t, c.first, want, lines[c.first.RequestID])
	if c.stranger.RequestID != "" && want != goesOn {
		// A stranger meets the same fault, unless there was no need to ask GitHub
		// again, or the mint alone fails, which a stranger never comes to.
		if c.stranger.Status != want.status && c.stranger.Status != http.StatusForbidden {
			t.Errorf("a stranger got %d %s", c.stranger.Status, c.stranger.Body)
		}
	}
	if t.Failed() {
		t.Logf("hit at %v, asked at %v; audited: %+v", c.hit, c.asked, lines[c.first.RequestID])
	}
}

// checkAnswer: a caller reads what the kind of refusal says and nothing of
// policies, the operator reads by the request's ID what happened.
func (c *cell) checkAnswer(t *testing.T, x ststest.Exchanged, want ending, lines []audit.Entry) {
	t.Helper()
	if x.Status != want.status {
		t.Errorf("%d %s, want %d", x.Status, x.Body, want.status)
	}
	message := map[int]string{
		http.StatusServiceUnavailable: "temporarily unavailable, try again (request " + x.RequestID + ")",
		http.StatusForbidden:          "the exchange is not allowed (request " + x.RequestID + ")",
	}[x.Status]
	if x.Message != message {
		t.Errorf("the caller reads %q, want %q", x.Message, message)
	}
	if len(lines) == 0 {
		t.Fatalf("nothing in the audit log of request %s", x.RequestID)
	}
	last := lines[len(lines)-1]
	if !strings.HasPrefix(last.Reason, want.reason) || !strings.Contains(last.Reason, want.says) {
		t.Errorf("the operator reads %q, want %q… with %q", last.Reason, want.reason, want.says)
	}
	if announced := lines[0].Kind == audit.Intent; announced != (c.step.name == minting.name || want == goesOn) {
		t.Errorf("audited: %+v", lines)
	}
	if x.Status == http.StatusOK && (len(lines) != 2 || last.Kind != audit.Outcome || last.TokenSHA256 != tokenSHA256(x.Token)) {
		t.Errorf("a grant is audited as %+v", lines)
	}
}
