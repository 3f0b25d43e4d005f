package audit

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sys/unix"
)

// signedLog is a log with a running checkpointer at its real pace, and a signer with an Ed25519 key in memory.
func signedLog(b *testing.B) *Log {
	l := openTest(b, Config{Directory: b.TempDir()})
	c, err := NewCheckpointer(b.Context(), CheckpointerConfig{Log: l, Origin: testOrigin, Countersign: newTestSigner(b).countersign})
	if err != nil {
		b.Fatal(err)
	}
	stop := start(b, c)
	b.Cleanup(func() {
		if err := stop(); err != nil {
			b.Error(err)
		}
	})
	return l
}

// BenchmarkBesideFloor has one caller append with everything on, and between any two appends makes a bare write(2) and
// fdatasync(2) of the same bytes on the same disk. It reports the medians and 99th percentiles of both, in microseconds, and
// what the log adds.
func BenchmarkBesideFloor(b *testing.B) {
	l := signedLog(b)
	f, err := os.OpenFile(filepath.Join(b.TempDir(), "floor"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	var floor, ours []time.Duration
	for b.Loop() {
		e := typicalEntry()
		line := append(e.appendLine(nil), '\n')
		began := time.Now()
		if _, err := f.Write(line); err != nil {
			b.Fatal(err)
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			b.Fatal(err)
		}
		floor = append(floor, time.Since(began))
		began = time.Now()
		if _, err := l.Append(context.Background(), e); err != nil {
			b.Fatal(err)
		}
		ours = append(ours, time.Since(began))
	}
	for name, p := range map[string]float64{"p50": 0.5, "p99": 0.99} {
		b.ReportMetric(quantile(floor, p), "floor-"+name+"-µs")
		b.ReportMetric(quantile(ours, p), "append-"+name+"-µs")
		b.ReportMetric(quantile(ours, p)-quantile(floor, p), "added-"+name+"-µs")
	}
}

// quantile is in microseconds.
func quantile(times []time.Duration, p float64) float64 {
	times = slices.Sorted(slices.Values(times))
	return float64(times[int(math.Ceil(p*float64(len(times))))-1].Nanoseconds()) / 1000
}

// BenchmarkAppendSigned is BenchmarkAppend with a checkpointer beside it: compare the CPU time and the rates.
func BenchmarkAppendSigned(b *testing.B) {
	for _, goroutines := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("goroutines=%d", goroutines), func(b *testing.B) { appendFrom(b, signedLog(b), goroutines) })
	}
}

// BenchmarkTree is what one line costs the follower: its hash, and its part in tiles that are written and synced.
func BenchmarkTree(b *testing.B) {
	tree, err := loadTree(b.Context(), &tileStore{dir: b.TempDir()}, 0, 0)
	if err != nil {
		b.Fatal(err)
	}
	e := typicalEntry()
	line := e.appendLine(nil)
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		if err := tree.add(tlog.RecordHash(line)); err != nil {
			b.Fatal(err)
		}
	}
}
