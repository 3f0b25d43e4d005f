//go:build packages

package packaging_test

import (
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// gitServer is github.com as far as git sees it: git's own server, for whoever shows a token, as a password, that may read
// the repository's contents.
func (w *world) gitServer(directory string) http.Handler {
	w.t.Helper()
	execPath, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		w.t.Fatal(err)
	}
	backend := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(execPath)), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + directory, "GIT_HTTP_EXPORT_ALL=1"},
	}
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		owner, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		name, rest, _ := strings.Cut(rest, "/")
		name = strings.TrimSuffix(name, ".git")
		user, password, _ := r.BasicAuth()
		if user != "x-access-token" || !w.mayRead(owner+"/"+name, password) {
			rw.Header().Set("WWW-Authenticate", `Basic realm="GitHub"`)
			http.Error(rw, "authentication required", http.StatusUnauthorized)
			return
		}
		r.URL.Path = "/" + owner + "/" + name + ".git/" + rest
		backend.ServeHTTP(rw, r)
	})
}

func (w *world) mayRead(repository, password string) bool {
	request, err := http.NewRequest(http.MethodGet, "https://api.github.com/repos/"+repository+"/contents/", nil)
	if err != nil {
		return false
	}
	request.Header.Set("Authorization", "Bearer "+password)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// serveGit has git find acme/widgets at github.com, with a README in it.
func (w *world) serveGit() {
	w.t.Helper()
	directory, work := w.t.TempDir(), w.t.TempDir()
	if err := os.WriteFile(filepath.Join(work, "README.md"), []byte("# widgets\n"), 0o644); err != nil {
		w.t.Fatal(err)
	}
	for _, args := range [][]string{
		{"init", "-q", "-b", "main", work}, {"-C", work, "add", "."},
		{"-C", work, "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-q", "-m", "first"},
		{"clone", "-q", "--bare", work, filepath.Join(directory, "acme", "widgets.git")},
	} {
		if out, err := exec.Command("git", args...).CombinedOutput(); err != nil {
			w.t.Fatalf("git %q: %v\n%s", args, err, out)
		}
	}
	w.git.Store(w.gitServer(directory))
}
