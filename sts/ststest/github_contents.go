package ststest

import (
	"bytes"
	"encoding/base64"
	"net/http"
	"path"
	"strings"
)

// defaultBranch of a new repository.
const defaultBranch = "main"

// maxDirectoryEntries is how many files a directory's listing has.
const maxDirectoryEntries = 1000

// nodeKind is GitHub's "type" of what lies at a path.
type nodeKind string

const (
	fileNode      nodeKind = "file"
	symlinkNode   nodeKind = "symlink"
	submoduleNode nodeKind = "submodule"
	directoryNode nodeKind = "dir"
)

// node is a file, symbolic link or submodule; directories follow from paths.
// A node is never changed, only replaced.
type node struct {
	kind    nodeKind
	content []byte // of a file; of a symlink, its target
	gitURL  string // of a submodule
	sha     string // git's object name: of the blob, or the submodule's commit
}

// blobSHA is git's object name of a blob.
func blobSHA(content []byte) string { return gitSHA("blob", content) }

// PutFile writes a file on the default branch.
func (g *GitHub) PutFile(ownerLogin, repo, file, content string) {
	g.put(ownerLogin, repo, file, &node{kind: fileNode, content: []byte(content), sha: blobSHA([]byte(content))})
}

// PutDirectory makes a directory, by way of a file .gitkeep in it.
func (g *GitHub) PutDirectory(ownerLogin, repo, dir string) {
	g.PutFile(ownerLogin, repo, path.Join(dir, ".gitkeep"), "")
}

// PutSymlink makes a symbolic link. Target is relative to the link's own
// directory.
//
// What GitHub answers for a link to a file is the file: type "file", the
// file's content and size, the link's name and path, but **the SHA of the
// link's own blob** (the target path). So a client can tell the two apart: git's
// blob SHA of the content is not the SHA that it was given.
func (g *GitHub) PutSymlink(ownerLogin, repo, file, target string) {
	g.put(ownerLogin, repo, file, &node{kind: symlinkNode, content: []byte(target), sha: blobSHA([]byte(target))})
}

// PutSubmodule makes a submodule at a commit of another repository.
func (g *GitHub) PutSubmodule(ownerLogin, repo, file, gitURL string) {
	g.put(ownerLogin, repo, file, &node{kind: submoduleNode, gitURL: gitURL, sha: blobSHA([]byte(gitURL))})
}

// DeleteFile removes what is at a path: a directory with all that it holds.
func (g *GitHub) DeleteFile(ownerLogin, repo, file string) {
	g.put(ownerLogin, repo, file, nil)
}

// put is a silent commit on the default branch.
func (g *GitHub) put(ownerLogin, repo, file string, n *node) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	r := g.mustRepository(ownerLogin, repo)
	g.putNode(r, file, n, r.network.nextMessage())
}

// putNode commits n at a path of the default branch; nil removes what is
// there. The caller holds world.mu.
func (g *GitHub) putNode(r *repository, file string, n *node, message string) *commit {
	d := r.tip().tree.draft()
	d.put(path.Clean(file), n)
	c := r.network.commit(d.tree(r.network), message, g.now(), r.tip())
	r.branches[r.defaultBranch] = c
	return c
}

// mediaType is the part of Accept that matters: "raw", "object" or "".
func mediaType(accept string) string {
	for _, kind := range []string{"raw", "object"} {
		if strings.Contains(accept, "github."+kind) || strings.Contains(accept, "github.v3."+kind) {
			return kind
		}
	}
	return ""
}

func (r *request) getContents() answer {
	w := &r.g.world
	w.mu.RLock()
	defer w.mu.RUnlock()
	repo, a, ok := r.visible("contents", "read")
	if !ok {
		return a
	}
	at := view{repo: repo, ref: r.URL.Query().Get("ref")}
	if at.ref == "" {
		at.ref = repo.defaultBranch
	}
	if at.commit = repo.resolve(at.ref); at.commit == nil {
		return refusal(http.StatusNotFound, "No commit found for the ref "+at.ref, "/repos/contents#get-repository-content")
	}
	file, media := strings.Trim(r.PathValue("path"), "/"), mediaType(r.Header.Get("Accept"))
	e, _ := at.commit.tree.find(file)
	if e.node == nil {
		return r.getDirectory(at, file, e.dir, media)
	}
	n := e.node
	shown := n // what is shown in n's place
	if n.kind == symlinkNode {
		if target := at.commit.tree.file(path.Join(path.Dir(file), string(n.content))); target != nil && target.kind == fileNode {
			shown = &node{kind: fileNode, content: target.content, sha: n.sha}
		}
	}
	switch {
	case len(shown.content) > 100<<20:
		return refusal(http.StatusForbidden, "This API returns blobs up to 100 MB in size.", "/repos/contents#get-repository-content")
	case media == "raw" && shown.kind != submoduleNode:
		return answer{status: http.StatusOK, raw: shown.content, contentType: "application/vnd.github.raw+json; charset=utf-8"}
	}
	return answer{status: http.StatusOK, body: r.g.describeNode(at, file, shown, true)}
}

