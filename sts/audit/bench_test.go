package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The benchmarks write where TMPDIR points: set it to a directory on the disk that matters.

// typicalEntry is an outcome as an exchange from GitHub Actions leaves it, some 900 bytes.
func typicalEntry() Entry {
	return Entry{
		Time: time.Now(), Kind: Outcome, RequestID: "01K1XJ5R6ZP3T7Q8W9E0A1S2D3", Scope: "octo-org/octo-repo", Identity: "deploy",
		Issuer: "https://token.actions.githubusercontent.com", Subject: "repo:octo-org/octo-repo:ref:refs/heads/main",
		Claims: map[string]any{"job_workflow_ref": "octo-org/octo-repo/.github/workflows/deploy.yaml@refs/heads/main", "run_attempt": json.Number("1")},
		JTI:    "2f1c9a5e-4d0b-4f6e-9d1a-5b6c7d8e9f00", IDTokenExpiry: time.Now().Add(5 * time.Minute),
		ClientAddress: "192.0.2.17", UserAgent: "octo-sts-action", PolicyRepository: "octo-org/octo-repo",
		PolicyPath: ".github/chainguard/deploy.sts.yaml", PolicySHA: "9c56cc51b374c3ba189210d5b6d4bf57790d351c", PolicyAge: 17,
		AppID: 1234, InstallationID: 56789012, Permissions: map[string]string{"contents": "read", "issues": "write"},
		Repositories: []string{"octo-repo"}, TokenSHA256: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
		TokenSHA256Base64: "n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=", TokenExpiry: time.Now().Add(time.Hour),
		Decision: DecisionGranted, DurationMS: 84,
	}
}

// cpuTime is what this process has used, in user and system mode.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkFloor is the least that a durable line can cost without sharing: one write(2), one fdatasync(2).
func BenchmarkFloor(b *testing.B) {
	f, err := os.OpenFile(filepath.Join(b.TempDir(), "floor"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	e := typicalEntry()
	line := append(e.appendLine(nil), '\n')
	before := cpuTime(b)
	for b.Loop() {
		if _, err := f.Write(line); err != nil {
			b.Fatal(err)
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
}

// BenchmarkAppend shows how appends that come together share a sync. Compare with BenchmarkFloor of the same run.
func BenchmarkAppend(b *testing.B) {
	for _, goroutines := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("goroutines=%d", goroutines), func(b *testing.B) {
			appendFrom(b, openTest(b, Config{Directory: b.TempDir()}), goroutines)
		})
	}
}

// appendFrom measures appends from so many goroutines at once.
func appendFrom(b *testing.B, l *Log, goroutines int) {
	var left atomic.Int64
	left.Store(int64(b.N))
	done := make(chan error)
	b.ResetTimer()
	before := cpuTime(b)
	for range goroutines {
		go func() {
			for left.Add(-1) >= 0 {
				if _, err := l.Append(context.Background(), typicalEntry()); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range goroutines {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
}

func BenchmarkEncode(b *testing.B) {
	e := typicalEntry()
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = e.appendLine(buf[:0])
	}
	b.SetBytes(int64(len(buf)))
}

func BenchmarkParse(b *testing.B) {
	e := typicalEntry()
	line := e.appendLine(nil)
	b.SetBytes(int64(len(line)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseEntry(line); err != nil {
			b.Fatal(err)
		}
	}
}
