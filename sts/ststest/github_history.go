package ststest

import (
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"hash"
	"path"
	"slices"
	"strings"
	"time"
)

// tree is a directory as git has it. It is never changed, so commits share
// what they have in common.
type tree struct {
	sha     string
	entries []entry // in git's order: a directory sorts as its name and a slash
}

// entry is what a tree holds under a name: a node, or a tree of its own.
type entry struct {
	name string
	node *node // nil for a directory
	dir  *tree
}

// commit is one commit. It is never changed.
type commit struct {
	sha        string
	parents    []*commit
	tree       *tree
	message    string
	at         time.Time
	generation int // one more than the parents': an ancestor's is smaller
}

// network is what a repository and its forks share: every object, by its
// name. World.mu guards it.
type network struct {
	commits map[string]*commit
	trees   map[string]*tree
}

// gitSHA is git's object name of content.
func gitSHA(kind string, content []byte) string {
	h := sha1.New()
	fmt.Fprintf(h, "%s %d\x00", kind, len(content))
	h.Write(content)
	return hexSum(h)
}

func hexSum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

// sha is git's name of what the entry names.
func (e entry) sha() string {
	if e.dir != nil {
		return e.dir.sha
	}
	return e.node.sha
}

// mode is git's mode of the entry, as GitHub writes it.
func (e entry) mode() string {
	switch {
	case e.dir != nil:
		return "040000"
	case e.node.kind == symlinkNode:
		return "120000"
	case e.node.kind == submoduleNode:
		return "160000"
	default:
		return "100644"
	}
}

// sortKey is what git sorts the entry by.
func (e entry) sortKey() string {
	if e.dir != nil {
		return e.name + "/"
	}
	return e.name
}

// newNetwork has the empty tree and one commit of it: that of the repository of
// that ID, so that no two repositories have a commit in common.
func newNetwork(id int64, now time.Time) (*network, *commit) {
	n := &network{commits: map[string]*commit{}, trees: map[string]*tree{}}
	return n, n.commit(n.tree(nil), fmt.Sprintf("Initial commit of repository %d", id), now)
}

// tree makes a tree of entries, which it sorts and keeps.
func (n *network) tree(entries []entry) *tree {
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.sortKey(), b.sortKey()) })
	var b []byte
	for _, e := range entries {
		raw, _ := hex.DecodeString(e.sha())
		b = fmt.Appendf(b, "%s %s\x00%s", strings.TrimPrefix(e.mode(), "0"), e.name, raw)
	}
	t := &tree{sha: gitSHA("tree", b), entries: entries}
	n.trees[t.sha] = t
	return t
}

// commit makes a commit.
func (n *network) commit(t *tree, message string, now time.Time, parents ...*commit) *commit {
	c := &commit{tree: t, parents: parents, message: message, at: now.UTC().Truncate(time.Second)}
	b := fmt.Appendf(nil, "tree %s\n", t.sha)
	for _, p := range parents {
		b = fmt.Appendf(b, "parent %s\n", p.sha)
		c.generation = max(c.generation, p.generation+1)
	}
	who := fmt.Sprintf("Octo Cat <octocat@github.test> %d +0000", c.at.Unix())
	b = fmt.Appendf(b, "author %s\ncommitter %s\n\n%s\n", who, who, message)
	c.sha = gitSHA("commit", b)
	n.commits[c.sha] = c
	return c
}

// nextMessage is a message that no commit has yet, so that two commits of the
// same content within a second differ.
func (n *network) nextMessage() string { return fmt.Sprintf("Change %d", len(n.commits)) }

// get is the entry of that name.
func (t *tree) get(name string) (entry, bool) {
	for _, key := range []string{name, name + "/"} {
		i, ok := slices.BinarySearchFunc(t.entries, key, func(e entry, key string) int { return strings.Compare(e.sortKey(), key) })
		if ok {
			return t.entries[i], true
		}
	}
	return entry{}, false
}

