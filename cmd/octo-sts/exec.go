package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// graceAfterSignal is how long the command may use its token after a signal that
// asks it to end. Those who send one send SIGKILL next, ten seconds later and more.
const graceAfterSignal = 5 * time.Second

type execOptions struct {
	asking
	env        []string
	githubHost string
}

func newExecCommand() *cobra.Command {
	var o execOptions
	c := &cobra.Command{
		Use:                   "exec --url URL --scope OWNER[/REPOSITORY] --identity NAME -- COMMAND [ARGUMENT...]",
		DisableFlagsInUseLine: true, // they would be the command's

		Short: "Run a command with a GitHub token that is revoked when it ends",
		Long: `Exchange this job's ID token for a GitHub token, run a command with it, and revoke it
when the command ends, however it ends.

The command finds the token in GITHUB_TOKEN and GH_TOKEN, or in the variables that --env
names instead. git takes it for https://github.com/OWNER by itself: exec puts itself into
git's configuration as the credential helper of these addresses, for the command alone.

A token lives for an hour. A variable cannot change while a command runs, so one that runs
for longer asks again: git does so by itself, and "octo-sts exchange", without --scope and
--identity, prints the token for whatever else needs one. A token is renewed five minutes
before its end, when somebody asks. The ID token must then be a new one too: a source
that asks for it (GitHub Actions, Buildkite, a cloud's metadata, a file that is replaced)
gives one; one that was made when the job began serves for as long as it is valid.

Signals: SIGTERM and SIGHUP are passed on to the command. If it has not ended 5 seconds later, its
token is revoked nonetheless. Ctrl-C reaches the command by itself, and exec waits for it. If
exec itself is killed with SIGKILL, nothing can be revoked: the token lives to the end of its hour.

` + tokenSourcesHelp + `

Exit status: that of the command, 128 and the signal's number where a signal ended it, 126 or 127
where it could not be run; 1 the exchange was refused or failed, 2 wrong usage.`,
		Example: `  octo-sts exec --url https://sts.example.com --scope my-org/my-repo --identity deploy -- ./deploy.sh
  octo-sts exec --url https://sts.example.com --scope my-org/my-repo --identity release -- git push origin v1.2.3
  octo-sts exec --url https://sts.example.com --scope my-org --identity renovate --env RENOVATE_TOKEN -- renovate`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("exec wants the command to run: octo-sts exec … -- COMMAND")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, args) },
	}
	o.register(c.Flags())
	c.Flags().StringSliceVar(&o.env, "env", []string{"GITHUB_TOKEN", "GH_TOKEN"}, "environment variable that gets the token; may be given several times")
	c.Flags().StringVar(&o.githubHost, "github-host", defaultGitHubHost, "host that git is to use the token for; with GitHub Enterprise Server its own")
	c.Flags().SetInterspersed(false)
	return c
}

// childError is how the command of exec ended. There is nothing more to say.
type childError struct{ status int }

func (e *childError) Error() string { return fmt.Sprintf("the command ended with status %d", e.status) }

func (o *execOptions) run(cmd *cobra.Command, args []string) error {
	for _, name := range o.env {
		if !regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`).MatchString(name) {
			return fmt.Errorf("--env %q: want the name of an environment variable", name)
		}
	}
	if err := checkGitHubHost(o.githubHost); err != nil {
		return err
	}
	client, err := o.client(cmd)
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, caughtSignals()...)

	// From the first exchange on, a signal must not end what revokes.
	ctx, cancel := context.WithCancel(context.WithoutCancel(cmd.Context()))
	defer cancel()
	uncancel := context.AfterFunc(cmd.Context(), cancel)
	h := newHolder(ctx, client)
	token, err := h.token()
	if err != nil {
		return &failedError{err}
	}
	uncancel()
	err = cmd.Context().Err()
	if err == nil {
		err = o.runChild(h, token, args, signals)
	}
	if revoked := h.revokeAll(context.WithoutCancel(cmd.Context())); revoked != nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "octo-sts: %s\n", printableLines(revoked.Error()))
	}
	return err
}

// runChild runs the command to its end.
func (o *execOptions) runChild(h *holder, token granted, args []string, signals <-chan os.Signal) error {
	socket, stop, err := h.serve()
	if err != nil {
		return &failedError{err}
	}
	defer stop()
	child := exec.Command(args[0], args[1:]...)
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	if child.Env, err = o.childEnv(os.Environ(), token.Token, socket); err != nil {
		return &failedError{err}
	}
	if err := child.Start(); err != nil {
		fmt.Fprintf(os.Stderr, "octo-sts: running the command: %s\n", printable(err.Error()))
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
			return &childError{127}
		}
		return &childError{126}
	}
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	var late <-chan time.Time
	for {
		select {
		case <-ended: // its error says no more than the state
			if status := exitStatus(child.ProcessState); status != 0 {
				return &childError{status}
			}
			return nil
		case s := <-signals:
			if passedOn(s) {
				_ = child.Process.Signal(s) // it may have ended just now
			}
			if late == nil && asksToEnd(s) {
				late = time.After(graceAfterSignal)
			}
		case <-late:
			if err := h.revokeAll(context.WithoutCancel(h.ctx)); err != nil {
				fmt.Fprintf(os.Stderr, "octo-sts: %s\n", printableLines(err.Error()))
			}
		}
	}
}

// childEnv is the environment of the command: env, the token, the way to ask for a
// newer one, and git's configuration (git-config, GIT_CONFIG_COUNT).
func (o *execOptions) childEnv(env []string, token, socket string) ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program's own file: %w", err)
	}
	set := map[string]string{socketVariable: socket}
	for _, name := range o.env {
		set[name] = token
	}
	owner, _, _ := strings.Cut(o.scope, "/")
	gitConfigEnv(set, gitHelperConfig(o.githubHost, owner, self))
	env = slices.DeleteFunc(slices.Clone(env), func(line string) bool {
		name, _, _ := strings.Cut(line, "=")
		_, mine := set[name]
		return mine
	})
	for name, value := range set {
		env = append(env, name+"="+value)
	}
	return env, nil
}
