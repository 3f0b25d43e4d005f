package main

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

const defaultGitHubHost = "github.com"

type gitCredentialOptions struct {
	asking
	githubHost string
}

func newGitCredentialCommand() *cobra.Command {
	var o gitCredentialOptions
	c := &cobra.Command{
		Use:   "git-credential --url URL [--scope OWNER[/REPOSITORY]] --identity NAME get|store|erase",
		Short: "Give git a GitHub token, as its credential helper",
		Long: `Give git a GitHub token for each https address at GitHub: git runs this as a credential
helper (gitcredentials(7)) and says get, store or erase. Without --scope the address says
which repository's policy is asked, which needs credential.useHttpPath. Other hosts, other
owners than that of --scope, and plain http get no answer, so that git asks its next helper.

git is told when the token expires (password_expiry_utc). Nothing is stored: each get is an
exchange. git's own helper "cache", listed before this one, keeps the token in memory between
git's runs; never list "store", which writes it to disk. Within octo-sts exec, git
is set up already and gets exec's token, which exec renews.

Exit status: 0 answered, or none of our business; 1 the exchange was refused or failed, and git is
told to ask nobody else; 2 wrong usage.`,
		Example: `  git config --global credential.https://github.com.useHttpPath true
  git config --global --add credential.https://github.com.helper "cache --timeout=3000"
  git config --global --add credential.https://github.com.helper \
    "!octo-sts git-credential --url https://sts.example.com --identity ci"`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("git-credential wants get, store or erase, as git says it")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, args[0]) },
	}
	o.register(c.Flags())
	c.Flags().StringVar(&o.githubHost, "github-host", defaultGitHubHost, "host to answer for; with GitHub Enterprise Server its own")
	return c
}

func (o *gitCredentialOptions) run(cmd *cobra.Command, operation string) error {
	if err := checkGitHubHost(o.githubHost); err != nil {
		return err
	}
	if operation != "get" && operation != "erase" {
		return nil // store is not for us, and what git may add some day is to be passed over
	}
	request, err := readGitRequest(cmd.InOrStdin())
	if err != nil {
		return err
	}
	if !o.answers(request) {
		return nil
	}
	socket := os.Getenv(socketVariable)
	if operation == "erase" {
		if socket == "" || request.password == "" {
			return nil
		}
		_, err := askHolder(cmd.Context(), socket, holderRequest{Refused: request.password})
		return err
	}
	if o.scope == "" {
		if o.scope = request.scope(); o.scope == "" {
			return errors.New("git did not say which repository it is about: set credential.https://" + o.githubHost + ".useHttpPath to true, or give --scope")
		}
	}
	granted, err := o.exchange(cmd)
	if err != nil {
		fmt.Fprintln(cmd.OutOrStdout(), "quit=1")
		return err
	}
	return writeGitAnswer(cmd.OutOrStdout(), granted.Token, granted.Expiry)
}

// answers says whether the request is for a token of ours.
func (o *gitCredentialOptions) answers(q gitRequest) bool {
	if q.protocol != "https" || !strings.EqualFold(q.host, o.githubHost) || q.username != "" && q.username != gitUser {
		return false
	}
	owner, _, _ := strings.Cut(o.scope, "/")
	asked, _, _ := strings.Cut(strings.TrimPrefix(q.path, "/"), "/")
	return owner == "" || asked == "" || strings.EqualFold(owner, asked)
}

// checkGitHubHost wants a host, with a port or not, as it stands in a URL.
func checkGitHubHost(host string) error {
	if u, err := url.Parse("https://" + host); err != nil || host == "" || u.Host != host || u.User != nil {
		return fmt.Errorf("--github-host %q: want a host, as github.com", host)
	}
	return nil
}

// gitHelperConfig is the configuration that has git ask this program, and no other
// helper, for what is at https://host/owner, as pairs of name and value.
func gitHelperConfig(host, owner, self string) [][2]string {
	section := "credential.https://" + host + "/" + owner + "."
	quoted := "'" + strings.ReplaceAll(filepath.ToSlash(self), "'", `'\''`) + "'"
	return [][2]string{
		{section + "helper", ""}, // those that are configured for more than this
		{section + "helper", "!" + quoted + " git-credential --github-host " + host + " --scope " + owner},
		{section + "useHttpPath", "true"},
	}
}

// gitConfigEnv adds configuration to what the environment gives git already
// (git-config(1), GIT_CONFIG_COUNT).
func gitConfigEnv(set map[string]string, config [][2]string) {
	count, _ := strconv.Atoi(os.Getenv("GIT_CONFIG_COUNT")) // git itself refuses one that is no number
	count = max(count, 0)
	for i, pair := range config {
		n := strconv.Itoa(count + i)
		set["GIT_CONFIG_KEY_"+n], set["GIT_CONFIG_VALUE_"+n] = pair[0], pair[1]
	}
	set["GIT_CONFIG_COUNT"] = strconv.Itoa(count + len(config))
}
