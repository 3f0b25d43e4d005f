package main

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/octo-sts/appliance/signer/signertest"
)

// What root does with the HSM is done as the user whom the signer's state directory belongs to: the files of a token that
// consists of files are still that user's afterwards, and so is the state.
func TestRootLeavesTheSignersFiles(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can leave files of another user")
	}
	const nobody = 65534
	directory, err := os.MkdirTemp("", "octo-sts-signer-files") // not t.TempDir: nobody else can enter that
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(directory) })
	soft, err := signertest.InitSoftHSM(t.Context(), directory, "files", "1234")
	if err != nil {
		t.Fatal(err)
	}
	path := func(name string) string { return filepath.Join(directory, name) }
	for name, content := range map[string]string{
		"credentials/hsm-pin": "1234",
		"signer.yaml": fmt.Sprintf(`socket: %s
allow_users: [nobody]
hsms: [{module: %s, token_label: files, pin_credential: hsm-pin}]
apps: [{id: 1, keys: [app-1]}]
checkpoint: {origin: sts.example.com/audit, key: checkpoint, state_directory: %s}
`, path("sock"), soft.Module, path("state")),
	} {
		if err := os.MkdirAll(filepath.Dir(path(name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path(name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(path("state"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tokens", "state"} {
		err := filepath.WalkDir(path(name), func(file string, _ fs.DirEntry, err error) error {
			if err == nil {
				err = os.Lchown(file, nobody, nobody)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, open := range []string{directory, soft.ConfigFile} {
		if err := os.Chmod(open, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	command := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), binary, append(args, "--config", path("signer.yaml"))...)
		cmd.Env = append(os.Environ(), soft.Env(), "CREDENTIALS_DIRECTORY="+path("credentials"))
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := command("key", "generate"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	files := 0
	for _, name := range []string{"tokens", "state"} {
		err := filepath.WalkDir(path(name), func(file string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := entry.Info()
			if err != nil {
				return err
			}
			if owner := info.Sys().(*syscall.Stat_t).Uid; owner != nobody {
				t.Errorf("%s belongs to %d", file, owner)
			}
			files++
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files < 8 {
		t.Errorf("only %d files and directories are there", files)
	}

	// What the signer could not use is refused now, and not at its start.
	if err := os.Chown(path("tokens"), 0, 0); err != nil {
		t.Fatal(err)
	}
	if out, err := command("key", "list"); err == nil || strings.Contains(out, "checkpoint key") {
		t.Errorf("a token that only root can read: %v\n%s", err, out)
	}
}
