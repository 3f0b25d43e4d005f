package ststest

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-github/v60/github"
)

// A client that was written for GitHub must understand the fake.
func TestGoGitHubUnderstandsTheFake(t *testing.T) {
	for _, base := range []string{"", "/api/v3"} {
		t.Run("base path "+base, func(t *testing.T) {
			f := newFixture(t, GitHubConfig{BasePath: base, TokenForm: JWTTokens})
			f.PutFile("acme", "one", ".github/chainguard/ci.sts.yaml", "issuer: x\n")
			f.PutSymlink("acme", "one", "link", "elsewhere")
			ctx := t.Context()
			client := func(credential string) *github.Client {
				c := github.NewClient(f.Client()).WithAuthToken(credential)
				c.BaseURL, _ = url.Parse(f.URL() + "/")
				return c
			}

			app := client(f.jwt())
			a, _, err := app.Apps.Get(ctx, "")
			if err != nil || a.GetID() != testApp || a.GetSlug() == "" {
				t.Fatalf("Apps.Get: %v, %v", a, err)
			}
			all, _, err := app.Apps.ListInstallations(ctx, nil)
			if err != nil || len(all) != 1 || all[0].GetAccount().GetLogin() != "acme" {
				t.Fatalf("ListInstallations: %v, %v", all, err)
			}
			inst, _, err := app.Apps.FindRepositoryInstallation(ctx, "acme", "one")
			if err != nil || inst.GetID() != f.installation || inst.GetPermissions().GetContents() != "write" {
				t.Fatalf("FindRepositoryInstallation: %v, %v", inst, err)
			}
			_, resp, err := app.Apps.FindOrganizationInstallation(ctx, "other")
			if resp == nil || resp.StatusCode != http.StatusNotFound {
				t.Fatalf("FindOrganizationInstallation: %v", err)
			}
			token, _, err := app.Apps.CreateInstallationToken(ctx, inst.GetID(), &github.InstallationTokenOptions{
				Repositories: []string{"one"}, Permissions: &github.InstallationPermissions{Contents: github.String("read")},
			})
			if err != nil || len(token.Repositories) != 1 || token.GetPermissions().GetMetadata() != "read" || time.Until(token.GetExpiresAt().Time) < 50*time.Minute {
				t.Fatalf("CreateInstallationToken: %v, %v", token, err)
			}

			installed := client(token.GetToken())
			file, _, resp, err := installed.Repositories.GetContents(ctx, "acme", "one", ".github/chainguard/ci.sts.yaml", nil)
			if err != nil {
				t.Fatal(err)
			}
			if content, err := file.GetContent(); content != "issuer: x\n" || err != nil {
				t.Errorf("content %q, %v", content, err)
			}
			if resp.Rate.Limit == 0 || resp.Rate.Remaining >= resp.Rate.Limit || resp.Rate.Reset.Before(time.Now()) {
				t.Errorf("rate %+v", resp.Rate)
			}
			_, dir, _, err := installed.Repositories.GetContents(ctx, "acme", "one", "", nil)
			if err != nil || len(dir) != 2 {
				t.Errorf("root directory: %v, %v", dir, err)
			}
			link, _, _, err := installed.Repositories.GetContents(ctx, "acme", "one", "link", nil)
			if err != nil || link.GetType() != "symlink" || link.GetTarget() != "elsewhere" {
				t.Errorf("symlink: %v, %v", link, err)
			}
			_, _, err = installed.Repositories.CreateFile(ctx, "acme", "one", "new", &github.RepositoryContentFileOptions{Message: github.String("m"), Content: []byte("x")})
			var refused *github.ErrorResponse
			if !errors.As(err, &refused) || refused.Response.StatusCode != http.StatusForbidden || !strings.Contains(refused.Message, "not accessible by integration") {
				t.Errorf("writing with a token that may read: %v", err)
			}
			repos, _, err := installed.Apps.ListRepos(ctx, nil)
			if err != nil || repos.GetTotalCount() != 1 || repos.Repositories[0].GetFullName() != "acme/one" {
				t.Errorf("ListRepos: %v, %v", repos, err)
			}

			f.Fail(withCount(PrimaryRateLimit(http.StatusForbidden, time.Now().Add(time.Minute))))
			var limited *github.RateLimitError
			if _, _, err := app.Apps.Get(ctx, ""); !errors.As(err, &limited) {
				t.Errorf("primary limit: %v", err)
			}
			f.Fail(withCount(SecondaryRateLimit(http.StatusForbidden, time.Minute)))
			var secondary *github.AbuseRateLimitError
			if _, _, err := client(f.jwt()).Apps.Get(ctx, ""); !errors.As(err, &secondary) || secondary.GetRetryAfter() != time.Minute {
				t.Errorf("secondary limit: %v", err)
			}

			if _, err := installed.Apps.RevokeInstallationToken(ctx); err != nil || f.IsLive(token.GetToken()) {
				t.Errorf("RevokeInstallationToken: %v; live %v", err, f.IsLive(token.GetToken()))
			}
		})
	}
}
