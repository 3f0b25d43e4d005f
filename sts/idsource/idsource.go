// Package idsource finds the OIDC ID token of the CI job, workload or machine
// that the program runs in, so that it can be shown to the appliance.
//
// Each place that gives ID tokens is a source with a name: see [Names] and
// [Describe]. [Find] takes the named one, or the first that something local (a
// variable, a file, what the firmware says of the machine) shows to be there:
// nothing is asked over the network to find out. A CI job's own token comes before
// its machine's, so a job that lacks one is told what it lacks and never gets a
// token under the name of the machine that it happens to run on.
//
// No error and no log of this package holds an ID token, nor what one was bought with.
package idsource

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// Config says which source, and what it needs to know.
type Config struct {
	// Name of the source, out of Names. Empty: File or Command where one is set,
	// else the first that is there.
	Name string
	// Audience that the ID token is to be for: the appliance's domain, unless the
	// trust policy names another. Sources that hold a token made beforehand cannot
	// choose it.
	Audience string
	// File that holds the ID token, for the source file. It is read at every call.
	File string
	// Command that prints the ID token, for the source command. The system's shell
	// runs it (sh -c, or cmd /C), at every call.
	Command string
	// Environ reads one variable of the environment. nil: os.Getenv.
	Environ func(name string) string
	// Stdin is what the source stdin reads, once. nil: os.Stdin.
	Stdin io.Reader
	// HTTPClient asks what is not a metadata service of the machine itself. nil: one
	// with a limit of 30 s that follows no redirects.
	HTTPClient *http.Client
}

// Source is one place that gives ID tokens.
type Source struct {
	// Name is one of Names.
	Name string

	place  place
	finder *finder
}

// IDToken gets an ID token. Where the source can, each call gets a new one; what it
// returns has the form of a JWT and is not verified.
func (s *Source) IDToken(ctx context.Context) (string, error) {
	raw, err := s.place.fetch(s.finder, ctx)
	if err == nil {
		raw, err = compactForm(raw)
	}
	if err != nil {
		return "", fmt.Errorf("token source %s: %w", s.Name, err)
	}
	return raw, nil
}

// place is one row of the table of sources.
type place struct {
	name string
	// about says in one line what it is and what it needs.
	about string
	// here says whether something local shows that this is where the program runs.
	here func(*finder) bool
	// check says what is missing, as far as that can be told locally. nil: nothing
	// can be.
	check func(*finder) error
	fetch func(*finder, context.Context) (string, error)
}

// places are all sources in the order in which they are looked for: what was asked
// for, then CI jobs, then workloads, then machines.
func places() []place {
	return []place{
		{"file", "the file that --token-file names, read anew for each exchange", (*finder).hasFile, (*finder).checkFile, (*finder).fromFile},
		{"command", "what the command of --token-command prints, run by the shell anew for each exchange", (*finder).hasCommand, (*finder).checkCommand, (*finder).fromCommand},
		{"stdin", "standard input, read once (also: --token-file -)", never, nil, (*finder).fromStdin},
		{"gitlab", "the variable OCTO_STS_ID_TOKEN, of a GitLab job with `id_tokens: {OCTO_STS_ID_TOKEN: {aud: AUDIENCE}}`, or whatever else sets it, as Jenkins can", (*finder).inGitLab, (*finder).checkGitLab, (*finder).fromGitLab},
		{"github", "GitHub Actions, in a job with `permissions: {id-token: write}`", (*finder).inGitHub, (*finder).checkGitHub, (*finder).fromGitHub},
		{"buildkite", "Buildkite, by the program buildkite-agent on the PATH", (*finder).inBuildkite, (*finder).checkBuildkite, (*finder).fromBuildkite},
		{"circleci", "CircleCI, by the program circleci on the PATH, else CIRCLE_OIDC_TOKEN_V2 where its audience is the one that is wanted", (*finder).inCircleCI, (*finder).checkCircleCI, (*finder).fromCircleCI},
		{"spiffe", "a JWT-SVID of the SPIFFE Workload API at SPIFFE_ENDPOINT_SOCKET", (*finder).inSPIFFE, (*finder).checkSPIFFE, (*finder).fromSPIFFE},
		{"kubernetes", "a pod's projected service account token at " + projectedFile, (*finder).inKubernetes, (*finder).checkKubernetes, (*finder).fromKubernetes},
		{"aws", "AWS: the file AWS_WEB_IDENTITY_TOKEN_FILE where it is for the audience that is wanted, else sts:GetWebIdentityToken with the credentials of the environment, the container or the instance", (*finder).onAWS, nil, (*finder).fromAWS},
		{"azure", "Azure: the file AZURE_FEDERATED_TOKEN_FILE where it is for the audience that is wanted, else the managed identity's access token for --audience, an application ID URI", (*finder).onAzure, nil, (*finder).fromAzure},
		{"google", "Google Cloud: the identity of the machine's or service's service account, from the metadata server", (*finder).onGoogle, nil, (*finder).fromGoogle},
	}
}

func never(*finder) bool { return false }

// Names are the names of all sources, in the order in which they are looked for.
func Names() []string {
	var names []string
	for _, p := range places() {
		names = append(names, p.name)
	}
	return names
}

// Describe is a line for each source, for a help text: its name, what it is and
// what it needs.
func Describe() string {
	var text strings.Builder
	for _, p := range places() {
		fmt.Fprintf(&text, "  %-11s %s\n", p.name, p.about)
	}
	return text.String()
}

// finder is a Config with its defaults, and where this machine is looked at.
type finder struct {
	Config
	dmi       string // directory of the firmware's strings
	projected string // file of a pod's projected token

	stdin, pipe func() (string, error) // each reads once, the one Stdin, the other File
}

// Find takes the source of c. Its error says what is missing here, and how to give
// it. It does not get a token.
func Find(_ context.Context, c Config) (*Source, error) {
	return newFinder(c).find()
}

func newFinder(c Config) *finder {
	if c.Environ == nil {
		c.Environ = os.Getenv
	}
	if c.Stdin == nil {
		c.Stdin = os.Stdin
	}
	if c.HTTPClient == nil {
		c.HTTPClient = &http.Client{
			Timeout:       30 * time.Second,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	f := &finder{Config: c, dmi: "/sys/class/dmi/id", projected: projectedFile}
	f.stdin = sync.OnceValues(func() (string, error) { return readIDToken(c.Stdin) })
	f.pipe = sync.OnceValues(func() (string, error) { return readFile(c.File) })
	return f
}

func (f *finder) find() (*Source, error) {
	if f.File != "" && f.Command != "" {
		return nil, errors.New("a token file and a token command exclude each other")
	}
	if f.Name != "" && (f.File != "" && f.Name != "file" || f.Command != "" && f.Name != "command") {
		return nil, fmt.Errorf("the token source %s takes no token file and no token command", f.Name)
	}
	for _, p := range places() {
		if f.Name != "" && p.name != f.Name || f.Name == "" && !p.here(f) {
			continue
		}
		if p.check != nil {
			if err := p.check(f); err != nil {
				return nil, fmt.Errorf("no ID token from the token source %s: %w", p.name, err)
			}
		}
		return &Source{Name: p.name, place: p, finder: f}, nil
	}
	if f.Name != "" {
		return nil, fmt.Errorf("token source %q: want one of %s", f.Name, strings.Join(Names(), ", "))
	}
	return nil, errors.New("no ID token: give --token-file, or run in a CI job that has one (GitHub Actions: `permissions: {id-token: write}`; GitLab: `id_tokens:`); `octo-sts token-sources` lists every source and what it needs")
}
