package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Nobody tampers here: entries come, checkpoints are signed, segments end and are moved away, all while Verify reads. It
// must never say no. With OCTO_STS_TAMPERS=100000 it says yes ten thousand times.
func TestVerifyBesideDaemon(t *testing.T) {
	dir, archive := filepath.Join(shm(t), "log[1]"), filepath.Join(shm(t), "archive")
	s := newRetainedLog(t, dir, 0, 10, 300)
	if err := os.Mkdir(archive, 0o755); err != nil {
		t.Fatal(err)
	}
	l := openTest(t, Config{Directory: dir, SegmentSize: 16 << 10})
	start(t, checkpointerOf(t, l, s.signer))
	ctx, stop := context.WithCancel(t.Context())
	var work sync.WaitGroup
	defer work.Wait()
	defer stop()
	for range 4 {
		work.Go(func() { appendUntil(ctx, t, l) })
	}
	work.Go(func() { moveUntil(ctx, t, dir, archive) })

	c := s.config(dir, 10, 300)
	c.Directories = append(c.Directories, archive)
	var size uint64
	for i := range tamperCount(t) / 10 {
		c.Directories = c.Directories[:1+i%2] // with the archive, and without
		r, err := Verify(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if !r.OK || r.Covered < size || i%2 == 1 && len(r.Unseen) > 0 {
			t.Fatalf("reading %d, when %d were covered before: %+v", i, size, r)
		}
		size = r.Covered
	}
	t.Logf("%d entries at the end", l.Size())
}

// appendUntil appends now and then.
func appendUntil(ctx context.Context, t *testing.T, l *Log) {
	for i := 0; ctx.Err() == nil; i++ {
		if _, err := l.Append(context.Background(), Entry{Kind: Intent, RequestID: fmt.Sprint(i), Reason: fmt.Sprint(make([]int, rand.IntN(200)))}); err != nil {
			t.Error(err)
			return
		}
		time.Sleep(time.Duration(rand.IntN(8)) * time.Millisecond)
	}
}

// moveUntil moves closed segments, oldest first, as soon as a checkpoint covers an entry of the next: their tiles are
// written then. By turns it renames them, and copies them bit by bit before it removes them.
func moveUntil(ctx context.Context, t *testing.T, dir, archive string) {
	for i := 0; ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
		segments, err := listSegments(dir)
		if err != nil {
			t.Error(err)
			return
		}
		p, err := newProver(ctx, []string{dir})
		if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
			return
		}
		if err != nil || len(segments) < 4 || segments[1].first >= p.Size {
			continue
		}
		target := filepath.Join(archive, filepath.Base(segments[0].path))
		if i++; i%2 == 0 {
			err = os.Rename(segments[0].path, target)
		} else {
			err = copyThenRemove(segments[0].path, target)
		}
		if err != nil {
			t.Error(err)
			return
		}
	}
}

func copyThenRemove(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	for len(data) > 0 && err == nil {
		n := min(len(data), 4096)
		_, err = f.Write(data[:n])
		data = data[n:]
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Remove(from)
}
