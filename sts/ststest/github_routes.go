package ststest

import (
	"context"
	"fmt"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Routes that tests count, or aim faults at, by name.
const (
	MintRoute         = "POST /app/installations/{installation_id}/access_tokens"
	RevokeRoute       = "DELETE /installation/token"
	ContentsRoute     = "GET /repos/{owner}/{repo}/contents/{path}"
	RepoInstallRoute  = "GET /repos/{owner}/{repo}/installation"
	OrgInstallRoute   = "GET /orgs/{org}/installation"
	UserInstallRoute  = "GET /users/{username}/installation"
	AppRoute          = "GET /app"
	ListInstallsRoute = "GET /app/installations"
	CompareRoute      = "GET /repos/{owner}/{repo}/compare/{basehead}"
	TreeRoute         = "GET /repos/{owner}/{repo}/git/trees/{tree_sha}"
	BlobRoute         = "POST /repos/{owner}/{repo}/git/blobs"
	CommitRoute       = "GET /repos/{owner}/{repo}/commits/{ref}"
	CreateCheckRoute  = "POST /repos/{owner}/{repo}/check-runs"
	UpdateCheckRoute  = "PATCH /repos/{owner}/{repo}/check-runs/{check_run_id}"
	ListChecksRoute   = "GET /repos/{owner}/{repo}/commits/{ref}/check-runs"
	DeliveriesRoute   = "GET /app/hook/deliveries"
	DeliveryRoute     = "GET /app/hook/deliveries/{delivery_id}"
	ConvertRoute      = "POST /app-manifests/{code}/conversions"
	RedeliverRoute    = "POST /app/hook/deliveries/{delivery_id}/attempts"
	unknownRoute      = "unknown"
)

// credential is what a route wants to be called with.
type credential int

const (
	wantAppJWT credential = iota
	wantInstallationToken
	wantNothing
)

// route is one operation of the API.
type route struct {
	name    string // "GET /repos/{owner}/{repo}", as in GitHub's documentation
	wants   credential
	handler func(*request) answer
	calls   atomic.Int64
}

// request is one call, after authentication.
type request struct {
	*http.Request
	g     *GitHub
	app   *app   // the caller where the route wants an App JWT
	grant *grant // the caller where it wants an installation token
	// bucket that the call is counted in; nil where it is in none.
	bucket *rateBucket
}

// routeAll builds g.routes and g.mux.
func (g *GitHub) routeAll() {
	g.mux = http.NewServeMux()
	add := func(name string, wants credential, handler func(*request) answer) {
		r := &route{name: name, wants: wants, handler: handler}
		g.routes = append(g.routes, r)
		pattern := name
		for _, deep := range []string{"/{path}", "/{basehead}", "/{tree_sha}", "/{ref}"} { // those that may hold slashes
			if rest, ok := strings.CutSuffix(name, deep); ok {
				pattern = rest + strings.Replace(deep, "}", "...}", 1)
			}
		}
		if name == unknownRoute {
			pattern = "/"
		}
		g.mux.HandleFunc(pattern, func(w http.ResponseWriter, hr *http.Request) { g.serve(r, w, hr) })
	}
	add(AppRoute, wantAppJWT, (*request).getApp)
	add(ListInstallsRoute, wantAppJWT, (*request).listInstallations)
	add("GET /app/installations/{installation_id}", wantAppJWT, (*request).getInstallation)
	add(MintRoute, wantAppJWT, (*request).mint)
	add(RepoInstallRoute, wantAppJWT, (*request).getRepoInstallation)
	add(OrgInstallRoute, wantAppJWT, (*request).getOrgInstallation)
	add(UserInstallRoute, wantAppJWT, (*request).getUserInstallation)
	add(RevokeRoute, wantInstallationToken, (*request).revoke)
	add("GET /installation/repositories", wantInstallationToken, (*request).listRepositories)
	add("GET /repos/{owner}/{repo}", wantInstallationToken, (*request).getRepository)
	add(ContentsRoute, wantInstallationToken, (*request).getContents)
	add("PUT /repos/{owner}/{repo}/contents/{path}", wantInstallationToken, (*request).putContents)
	add("POST /repos/{owner}/{repo}/issues", wantInstallationToken, (*request).createIssue)
	add(CompareRoute, wantInstallationToken, (*request).compare)
	add(TreeRoute, wantInstallationToken, (*request).getTree)
	add(BlobRoute, wantInstallationToken, (*request).createBlob)
	add(CommitRoute, wantInstallationToken, (*request).getCommit)
	add(CreateCheckRoute, wantInstallationToken, (*request).createCheckRun)
	add(UpdateCheckRoute, wantInstallationToken, (*request).updateCheckRun)
	add(ListChecksRoute, wantInstallationToken, (*request).listCheckRuns)
	add(DeliveriesRoute, wantAppJWT, (*request).listDeliveries)
	add(DeliveryRoute, wantAppJWT, (*request).getDelivery)
	add(RedeliverRoute, wantAppJWT, (*request).redeliver)
	add(ConvertRoute, wantNothing, (*request).convert)
	add(unknownRoute, wantNothing, func(*request) answer { return notFound() })
	// Where the 301 of a renamed repository leads.
	g.mux.HandleFunc("/repositories/{id}", g.byID)
	g.mux.HandleFunc("/repositories/{id}/{rest...}", g.byID)
}

// ServeHTTP serves the API.
func (g *GitHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := g.inFlight.Add(1)
	defer g.inFlight.Add(-1)
	for {
		peak := g.peak.Load()
		if n <= peak || g.peak.CompareAndSwap(peak, n) {
			break
		}
	}
	if g.pages(w, r) || g.gitRequest(w, r) {
		return
	}
	rest, ok := strings.CutPrefix(r.URL.Path, g.config.BasePath)
	if strings.HasSuffix(rest, "/contents") { // the root directory, which has two addresses
		rest += "/"
	}
	// ServeMux would redirect a path that is not clean; GitHub has no such page.
	if !ok || rest == "" || path.Clean(rest) != strings.TrimSuffix(rest, "/") {
		g.serve(g.routes[len(g.routes)-1], w, r)
		return
	}
	if rest != r.URL.Path {
		r2 := new(http.Request)
		*r2 = *r
		u := *r.URL
		u.Path = rest
		u.RawPath = strings.TrimPrefix(r.URL.RawPath, g.config.BasePath)
		r2.URL = &u
		r = r2
	}
	g.mux.ServeHTTP(w, r)
}

// byID serves /repositories/ID/… as the /repos/OWNER/NAME/… that it is.
func (g *GitHub) byID(w http.ResponseWriter, r *http.Request) {
	id, _ := strconv.ParseInt(r.PathValue("id"), 10, 64)
	repo, ok := g.world.repositoryByID(id)
	if !ok {
		g.serve(g.routes[len(g.routes)-1], w, r)
		return
	}
	r2 := r.Clone(r.Context())
	r2.URL.Path = "/repos/" + repo.owner.login + "/" + repo.name
	if rest := r.PathValue("rest"); rest != "" {
		r2.URL.Path += "/" + rest
	}
	r2.URL.RawPath = ""
	g.mux.ServeHTTP(w, r2)
}

// serve answers one request of a route: faults first, then authentication,
// then the route itself.
func (g *GitHub) serve(rt *route, w http.ResponseWriter, hr *http.Request) {
	rt.calls.Add(1)
	if !sleep(hr.Context(), time.Duration(g.latency.Load())) {
		return
	}
	fault := g.faults.take(rt.name, hr)
	if fault != nil && !fault.Lost {
		if done := g.inflict(fault, rt, w, hr); done {
			return
		}
	}
	req := &request{Request: hr, g: g}
	a := req.answer(rt)
	if fault != nil && fault.Lost {
		g.reset(hr)
		return
	}
	g.write(w, req, a, fault)
}

// answer authenticates and runs the route.
func (r *request) answer(rt *route) answer {
	if rt.wants != wantNothing {
		if refusal, ok := r.authenticate(rt.wants); !ok {
			return refusal
		}
	}
	switch {
	case r.grant != nil:
		r.bucket = &r.grant.installation.rate
	case r.app != nil:
		r.bucket = r.app.rate.Load()
	}
	if r.bucket == nil || r.bucket.take(r.g.now()) {
		return rt.handler(r)
	}
	if r.grant != nil {
		return primaryLimit(http.StatusForbidden, fmt.Sprintf("installation ID %d", r.grant.installation.id))
	}
	return primaryLimit(http.StatusForbidden, fmt.Sprintf("app ID %d", r.app.id))
}

// sleep waits for d; false where ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