// view is a repository at a commit, by the name that a caller has for that.
type view struct {
	repo   *repository
	ref    string
	commit *commit
}

// getDirectory answers for a path that is no node: a directory, or, where dir
// is nil, nothing. The caller holds world.mu.
func (r *request) getDirectory(at view, file string, dir *tree, media string) answer {
	if dir == nil || len(dir.entries) == 0 {
		return refusal(http.StatusNotFound, "Not Found", "/repos/contents#get-repository-content")
	}
	entries := make([]any, 0, len(dir.entries))
	names := dir.byName()
	for _, e := range names[:min(len(names), maxDirectoryEntries)] {
		n := e.node
		if n == nil {
			n = &node{kind: directoryNode, sha: e.dir.sha}
		}
		d := r.g.describeNode(at, path.Join(file, e.name), n, false)
		if n.kind == submoduleNode {
			d["type"] = fileNode // GitHub says so in lists, for old clients' sake
		}
		entries = append(entries, d)
	}
	if media == "object" {
		d := r.g.describeNode(at, file, &node{kind: directoryNode, sha: dir.sha}, false)
		d["entries"] = entries
		return answer{status: http.StatusOK, body: d}
	}
	return answer{status: http.StatusOK, body: entries}
}

// describeNode is GitHub's content-file, content-symlink, content-submodule or
// an entry of content-directory. The caller holds world.mu.
func (g *GitHub) describeNode(at view, file string, n *node, withContent bool) map[string]any {
	full := at.repo.owner.login + "/" + at.repo.name
	api := g.url + "/repos/" + full
	self := api + "/contents/" + file + "?ref=" + at.ref
	git := api + "/git/blobs/" + n.sha
	html := g.web() + "/" + full + "/blob/" + at.ref + "/" + file
	d := map[string]any{
		"type": n.kind, "name": path.Base(file), "path": file, "sha": n.sha, "size": len(n.content),
		"url": self, "git_url": git, "html_url": html,
		"download_url": g.web() + "/raw/" + full + "/" + at.ref + "/" + file,
		"_links":       map[string]any{"self": self, "git": git, "html": html},
	}
	switch n.kind {
	case directoryNode:
		d["size"], d["download_url"] = 0, nil
	case submoduleNode:
		d["size"], d["download_url"], d["submodule_git_url"] = 0, nil, n.gitURL
	case symlinkNode:
		if withContent {
			d["target"] = string(n.content)
		}
	case fileNode:
		switch {
		case !withContent:
		case len(n.content) > 1<<20:
			d["content"], d["encoding"] = "", "none"
		default:
			d["content"], d["encoding"] = base64Lines(n.content), "base64"
		}
	}
	return d
}

// base64Lines is base64 as GitHub has it: a line feed after each 60
// characters and at the end.
func base64Lines(content []byte) string {
	var b bytes.Buffer
	all := base64.StdEncoding.EncodeToString(content)
	for len(all) > 0 {
		n := min(60, len(all))
		b.WriteString(all[:n])
		b.WriteByte('\n')
		all = all[n:]
	}
	return b.String()
}

func (r *request) putContents() answer {
	var in struct {
		Message string `json:"message"`
		Content string `json:"content"`
		SHA     string `json:"sha"`
	}
	if a, ok := r.decode(&in); !ok {
		return a
	}
	w := &r.g.world
	w.mu.Lock()
	defer w.mu.Unlock()
	repo, a, ok := r.visible("contents", "write")
	if !ok {
		return a
	}
	if repo.archived {
		return archivedRefusal()
	}
	file := strings.Trim(r.PathValue("path"), "/")
	if strings.HasPrefix(file, ".github/workflows/") && !permits(r.grant.effective("workflows"), "write") {
		return forbidden("contents=write; workflows=write")
	}
	content, err := base64.StdEncoding.DecodeString(in.Content)
	if err != nil {
		return unprocessable("content is not valid Base64")
	}
	status, old := http.StatusCreated, repo.tip().tree.file(file)
	if old != nil {
		status = http.StatusOK
		if in.SHA == "" {
			return unprocessable("Invalid request.\n\n\"sha\" wasn't supplied.")
		}
		if in.SHA != old.sha {
			return refusal(http.StatusConflict, file+" does not match "+in.SHA, "/repos/contents#create-or-update-file-contents")
		}
	}
	n := &node{kind: fileNode, content: content, sha: blobSHA(content)}
	before := repo.tip()
	c := r.g.putNode(repo, file, n, in.Message)
	r.g.later(r.g.pushEvents(pushed{repo: repo, branch: repo.defaultBranch, before: before, after: c, sender: r.app.bot()}))
	at := view{repo: repo, ref: repo.defaultBranch, commit: c}
	return answer{status: status, body: map[string]any{
		"content": r.g.describeNode(at, file, n, false),
		"commit":  map[string]any{"sha": c.sha, "message": in.Message, "url": r.g.url + "/repos/" + repo.owner.login + "/" + repo.name + "/git/commits/" + c.sha},
	}}
}
