package appliance

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"time"

	"go.etcd.io/bbolt"
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

func newVerifier(ctx context.Context, c *Config, logger *zap.Logger) (*idtoken.Verifier, error) {
	issuers := make([]idtoken.Issuer, len(c.Issuers))
	for i, issuer := range c.Issuers {
		issuers[i] = idtoken.Issuer{
			URL: issuer.URL, JWKSURL: issuer.JWKSURL, JWKSFile: issuer.JWKSFile, CAFile: issuer.CAFile,
			MaxLifetime: issuer.MaxLifetime, SingleUse: issuer.SingleUse,
		}
		for _, network := range issuer.Networks {
			prefix, err := netip.ParsePrefix(network)
			if err != nil {
				return nil, fmt.Errorf("issuer %s: %w", issuer.URL, err)
			}
			issuers[i].Networks = append(issuers[i].Networks, prefix)
		}
	}
	return idtoken.New(ctx, idtoken.Config{Issuers: issuers, Logger: logger})
}

// newService also tells the verifier which single-use ID tokens the audit log has
// seen, so that a restart gives none of them a second life.
func newService(ctx context.Context, c *Config, verifier *idtoken.Verifier, github *githubapp.Client, log *audit.Log, counts *metrics, logger *zap.Logger) (*sts.Service, error) {
	service, err := sts.New(ctx, sts.Config{
		Domain:           c.Domain,
		PolicyRepository: c.GitHub.PolicyRepository,
		Verifier:         verifier,
		GitHub:           github,
		Audit:            log,
		Permissions:      permissionsOf(c),
		Ceiling:          ceilingOf(c),
		DeniedPerSubject: c.Limits.DeniedPerSubject,
		DeniedPerOwner:   c.Limits.DeniedPerOwner,
		Logger:           logger,
		Observe:          counts.observe,
	})
	if err != nil {
		return nil, err
	}
	return service, recallShown(c, verifier)
}

func permissionsOf(c *Config) trustpolicy.Catalog {
	return trustpolicy.GitHubPermissions().With(c.Permissions)
}

func ceilingOf(c *Config) trustpolicy.Ceiling {
	return trustpolicy.Ceiling{OrganizationOnly: c.Ceiling.Policies == "organization", Permissions: c.Ceiling.Permissions}
}

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

// recallGrants tells service who was granted something lately, while it serves:
// that only matters to those who come while strangers use up what they have.
func recallGrants(ctx context.Context, c *Config, service *sts.Service, logger *zap.Logger) {
	for record, err := range audit.ReadSince(c.Audit.Directory, time.Now().Add(-recalledGrants)) {
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			logger.Error("looking in the audit log for who was granted something lately", zap.Error(err))
			return
		}
		if e := record.Entry; e.Kind == audit.Outcome && e.Decision == audit.DecisionGranted {
			service.Granted(e.Issuer, e.Subject, e.Scope, e.Identity)
		}
	}
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

func newWebhook(ctx context.Context, c *Config, state *bbolt.DB, github *githubapp.Client, log *audit.Log, counts *metrics, logger *zap.Logger) (*webhook.Receiver, error) {
	config := webhook.Config{
		State:            state,
		GitHub:           github,
		Audit:            log,
		AuditDirectory:   c.Audit.Directory,
		PolicyRepository: c.GitHub.PolicyRepository,
		Permissions:      permissionsOf(c),
		Ceiling:          ceilingOf(c),
		Logger:           logger,
		Observe:          counts.delivered,
	}
	for _, name := range c.Webhook.Secrets {
		secret, err := signer.ReadCredential(os.Getenv(credentialsDirectory), name)
		if err != nil {
			return nil, fmt.Errorf("webhook.secrets: %w", err)
		}
		config.Secrets = append(config.Secrets, secret)
	}
	for _, app := range c.GitHub.Apps {
		config.AppIDs = append(config.AppIDs, app.ID)
	}
	return webhook.New(ctx, config)
}

func newGitHub(ctx context.Context, c *Config, state *bbolt.DB, signerClient *signer.Client, version string, logger *zap.Logger) (*githubapp.Client, error) {
	apps := make([]githubapp.App, len(c.GitHub.Apps))
	for i, app := range c.GitHub.Apps {
		apps[i] = githubapp.App{ID: app.ID, Organizations: app.Organizations}
	}
	return githubapp.New(ctx, githubapp.Config{
		APIURL: c.GitHub.APIURL,
		CAFile: c.GitHub.CAFile,
		Apps:   apps,
		AppJWT: func(ctx context.Context, appID int64) (string, time.Time, error) {
			jwt, err := signerClient.AppJWT(ctx, appID)
			return jwt.JWT, jwt.Expiry, err
		},
		PolicyMaxAge:  *c.GitHub.PolicyMaxAge,
		MaxConcurrent: c.GitHub.MaxConcurrent,
		State:         state,
		Needs:         needs(c),
		UserAgent:     "octo-stsd/" + version,
		Logger:        logger,
	})
}

func adminHandler(h *health, m *metrics) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", h.healthz)
	mux.HandleFunc("GET /readyz", h.readyz)
	mux.Handle("GET /metrics", m.handler())
	return mux
}
