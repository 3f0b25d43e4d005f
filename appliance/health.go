package appliance

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/idtoken"
	"github.com/octo-sts/appliance/webhook"
)

// health answers the admin listener's /healthz (is this process alive) and
// /readyz (would it serve an exchange, and if not, or only just, why).
type health struct {
	certificates certificates // nil: TLS is off
	audit        *audit.Log
	copies       *copies
	checkpoints  *checkpoints
	signer       *signer.Client
	generations  *generations
	webhook      *webhook.Receiver // nil: none is configured
	reloads      *reloads
	tracing      *tracing // nil: off
}

// The three states of a check, and of the whole: the worst of its checks.
const (
	stateReady    = "ready"
	stateDegraded = "degraded" // exchanges go on, but not for ever, or not for everyone
	stateFailing  = "failing"
)

type check struct {
	Name   string `json:"name"`
	State  string `json:"state"`
	Detail string `json:"detail,omitempty"`
}

func (h *health) github() *githubapp.Client { return h.generations.current.Load().github }

func (h *health) healthz(w http.ResponseWriter, _ *http.Request) {
	_, _ = fmt.Fprintln(w, "ok") // a prober that is gone needs no answer
}

// readyz answers 200 while exchanges are served, degraded or not, and 503 when
// they are not.
func (h *health) readyz(w http.ResponseWriter, r *http.Request) {
	checks := h.checks(r.Context())
	report := struct {
		State  string  `json:"state"`
		Checks []check `json:"checks"`
	}{stateOf(checks), checks}
	status := http.StatusOK
	if report.State == stateFailing {
		status = http.StatusServiceUnavailable
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(report) // a prober that is gone needs no answer
}

// stateOf is the worst of the checks' states.
func stateOf(checks []check) string {
	state := stateReady
	for _, c := range checks {
		if c.State == stateFailing || c.State == stateDegraded && state == stateReady {
			state = c.State
		}
	}
	return state
}

// summary is the state in one line, with the details of what is not well.
func summary(checks []check) string {
	state := stateOf(checks)
	if state == stateReady {
		return "serving"
	}
	var parts []string
	for _, c := range checks {
		if c.State != stateReady {
			parts = append(parts, c.Name+": "+c.Detail)
		}
	}
	return state + ": " + strings.Join(parts, "; ")
}

func (h *health) checks(ctx context.Context) []check {
	status, err := h.signer.Status(ctx)
	config := h.generations.current.Load().config
	checks := []check{h.checkAudit(), h.checkpoints.check(), h.checkSigner(status, err), h.checkGitHub(), h.checkClock(), h.checkIssuers(),
		checkDisk(config.Audit.Directory, config.StateDirectory)}
	if err == nil {
		checks = append(checks, checkHSMs(status))
	}
	if err == nil && config.Probe.Scope != "" {
		checks = append(checks, checkProbeIssuer(status, config))
	}
	if h.certificates != nil {
		checks = append(checks, checkCertificate(h.certificates.status(), time.Now()))
	}
	if h.webhook != nil {
		checks = append(checks, h.checkWebhook())
	}
	if problem, _ := h.reloads.status(); problem != nil {
		checks = append(checks, check{"configuration", stateDegraded, "the file on disk is not in force: " + problem.Error()})
	}
	checks = append(checks, h.tracing.checks()...)
	return append(checks, h.copies.checks()...)
}

func (h *health) checkAudit() check {
	if err := h.audit.Err(); err != nil {
		return check{"audit", stateFailing, err.Error()}
	}
	return check{"audit", stateReady, fmt.Sprintf("%d entries", h.audit.Size())}
}

// checkSigner judges what the signer says, or that it says nothing. While it is away, exchanges go on for as long as
// GitHub takes the App JWTs that were signed before.
func (h *health) checkSigner(status signer.Status, err error) check {
	apps := h.github().Status()
	if err == nil {
		err = cannotSign(status, apps)
	}
	if err == nil {
		return check{"signer", stateReady, ""}
	}
	until := time.Time{}
	var without []int64
	for _, app := range apps {
		if time.Now().After(app.CachedUntil) {
			without = append(without, app.AppID)
		} else if until.IsZero() || app.CachedUntil.Before(until) {
			until = app.CachedUntil
		}
	}
	switch len(without) {
	case 0:
		return check{"signer", stateDegraded, fmt.Sprintf("%v; exchanges go on with cached App JWTs until %s", err, until.UTC().Format(time.RFC3339))}
	case len(apps):
		return check{"signer", stateFailing, fmt.Sprintf("%v; no App has a usable App JWT left", err)}
	default:
		return check{"signer", stateDegraded, fmt.Sprintf("%v; no usable App JWT is left for Apps %d", err, without)}
	}
}

// cannotSign tells which of the daemon's Apps the signer has no key for at the
// moment, or was last asked in vain, and why.
func cannotSign(status signer.Status, apps []githubapp.AppStatus) error {
	for _, app := range apps {
		i := slices.IndexFunc(status.Apps, func(s signer.AppStatus) bool { return s.AppID == app.AppID })
		if i < 0 {
			return fmt.Errorf("App %d is not in the signer's configuration", app.AppID)
		}
		if !status.Apps[i].Ready {
			return fmt.Errorf("App %d: %s", app.AppID, status.Apps[i].Error)
		}
		// A signer may answer this and be unable to sign; and one that is back
		// serves exchanges once it was asked again.
		if app.LastError != nil {
			return app.LastError
		}
	}
	return nil
}

// checkIssuers fails only where no issuer's keys can be had: one issuer's
// outage is that issuer's users' alone.
func (h *health) checkIssuers() check {
	generation := h.generations.current.Load()
	issuers := slices.DeleteFunc(generation.verifier.Status(), func(s idtoken.IssuerStatus) bool {
		return generation.config.Probe.Scope != "" && s.URL == probeIssuerURL(generation.config) // see checkProbeIssuer
	})
	if len(issuers) == 0 {
		return check{"issuers", stateFailing, "no issuer is listed in the configuration: nobody can exchange a token"}
	}
	away, detail := 0, ""
	for _, issuer := range issuers {
		if !issuer.Usable {
			away++
			detail = issuer.URL + ": its keys were not fetched yet"
			if issuer.LastError != nil {
				detail = fmt.Sprintf("%s: %v", issuer.URL, issuer.LastError)
			}
		}
	}
	switch away {
	case 0:
		return check{"issuers", stateReady, fmt.Sprintf("%d listed", len(issuers))}
	case len(issuers):
		return check{"issuers", stateFailing, detail}
	default:
		return check{"issuers", stateDegraded, fmt.Sprintf("%d of %d have no usable keys; %s", away, len(issuers), detail)}
	}
}

// checkGitHub never fails: while GitHub does not answer, this daemon is as ready
// as another one would be.
func (h *health) checkGitHub() check {
	host := h.github().Host()
	if host.Down {
		return check{"github", stateDegraded, fmt.Sprintf("no answer since %s: %v", host.Since.UTC().Format(time.RFC3339), host.LastError)}
	}
	apps := h.github().Status()
	unproven, lacking, detail := 0, "", ""
	for _, app := range apps {
		if app.Problem != nil {
			unproven++
			detail = fmt.Sprintf("App %d: %v", app.AppID, app.Problem)
		}
		if len(app.Lacking) > 0 {
			lacking = fmt.Sprintf("; App %d lacks %s", app.AppID, strings.Join(app.Lacking, ", "))
		}
	}
	switch {
	case unproven > 0:
		return check{"github", stateDegraded, detail + lacking}
	default:
		return check{"github", stateReady, fmt.Sprintf("%d App(s)%s", len(apps), lacking)}
	}
}

// maxQueueAge is how long a delivery may wait before somebody should look: a
// rate limit of GitHub's lasts an hour.
const maxQueueAge = 2 * time.Hour

// checkWebhook never fails: exchanges do not need it.
func (h *health) checkWebhook() check {
	s := h.webhook.Status()
	detail := fmt.Sprintf("%d deliveries wait", s.Queued)
	switch {
	case !s.Oldest.IsZero() && time.Since(s.Oldest) > maxQueueAge:
		return check{"webhook", stateDegraded, fmt.Sprintf("%s, the oldest since %s", detail, s.Oldest.UTC().Format(time.RFC3339))}
	case s.Recovery.Unreached != "":
		return check{"webhook", stateDegraded, s.Recovery.Unreached + ": let GitHub reach https://" + h.generations.current.Load().config.Domain + "/webhook, and compare that with the webhook's URL and secret in the App's settings; " + detail}
	case s.Recovery.Error != "":
		return check{"webhook", stateDegraded, fmt.Sprintf("%s; asking GitHub for missed deliveries: %s", detail, s.Recovery.Error)}
	}
	return check{"webhook", stateReady, detail}
}
