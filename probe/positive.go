package probe

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/octo-sts/appliance/sts/stsclient"
)

// Positive exchanges an ID token for an installation token, uses it, tries to do more
// with it than it is for, revokes it, and sees whether it is dead.
func (p *Prober) Positive(ctx context.Context) Report {
	began := time.Now()
	r := &run{Prober: p, ctx: ctx}
	expiry := r.certificate()
	idToken, granted := "", stsclient.InstallationToken{}
	ok := r.check("id-token", "an ID token to show", func() (string, error) {
		var err error
		if idToken, err = p.config.IDToken(ctx, Good); err != nil {
			return "", failed("Look at what makes the probe's ID tokens: the signer and its section probe, or --token-source.", "none: %v", err)
		}
		return "an ID token", nil
	})
	if !ok {
		r.skip("without an ID token", "exchange")
	} else {
		ok = r.exchange(idToken, &granted)
	}
	if !ok {
		r.skip("without an installation token", "use", "policy", "write", "reach", "revoke", "dead")
	} else {
		r.use(granted.Value)
	}
	report := NewReport(TargetPositive, began, r.checks)
	report.CertificateExpiry = expiry
	return report
}

// exchange asks as a client does, with its retries.
func (r *run) exchange(idToken string, granted *stsclient.InstallationToken) bool {
	return r.check("exchange", "an installation token", func() (string, error) {
		client, err := stsclient.New(r.ctx, stsclient.Config{
			URL: r.config.URL, Scope: r.config.Scope, Identity: r.config.Identity, HTTPClient: r.client, UserAgent: r.config.UserAgent,
			IDToken: func(context.Context) (string, error) { return idToken, nil },
		})
		if err != nil {
			return "", err
		}
		*granted, err = client.Exchange(r.ctx)
		if err != nil {
			return "", failed(r.adviceFor(err), "%s", cameOf(err))
		}
		if left := time.Until(granted.Expiry); left <= 0 || left > 65*time.Minute {
			return "", failed("Look at this machine's clock, and GitHub's.", "a token that lives until %s", granted.Expiry.UTC().Format(time.RFC3339))
		}
		return "an installation token until " + granted.Expiry.UTC().Format(time.RFC3339), nil
	})
}

// cameOf is what came of an exchange, in a line. A refusal's own text is for a job's log, and as long as that allows.
func cameOf(err error) string {
	var refused *stsclient.RefusedError
	if !errors.As(err, &refused) {
		return err.Error()
	}
	return fmt.Sprintf("HTTP status %d, %s, to an ID token of issuer %s, subject %s and audience %s",
		refused.Status, refused.Message, refused.Sent.Issuer, refused.Sent.Subject, strings.Join(refused.Sent.Audiences, ", "))
}

func (r *run) adviceFor(err error) string {
	var refused *stsclient.RefusedError
	switch {
	case !errors.As(err, &refused):
		return "See whether octo-stsd runs, and whether its name, port and firewall lead to it."
	case refused.Status == http.StatusForbidden:
		return fmt.Sprintf("See that .github/chainguard/%s.sts.yaml is on the default branch of %s and names the probe's issuer and subject, and that the App is installed there and not suspended. Why it was refused: octo-sts audit show --request-id %s.",
			r.config.Identity, r.config.Scope, refused.RequestID)
	case refused.Status == http.StatusUnauthorized:
		return "See that the issuer of the probe's ID tokens is listed, and that the clocks agree."
	}
	return fmt.Sprintf("See what /readyz of the admin listener says, and octo-sts audit show --request-id %s.", refused.RequestID)
}

