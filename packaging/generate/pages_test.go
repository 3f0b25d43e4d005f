package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// makeManual makes every manual page and completion, as the packages do, and has the programs where a package has them.
func makeManual(t *testing.T) (root string, pages []string) {
	t.Helper()
	t.Setenv("SOURCE_DATE_EPOCH", "1767225600")
	root = t.TempDir()
	share := filepath.Join(root, "share")
	t.Chdir("../..") // pages are made of the sources
	if err := writePages("1.2.3", filepath.Join(share, "man")); err != nil {
		t.Fatal(err)
	}
	sources := []string{"./cmd/octo-stsd", "./cmd/octo-sts", "./cmd/octo-sts-signer"}
	run := func(name string, args ...string) {
		if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
	}
	run("go", append([]string{"build", "-tags", "manual", "-o", filepath.Join(root, "manual") + "/"}, sources...)...)
	for _, source := range sources {
		run(filepath.Join(root, "manual", filepath.Base(source)), share)
	}
	bin := filepath.Join(root, "usr/bin")
	if built := os.Getenv("OCTO_STS_BIN"); built != "" {
		if err := os.MkdirAll(filepath.Dir(bin), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(built, bin); err != nil {
			t.Fatal(err)
		}
	} else {
		run("go", append([]string{"build", "-o", bin + "/"}, sources...)...)
	}
	pages, err := filepath.Glob(filepath.Join(share, "man", "*.gz"))
	if err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{"bash": "bash-completion/completions", "zsh": "zsh/vendor-completions", "fish": "fish/vendor_completions.d"} {
		target := filepath.Join(root, "usr/share", to)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(share, from), target); err != nil {
			t.Fatal(err)
		}
	}
	return root, pages
}

// Every program, file format and command that deserves it has a page, which renders without a warning of groff's or
// mandoc's; and the completions complete in each shell.
func TestManual(t *testing.T) {
	root, pages := makeManual(t)
	for _, want := range []string{
		"octo-stsd.8", "octo-sts-signer.8", "octo-sts.1", "octo-sts.7", "octo-stsd.yaml.5", "signer.yaml.5", "sts.yaml.5", "octo-sts-audit.5",
		"octo-sts-doctor.1", "octo-sts-probe.1", "octo-sts-exchange.1", "octo-sts-exec.1", "octo-sts-git-credential.1", "octo-sts-policy.1", "octo-sts-audit.1",
		"octo-sts-signer-setup.8", "octo-sts-signer-key.8",
	} {
		if !slices.ContainsFunc(pages, func(page string) bool { return filepath.Base(page) == want+".gz" }) {
			t.Errorf("there is no page %s", want)
		}
	}
	for _, page := range pages {
		if tool, err := exec.LookPath("man"); err == nil {
			man := exec.CommandContext(t.Context(), tool, "--warnings", "-l", page)
			man.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MANWIDTH=80")
			man.Stdout = io.Discard
			var warnings strings.Builder
			man.Stderr = &warnings
			if err := man.Run(); err != nil || warnings.Len() > 0 {
				t.Errorf("man says of %s: %v %s", filepath.Base(page), err, warnings.String())
			}
		}
		if _, err := exec.LookPath("mandoc"); err == nil {
			lint := exec.CommandContext(t.Context(), "sh", "-c", `gzip -dc "$1" | mandoc -T lint -W warning`, "sh", page)
			if out, err := lint.CombinedOutput(); err != nil {
				t.Errorf("mandoc says of %s: %v\n%s", filepath.Base(page), err, out)
			}
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if _, err := exec.LookPath(shell); err != nil {
			t.Skipf("completions are not tried: there is no %s", shell)
		}
	}
	if _, err := os.Stat("/usr/share/bash-completion/bash_completion"); err != nil {
		t.Skip("completions are not tried: bash-completion is not installed")
	}
	if out, err := exec.CommandContext(t.Context(), "packaging/test/completions", root).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	} else {
		t.Logf("%s", out)
	}
}
