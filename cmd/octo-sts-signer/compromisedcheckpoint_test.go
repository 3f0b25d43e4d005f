package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/signer/signertest"
	"github.com/octo-sts/appliance/sts/audit/checkpoint"
)

func must(t *testing.T, r checkpoint.Request, err error) checkpoint.Request {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// askFor has one checkpoint judged, and waits for a place where checkpoints are asked for too fast.
func (i *intruder) askFor(ctx context.Context, t *testing.T, client *signer.Client, r checkpoint.Request) error {
	for {
		signed, err := client.Checkpoint(ctx, r)
		switch {
		case err == nil:
			i.judgeNote(t, signed)
			return nil
		case strings.Contains(err.Error(), signer.ErrCheckpointRate.Error()):
			time.Sleep(50 * time.Millisecond)
		default:
			return err
		}
	}
}

// A log that rewrites what was signed, forks from it, shrinks, or is another, gets no signature, in whatever words.
func TestCompromisedDaemonCheckpoints(t *testing.T) {
	i := newIntruder(t, start(t, signertest.Config{AppIDs: []int64{12, 34}}))
	log, other := &testLog{}, &testLog{branch: " otherwise", fork: 5}
	ask := func(l *testLog, before, size int64) checkpoint.Request {
		t.Helper()
		r, err := l.request(before, size)
		return must(t, r, err)
	}
	client := i.signer.Client()
	defer client.Close()
	if err := i.askFor(t.Context(), t, client, ask(log, 0, 10)); err != nil {
		t.Fatal(err)
	}
	with := func(change func(*checkpoint.Request)) checkpoint.Request {
		r := ask(log, 10, 20)
		r.Proof = slices.Clone(r.Proof)
		change(&r)
		return r
	}
	requests := map[string]checkpoint.Request{
		"rewritten from the beginning": ask(other, 0, 20),
		"rewritten, same size":         ask(other, 10, 10),
		"rewritten behind a proof":     ask(other, 10, 20),
		"forked from before":           ask(other, 5, 20),
		"begun anew":                   {Checkpoint: checkpoint.Empty(testOrigin)},
		"shrunk":                       ask(log, 5, 7),
		"shrunk, as if from here":      with(func(r *checkpoint.Request) { r.Checkpoint = ask(log, 0, 7).Checkpoint }),
		"an old state again":           ask(log, 0, 5),
		"another log's proof":          with(func(r *checkpoint.Request) { r.Proof = ask(other, 10, 20).Proof }),
		"another log's root":           with(func(r *checkpoint.Request) { r.Root = ask(other, 0, 20).Root }),
		"no proof":                     with(func(r *checkpoint.Request) { r.Proof = nil }),
		"a proof backwards":            with(func(r *checkpoint.Request) { slices.Reverse(r.Proof) }),
		"a proof of zeros":             with(func(r *checkpoint.Request) { clear(r.Proof) }),
		"a proof too long":             with(func(r *checkpoint.Request) { r.Proof = make([]tlog.Hash, 65) }),
		"a size out of range":          with(func(r *checkpoint.Request) { r.Size = 1 << 62 }),
		"a size beyond int64":          with(func(r *checkpoint.Request) { r.Size = 1<<64 - 1 }),
		"another origin":               with(func(r *checkpoint.Request) { r.Origin = "sts.example.com/audit2" }),
		"no origin":                    with(func(r *checkpoint.Request) { r.Origin = "" }),
		"a line in the origin":         with(func(r *checkpoint.Request) { r.Origin += "\n20\n" + r.Root.String() }),
		"a note in the origin":         with(func(r *checkpoint.Request) { r.Origin += "\n\n— x AAAAAAAA\n" }),
	}
	for name, r := range requests {
		if err := i.askFor(t.Context(), t, client, r); err == nil {
			t.Errorf("%s: signed", name)
		}
		// The same in a hand that leaves the client's checks out.
		body, err := json.Marshal(map[string]any{"origin": r.Origin, "size": r.Size, "root": r.Root, "old_size": r.OldSize, "proof": r.Proof})
		if err != nil {
			t.Fatal(err)
		}
		for _, request := range []string{
			httpRequest("POST", "/v1/checkpoint", "application/json", string(body)),
			httpRequest("POST", "/v1/checkpoint", "application/json", strings.Replace(string(body), "{", `{"origin":"`+testOrigin+`",`, 1)),
			httpRequest("POST", "/v1/app-jwt", "application/json", string(body)),
		} {
			if answer := i.say(t, request); strings.HasPrefix(string(answer), "HTTP/1.1 200") {
				t.Errorf("%s: %q", name, answer)
			}
		}
	}
	if err := i.askFor(t.Context(), t, client, ask(log, 10, 20)); err != nil {
		t.Errorf("a good request afterwards: %v", err)
	}
	if len(i.signed) != 2 {
		t.Errorf("%d checkpoints were had, want 2", len(i.signed))
	}
	i.stillServes(t)
}

// However fast checkpoints are asked for, two a second are signed, and App JWTs are had meanwhile.
func TestCompromisedDaemonCannotKeepTheHSMBusy(t *testing.T) {
	i := newIntruder(t, start(t, signertest.Config{AppIDs: []int64{34}}))
	client, log := i.signer.Client(), &testLog{}
	defer client.Close()
	started, size, refused := time.Now(), int64(0), 0
	for next := int64(1); next <= 300; next++ {
		r, err := log.request(size, next)
		signed, err := client.Checkpoint(t.Context(), must(t, r, err))
		switch {
		case err == nil:
			i.judgeNote(t, signed)
			size = next
		case errors.Is(err, signer.ErrUnavailable) && strings.Contains(err.Error(), "too many checkpoints"):
			refused++
		default:
			t.Fatal(err)
		}
	}
	if most := 3 + int(2*time.Since(started).Seconds()); len(i.signed) > most || refused != 300-len(i.signed) {
		t.Errorf("%d checkpoints in %v, want at most %d", len(i.signed), time.Since(started), most)
	}
	i.stillServes(t)
}

// Two forks at once, and a signer that is killed in the middle: whatever was signed is one log.
func TestCompromisedDaemonForksAndKills(t *testing.T) {
	i := newIntruder(t, start(t, signertest.Config{AppIDs: []int64{34}}))
	clients := [2]*signer.Client{i.signer.Client(), i.signer.Client()}
	for _, client := range clients {
		defer client.Close()
	}
	trunk := &testLog{}
	for round := range 8 {
		size := trunk.size
		var two [2]*testLog
		var requests [2]checkpoint.Request
		var asked sync.WaitGroup
		for n := range two {
			two[n] = &testLog{branch: fmt.Sprint(" of branch ", round, n), fork: size, size: size, hashes: slices.Clone(trunk.hashes)}
			r, err := two[n].request(size, size+1)
			requests[n] = must(t, r, err)
		}
		for n := range two {
			asked.Go(func() { _ = i.askFor(t.Context(), t, clients[n], requests[n]) }) // what comes of it is seen below
		}
		if round%2 == 1 {
			time.Sleep(rand.N(6 * time.Millisecond))
			if err := i.signer.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := i.signer.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		asked.Wait()
		trunk = i.settle(t, clients[0], two, requests)
	}
	for size, root := range i.signed {
		r, err := trunk.request(0, int64(size))
		if want := must(t, r, err).Root.String(); root != want {
			t.Errorf("size %d was signed with the root %s, and the log has %s", size, root, want)
		}
	}
}

// settle asks for the second branch once more, and returns the one that the signer has signed.
func (i *intruder) settle(t *testing.T, client *signer.Client, two [2]*testLog, requests [2]checkpoint.Request) *testLog {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := i.askFor(t.Context(), t, client, requests[1])
		var conflict *checkpoint.Conflict
		switch {
		case err == nil:
			return two[1]
		case errors.As(err, &conflict) && conflict.Last == requests[0].Checkpoint:
			return two[0]
		case errors.As(err, &conflict) && conflict.Last == requests[1].Checkpoint:
			return two[1]
		case !errors.Is(err, signer.ErrUnavailable) || time.Now().After(deadline):
			t.Fatal(err)
		}
	}
}