// use does with an installation token all that is to be done with it.
func (r *run) use(installationToken string) {
	revoked := false
	defer func() {
		if !revoked {
			r.discard(installationToken)
		}
	}()
	repository := "repos/" + r.config.Scope
	path := repository + "/contents/.github/chainguard/" + r.config.Identity + ".sts.yaml"
	var file *answer
	ok := r.check("use", "to read the probe's own policy at GitHub", func() (string, error) {
		var err error
		if file, err = r.askUntil(func(status int) bool { return status == http.StatusOK }, installationToken, path); err != nil {
			return "", failed("See whether GitHub can be reached from here.", "%v", err)
		}
		if file.status != http.StatusOK {
			return "", failed("The policy has to grant contents: read, and the App to have it.", "%s", file.said())
		}
		return "the policy can be read", nil
	})
	if ok {
		r.check("policy", "a policy that grants contents: read and nothing else", func() (string, error) { return grantsReadAlone(file.body) })
	} else {
		r.skip("the policy could not be read", "policy")
	}
	r.check("write", "GitHub to refuse a write, with HTTP status 403", func() (string, error) {
		// A blob that nothing refers to: where GitHub takes it, nobody ever sees it.
		a, err := r.askGitHub(installationToken, http.MethodPost, repository+"/git/blobs", map[string]string{"content": "written by octo-sts's probe", "encoding": "utf-8"})
		if err != nil {
			return "", failed("See whether GitHub can be reached from here.", "%v", err)
		}
		if a.status != http.StatusForbidden {
			return "", failed("The token can do more than the policy should grant: look at its permissions, and at audit entries of this identity.", "%s", a.said())
		}
		return "refused with HTTP status 403", nil
	})
	r.check("reach", "a token for "+r.config.Scope+" alone", func() (string, error) { return r.reach(installationToken) })
	r.check("revoke", "the appliance to revoke the token", func() (string, error) {
		client, err := stsclient.New(r.ctx, stsclient.Config{URL: r.config.URL, HTTPClient: r.client, UserAgent: r.config.UserAgent})
		if err == nil {
			err = client.Revoke(r.ctx, installationToken)
		}
		if err != nil {
			return "", failed("See what /readyz says of GitHub, and whether something between here and the appliance refuses POST /sts/revoke.", "%v", err)
		}
		return "revoked", nil
	})
	revoked = r.check("dead", "GitHub to refuse the token that was revoked, with HTTP status 401", func() (string, error) {
		a, err := r.askUntil(func(status int) bool { return status == http.StatusUnauthorized }, installationToken, path)
		if err != nil {
			return "", failed("See whether GitHub can be reached from here.", "%v", err)
		}
		if a.status != http.StatusUnauthorized {
			return "", failed("Tokens that are revoked live on: look at GitHub's status page, and revoke this App's tokens by suspending its installation.", "%s", a.said())
		}
		return "refused with HTTP status 401", nil
	})
}

// grantsReadAlone looks at the policy in GitHub's answer (the schema content-file, with
// base64 in content).
func grantsReadAlone(body []byte) (string, error) {
	const do = "Give the probe's policy permissions: {contents: read}, and nothing else."
	var file struct {
		Content string `json:"content"`
	}
	var text []byte
	err := json.Unmarshal(body, &file)
	if err == nil {
		text, err = base64.StdEncoding.DecodeString(strings.ReplaceAll(file.Content, "\n", ""))
	}
	var policy struct {
		Permissions map[string]string `json:"permissions"`
	}
	if err == nil {
		err = yaml.Unmarshal(text, &policy)
	}
	if err != nil {
		return "", failed(do, "no policy: %v", err)
	}
	var more []string
	for _, name := range slices.Sorted(maps.Keys(policy.Permissions)) {
		if level := policy.Permissions[name]; name != "contents" && name != "metadata" || level != "read" {
			more = append(more, name+": "+level)
		}
	}
	if policy.Permissions["contents"] != "read" && len(more) == 0 {
		return "", failed(do, "one that does not grant it")
	}
	if len(more) > 0 {
		return "", failed(do, "one that grants %s", strings.Join(more, ", "))
	}
	return "contents: read alone", nil
}

// reach asks which repositories the token is for.
func (r *run) reach(installationToken string) (string, error) {
	a, err := r.askGitHub(installationToken, http.MethodGet, "installation/repositories", nil)
	if err != nil {
		return "", failed("See whether GitHub can be reached from here.", "%v", err)
	}
	var list struct {
		Total        int `json:"total_count"`
		Repositories []struct {
			FullName string `json:"full_name"`
		} `json:"repositories"`
	}
	if a.status != http.StatusOK || json.Unmarshal(a.body, &list) != nil {
		return "", failed("Try again; GitHub's status page says whether it is in trouble.", "%s", a.said())
	}
	for _, one := range list.Repositories {
		if !strings.EqualFold(one.FullName, r.config.Scope) {
			return "", failed("The token is for repositories that it was not asked for: compare the audit entries of this exchange with what GitHub minted, and report it.", "one for %d repositories, %s among them", list.Total, one.FullName)
		}
	}
	if list.Total != 1 {
		return "", failed("Compare the audit entries of this exchange with what GitHub minted.", "one for %d repositories", list.Total)
	}
	return r.config.Scope + " alone", nil
}
