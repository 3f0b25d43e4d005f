package main

import (
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// gitServer is github.com as far as git sees it: git's own server over HTTP, for
// whoever shows a token, as a password, that may read the repository's contents.
func (w *recipesWorld) gitServer(t *testing.T) http.Handler {
	t.Helper()
	w.git = t.TempDir()
	execPath, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	backend := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(execPath)), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + w.git, "GIT_HTTP_EXPORT_ALL=1"},
	}
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		parts := strings.SplitN(strings.TrimPrefix(r.URL.Path, "/"), "/", 3)
		if len(parts) < 3 {
			http.NotFound(rw, r)
			return
		}
		repository := strings.TrimSuffix(parts[1], ".git")
		user, token, _ := r.BasicAuth()
		if user != "x-access-token" || !w.mayRead(r, parts[0]+"/"+repository, token) {
			rw.Header().Set("WWW-Authenticate", `Basic realm="GitHub"`)
			http.Error(rw, "authentication required", http.StatusUnauthorized)
			return
		}
		r.URL.Path = "/" + parts[0] + "/" + repository + ".git/" + parts[2]
		backend.ServeHTTP(rw, r)
	})
}

func (w *recipesWorld) mayRead(r *http.Request, repository, token string) bool {
	ask, err := http.NewRequestWithContext(r.Context(), http.MethodGet, w.GitHub.URL()+"/repos/"+repository+"/contents/README.md", nil)
	if err != nil {
		return false
	}
	ask.Header.Set("Authorization", "Bearer "+token)
	resp, err := w.GitHub.Client().Do(ask)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// addRepository makes a repository of my-org, for the API and for git.
func (w *recipesWorld) addRepository(t *testing.T, name string) {
	t.Helper()
	w.GitHub.AddRepository("my-org", name)
	w.GitHub.PutFile("my-org", name, "README.md", "# "+name+"\n")
	bare, work := filepath.Join(w.git, "my-org", name+".git"), t.TempDir()
	if err := os.WriteFile(filepath.Join(work, "README.md"), []byte("# "+name+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"init", "-q", "-b", "main", work},
		{"-C", work, "add", "."},
		{"-C", work, "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-q", "-m", "first"},
		{"clone", "-q", "--bare", work, bare},
	} {
		if out, err := exec.CommandContext(t.Context(), "git", args...).CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
}
