//go:build packages && linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/sts/audit"
)

const (
	auditDirectory = "/var/log/octo-sts/audit"
	auditOrigin    = "sts.example.com/audit"
	signerSocket   = "/run/octo-sts-signer/signer.sock"
)

// spoil is what the daemon's user does to its audit log, having taken the daemon over. The first of them, append, is
// what the daemon itself does: entries in several segments, and the signer's checkpoint over them.
func spoil(how string) error {
	if how == "append" {
		return appendEntries()
	}
	segments, err := filepath.Glob(filepath.Join(auditDirectory, "*.jsonl"))
	if err != nil || len(segments) < 3 {
		return fmt.Errorf("want three segments or more, there are %q: %w", segments, err)
	}
	slices.Sort(segments)
	middle, last := segments[len(segments)/2], segments[len(segments)-1]
	if info, err := os.Stat(last); err == nil && info.Size() == 0 {
		last = segments[len(segments)-2]
	}
	switch how {
	case "truncate":
		return os.Truncate(last, 100)
	case "empty":
		return os.Truncate(middle, 0)
	case "rewrite":
		content, err := os.ReadFile(middle)
		if err != nil {
			return err
		}
		changed := bytes.Replace(content, []byte("octocat"), []byte("nobody!"), 1)
		if bytes.Equal(changed, content) {
			return errors.New("there is nothing to rewrite")
		}
		return os.WriteFile(middle, changed, 0o640)
	case "rename":
		return os.Rename(middle, middle+".old")
	case "swap":
		first, err := os.ReadFile(segments[0])
		if err != nil {
			return err
		}
		return os.WriteFile(middle, first, 0o640)
	case "delete":
		return os.Remove(middle)
	case "everything":
		return deleteEverything()
	}
	return fmt.Errorf("there is no way called %q", how)
}

// deleteEverything leaves an empty directory, as that of a new log.
func deleteEverything() error {
	entries, err := os.ReadDir(auditDirectory)
	for _, entry := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(auditDirectory, entry.Name())))
	}
	return err
}

func appendEntries() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	log, err := audit.Open(ctx, audit.Config{Directory: auditDirectory, Origin: auditOrigin, SegmentSize: 1})
	if err != nil {
		return err
	}
	client := signer.NewClient(signerSocket)
	defer client.Close()
	checkpoints, err := audit.NewCheckpointer(ctx, audit.CheckpointerConfig{Log: log, Origin: auditOrigin, Countersign: client.Checkpoint})
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- checkpoints.Run(ctx) }()
	for n := range 12 {
		if _, err := log.Append(ctx, audit.Entry{Kind: "outcome", RequestID: fmt.Sprint(n), Scope: "octocat/hello", Identity: "deploy"}); err != nil {
			return err
		}
	}
	if err := log.Close(); err != nil {
		return err
	}
	return <-ended // once the last entry is covered
}
