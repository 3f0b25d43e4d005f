package appliance

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/octo-sts/appliance/probe"
	"github.com/octo-sts/appliance/signer"
)

// targetHealth is /readyz in the form of a probe.
const targetHealth = "health"

// A probe's result is given again for a while, since every user of the machine may ask
// for one: each is an exchange, with its entries in the audit log, and each negative one
// is three denials, of which a subject may have limits.denied_per_subject an hour.
const (
	positiveFor = 10 * time.Second
	// A negative one that failed is kept for as long as one that did not: more often, the
	// denials alone would have it fail, on and on, after what was wrong has been mended.
	negativeFor = 3 * time.Minute
	// probeLimit bounds one probe.
	probeLimit = 30 * time.Second
)

// probes answers /probe of the admin listener.
type probes struct {
	health     *health
	parts      *parts
	background context.Context

	mu    sync.Mutex // guards the rest
	cells map[string]*probeCell
}

// probeCell is the newest result of one target under one configuration.
type probeCell struct {
	config *Config
	done   chan struct{} // closed when there is one
	report probe.Report  // read after done is closed
	until  time.Time     // and is given until then
	err    error         // why there is none
}

func newProbes(h *health, p *parts, background context.Context) *probes {
	return &probes{health: h, parts: p, background: background, cells: map[string]*probeCell{}}
}

// errNoProbe says what to do where no probe is configured.
var errNoProbe = errors.New("no probe is configured: give octo-stsd.yaml the section probe, with a scope, as /usr/share/doc/octo-sts/probes.md says")

// ServeHTTP answers as blackbox_exporter's /probe does, and whoever accepts
// application/json alone with the report. Status 200 says that there is one, and
// probe_success what it says.
func (p *probes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	target := cmp.Or(r.URL.Query().Get("target"), probe.TargetPositive)
	var report probe.Report
	var err error
	switch target {
	case targetHealth:
		report = p.healthReport(r.Context())
	case probe.TargetPositive, probe.TargetNegative:
		report, err = p.get(r.Context(), target)
	default:
		http.Error(w, "want ?target=positive, ?target=negative or ?target=health", http.StatusBadRequest)
		return
	}
	switch {
	case errors.Is(err, errNoProbe):
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	case err != nil:
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	if strings.HasPrefix(r.Header.Get("Accept"), "application/json") {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(report) // a prober that is gone needs no answer
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_ = report.WriteMetrics(w)
}

// get returns the result that there is, or that of a probe that is begun; whoever asks
// meanwhile waits for the same one.
func (p *probes) get(ctx context.Context, target string) (probe.Report, error) {
	config := p.health.generations.current.Load().config
	if config.Probe.Scope == "" {
		return probe.Report{}, errNoProbe
	}
	p.mu.Lock()
	cell := p.cells[target]
	if cell == nil || cell.config != config || cell.isOver(time.Now()) {
		cell = &probeCell{config: config, done: make(chan struct{})}
		p.cells[target] = cell
		go p.run(target, cell)
	}
	p.mu.Unlock()
	select {
	case <-cell.done:
		return cell.report, cell.err
	case <-ctx.Done():
		return probe.Report{}, ctx.Err()
	}
}

func (c *probeCell) isOver(now time.Time) bool {
	select {
	case <-c.done:
		return now.After(c.until)
	default:
		return false
	}
}

// run makes one probe, whoever still waits for it.
func (p *probes) run(target string, cell *probeCell) {
	defer close(cell.done)
	ctx, cancel := context.WithTimeout(p.background, probeLimit)
	defer cancel()
	config, err := p.parts.probeConfig(cell.config)
	if err != nil {
		cell.err = err
		return
	}
	prober, err := probe.New(ctx, config)
	if err != nil {
		cell.err = err
		return
	}
	if target == probe.TargetPositive {
		cell.report = prober.Positive(ctx)
		cell.until = time.Now().Add(positiveFor)
	} else {
		cell.report = prober.Negative(ctx)
		cell.until = time.Now().Add(negativeFor)
	}
}

// probeConfig reads the roots.
func (p *parts) probeConfig(c *Config) (probe.Config, error) {
	config := probe.Config{
		URL: c.Probe.URL, Scope: c.Probe.Scope, Identity: c.Probe.Identity, GitHubURL: c.GitHub.APIURL,
		UserAgent: "octo-sts-probe/" + p.version,
		IDToken: func(ctx context.Context, kind probe.Kind) (string, error) {
			t, err := p.signer.ProbeIDToken(ctx, signer.ProbeKind(kind))
			return t.IDToken, err
		},
	}
	var err error
	if config.Roots, err = probe.ReadRoots(c.Probe.CAFile); err != nil {
		return config, fmt.Errorf("probe.ca_file: %w", err)
	}
	if config.GitHubRoots, err = probe.ReadRoots(c.GitHub.CAFile); err != nil {
		return config, fmt.Errorf("github.ca_file: %w", err)
	}
	return config, nil
}

// healthReport is what /readyz says. Whatever is not ready is a failure: a probe is for
// finding out before callers do.
func (p *probes) healthReport(ctx context.Context) probe.Report {
	began := time.Now()
	var checks []probe.Check
	for _, c := range p.health.checks(ctx) {
		one := probe.Check{Name: c.Name, State: probe.OK, Expected: stateReady, Came: c.State}
		if c.Detail != "" {
			one.Came += ": " + c.Detail
		}
		if c.State != stateReady {
			one.State, one.Do = probe.Failed, "octo-sts doctor says what mends it."
		}
		checks = append(checks, one)
	}
	return probe.NewReport(targetHealth, began, checks)
}

// checkProbe checks the section.
func (k *checker) checkProbe(c *Config) {
	if !k.doc.Has("probe") {
		return
	}
	p := c.Probe
	if p.Scope == "" {
		k.wrong("probe.scope", "is required: the repository whose policy the probe is exchanged under, OWNER/NAME")
		return
	}
	if _, _, err := probe.SplitScope(p.Scope); err != nil {
		k.wrong("probe.scope", "%v", err)
	}
	if strings.ContainsAny(p.Identity, "/\\ ") {
		k.wrong("probe.identity", "%q is not the NAME of a .github/chainguard/NAME.sts.yaml", p.Identity)
	}
	if _, err := probe.CheckURL(p.URL); err != nil {
		k.wrong("probe.url", "%v", err)
	}
	k.checkFile("probe.ca_file", p.CAFile, false)
	for i, issuer := range c.Issuers {
		if issuer.URL == probeIssuerURL(c) {
			k.wrong(fmt.Sprintf("issuers[%d].url", i), "is the probe's own issuer, which needs no entry")
		}
	}
}
