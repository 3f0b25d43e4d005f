package appliance

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/idtoken"
)

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
	verifier, err := idtoken.New(ctx, idtoken.Config{Issuers: issuers, Logger: logger})
	if err != nil {
		return nil, err
	}
	return verifier, rememberShown(verifier, c)
}

// rememberShown tells the verifier which single-use ID tokens the audit log has
// seen, so that a restart gives none of them a second life.
func rememberShown(verifier *idtoken.Verifier, c *Config) error {
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

func newGitHub(ctx context.Context, c *Config, signerClient *signer.Client, version string, logger *zap.Logger) (*githubapp.Client, error) {
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
		PolicyMaxAge: *c.GitHub.PolicyMaxAge,
		UserAgent:    "octo-stsd/" + version,
		Logger:       logger,
	})
}

func adminHandler(h *health, m *metrics) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", h.healthz)
	mux.HandleFunc("GET /readyz", h.readyz)
	mux.Handle("GET /metrics", m.handler())
	return mux
}

// checkWritable finds out at the start what would else fail at night.
func checkWritable(dir string) error {
	f, err := os.CreateTemp(dir, ".writable-*")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}
