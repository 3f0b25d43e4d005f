package githubapp

import (
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// fileCache keeps the files used last, bounded in number and in bytes.
type fileCache struct {
	maxBytes int

	mu    sync.Mutex // guards what follows
	lru   *simplelru.LRU[fileKey, *File]
	bytes int
}

// newFileCache needs both bounds above 0.
func newFileCache(maxFiles, maxBytes int) *fileCache {
	f := &fileCache{maxBytes: maxBytes}
	// The only error is a size that is not above 0. The callback runs under mu.
	f.lru, _ = simplelru.NewLRU(maxFiles, func(_ fileKey, gone *File) { f.bytes -= len(gone.Content) })
	return f
}

func (f *fileCache) get(key fileKey) *File {
	f.mu.Lock()
	defer f.mu.Unlock()
	file, _ := f.lru.Get(key)
	return file
}

func (f *fileCache) add(key fileKey, file *File) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lru.Remove(key) // Add would replace it without the callback
	f.lru.Add(key, file)
	f.bytes += len(file.Content)
	for f.bytes > f.maxBytes {
		f.lru.RemoveOldest()
	}
}

func (f *fileCache) remove(key fileKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lru.Remove(key)
}

// removeIf removes what gone says.
func (f *fileCache) removeIf(gone func(fileKey) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, key := range f.lru.Keys() {
		if gone(key) {
			f.lru.Remove(key)
		}
	}
}
