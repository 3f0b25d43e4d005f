package appliance

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/sts"
	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/idtoken"
	"github.com/octo-sts/appliance/sts/trustpolicy"
	"github.com/octo-sts/appliance/webhook"
)

// credentialsDirectory is the environment variable with which systemd says where
// a service's secrets are (systemd.exec(5), LoadCredential=).
const credentialsDirectory = "CREDENTIALS_DIRECTORY"

// verifierConfig is of a configuration that was checked.
func (p *parts) verifierConfig(c *Config) idtoken.Config {
	issuers := make([]idtoken.Issuer, len(c.Issuers))
	for i, issuer := range c.Issuers {
		issuers[i] = idtoken.Issuer{
			URL: issuer.URL, JWKSURL: issuer.JWKSURL, JWKSFile: issuer.JWKSFile, CAFile: issuer.CAFile,
			MaxLifetime: issuer.MaxLifetime, SingleUse: issuer.SingleUse,
		}
		for _, network := range issuer.Networks {
			issuers[i].Networks = append(issuers[i].Networks, netip.MustParsePrefix(network))
		}
	}
	if c.Probe.Scope != "" {
		issuers = append(issuers, p.probeIssuer(c))
	}
	return idtoken.Config{Issuers: issuers, Logger: p.logger}
}

func (p *parts) serviceConfig(c *Config, verifier *idtoken.Verifier, github *githubapp.Client) sts.Config {
	return sts.Config{
		Domain:           c.Domain,
		PolicyRepository: c.GitHub.PolicyRepository,
		Verifier:         verifier,
		GitHub:           github,
		Audit:            p.audit,
		Permissions:      permissionsOf(c),
		Ceiling:          ceilingOf(c),
		PerIssuer:        c.Limits.PerIssuer,
		BurstPerIssuer:   c.Limits.BurstPerIssuer,
		DeniedPerSubject: c.Limits.DeniedPerSubject,
		DeniedPerOwner:   c.Limits.DeniedPerOwner,
		Logger:           p.logger,
		Observe:          p.counts.observe,

		ObserveRevocation: p.counts.revoked,
	}
}

func permissionsOf(c *Config) trustpolicy.Catalog {
	return trustpolicy.GitHubPermissions().With(c.Permissions)
}

func ceilingOf(c *Config) trustpolicy.Ceiling {
	return trustpolicy.Ceiling{OrganizationOnly: c.Ceiling.Policies == "organization", Permissions: c.Ceiling.Permissions}
}

// recallShown tells the verifier which single-use ID tokens the audit log has seen.
func recallShown(c *Config, verifier *idtoken.Verifier) error {
	single := map[string]bool{}
	longest := time.Duration(0)
	for _, issuer := range c.Issuers {
		if issuer.SingleUse {
			single[issuer.URL] = true
			longest = max(longest, issuer.MaxLifetime)
		}
	}
	if len(single) == 0 {
		return nil
	}
	for record, err := range audit.ReadSince(c.Audit.Directory, time.Now().Add(-longest-time.Hour)) {
		if err != nil {
			return fmt.Errorf("looking for single-use ID tokens in the audit log: %w", err)
		}
		if e := record.Entry; e.JTI != "" && single[e.Issuer] && e.Kind != audit.Outcome {
			verifier.Seen(e.Issuer, e.JTI, e.IDTokenExpiry)
		}
	}
	return nil
}

// recalledGrants is how far back a restart looks for who is no stranger: a job
// that runs each night is none.
const recalledGrants = 26 * time.Hour

// recallGrants tells service who was granted what lately, while it serves: that only
// matters to those who come while strangers use up what they have, and to those who
// want a token revoked, who are asked to wait.
func recallGrants(ctx context.Context, c *Config, service *sts.Service, guests guests, logger *zap.Logger) {
	for record, err := range audit.ReadSince(c.Audit.Directory, time.Now().Add(-recalledGrants)) {
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			// What was handed out before the start stays uncertain: POST /sts/revoke calls no token unknown.
			logger.Error("looking in the audit log for who was granted something lately", zap.Error(err))
			return
		}
		service.Recall(record.Entry)
		if a, err := netip.ParseAddr(record.Entry.ClientAddress); err == nil && record.Entry.Decision == audit.DecisionGranted {
			guests.welcome(a, record.Entry.Time)
		}
	}
	service.Recalled()
}

// webhookEvents are those that an App has to be subscribed to; GitHub sends those
// about installations and check suites in any case.
var webhookEvents = []string{"pull_request", "push", "repository"}

// needs is what the configuration asks of each App.
func needs(c *Config) githubapp.Needs {
	n := githubapp.Needs{Permissions: maps.Clone(c.Ceiling.Permissions)}
	if n.Permissions == nil {
		n.Permissions = map[string]string{}
	}
	if n.Permissions["contents"] == "" {
		n.Permissions["contents"] = "read" // policies
	}
	if len(c.Webhook.Secrets) > 0 {
		n.Permissions["checks"] = "write"
		n.Events = webhookEvents
	}
	return n
}

// webhookConfig reads the secrets.
func (p *parts) webhookConfig(c *Config, github *githubapp.Client) (webhook.Config, error) {
	config := webhook.Config{
		State:            p.state,
		GitHub:           github,
		Audit:            p.audit,
		AuditDirectory:   c.Audit.Directory,
		PolicyRepository: c.GitHub.PolicyRepository,
		Permissions:      permissionsOf(c),
		Ceiling:          ceilingOf(c),
		Logger:           p.logger,
		Observe:          p.counts.delivered,
	}
	for _, name := range c.Webhook.Secrets {
		secret, err := signer.ReadCredential(os.Getenv(credentialsDirectory), name)
		if err != nil {
			return config, fmt.Errorf("webhook.secrets: %w", err)
		}
		config.Secrets = append(config.Secrets, secret)
	}
	for _, app := range c.GitHub.Apps {
		config.AppIDs = append(config.AppIDs, app.ID)
	}
	return config, nil
}

func (p *parts) githubConfig(c *Config) githubapp.Config {
	apps := make([]githubapp.App, len(c.GitHub.Apps))
	for i, app := range c.GitHub.Apps {
		apps[i] = githubapp.App{ID: app.ID, Organizations: app.Organizations}
	}
	return githubapp.Config{
		APIURL: c.GitHub.APIURL,
		CAFile: c.GitHub.CAFile,
		Apps:   apps,
		AppJWT: func(ctx context.Context, appID int64) (string, time.Time, error) {
			jwt, err := p.signer.AppJWT(p.tracing.everything(ctx), appID)
			return jwt.JWT, jwt.Expiry, err
		},
		PolicyMaxAge:  *c.GitHub.PolicyMaxAge,
		MaxConcurrent: c.GitHub.MaxConcurrent,
		State:         p.state,
		Needs:         needs(c),
		Observe:       p.counts.called,
		UserAgent:     "octo-stsd/" + p.version,
		Logger:        p.logger,
	}
}
