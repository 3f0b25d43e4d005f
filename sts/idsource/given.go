package idsource

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"time"
)

// projectedFile is where a pod has its projected token for the appliance. The token
// that every pod has under /var/run/secrets/kubernetes.io is for the cluster's own
// API server, and is taken only where --token-file names it.
const projectedFile = "/var/run/secrets/tokens/octo-sts"

func (f *finder) hasFile() bool { return f.File != "" }

func (f *finder) checkFile() error {
	if f.File == "" {
		return errors.New("name the file with --token-file")
	}
	return checkReadable(f.File)
}

// checkReadable looks without opening: a pipe is opened once.
func checkReadable(name string) error {
	if _, err := os.Stat(name); err != nil {
		return fmt.Errorf("reading the ID token: %w", err)
	}
	return nil
}

// fromFile reads the file, or has read it where it is a pipe, as a shell's <(…) is.
func (f *finder) fromFile(context.Context) (string, error) {
	if info, err := os.Stat(f.File); err == nil && !info.Mode().IsRegular() {
		return f.pipe()
	}
	return readFile(f.File)
}

func readFile(name string) (string, error) {
	file, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	text, err := readIDToken(file)
	if err != nil {
		return "", err
	}
	if text, err = compactForm(text); err != nil {
		return "", fmt.Errorf("reading %s: %w", name, err)
	}
	return text, nil
}

func (f *finder) fromStdin(context.Context) (string, error) { return f.stdin() }

func (f *finder) inKubernetes() bool {
	_, err := os.Stat(f.projected)
	return err == nil
}

func (f *finder) checkKubernetes() error {
	if f.inKubernetes() {
		return checkReadable(f.projected)
	}
	return fmt.Errorf("there is no %s: give the pod a projected volume at %s with `serviceAccountToken: {path: octo-sts, audience: %s}`, or name another file with --token-file",
		f.projected, "/var/run/secrets/tokens", f.Audience)
}

func (f *finder) fromKubernetes(context.Context) (string, error) { return readFile(f.projected) }

func (f *finder) hasCommand() bool { return f.Command != "" }

func (f *finder) checkCommand() error {
	if f.Command == "" {
		return errors.New("give the command with --token-command")
	}
	return nil
}

func (f *finder) fromCommand(ctx context.Context) (string, error) {
	if runtime.GOOS == "windows" {
		return f.run(ctx, "cmd", "/C", f.Command)
	}
	return f.run(ctx, "sh", "-c", f.Command)
}

// run is what a program prints, which has half a minute for it.
func (f *finder) run(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	stdout, stderr := &bounded{most: maxIDToken + 2}, &bounded{most: 4 << 10, drop: true}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.WaitDelay = 2 * time.Second // where a child of its own keeps the pipe open
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		if said := withoutTokens(stderr.String()); said != "" {
			return "", fmt.Errorf("running %s: %w: %s", name, err, said)
		}
		return "", fmt.Errorf("running %s: %w", name, err)
	}
	return stdout.String(), nil
}

// bounded keeps at most so many bytes; more is an error, or dropped.
type bounded struct {
	bytes.Buffer
	most int
	drop bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if left := b.most - b.Len(); len(p) > left {
		if !b.drop {
			return 0, fmt.Errorf("it printed more than %d bytes", b.most)
		}
		b.Buffer.Write(p[:left])
		return len(p), nil
	}
	return b.Buffer.Write(p)
}
