package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/audit/checkpoint"
)

const (
	appendPairs    = 2000      // appends, each beside a bare one
	verifyEntries  = 1_000_000 // of a log to verify
	verifyAppender = 4096      // who write it, at once: each sync is then for as many entries
)

// auditBench is a log of its own, with checkpoints that a key in memory signs.
type auditBench struct {
	bin    string
	dir    string // temporary; the log is in it
	vkey   string
	log    *audit.Log
	signed chan error // what the checkpointer ends with
}

// measureAuditLog prints what an entry and the verification of a log cost, beside what must be done at the least. It writes
// some 700 MB where TMPDIR points to, and removes them.
func measureAuditLog(ctx context.Context, bin string) (err error) {
	dir, err := os.MkdirTemp("", "octo-sts-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b := &auditBench{bin: bin, dir: dir, signed: make(chan error, 1)}
	if err := b.open(ctx); err != nil {
		return err
	}
	fmt.Printf("\nAudit log, in %s\n", dir)
	err = b.measureAppends(ctx)
	if err == nil {
		err = b.fill(ctx)
	}
	// Closing the log ends the checkpointer, which has the rest signed first.
	if err := errors.Join(err, b.log.Close(), <-b.signed); err != nil {
		return err
	}
	if err := b.measureVerify(ctx); err != nil {
		return err
	}
	return b.measureProof(ctx)
}

func (b *auditBench) logDir() string { return filepath.Join(b.dir, "log") }

// open opens the log and starts its checkpointer.
func (b *auditBench) open(ctx context.Context) error {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	const origin = "bench.example.com/audit"
	if b.vkey, err = checkpoint.EncodeKey(origin, public); err != nil {
		return err
	}
	if b.log, err = audit.Open(ctx, audit.Config{Directory: b.logDir()}); err != nil {
		return err
	}
	checkpointer, err := audit.NewCheckpointer(ctx, audit.CheckpointerConfig{
		Log: b.log, Origin: origin,
		Countersign: func(_ context.Context, r checkpoint.Request) ([]byte, error) {
			return checkpoint.Sign(r.Checkpoint, key)
		},
	})
	if err != nil {
		return errors.Join(err, b.log.Close())
	}
	go func() { b.signed <- checkpointer.Run(context.WithoutCancel(ctx)) }()
	return nil
}

// entry is an outcome as an exchange leaves it, of some 650 bytes.
func (b *auditBench) entry(n int64) audit.Entry {
	now := time.Now()
	return audit.Entry{
		Time: now, Kind: audit.Outcome, RequestID: fmt.Sprintf("4BOGBD5YDLYY47NEB5%08d", n), Scope: "acme/widgets", Identity: "deploy",
		Issuer: "https://token.actions.githubusercontent.com", Subject: "repo:acme/deployer:ref:refs/heads/main", ClientAddress: "192.0.2.17",
		PolicyRepository: "acme/widgets", PolicyPath: ".github/chainguard/deploy.sts.yaml", AppID: 1234, InstallationID: 56789012,
		Permissions: map[string]string{"contents": "read", "issues": "write"}, Repositories: []string{"widgets"},
		TokenSHA256: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", TokenExpiry: now.Add(time.Hour),
		Decision: audit.DecisionGranted, DurationMS: 84,
	}
}

// measureAppends has one caller append entries, and between any two make a bare write(2) and fdatasync(2) of as many bytes.
func (b *auditBench) measureAppends(ctx context.Context) error {
	bare, err := os.OpenFile(filepath.Join(b.dir, "bare"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer bare.Close()
	if _, err := b.log.Append(ctx, b.entry(0)); err != nil {
		return err
	}
	var line []byte
	for record, err := range audit.Read(b.logDir()) {
		if err != nil {
			return err
		}
		line = append(bytes.Clone(record.Line), '\n')
	}
	var floor, ours []time.Duration
	for n := range int64(appendPairs) {
		began := time.Now()
		if _, err := bare.Write(line); err != nil {
			return err
		}
		if err := unix.Fdatasync(int(bare.Fd())); err != nil {
			return err
		}
		floor = append(floor, time.Since(began))
		began = time.Now()
		if _, err := b.log.Append(ctx, b.entry(n+1)); err != nil {
			return err
		}
		ours = append(ours, time.Since(began))
	}
	slices.Sort(floor)
	slices.Sort(ours)
	fmt.Printf("  %-44s %10s %10s %10s\n", fmt.Sprintf("one caller, %d bytes, checkpoints on", len(line)), "p50", "p99", "p99.9")
	row := func(name string, of func(q float64) time.Duration) {
		fmt.Printf("  %-44s %10s %10s %10s\n", name, of(0.5).Round(time.Microsecond), of(0.99).Round(time.Microsecond), of(0.999).Round(time.Microsecond))
	}
	row("a bare write and fdatasync", func(q float64) time.Duration { return quantile(floor, q) })
	row("a durable append", func(q float64) time.Duration { return quantile(ours, q) })
	row("what it adds", func(q float64) time.Duration { return quantile(ours, q) - quantile(floor, q) })
	return nil
}

// fill makes the log as long as it is to be when it is verified.
func (b *auditBench) fill(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	from, began := int64(b.log.Size()), time.Now()
	var next atomic.Int64
	next.Store(from)
	var appending sync.WaitGroup
	for range verifyAppender {
		appending.Go(func() {
			for n := next.Add(1) - 1; n < verifyEntries && ctx.Err() == nil; n = next.Add(1) - 1 {
				if _, err := b.log.Append(ctx, b.entry(n)); err != nil {
					cancel(err)
				}
			}
		})
	}
	appending.Wait()
	took := time.Since(began)
	fmt.Printf("  %d callers at once: %.0f durable entries a second\n", verifyAppender, float64(verifyEntries-from)/took.Seconds())
	return context.Cause(ctx)
}

// measureVerify verifies the log with the real octo-sts.
func (b *auditBench) measureVerify(ctx context.Context) error {
	began := time.Now()
	size, err := b.hashAll()
	if err != nil {
		return err
	}
	floor := time.Since(began)
	verify := exec.CommandContext(ctx, filepath.Join(b.bin, "octo-sts"), "audit", "verify", "--output", "json", "--key", b.vkey, b.logDir())
	verify.Stderr = os.Stderr
	began = time.Now()
	out, err := verify.Output()
	took := time.Since(began)
	var report audit.Report
	if err == nil {
		err = json.Unmarshal(out, &report)
	}
	if err != nil || !report.OK || report.Covered != verifyEntries {
		return fmt.Errorf("octo-sts audit verify: %w: %s", err, out)
	}
	usage, _ := verify.ProcessState.SysUsage().(*syscall.Rusage)
	fmt.Printf("  %d entries, %d MB: verified in %.2f s (CPU %.2f s, %d MiB of memory); reading and hashing the bytes alone takes %.2f s\n",
		report.Entries, size/1e6, took.Seconds(), (verify.ProcessState.UserTime() + verify.ProcessState.SystemTime()).Seconds(), usage.Maxrss/1024, floor.Seconds())
	return nil
}

// hashAll reads and hashes all segments, with one goroutine.
func (b *auditBench) hashAll() (size int64, err error) {
	segments, err := filepath.Glob(filepath.Join(b.logDir(), "*.jsonl"))
	if err != nil {
		return 0, err
	}
	for _, segment := range segments {
		f, err := os.Open(segment)
		if err != nil {
			return 0, err
		}
		n, err := io.Copy(sha256.New(), bufio.NewReaderSize(f, 1<<20))
		if err := errors.Join(err, f.Close()); err != nil {
			return 0, err
		}
		size += n
	}
	return size, nil
}

// measureProof proves the entry in the middle, and has the proof checked.
func (b *auditBench) measureProof(ctx context.Context) error {
	program, index := filepath.Join(b.bin, "octo-sts"), verifyEntries/2
	began := time.Now()
	proof, err := exec.CommandContext(ctx, program, "audit", "prove", "--index", fmt.Sprint(index), b.logDir()).Output()
	took := time.Since(began)
	if err != nil {
		return fmt.Errorf("octo-sts audit prove: %w", err)
	}
	file := filepath.Join(b.dir, "proof")
	if err := os.WriteFile(file, proof, 0o600); err != nil {
		return err
	}
	line, err := b.line(index)
	if err != nil {
		return err
	}
	check := exec.CommandContext(ctx, program, "audit", "check-proof", "--key", b.vkey, file)
	check.Stdin = bytes.NewReader(line)
	if out, err := check.CombinedOutput(); err != nil {
		return fmt.Errorf("octo-sts audit check-proof: %w: %s", err, out)
	}
	fmt.Printf("  a proof of one of them: %d bytes, made in %d ms, the program's start included\n", len(proof), took.Milliseconds())
	return nil
}

// line reads one entry.
func (b *auditBench) line(index int) ([]byte, error) {
	for record, err := range audit.Read(b.logDir()) {
		if err != nil {
			return nil, err
		}
		if record.Index == uint64(index) {
			return bytes.Clone(record.Line), nil
		}
	}
	return nil, fmt.Errorf("entry %d is not there", index)
}
