package signer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/octo-sts/appliance/sts/audit/checkpoint"
)

// serveNew serves a new log's Countersigner, as fast as requests come, and returns the socket.
func serveNew(t *testing.T) (checkpoints *Countersigner, socket string) {
	t.Helper()
	checkpoints, socket = newCountersigner(t, t.TempDir(), newTestKey(t)), filepath.Join(t.TempDir(), "s")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serveCheckpoints(ctx, checkpoints, socket) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	client := NewClient(socket)
	defer client.Close()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := client.Status(t.Context()); err == nil {
			return checkpoints, socket
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestCheckpointThroughTheSocket(t *testing.T) {
	checkpoints, socket := serveNew(t)
	client, log := NewClient(socket), &testLog{}
	defer client.Close()
	for _, step := range [][2]int64{{0, 1}, {1, 5}, {5, 1000}, {1000, 1000}} {
		r := log.request(t, step[0], step[1])
		signed, err := client.Checkpoint(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := checkpoint.Parse(signed); err != nil || c != r.Checkpoint {
			t.Errorf("%+v, %v", c, err)
		}
	}
	var conflict *checkpoint.Conflict
	if _, err := client.Checkpoint(t.Context(), log.request(t, 5, 1001)); !errors.As(err, &conflict) {
		t.Fatal(err)
	}
	if conflict.Last != log.request(t, 0, 1000).Checkpoint || conflict.Reason != "the proof is from size 5" {
		t.Errorf("%+v", conflict)
	}
	elsewhere := log.request(t, 1000, 1001)
	elsewhere.Origin = "elsewhere"
	if _, err := client.Checkpoint(t.Context(), elsewhere); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), `only those of "sts.example.com/audit" are signed here`) {
		t.Error(err)
	}
	checkpoints.limiter.SetLimit(0)
	if _, err := client.Checkpoint(t.Context(), log.request(t, 1000, 1001)); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "at most two a second") {
		t.Error(err)
	}
	if status, err := client.Status(t.Context()); err != nil || status.Checkpoint.Size != 1000 || !strings.Contains(status.Checkpoint.Error, "two a second") {
		t.Errorf("%+v, %v", status, err)
	}
}

// askCheckpoint sends one request as it stands and returns status and body.
func askCheckpoint(t *testing.T, socket, method, body string) (int, string) {
	t.Helper()
	client := NewClient(socket)
	defer client.Close()
	request, err := http.NewRequestWithContext(t.Context(), method, "http://signer"+pathCheckpoint, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.http.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(answer)
}

// The longest request that makes sense fits, and little more does.
func TestCheckpointRequestsThatAreOdd(t *testing.T) {
	_, socket := serveNew(t)
	hash := tlog.RecordHash(nil).String()
	proof := func(n int) string { return strings.TrimSuffix(strings.Repeat(`"`+hash+`",`, n), ",") }
	body := func(origin, size, root, old, proof string) string {
		return fmt.Sprintf(`{"origin":%s,"size":%s,"root":%s,"old_size":%s,"proof":[%s]}`, origin, size, root, old, proof)
	}
	origin, root := `"`+testOrigin+`"`, `"`+hash+`"`
	for _, test := range []struct {
		name, body string
		status     int
		want       string
	}{
		{"nothing", ``, 400, "expected origin, size"},
		{"an array", `[]`, 400, "expected"},
		{"null", `null`, 400, "the origin is empty"},
		{"no key", `{}`, 400, "the origin is empty"},
		{"another key", `{"origin":` + origin + `,"note":"x"}`, 400, "note"},
		{"something behind", body(origin, "1", root, "0", "") + "{}", 400, "something follows"},
		{"a newline in the origin", body(`"sts.example.com/audit\nx"`, "1", root, "0", ""), 400, "control character"},
		{"a line more in the origin", body(`"sts.example.com/audit\n5\n`+hash+`"`, "1", root, "0", ""), 400, "control character"},
		{"a NUL in the origin", body(`"sts.example.com/audit\u0000"`, "1", root, "0", ""), 400, "control character"},
		{"another origin", body(`"sts.example.com/Audit"`, "1", root, "0", ""), 400, "only those of"},
		{"a negative size", body(origin, "-1", root, "0", ""), 400, "expected"},
		{"a fraction", body(origin, "1.5", root, "0", ""), 400, "expected"},
		{"a size as text", body(origin, `"1"`, root, "0", ""), 400, "expected"},
		{"a size beyond int64", body(origin, "9223372036854775808", root, "0", ""), 400, "larger than"},
		{"a size beyond uint64", body(origin, "18446744073709551616", root, "0", ""), 400, "expected"},
		{"a size of which proofs do not end", body(origin, "4611686018427387905", root, "0", ""), 400, "larger than"},
		{"a short root", body(origin, "1", `"AAAA"`, "0", ""), 400, "expected"},
		{"65 hashes", body(origin, "1", root, "0", proof(65)), 400, "more than 64"},
		{"64 hashes", body(origin, "1", root, "0", proof(64)), 409, "where none is needed"},
		{"over 8 KiB", body(origin, "1", root, "0", proof(200)), 400, "too large"},
		{"a good one", body(origin, "1", root, "0", ""), 200, "note"},
	} {
		status, answer := askCheckpoint(t, socket, http.MethodPost, test.body)
		if status != test.status || !strings.Contains(answer, test.want) || (status == 200) != strings.Contains(answer, "—") {
			t.Errorf("%s: %d %s, want %d %q", test.name, status, answer, test.status, test.want)
		}
	}
	if status, _ := askCheckpoint(t, socket, http.MethodGet, ""); status != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", status)
	}
}