// find is the entry at a path; the root is an entry without a name.
func (t *tree) find(file string) (entry, bool) {
	e := entry{dir: t}
	if file == "" {
		return e, true
	}
	for name := range strings.SplitSeq(file, "/") {
		if e.dir == nil {
			return entry{}, false
		}
		next, ok := e.dir.get(name)
		if !ok {
			return entry{}, false
		}
		e = next
	}
	return e, true
}

// file is the node at a path, or nil.
func (t *tree) file(file string) *node {
	e, _ := t.find(file)
	return e.node
}

// byName are the entries in the order of their names alone.
func (t *tree) byName() []entry {
	return slices.SortedFunc(slices.Values(t.entries), func(a, b entry) int { return strings.Compare(a.name, b.name) })
}

// walk calls visit for everything in t, directories before what they hold,
// until it returns false. Paths are relative to t.
func (t *tree) walk(prefix string, visit func(file string, e entry) bool) bool {
	for _, e := range t.entries {
		file := path.Join(prefix, e.name)
		if !visit(file, e) || e.dir != nil && !e.dir.walk(file, visit) {
			return false
		}
	}
	return true
}

// draft is a tree that is being changed.
type draft map[string]any // name → *node, *tree or draft

func (t *tree) draft() draft {
	d := make(draft, len(t.entries)+1)
	for _, e := range t.entries {
		if e.dir != nil {
			d[e.name] = e.dir
		} else {
			d[e.name] = e.node
		}
	}
	return d
}

// put places n at a path, a file in the way giving way to a directory; nil
// removes what is there.
func (d draft) put(file string, n *node) {
	first, rest, deeper := strings.Cut(file, "/")
	if !deeper {
		delete(d, first)
		if n != nil {
			d[first] = n
		}
		return
	}
	var sub draft
	switch v := d[first].(type) {
	case draft:
		sub = v
	case *tree:
		sub = v.draft()
	default:
		if n == nil {
			return
		}
		sub = draft{}
	}
	d[first] = sub
	sub.put(rest, n)
}

// tree makes the tree that d has become; git keeps no empty directory.
func (d draft) tree(n *network) *tree {
	entries := make([]entry, 0, len(d))
	for name, v := range d {
		e := entry{name: name}
		switch v := v.(type) {
		case *node:
			e.node = v
		case *tree:
			e.dir = v
		case draft:
			if e.dir = v.tree(n); len(e.dir.entries) == 0 {
				continue
			}
		}
		entries = append(entries, e)
	}
	return n.tree(entries)
}

// ancestors are c and all that it follows from.
func (c *commit) ancestors() map[*commit]bool {
	seen, next := map[*commit]bool{c: true}, []*commit{c}
	for len(next) > 0 {
		last := next[len(next)-1]
		next = next[:len(next)-1]
		for _, p := range last.parents {
			if !seen[p] {
				seen[p] = true
				next = append(next, p)
			}
		}
	}
	return seen
}

// mergeBase is the best common ancestor of two commits: one that no other
// common ancestor follows from. Nil where they have none.
func mergeBase(a, b *commit) *commit {
	others := b.ancestors()
	var best *commit
	for c := range a.ancestors() {
		if others[c] && (best == nil || c.generation > best.generation || c.generation == best.generation && c.sha < best.sha) {
			best = c
		}
	}
	return best
}

// without are the ancestors of c that are no ancestors of other, oldest first.
func (c *commit) without(other *commit) []*commit {
	excluded := map[*commit]bool{}
	if other != nil {
		excluded = other.ancestors()
	}
	var all []*commit
	for a := range c.ancestors() {
		if !excluded[a] {
			all = append(all, a)
		}
	}
	slices.SortFunc(all, func(a, b *commit) int {
		if a.generation != b.generation {
			return a.generation - b.generation
		}
		return strings.Compare(a.sha, b.sha)
	})
	return all
}
