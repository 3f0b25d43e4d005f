package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/octo-sts/appliance/probe"
	"github.com/octo-sts/appliance/sts/idsource"
	"github.com/octo-sts/appliance/sts/stsclient"
)

// connection is what every command takes that speaks to the appliance: where it is.
type connection struct {
	url, caFile string
}

func (o *connection) register(f *pflag.FlagSet) {
	f.StringVar(&o.url, "url", os.Getenv("OCTO_STS_URL"), "the appliance, as https://sts.example.com (default $OCTO_STS_URL)")
	f.StringVar(&o.caFile, "ca-file", "", "PEM roots to trust for --url instead of the system's")
}

// asking is what every command takes that makes an exchange: for what, and with
// which ID token.
type asking struct {
	connection
	scope, identity                      string
	tokenFile, tokenCommand, tokenSource string
	audience                             string
}

func (o *asking) register(f *pflag.FlagSet) {
	o.connection.register(f)
	f.StringVar(&o.scope, "scope", "", "owner/repository, or owner for an organization's policy")
	f.StringVar(&o.identity, "identity", "", "name of the trust policy: .github/chainguard/NAME.sts.yaml")
	f.StringVar(&o.tokenFile, "token-file", "", "file that holds the ID token; - is standard input")
	f.StringVar(&o.tokenCommand, "token-command", "", "command that prints the ID token; the shell runs it")
	f.StringVar(&o.tokenSource, "token-source", "", "where the ID token comes from: a `NAME` of octo-sts token-sources (default: found by itself)")
	f.StringVar(&o.audience, "audience", "", "audience to get the ID token for (default: the host of --url)")
}

// tokenSourcesHelp is a part of the help of the commands that make exchanges.
const tokenSourcesHelp = `The ID token comes from --token-file or --token-command, or else from the CI system,
workload or machine that the command runs in: GitHub Actions, GitLab, Buildkite,
CircleCI, SPIFFE, Kubernetes, AWS, Azure or Google Cloud, found by itself in this
order. "octo-sts token-sources" says what each needs and which one it is here.`

// client is a client for exchanges of this job's ID token, which is looked for now
// and asked for at each exchange.
func (o *asking) client(cmd *cobra.Command) (*stsclient.Client, error) {
	var problems []error
	if o.scope == "" || o.identity == "" {
		problems = append(problems, errors.New("--scope and --identity are required"))
	}
	source, err := o.source(cmd)
	problems = append(problems, err)
	var idToken func(context.Context) (string, error)
	if source != nil {
		idToken = source.IDToken
	}
	client, err := o.connection.client(cmd.Context(), stsclient.Config{Scope: o.scope, Identity: o.identity, IDToken: idToken})
	if err := errors.Join(append(problems, err)...); err != nil {
		return nil, err
	}
	return client, nil
}

// source finds this job's ID token.
func (o *asking) source(cmd *cobra.Command) (*idsource.Source, error) {
	c := idsource.Config{
		Name: o.tokenSource, Audience: o.audience, File: o.tokenFile, Command: o.tokenCommand, Stdin: cmd.InOrStdin(),
	}
	if base, err := url.Parse(o.url); err == nil && c.Audience == "" {
		c.Audience = base.Hostname()
	}
	if c.File == "-" && (c.Name == "" || c.Name == "stdin") {
		c.Name, c.File = "stdin", ""
	}
	return idsource.Find(cmd.Context(), c)
}

// client is a client of the appliance; c says the rest.
func (o *connection) client(ctx context.Context, c stsclient.Config) (*stsclient.Client, error) {
	c.URL, c.UserAgent = o.url, "octo-sts/"+version
	if o.url == "" {
		return nil, errors.New("--url is required, or OCTO_STS_URL in the environment: want https://HOST")
	}
	if o.caFile != "" {
		roots, err := probe.ReadRoots(o.caFile)
		if err != nil {
			return nil, fmt.Errorf("--ca-file: %w", err)
		}
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.TLSClientConfig = &tls.Config{RootCAs: roots}
		c.HTTPClient = &http.Client{Transport: transport, Timeout: 30 * time.Second}
	}
	return stsclient.New(ctx, c)
}
