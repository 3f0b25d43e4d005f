package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/octo-sts/appliance/probe"
)

// probeWait is for how long a probe of the daemon's is waited for: it gives itself 30 s.
const probeWait = 45 * time.Second

// maxReport bounds what is read of the daemon's answer, in bytes.
const maxReport = 1 << 20

type probeOptions struct {
	admin, output string
	negative      bool
	remote        remoteProbe
}

func newProbeCommand() *cobra.Command {
	o := probeOptions{}
	c := &cobra.Command{
		Use:   "probe [--negative] [--url URL --scope OWNER/REPOSITORY]",
		Short: "Find out whether an appliance grants what it should, and refuses the rest",
		Long: `Find out whether an appliance grants what it should, and refuses the rest.

On the appliance's machine, octo-stsd is asked at its admin listener: how it is
itself (health), and for an exchange that it makes over its own public URL, as the
section probe of octo-stsd.yaml says (positive). The installation token of that exchange is
used at GitHub, must be of no more use than the policy says, and is revoked. With
--negative, exchanges are tried, too, that must be refused (negative). The daemon
gives a result again for some seconds, and for three minutes that of --negative.

With --url, the exchanges are made from here, with this machine's or job's own ID
token, or one of --token-file or --token-command.

One line a check. Exit status: 0 all is well, 1 something is wrong, 2 wrong usage, or no
probe is configured.`,
		Example: `  octo-sts probe --negative
  octo-sts probe --url https://sts.example.com --scope my-org/probe --token-file /run/id-token --output json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	f := c.Flags()
	f.StringVar(&o.admin, "admin", "http://127.0.0.1:9464", "the admin listener of octo-stsd (listen.admin)")
	f.BoolVar(&o.negative, "negative", false, "try exchanges that must be refused, too")
	f.StringVar(&o.output, "output", "text", "text or json")
	o.remote.flags(f)
	return c
}

// probeAnswer is what --output json prints.
type probeAnswer struct {
	Success bool           `json:"success"`
	Reports []probe.Report `json:"reports"`
}

func (o *probeOptions) run(cmd *cobra.Command) error {
	if o.output != "text" && o.output != "json" {
		return fmt.Errorf("--output %q: want text or json", o.output)
	}
	var reports []probe.Report
	var err error
	switch {
	case o.remote.url != "" && cmd.Flags().Changed("admin"):
		return errors.New("--url probes from here, and --admin has the daemon probe: give one of them")
	case o.remote.url != "":
		reports, err = o.remote.probe(cmd.Context(), cmd.InOrStdin(), o.negative)
	default:
		if set := o.remote.given(cmd.Flags()); set != "" {
			return fmt.Errorf("--%s needs --url: without it, octo-stsd probes as its configuration says", set)
		}
		reports, err = o.askDaemon(cmd.Context())
	}
	answer := probeAnswer{Success: err == nil, Reports: reports}
	for _, r := range reports {
		answer.Success = answer.Success && r.Success
	}
	if writeErr := answer.write(cmd.OutOrStdout(), o.output); writeErr != nil {
		return writeErr
	}
	switch {
	case err != nil:
		return err
	case !answer.Success:
		return errNo
	}
	return nil
}

func (a probeAnswer) write(w io.Writer, output string) error {
	if len(a.Reports) == 0 {
		return nil // an error follows
	}
	if output == "json" {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(a)
	}
	for _, r := range a.Reports {
		if err := r.WriteText(printableWriter{w}); err != nil {
			return err
		}
	}
	return nil
}

// printableWriter makes what others said fit for a terminal.
type printableWriter struct{ io.Writer }

func (w printableWriter) Write(p []byte) (int, error) {
	_, err := io.WriteString(w.Writer, printableLines(string(p)))
	return len(p), err
}

// askDaemon asks for each target in turn. Its error is one of usage; what is wrong with
// the appliance is in the reports.
func (o *probeOptions) askDaemon(ctx context.Context) ([]probe.Report, error) {
	base, err := probe.CheckURL(o.admin)
	if err != nil {
		return nil, fmt.Errorf("--admin: %w", err)
	}
	targets := []string{"health", probe.TargetPositive}
	if o.negative {
		targets = append(targets, probe.TargetNegative)
	}
	var reports []probe.Report
	for _, target := range targets {
		began := time.Now()
		report, err := askProbe(ctx, base, target)
		var unconfigured *unconfiguredError
		switch {
		case errors.As(err, &unconfigured):
			return reports, err
		case err != nil:
			reports = append(reports, probe.NewReport(target, began, []probe.Check{{
				Name: "admin", State: probe.Failed, Expected: "an answer of octo-stsd at " + base.Host, Came: err.Error(),
				Do: "See whether octo-stsd runs (systemctl status octo-stsd), and what listen.admin says.", Seconds: time.Since(began).Seconds(),
			}}))
			return reports, nil
		}
		reports = append(reports, report)
	}
	return reports, nil
}

// unconfiguredError is that the daemon has nothing to probe with.
type unconfiguredError struct{ said string }

func (e *unconfiguredError) Error() string { return e.said }

func askProbe(ctx context.Context, base *url.URL, target string) (probe.Report, error) {
	ctx, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	at := base.JoinPath("/probe")
	at.RawQuery = url.Values{"target": {target}}.Encode()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return probe.Report{}, err
	}
	r.Header.Set("Accept", "application/json")
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil // it is this machine
	response, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		var asked *url.Error // which says once more what was asked
		if errors.As(err, &asked) {
			err = asked.Err
		}
		return probe.Report{}, fmt.Errorf("none: %w", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxReport))
	switch {
	case err != nil:
		return probe.Report{}, err
	case response.StatusCode == http.StatusNotFound:
		return probe.Report{}, &unconfiguredError{printable(strings.TrimSpace(string(body)))}
	case response.StatusCode != http.StatusOK:
		return probe.Report{}, fmt.Errorf("HTTP status %d, %s", response.StatusCode, printable(strings.TrimSpace(string(body))))
	}
	var report probe.Report
	if err := json.Unmarshal(body, &report); err != nil || report.Target != target {
		return probe.Report{}, fmt.Errorf("no report: is octo-stsd what answers at %s?", base.Host)
	}
	return report, nil
}
