//go:build packages

package packaging_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// packagesOfRoot are what a server of each system has, as far as these tests need it,
// and softhsm2, which stands for the HSM.
var packagesOfRoot = []string{
	"systemd", "systemd-sysv", "dbus", "ca-certificates", "openssl", "curl", "gpgv", "iproute2", "procps", "softhsm2", "sudo", "jq",
}

// system is where a suite comes from.
type system struct {
	mirror, components string
	more               []string // packages
	keyring            string   // "": debootstrap's own
}

// systems are those that the tests know. Debian 12 ships no keyring of Ubuntu's, so that
// package is fetched and held against a known sum.
var systems = map[string]system{
	"bookworm": {mirror: "http://deb.debian.org/debian", components: "main"},
	"trixie":   {mirror: "http://deb.debian.org/debian", components: "main"},
	"noble":    {mirror: "http://archive.ubuntu.com/ubuntu", components: "main,universe", keyring: "ubuntu"},
	// The same root for the rpm: there are no packages of Fedora's to be had here.
	"rpm": {mirror: "http://deb.debian.org/debian", components: "main", more: []string{"rpm", "dnf", "createrepo-c", "gpg"}},
}

// cacheDir is where roots are kept.
func cacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding a place for the roots: %w", err)
	}
	return filepath.Join(base, "octo-sts"), nil
}

// rootDir is the untouched root of a suite. Its name changes with what is asked to be in it. It does
// not follow the distribution's updates: remove it for a new one.
func rootDir(suite string) (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(fmt.Append(nil, packagesOfRoot, systems[suite]))
	return filepath.Join(cache, fmt.Sprintf("root-%s-%x", suite, sum[:6])), nil
}

// makeRoot runs debootstrap, unless the cache has the root. It appears whole or not at all.
func makeRoot(ctx context.Context, suite string) error {
	s, known := systems[suite]
	if !known {
		return fmt.Errorf("no suite %q is known here", suite)
	}
	root, err := rootDir(suite)
	if err != nil {
		return err
	}
	if _, err := os.Stat(root); err == nil {
		return nil
	}
	unfinished := fmt.Sprintf("%s.%d", root, os.Getpid())
	defer os.RemoveAll(unfinished)
	if err := os.MkdirAll(unfinished, 0o755); err != nil {
		return fmt.Errorf("making a root: %w", err)
	}
	args := []string{"--variant=minbase", "--components=" + s.components, "--include=" + strings.Join(append(packagesOfRoot, s.more...), ",")}
	if s.keyring != "" {
		keyring, err := ubuntuKeyring(ctx, filepath.Dir(root))
		if err != nil {
			return err
		}
		args = append(args, "--keyring="+keyring)
	}
	release := suite
	script := suite
	switch suite {
	case "rpm":
		release, script = "bookworm", "bookworm"
	case "noble":
		script = "gutsy" // the script of every Ubuntu since; Debian 12's debootstrap is older than this one
	}
	args = append(args, release, unfinished, s.mirror, "/usr/share/debootstrap/scripts/"+script)
	fmt.Printf("making a root with debootstrap, once: %s\n", root)
	debootstrap := exec.CommandContext(ctx, "debootstrap", args...)
	debootstrap.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS} // what it mounts goes with it, where it is killed, too
	out, err := debootstrap.CombinedOutput()
	if err != nil {
		return fmt.Errorf("debootstrap %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	for _, name := range []string{"var/cache/apt", "var/lib/apt/lists"} {
		_ = os.RemoveAll(filepath.Join(unfinished, name))
	}
	if err := os.Rename(unfinished, root); err != nil && !errors.Is(err, syscall.ENOTEMPTY) {
		return fmt.Errorf("keeping a root: %w", err)
	}
	return nil
}

const (
	ubuntuKeyringURL = "http://archive.ubuntu.com/ubuntu/pool/main/u/ubuntu-keyring/ubuntu-keyring_2023.11.28.1_all.deb"
	ubuntuKeyringSum = "36de43b15853ccae0028e9a767613770c704833f82586f28eb262f0311adb8a8"
)

// ubuntuKeyring is the file of the keys that sign Ubuntu.
func ubuntuKeyring(ctx context.Context, dir string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, ubuntuKeyringURL, nil)
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", fmt.Errorf("fetching Ubuntu's keyring: %w", err)
	}
	defer response.Body.Close()
	deb, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return "", fmt.Errorf("fetching Ubuntu's keyring: %w", err)
	}
	if sum := fmt.Sprintf("%x", sha256.Sum256(deb)); sum != ubuntuKeyringSum {
		return "", fmt.Errorf("Ubuntu's keyring has the SHA-256 %s, not %s", sum, ubuntuKeyringSum)
	}
	file := filepath.Join(dir, "ubuntu-keyring.deb")
	if err := os.WriteFile(file, deb, 0o644); err != nil {
		return "", err
	}
	unpacked := filepath.Join(dir, "ubuntu-keyring")
	if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", file, unpacked).CombinedOutput(); err != nil {
		return "", fmt.Errorf("unpacking Ubuntu's keyring: %w\n%s", err, out)
	}
	return filepath.Join(unpacked, "usr/share/keyrings/ubuntu-archive-keyring.gpg"), nil
}

// freshRoot is a root of the suite that is the test's own to change. The changes are in memory.
func freshRoot(t *testing.T, suite string) string {
	t.Helper()
	lower, err := rootDir(suite)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(lower); err != nil {
		t.Fatalf("%v: name the suite in SUITES", err)
	}
	base, err := os.MkdirTemp("/mnt", suite+"-")
	if err != nil {
		t.Fatal(err)
	}
	mount(t, "tmpfs", base, "tmpfs", "mode=755,size=6g")
	for _, name := range []string{"upper", "work", "root"} {
		if err := os.Mkdir(filepath.Join(base, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	root := filepath.Join(base, "root")
	mount(t, "overlay", root, "overlay", fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", lower, base, base))
	return root
}

// mount mounts until the test ends.
func mount(t *testing.T, source, target, kind, data string) {
	t.Helper()
	if err := syscall.Mount(source, target, kind, 0, data); err != nil {
		t.Fatalf("mounting %s: %v", target, err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(target, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmounting %s: %v", target, err)
		}
	})
}
