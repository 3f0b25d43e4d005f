package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/sts/audit/checkpoint"
)

const testOrigin = "sts.example.com/audit"

// testLog is a log in memory. Logs agree up to entry fork, and not after.
type testLog struct {
	branch string
	fork   int64
	hashes []tlog.Hash
	size   int64
}

func (l *testLog) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		hashes[i] = l.hashes[index]
	}
	return hashes, nil
}

// request asks for size entries with a proof from before.
func (l *testLog) request(before, size int64) (checkpoint.Request, error) {
	for ; l.size < size; l.size++ {
		entry := fmt.Sprint("entry ", l.size)
		if l.size >= l.fork {
			entry += l.branch
		}
		hashes, err := tlog.StoredHashes(l.size, []byte(entry), l)
		if err != nil {
			return checkpoint.Request{}, err
		}
		l.hashes = append(l.hashes, hashes...)
	}
	root, err := tlog.TreeHash(size, l)
	if err != nil {
		return checkpoint.Request{}, err
	}
	r := checkpoint.Request{Checkpoint: checkpoint.Checkpoint{Origin: testOrigin, Size: uint64(size), Root: root}, OldSize: uint64(before)}
	if before > 0 && before < size {
		r.Proof, err = tlog.ProveTree(size, before, l)
	}
	return r, err
}

// checkpoint OLD NEW SOCKET [WHY] has a checkpoint signed; with WHY, it must be refused with these words.
func requestCheckpoint(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: checkpoint OLD NEW SOCKET [WHY]")
	}
	before, err := strconv.ParseInt(args[0], 10, 64)
	ts.Check(err)
	size, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	request, err := new(testLog).request(before, size)
	ts.Check(err)
	client := signer.NewClient(ts.MkAbs(args[2]))
	defer client.Close()
	_, err = client.Checkpoint(context.Background(), request)
	if len(args) == 3 {
		// The signer may have to find a key first that is new.
		for deadline := time.Now().Add(30 * time.Second); errors.Is(err, signer.ErrUnavailable) && time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
			_, err = client.Checkpoint(context.Background(), request)
		}
		ts.Check(err)
	} else if err == nil || !strings.Contains(err.Error(), args[3]) {
		ts.Fatalf("checkpoint %s: %v; want %q", args[1], err, args[3])
	}
}

// copynote STATE FILE takes the signed note out of the signer's state.
func copyNote(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: copynote STATE FILE")
	}
	_, note, _ := strings.Cut(ts.ReadFile(args[0]), "\n")
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(note), 0o600))
}

// foreignnote FILE is a checkpoint that another key signed.
func foreignNote(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: foreignnote FILE")
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	ts.Check(err)
	request, err := new(testLog).request(0, 100)
	ts.Check(err)
	note, err := checkpoint.Sign(request.Checkpoint, key)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), note, 0o600))
}
