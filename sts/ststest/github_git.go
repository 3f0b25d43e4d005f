package ststest

import (
	"context"
	"fmt"
	"net/http"
	"net/http/cgi"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// gitServer is git over HTTPS, as github.com serves it: git's own http-backend
// behind the check of an installation token.
type gitServer struct {
	backend string // git's program
	dir     string
}

// gitPath is an address that git asks at: owner, repository, what it wants.
var gitPath = regexp.MustCompile(`^/([^/]+)/([^/]+?)(?:\.git)?/(info/refs|git-upload-pack|git-receive-pack)$`)

// ServeGit has the fake serve git repositories, at https://Address/OWNER/NAME.git
// from the bare repositories dir/OWNER/NAME.git. They are git's own and share nothing
// with the files that the API shows. Each must be a repository of the fake, too: who may
// read and write it is looked up there. It needs git. Bodies of more than git's
// http.postBuffer (a megabyte) are refused, as they come in chunks.
func (g *GitHub) ServeGit(ctx context.Context, dir string) error {
	out, err := exec.CommandContext(ctx, "git", "--exec-path").Output()
	if err != nil {
		return fmt.Errorf("finding git's programs: %w", err)
	}
	g.git.Store(&gitServer{filepath.Join(strings.TrimSpace(string(out)), "git-http-backend"), dir})
	return nil
}

// SetTokenLifetime makes tokens that are minted from now on live for d instead of
// GitHub's hour.
func (g *GitHub) SetTokenLifetime(d time.Duration) { g.lifetime.Store(int64(d)) }

// gitRequest answers what git asks; false where r is something else.
func (g *GitHub) gitRequest(w http.ResponseWriter, r *http.Request) bool {
	server, parts := g.git.Load(), gitPath.FindStringSubmatch(r.URL.Path)
	if server == nil || parts == nil {
		return false
	}
	level := "read"
	if parts[3] == "git-receive-pack" || r.FormValue("service") == "git-receive-pack" {
		level = "write"
	}
	if status, message := g.mayGit(r, parts[1], parts[2], level); status != 0 {
		if status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", `Basic realm="GitHub"`)
		}
		http.Error(w, message, status)
		return true
	}
	r.URL.Path = "/" + parts[1] + "/" + parts[2] + ".git/" + parts[3]
	(&cgi.Handler{
		Path: server.backend, Dir: server.dir,
		Env: []string{"GIT_PROJECT_ROOT=" + server.dir, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=installation"},
	}).ServeHTTP(w, r)
	return true
}

// mayGit says why not, as GitHub says it: status and text. 0: it may.
func (g *GitHub) mayGit(r *http.Request, owner, name, level string) (status int, message string) {
	g.world.mu.RLock()
	defer g.world.mu.RUnlock()
	repo := g.world.names[key(owner, name)]
	user, token, given := r.BasicAuth()
	if !given {
		if repo != nil && repo.public && level == "read" {
			return 0, ""
		}
		return http.StatusUnauthorized, "Authentication required."
	}
	// Any user name does; whoever sends none did not mean to.
	gr := g.ledger.find(token)
	if gr == nil || user == "" || gr.dead(g.now()) || g.world.installations[gr.installation.id] != gr.installation {
		return http.StatusUnauthorized, "Invalid username or token. Password authentication is not supported for Git operations."
	}
	gr.gitUses.Add(1)
	switch {
	case repo == nil || !gr.covers(repo) || !permits(gr.effective("contents"), "read"):
		return http.StatusNotFound, "Repository not found."
	case !permits(gr.effective("contents"), level):
		return http.StatusForbidden, fmt.Sprintf("Permission to %s/%s.git denied to %s[bot].", repo.owner.login, repo.name, gr.installation.app.slug)
	}
	return 0, ""
}
