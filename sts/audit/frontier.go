package audit

import (
	"crypto/sha256"
	"math/bits"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// frontier computes the RFC 6962 root of a tree that grows by one leaf at a time. It holds the roots of the complete
// subtrees that the tree falls into (section 2.1): one for each bit that is set in its size, largest first.
type frontier struct {
	size     uint64
	subtrees []tlog.Hash
}

// add appends a leaf.
func (f *frontier) add(leaf tlog.Hash) {
	f.subtrees = append(f.subtrees, leaf)
	// Each bit that is carried joins two subtrees of the same size.
	for range bits.TrailingZeros64(^f.size) {
		n := len(f.subtrees)
		f.subtrees[n-2] = tlog.NodeHash(f.subtrees[n-2], f.subtrees[n-1])
		f.subtrees = f.subtrees[:n-1]
	}
	f.size++
}

// root is the root hash of what was added.
func (f *frontier) root() tlog.Hash {
	if f.size == 0 {
		return sha256.Sum256(nil)
	}
	root := f.subtrees[len(f.subtrees)-1]
	for _, left := range slices.Backward(f.subtrees[:len(f.subtrees)-1]) {
		root = tlog.NodeHash(left, root)
	}
	return root
}

// clone is a copy that grows by itself.
func (f *frontier) clone() *frontier {
	return &frontier{f.size, slices.Clone(f.subtrees)}
}
