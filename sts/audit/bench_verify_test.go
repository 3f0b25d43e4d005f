package audit

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/octo-sts/appliance/sts/audit/checkpoint"
)

// benchEntries is how many entries, of some 600 bytes each, the log has that is verified.
const benchEntries = 1_000_000

// BenchmarkVerify verifies a million entries, with their tiles and a signed checkpoint. Compare with the floor of the
// same run, which only reads and hashes the same bytes. TMPDIR says on which disk.
func BenchmarkVerify(b *testing.B) {
	dir := b.TempDir()
	size, signer := writeBenchLog(b, dir)
	for name, c := range map[string]VerifyConfig{
		"covered": {Directories: []string{dir}, Keys: []note.Verifier{signer.verify}},
		// Without any checkpoint every line has to be parsed.
		"nothing covered": {Directories: []string{withoutCheckpoint(b, dir)}},
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				r, err := Verify(b.Context(), c)
				if err != nil || !r.OK || r.Entries != benchEntries {
					b.Fatalf("%+v, %v", r, err)
				}
			}
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			b.ReportMetric(float64(m.Sys)/1e6, "MB-of-memory")
		})
	}
	b.Run("floor", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			hashFiles(b, dir)
		}
	})
}

func hashFiles(b *testing.B, dir string) {
	segments, err := listSegments(dir)
	if err != nil {
		b.Fatal(err)
	}
	for _, s := range segments {
		f, err := os.Open(s.path)
		if err != nil {
			b.Fatal(err)
		}
		_, err = io.CopyBuffer(struct{ io.Writer }{sha256.New()}, struct{ io.Reader }{f}, make([]byte, 1<<20))
		f.Close()
		if err != nil {
			b.Fatal(err)
		}
	}
}

// withoutCheckpoint returns a directory with the same segments and no checkpoint.
func withoutCheckpoint(b *testing.B, dir string) string {
	other := b.TempDir()
	for _, name := range segmentNames(b, dir) {
		if err := os.Link(filepath.Join(dir, name), filepath.Join(other, name)); err != nil {
			b.Fatal(err)
		}
	}
	return other
}

// writeBenchLog writes a log in segments of 64 MiB, without waiting for the disk.
func writeBenchLog(b *testing.B, dir string) (size int64, signer *testSigner) {
	b.Helper()
	signer = newTestSigner(b)
	tree, err := loadTree(b.Context(), &tileStore{dir: dir}, 0, 0)
	if err != nil {
		b.Fatal(err)
	}
	e := typicalEntry()
	e.UserAgent, e.JTI, e.Claims, e.PolicySHA, e.PolicyPath, e.TokenSHA256Base64 = "", "", nil, "", "", ""
	var f *os.File
	var w *bufio.Writer
	var length int64
	finish := func() {
		if f == nil {
			return
		}
		if err := w.Flush(); err != nil {
			b.Fatal(err)
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
		if err := tree.savePartial(); err != nil {
			b.Fatal(err)
		}
	}
	for i := range uint64(benchEntries) {
		if f == nil || length > defaultSegmentSize {
			finish()
			if f, err = os.Create(filepath.Join(dir, segmentName(i))); err != nil {
				b.Fatal(err)
			}
			w, length = bufio.NewWriter(f), 0
		}
		e.RequestID = fmt.Sprintf("01K1XJ5R6ZP3T7Q8W9E%07d", i)
		line := e.appendLine(nil)
		if err := tree.add(tlog.RecordHash(line)); err != nil {
			b.Fatal(err)
		}
		if _, err := w.Write(append(line, '\n')); err != nil {
			b.Fatal(err)
		}
		length += int64(len(line)) + 1
		size += int64(len(line)) + 1
	}
	finish()
	c := checkpoint.Checkpoint{Origin: testOrigin, Size: benchEntries, Root: rootOf(b, benchEntries, tree.reader(b.Context()))}
	signed, err := checkpoint.Sign(c, signer.key)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, checkpointName), signed, 0o644)
	}
	if err != nil {
		b.Fatal(err)
	}
	return size, signer
}
