//go:build packages

package packaging_test

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
)

// mayRead tells whether GitHub lets whoever has a token read a repository's contents.
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
	if err := w.gitHub.ServeGit(w.t.Context(), directory); err != nil {
		w.t.Fatal(err)
	}
}
