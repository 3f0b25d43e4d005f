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

// The same for commits, checks and deliveries.
func TestGoGitHubUnderstandsChecksAndDeliveries(t *testing.T) {
	f, rec := hooked(t)
	ctx := t.Context()
	client := func(credential string) *github.Client {
		c := github.NewClient(f.Client()).WithAuthToken(credential)
		c.BaseURL, _ = url.Parse(f.URL() + "/")
		return c
	}
	installed, app := client(f.mint("")), client(f.jwt())
	f.Push("acme", "one", "feature/x", []Change{{Path: ".github/chainguard/ci.sts.yaml", Content: "issuer: x\n"}})
	for _, one := range rec.all() {
		event := one.header.Get("X-GitHub-Event")
		if _, err := github.ValidatePayloadFromBody("application/json", strings.NewReader(string(one.body)), one.header.Get("X-Hub-Signature-256"), []byte(testSecret)); err != nil {
			t.Errorf("%s: %v", event, err)
		}
		if _, err := github.ParseWebHook(event, one.body); err != nil {
			t.Errorf("%s: %v", event, err)
		}
	}
	compared, _, err := installed.Repositories.CompareCommits(ctx, "acme", "one", "main", "feature/x", nil)
	if err != nil || compared.GetStatus() != "ahead" || len(compared.Files) != 1 || compared.Files[0].GetStatus() != "added" {
		t.Fatalf("CompareCommits: %v, %v", compared, err)
	}
	head := compared.Commits[0].GetSHA()
	tree, _, err := installed.Git.GetTree(ctx, "acme", "one", head, true)
	if err != nil || len(tree.Entries) != 3 || tree.GetTruncated() {
		t.Errorf("GetTree: %v, %v", tree, err)
	}
	commit, _, err := installed.Repositories.GetCommit(ctx, "acme", "one", "feature/x", nil)
	if err != nil || commit.GetSHA() != head || commit.GetCommit().GetTree().GetSHA() == "" {
		t.Errorf("GetCommit: %v, %v", commit, err)
	}
	run, _, err := installed.Checks.CreateCheckRun(ctx, "acme", "one", github.CreateCheckRunOptions{Name: "n", HeadSHA: head, Status: github.String("in_progress")})
	if err != nil {
		t.Fatal(err)
	}
	run, _, err = installed.Checks.UpdateCheckRun(ctx, "acme", "one", run.GetID(), github.UpdateCheckRunOptions{Name: "n", Conclusion: github.String("failure")})
	if err != nil || run.GetStatus() != "completed" || run.GetApp().GetID() != testApp {
		t.Errorf("UpdateCheckRun: %v, %v", run, err)
	}
	runs, _, err := installed.Checks.ListCheckRunsForRef(ctx, "acme", "one", head, &github.ListCheckRunsOptions{CheckName: github.String("n")})
	if err != nil || runs.GetTotal() != 1 {
		t.Errorf("ListCheckRunsForRef: %v, %v", runs, err)
	}
	deliveries, resp, err := app.Apps.ListHookDeliveries(ctx, &github.ListCursorOptions{PerPage: 1})
	if err != nil || len(deliveries) != 1 || resp.Cursor == "" {
		t.Fatalf("ListHookDeliveries: %v, %v", deliveries, err)
	}
	if d, _, err := app.Apps.GetHookDelivery(ctx, deliveries[0].GetID()); err != nil || d.GetGUID() != deliveries[0].GetGUID() || d.Request == nil {
		t.Errorf("GetHookDelivery: %v, %v", d, err)
	}
	var accepted *github.AcceptedError
	if _, _, err := app.Apps.RedeliverHookDelivery(ctx, deliveries[0].GetID()); !errors.As(err, &accepted) {
		t.Errorf("RedeliverHookDelivery: %v", err)
	}
}