// branches returns two logs that share the entries of l up to size, and each have one entry more of their own.
func (l *testLog) branches(round int) [2]*testLog {
	var two [2]*testLog
	for i := range two {
		two[i] = &testLog{branch: fmt.Sprint(" of branch ", round, i), fork: l.size, size: l.size, hashes: slices.Clone(l.hashes)}
	}
	return two
}

// However two forks race, one of them is signed at most, and never two roots of one size.
func TestForksRace(t *testing.T) {
	_, socket := serveNew(t)
	clients := [2]*Client{NewClient(socket), NewClient(socket)}
	trunk := &testLog{}
	for round := range 1000 {
		two := trunk.branches(round)
		size := trunk.size
		var results [2]error
		var wg sync.WaitGroup
		requests := [2]checkpoint.Request{two[0].request(t, size, size+1), two[1].request(t, size, size+1)}
		for i, client := range clients {
			wg.Go(func() { _, results[i] = client.Checkpoint(t.Context(), requests[i]) })
		}
		wg.Wait()
		var conflict *checkpoint.Conflict
		switch {
		case results[0] == nil && errors.As(results[1], &conflict) && conflict.Last == requests[0].Checkpoint:
			trunk = two[0]
		case results[1] == nil && errors.As(results[0], &conflict) && conflict.Last == requests[1].Checkpoint:
			trunk = two[1]
		default:
			t.Fatalf("round %d: %v and %v", round, results[0], results[1])
		}
	}
}

func FuzzCheckpointRequest(f *testing.F) {
	key := newTestKey(f)
	s := newCountersigner(f, f.TempDir(), key)
	log := &testLog{}
	if _, err := s.Countersign(f.Context(), log.request(f, 0, 5)); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"origin":"sts.example.com/audit","size":5,"root":"` + log.request(f, 0, 5).Root.String() + `","old_size":5,"proof":[]}`))
	f.Add([]byte(`{"origin":"sts.example.com/audit","size":0,"root":"","old_size":0,"proof":null}`))
	last := log.request(f, 0, 5).Checkpoint
	f.Fuzz(func(t *testing.T, body []byte) {
		var request checkpointRequest
		if decodeRequest(bytes.NewReader(body), &request) != nil {
			return
		}
		c := checkpoint.Checkpoint(request.checkpointBody)
		signed, err := s.Countersign(t.Context(), checkpoint.Request{Checkpoint: c, OldSize: request.OldSize, Proof: request.Proof})
		if err == nil && c != last {
			t.Errorf("%s was signed as %s", body, signed)
		}
	})
}
