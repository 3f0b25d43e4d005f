//go:build packages

package packaging_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
)

// packagesSite is what https://packages.example.com serves.
const packagesSite = "/run/packages"

// publish makes packagesSite a signed repository of the packages in directories below dist/, in place of what was there,
// with the program that `make repo` runs: "." is the version under test, "before" an older one.
func publish(from ...string) error {
	key, err := signingKey()
	if err != nil {
		return err
	}
	pool, err := os.MkdirTemp("/run", "pool-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(pool)
	for _, dir := range from {
		for _, pattern := range []string{"*_" + runtime.GOARCH + ".deb", "*." + rpmArch() + ".rpm", "*.noarch.rpm"} {
			found, _ := filepath.Glob(filepath.Join(distDir, dir, pattern))
			for _, file := range found {
				if out, err := exec.Command("cp", file, pool).CombinedOutput(); err != nil {
					return fmt.Errorf("collecting packages: %w: %s", err, out)
				}
			}
		}
	}
	stubs, _ := filepath.Glob("/run/stubs/*.rpm")
	for _, file := range stubs {
		if out, err := exec.Command("cp", file, pool).CombinedOutput(); err != nil {
			return fmt.Errorf("collecting packages: %w: %s", err, out)
		}
	}
	make := exec.Command("../repo", pool, packagesSite)
	make.Env = append(os.Environ(), "SIGNING_KEY="+key)
	if out, err := make.CombinedOutput(); err != nil {
		return fmt.Errorf("making a repository: %w\n%s", err, out)
	}
	return nil
}

// rpmArch is rpm's name of this machine's architecture.
func rpmArch() string {
	return map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
}

// debsOf are the files of this machine's packages of a name, in a directory below dist/.
func debsOf(dir, name string) []string {
	found, _ := filepath.Glob(filepath.Join(distDir, dir, name+"_*_"+runtime.GOARCH+".deb"))
	return found
}

// signingKey makes the key that the repositories are signed with.
var signingKey = sync.OnceValues(func() (string, error) {
	if err := os.MkdirAll("/run/signer", 0o700); err != nil {
		return "", err
	}
	if err := os.Setenv("GNUPGHOME", "/run/signer"); err != nil {
		return "", err
	}
	const who = "packages@example.com"
	out, err := exec.Command("gpg", "--batch", "--passphrase", "", "--quick-generate-key", who, "rsa3072", "sign", "never").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("making a signing key: %w\n%s", err, out)
	}
	return who, nil
})
