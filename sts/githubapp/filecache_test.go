package githubapp

import (
	"fmt"
	"testing"
)

// TestFileCache keeps what was used last, within both bounds.
func TestFileCache(t *testing.T) {
	key := func(n int) fileKey { return fileKey{1, "acme", "app", fmt.Sprint(n)} }
	of := func(size int) *File { return &File{Content: make([]byte, size)} }
	kept := func(f *fileCache, last int) (all []int) {
		for n := range last + 1 {
			if f.lru.Contains(key(n)) {
				all = append(all, n)
			}
		}
		return all
	}
	check := func(f *fileCache, last int, want ...int) {
		t.Helper()
		bytes := 0
		for _, n := range want {
			file, _ := f.lru.Peek(key(n))
			if file != nil {
				bytes += len(file.Content)
			}
		}
		if got := kept(f, last); fmt.Sprint(got) != fmt.Sprint(want) || f.bytes != bytes {
			t.Errorf("kept %v with %d bytes, want %v with %d", got, f.bytes, want, bytes)
		}
	}

	f := newFileCache(3, 100)
	for n := range 3 {
		f.add(key(n), of(30))
	}
	check(f, 3, 0, 1, 2)
	f.get(key(0)) // so 1 is the oldest
	f.add(key(3), of(1))
	check(f, 3, 0, 2, 3)
	f.add(key(2), of(80)) // replaces 30 bytes; 0 and 3 are older
	check(f, 3, 2, 3)
	f.add(key(2), of(10))
	check(f, 3, 2, 3)
	f.remove(key(2))
	f.remove(key(2))
	check(f, 3, 3)
	f.add(key(1), of(101)) // more than all: not kept, and nothing breaks
	check(f, 3)
}
