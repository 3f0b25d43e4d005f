package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/octo-sts/appliance/sts/ststest"
)

// checkWait is a safety limit for a check that takes some milliseconds.
const checkWait = 30 * time.Second

// reviewPolicy shows what a developer sees of a wrong policy.
func (t *tour) reviewPolicy(ctx context.Context) error {
	step("Somebody opens a pull request with a policy that would let nobody in")
	const file = ".github/chainguard/release.sts.yaml"
	text := fmt.Sprintf("issuer: %s\nsubject: repo:acme/deployer:ref:refs/heads/main\npermissions:\n  content: write\n", t.service.Issuer.URL())
	indent(text)
	github := t.service.GitHub
	github.Commit(organization, repository, "release", ststest.Change{Path: file, Content: text})
	pull := github.OpenPull(organization, repository, "release", "main")

	ctx, cancel := context.WithTimeout(ctx, checkWait)
	defer cancel()
	for {
		for _, run := range github.CheckRuns(organization, repository, pull.HeadSHA) {
			step("GitHub delivers that to /webhook, and the daemon marks it on the pull request")
			say("%s: %s. %s", run.Name, run.Conclusion, run.Title)
			for _, a := range run.Annotations {
				say("%s:%d: %s", a.Path, a.StartLine, a.Message)
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.New("no check run came")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// deletePolicy shows that what is taken back is taken back at once, and puts it
// in its place again.
func (t *tour) deletePolicy(ctx context.Context) error {
	step("Somebody deletes the first policy. GitHub delivers the push, and the next exchange is refused")
	path := ".github/chainguard/" + identity + ".sts.yaml"
	t.service.GitHub.Push(organization, repository, "main", []ststest.Change{{Path: path, Delete: true}})
	began := time.Now()
	out, err := t.command(ctx, t.exchange("job")...)
	if err == nil {
		return errors.New("a deleted policy still grants")
	}
	indent(out)
	say("(%d ms after the delivery was answered; without webhooks it would be a minute)", time.Since(began).Milliseconds())
	t.service.GitHub.Push(organization, repository, "main", []ststest.Change{{Path: path, Content: t.policy}})
	return nil
}
