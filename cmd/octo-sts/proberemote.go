package main

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/pflag"

	"github.com/octo-sts/appliance/probe"
	"github.com/octo-sts/appliance/sts/idsource"
	"github.com/octo-sts/appliance/sts/idtoken"
)

// otherAudience is one that no policy should take (RFC 2606, section 2).
const otherAudience = "wrong-audience.invalid"

// remoteProbe is a probe that is made by this program itself.
type remoteProbe struct {
	url, scope, identity, caFile    string
	gitHubURL, gitHubCAFile         string
	source, file, command, audience string
	stdin                           io.Reader
}

func (o *remoteProbe) flags(f *pflag.FlagSet) {
	f.StringVar(&o.url, "url", "", "probe the appliance at this URL from here, as https://sts.example.com")
	f.StringVar(&o.scope, "scope", "", "owner/repository whose policy grants the probe contents: read (with --url)")
	f.StringVar(&o.identity, "identity", "probe", "name of the trust policy: .github/chainguard/NAME.sts.yaml (with --url)")
	f.StringVar(&o.source, "token-source", "", "where the ID token comes from, a `NAME` of octo-sts token-sources (with --url; default: found by itself)")
	f.StringVar(&o.file, "token-file", "", "file that holds the ID token (with --url)")
	f.StringVar(&o.command, "token-command", "", "command that prints the ID token (with --url)")
	f.StringVar(&o.audience, "audience", "", "audience to request the ID token for (with --url; default: its host)")
	f.StringVar(&o.caFile, "ca-file", "", "PEM roots to trust for --url instead of the system's")
	f.StringVar(&o.gitHubURL, "github-url", "https://api.github.com", "GitHub's API; https://HOST/api/v3 for GitHub Enterprise Server (with --url)")
	f.StringVar(&o.gitHubCAFile, "github-ca-file", "", "PEM roots to trust for --github-url instead of the system's")
}

// given is the name of a flag that was given and means nothing without --url.
func (o *remoteProbe) given(f *pflag.FlagSet) (name string) {
	local := []string{"admin", "negative", "output", "help"}
	f.Visit(func(flag *pflag.Flag) {
		if !slices.Contains(local, flag.Name) {
			name = flag.Name
		}
	})
	return name
}

// probe makes the probes. Its error is one of usage.
func (o *remoteProbe) probe(ctx context.Context, stdin io.Reader, negative bool) ([]probe.Report, error) {
	base, err := probe.CheckURL(o.url)
	if err != nil {
		return nil, fmt.Errorf("--url: %w", err)
	}
	o.stdin = stdin
	if o.audience == "" {
		o.audience = base.Hostname()
	}
	source, err := o.find(ctx, o.audience)
	if err != nil {
		return nil, err
	}
	c := probe.Config{URL: o.url, Scope: o.scope, Identity: o.identity, GitHubURL: o.gitHubURL, UserAgent: "octo-sts-probe/" + version,
		IDToken: func(ctx context.Context, kind probe.Kind) (string, error) { return o.idToken(ctx, source, kind) }}
	if c.Roots, err = probe.ReadRoots(o.caFile); err != nil {
		return nil, fmt.Errorf("--ca-file: %w", err)
	}
	if c.GitHubRoots, err = probe.ReadRoots(o.gitHubCAFile); err != nil {
		return nil, fmt.Errorf("--github-ca-file: %w", err)
	}
	prober, err := probe.New(ctx, c)
	if err != nil {
		return nil, err
	}
	reports := []probe.Report{prober.Positive(ctx)}
	if negative {
		reports = append(reports, prober.Negative(ctx))
	}
	return reports, nil
}

func (o *remoteProbe) find(ctx context.Context, audience string) (*idsource.Source, error) {
	return idsource.Find(ctx, idsource.Config{Name: o.source, File: o.file, Command: o.command, Audience: audience, Stdin: o.stdin})
}

// idToken gets the ID token of a kind, as far as the source can make it: one for another
// audience, where it makes them for the audience that it is told.
func (o *remoteProbe) idToken(ctx context.Context, source *idsource.Source, kind probe.Kind) (string, error) {
	switch kind {
	case probe.Good:
		return source.IDToken(ctx)
	case probe.WrongAudience:
	default:
		return "", fmt.Errorf("%w: it cannot make one of another subject", probe.ErrNoSuchIDToken)
	}
	other, err := o.find(ctx, otherAudience)
	if err != nil {
		return "", fmt.Errorf("%w: %w", probe.ErrNoSuchIDToken, err)
	}
	raw, err := other.IDToken(ctx)
	if err != nil {
		return "", fmt.Errorf("%w: %w", probe.ErrNoSuchIDToken, err)
	}
	claims, err := idtoken.ParseUnverified(raw)
	if err != nil || !slices.Contains(claims.Audience, otherAudience) {
		return "", fmt.Errorf("%w: it cannot make one for another audience", probe.ErrNoSuchIDToken)
	}
	return raw, nil
}
