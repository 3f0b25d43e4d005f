package ststest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
)

// timeFormat is how GitHub writes times.
const timeFormat = "2006-01-02T15:04:05Z"

// describe makes r.json: GitHub's full-repository schema, with the fake's own
// addresses. The caller holds world.mu.
func (g *GitHub) describe(r *repository) {
	full := r.owner.login + "/" + r.name
	api, html := g.url+"/repos/"+full, g.web()+"/"+full
	created := r.created.UTC().Format(timeFormat)
	visibility := "private"
	if r.public {
		visibility = "public"
	}
	d := map[string]any{
		"id": r.id, "node_id": nodeID("R", r.id), "name": r.name, "full_name": full, "owner": g.account(r.owner),
		"private": !r.public, "visibility": visibility, "url": api, "html_url": html, "description": nil, "fork": r.fork,
		"default_branch": r.defaultBranch, "git_url": "git://github.test/" + full + ".git", "clone_url": html + ".git",
		"ssh_url": "git@github.test:" + full + ".git", "svn_url": html, "mirror_url": nil, "homepage": nil, "language": nil,
		"license": nil, "topics": []string{}, "created_at": created, "updated_at": created, "pushed_at": created, "size": 0,
		"git_refs_url": api + "/git/refs{/sha}", "git_tags_url": api + "/git/tags{/sha}", "git_commits_url": api + "/git/commits{/sha}",
		"contents_url": api + "/contents/{+path}", "archive_url": api + "/{archive_format}{/ref}", "compare_url": api + "/compare/{base}...{head}",
	}
	for name, suffix := range map[string]string{
		"assignees": "/assignees{/user}", "blobs": "/git/blobs{/sha}", "branches": "/branches{/branch}",
		"collaborators": "/collaborators{/collaborator}", "comments": "/comments{/number}", "commits": "/commits{/sha}",
		"contributors": "/contributors", "deployments": "/deployments", "downloads": "/downloads", "events": "/events",
		"forks": "/forks", "hooks": "/hooks", "issue_comment": "/issues/comments{/number}", "issue_events": "/issues/events{/number}",
		"issues": "/issues{/number}", "keys": "/keys{/key_id}", "labels": "/labels{/name}", "languages": "/languages",
		"merges": "/merges", "milestones": "/milestones{/number}", "notifications": "/notifications{?since,all,participating}",
		"pulls": "/pulls{/number}", "releases": "/releases{/id}", "stargazers": "/stargazers", "statuses": "/statuses/{sha}",
		"subscribers": "/subscribers", "subscription": "/subscription", "tags": "/tags", "teams": "/teams", "trees": "/git/trees{/sha}",
	} {
		d[name+"_url"] = api + suffix
	}
	for _, flag := range []string{"issues", "projects", "wiki", "downloads"} {
		d["has_"+flag] = true
	}
	for _, flag := range []string{"has_pages", "has_discussions", "disabled"} {
		d[flag] = false
	}
	d["archived"] = r.archived
	for _, count := range []string{"forks", "forks_count", "open_issues", "open_issues_count", "stargazers_count", "watchers", "watchers_count", "network_count", "subscribers_count"} {
		d[count] = 0
	}
	var err error
	if r.json, err = json.Marshal(d); err != nil {
		panic(fmt.Sprintf("fake GitHub: describing a repository: %v", err))
	}
}

// account is GitHub's simple-user schema.
func (g *GitHub) account(o *owner) map[string]any {
	kind := "Organization"
	if o.user {
		kind = "User"
	}
	api := g.url + "/users/" + o.login
	return map[string]any{
		"login": o.login, "id": o.id, "node_id": nodeID("O", o.id), "avatar_url": g.url + "/avatars/" + o.login, "gravatar_id": "",
		"url": api, "html_url": g.web() + "/" + o.login, "followers_url": api + "/followers", "following_url": api + "/following{/other_user}",
		"gists_url": api + "/gists{/gist_id}", "starred_url": api + "/starred{/owner}{/repo}", "subscriptions_url": api + "/subscriptions",
		"organizations_url": api + "/orgs", "repos_url": api + "/repos", "events_url": api + "/events{/privacy}",
		"received_events_url": api + "/received_events", "type": kind, "site_admin": false,
	}
}

// sortByID puts described objects in the order of their IDs, as GitHub lists them.
func sortByID(all []json.RawMessage) {
	id := func(m json.RawMessage) int64 {
		var v struct {
			ID int64 `json:"id"`
		}
		json.Unmarshal(m, &v)
		return v.ID
	}
	slices.SortFunc(all, func(a, b json.RawMessage) int { return cmp.Compare(id(a), id(b)) })
}

// orEmpty is s, or an empty slice where it is nil: JSON's [], not null.
func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
