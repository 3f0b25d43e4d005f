package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"
)

// maxAnswer bounds what is read of the appliance's answer.
const maxAnswer = 1 << 20

type exchangeOptions struct {
	url, scope, identity     string
	tokenFile, tokenSource   string
	audience, caFile, output string
}

func newExchangeCommand() *cobra.Command {
	o := exchangeOptions{}
	c := &cobra.Command{
		Use:   "exchange --url URL --scope OWNER[/REPOSITORY] --identity NAME",
		Short: "Exchange this job's ID token for a GitHub token, printed on standard output",
		Long: `Exchange this job's ID token for a GitHub token and print it.

The ID token comes from --token-file (- is standard input) or, without that,
from the CI system that the environment shows:

  github   ACTIONS_ID_TOKEN_REQUEST_URL and ACTIONS_ID_TOKEN_REQUEST_TOKEN, which a
           job has with "permissions: {id-token: write}"; the token is requested for
           the audience --audience
  gitlab   OCTO_STS_ID_TOKEN, which a job has with
           "id_tokens: {OCTO_STS_ID_TOKEN: {aud: sts.example.com}}"

Exit status: 0 a token was printed, 1 the exchange was refused or failed, 2 wrong usage.`,
		Example: `  octo-sts exchange --url https://sts.example.com --scope my-org/my-repo --identity deploy
  octo-sts exchange --url https://sts.example.com --scope my-org --identity mirror --token-file /run/id-token --output json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	f := c.Flags()
	f.StringVar(&o.url, "url", os.Getenv("OCTO_STS_URL"), "the appliance, as https://sts.example.com (default $OCTO_STS_URL)")
	f.StringVar(&o.scope, "scope", "", "owner/repository, or owner for an organization's policy (required)")
	f.StringVar(&o.identity, "identity", "", "name of the trust policy: .github/chainguard/NAME.sts.yaml (required)")
	f.StringVar(&o.tokenFile, "token-file", "", "file that holds the ID token; - is standard input")
	f.StringVar(&o.tokenSource, "token-source", "", "github or gitlab: where the ID token comes from (default: found by itself)")
	f.StringVar(&o.audience, "audience", "", "audience to request the ID token for, with github (default: the host of --url)")
	f.StringVar(&o.caFile, "ca-file", "", "PEM roots to trust for --url instead of the system's")
	f.StringVar(&o.output, "output", "text", "text (the token alone) or json (token and expiry)")
	return c
}

func (o *exchangeOptions) run(cmd *cobra.Command) error {
	base, err := o.check()
	if err != nil {
		return err
	}
	client, err := newHTTPClient(o.caFile)
	if err != nil {
		return err
	}
	idToken, err := o.idToken(cmd.Context(), cmd.InOrStdin(), base)
	if err != nil {
		return err
	}
	answer, err := exchange(cmd.Context(), client, base, o.scope, o.identity, idToken)
	if err != nil {
		return &failedError{fmt.Errorf("exchanging at %s for scope %s and identity %s: %w", base.Host, o.scope, o.identity, err)}
	}
	if o.output == "json" {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(answer)
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), answer.Token)
	return err
}

func (o *exchangeOptions) check() (*url.URL, error) {
	var problems []error
	base, err := url.Parse(o.url)
	if err != nil || base.Host == "" || base.Scheme != "https" && !(base.Scheme == "http" && isLoopback(base.Hostname())) {
		problems = append(problems, fmt.Errorf("--url %q: want https://HOST (http only for a loopback address)", o.url))
	}
	if o.scope == "" || o.identity == "" {
		problems = append(problems, errors.New("--scope and --identity are required"))
	}
	if o.output != "text" && o.output != "json" {
		problems = append(problems, fmt.Errorf("--output %q: want text or json", o.output))
	}
	return base, errors.Join(problems...)
}

// granted is the appliance's answer, and what --output json prints.
type granted struct {
	Token  string    `json:"token"`
	Expiry time.Time `json:"expiry"`
}

func exchange(ctx context.Context, client *http.Client, base *url.URL, scope, identity, idToken string) (*granted, error) {
	query := url.Values{"scope": {scope}, "scopes": {scope}, "identity": {identity}}
	target := base.JoinPath("/sts/exchange")
	target.RawQuery = query.Encode()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Authorization", "Bearer "+idToken)
	status, body, err := send(client, r)
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		var refusal struct{ Message string }
		if json.Unmarshal(body, &refusal) != nil || refusal.Message == "" {
			return nil, fmt.Errorf("the answer was HTTP status %d", status)
		}
		return nil, fmt.Errorf("%s (HTTP status %d)", printable(refusal.Message), status)
	}
	answer := &granted{}
	if err := json.Unmarshal(body, answer); err != nil || answer.Token == "" {
		return nil, errors.New("the answer holds no token: is --url an octo-sts appliance?")
	}
	return answer, nil
}

// send makes one request and reads a bounded answer. No error of its holds the
// URL's query or a header.
func send(client *http.Client, r *http.Request) (status int, body []byte, err error) {
	response, err := client.Do(r)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return 0, nil, fmt.Errorf("asking %s: %w", r.URL.Host, err)
	}
	defer response.Body.Close()
	body, err = io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err != nil {
		return 0, nil, fmt.Errorf("reading the answer of %s: %w", r.URL.Host, err)
	}
	if len(body) > maxAnswer {
		return 0, nil, fmt.Errorf("the answer of %s is longer than %d bytes", r.URL.Host, maxAnswer)
	}
	return response.StatusCode, body, nil
}

// newHTTPClient follows no redirects: a bearer token goes where it was meant to
// go and nowhere else.
func newHTTPClient(caFile string) (*http.Client, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("reading --ca-file: %w", err)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--ca-file %s holds no PEM certificate", caFile)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	}
	return &http.Client{
		Transport:     transport,
		Timeout:       30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}
