package ststest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// answer is what a route says; GitHub.write puts it on the wire.
type answer struct {
	status      int
	body        any               // marshalled, unless raw is set
	raw         []byte            // sent as it is
	contentType string            // default: application/json; charset=utf-8
	header      map[string]string // beside the usual ones
}

// refusal is an error body as GitHub writes it.
func refusal(status int, message, documentation string) answer {
	return answer{status: status, body: map[string]any{
		"message":           message,
		"documentation_url": "https://docs.github.com/rest" + documentation,
		"status":            strconv.Itoa(status),
	}}
}

func notFound() answer       { return refusal(http.StatusNotFound, "Not Found", "") }
func badCredentials() answer { return refusal(http.StatusUnauthorized, "Bad credentials", "") }

// archivedRefusal is GitHub's answer to what would write to an archived
// repository.
func archivedRefusal() answer {
	return refusal(http.StatusForbidden, "Repository was archived so is read-only.", "")
}

func unprocessable(message string) answer {
	return refusal(http.StatusUnprocessableEntity, message, "")
}

// forbidden is GitHub's plain refusal of an App that lacks a permission.
// Accepted says what would have done, as "contents=read".
func forbidden(accepted string) answer {
	a := refusal(http.StatusForbidden, "Resource not accessible by integration", "")
	if accepted != "" {
		a.header = map[string]string{"X-Accepted-GitHub-Permissions": accepted}
	}
	return a
}

// primaryLimit is GitHub's answer where the hour of an installation (or App) is
// used up: 403 or 429, by GitHub's documentation. The x-ratelimit headers say
// the rest.
func primaryLimit(status int, whose string) answer {
	return refusal(status, "API rate limit exceeded for "+whose+".",
		"/overview/rate-limits-for-the-rest-api")
}

// write puts a on the wire, with the headers that GitHub sends.
func (g *GitHub) write(w http.ResponseWriter, r *request, a answer, fault *Fault) {
	body := a.raw
	if body == nil && a.body != nil {
		var err error
		if body, err = json.Marshal(a.body); err != nil {
			panic(fmt.Sprintf("fake GitHub: marshalling an answer: %v", err))
		}
	}
	h := w.Header()
	g.usualHeaders(h, fault)
	for k, v := range a.header {
		h.Set(k, v)
	}
	if body != nil {
		if a.contentType == "" {
			a.contentType = "application/json; charset=utf-8"
		}
		h.Set("Content-Type", a.contentType)
		h.Set("X-GitHub-Media-Type", "github.v3; format=json")
	}
	if a.status == http.StatusOK && r.Method == http.MethodGet {
		tag := g.etag(r, body)
		h.Set("ETag", tag)
		h.Set("Cache-Control", "private, max-age=60, s-maxage=60")
		h.Set("Vary", "Accept, Authorization, Cookie, X-GitHub-OTP")
		if matches(r.Header.Get("If-None-Match"), tag) {
			a.status, body = http.StatusNotModified, nil
			h.Del("Content-Type")
			if r.bucket != nil {
				r.bucket.giveBack()
			}
		}
	}
	if r.bucket != nil {
		r.bucket.headers(h)
	}
	if fault != nil && fault.Truncate {
		body = body[:len(body)/2]
	}
	w.WriteHeader(a.status)
	w.Write(body)
}

// usualHeaders are on every answer of GitHub's.
func (g *GitHub) usualHeaders(h http.Header, fault *Fault) {
	now := g.now()
	if fault != nil {
		now = now.Add(fault.ClockOffset)
	}
	h.Set("Date", now.UTC().Format(http.TimeFormat))
	h.Set("Server", "github.com")
	h.Set("X-GitHub-Request-Id", fmt.Sprintf("FA4E:%04X", g.requestID.Add(1)))
	h.Set("X-GitHub-Api-Version-Selected", "2022-11-28")
}

// etag is the entity tag of body.
func (g *GitHub) etag(r *request, body []byte) string {
	sum := sha256.New()
	sum.Write(body)
	if g.config.ETagPerToken && r.grant != nil {
		sum.Write([]byte(r.grant.sha256))
	}
	tag := `"` + hex.EncodeToString(sum.Sum(nil)) + `"`
	if g.config.WeakETags {
		tag = "W/" + tag
	}
	return tag
}

// matches compares an If-None-Match header with tag: weakly, as RFC 9110
// section 13.1.2 has it.
func matches(header, tag string) bool {
	if strings.TrimSpace(header) == "*" {
		return true
	}
	want := strings.TrimPrefix(tag, "W/")
	for one := range strings.SplitSeq(header, ",") {
		if strings.TrimPrefix(strings.TrimSpace(one), "W/") == want {
			return true
		}
	}
	return false
}

// page is the slice of all that the query's per_page and page ask for, and a
// Link header as GitHub has it ("" where there is one page).
func page[T any](r *request, all []T) (part []T, link string) {
	return pageOf(r, all, 30, 100)
}

// pageOf is page with other sizes: that of a query that asks for none, and the
// largest.
func pageOf[T any](r *request, all []T, usual, largest int) (part []T, link string) {
	query := r.URL.Query()
	size, err := strconv.Atoi(query.Get("per_page"))
	if err != nil || size < 1 {
		size = usual
	}
	size = min(size, largest)
	number, err := strconv.Atoi(query.Get("page"))
	if err != nil || number < 1 {
		number = 1
	}
	last := max(1, (len(all)+size-1)/size)
	from := min((number-1)*size, len(all))
	part = all[from:min(from+size, len(all))]

	var b bytes.Buffer
	add := func(n int, rel string) {
		query.Set("page", strconv.Itoa(n))
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, `<%s%s?%s>; rel="%s"`, r.g.url, r.URL.Path, query.Encode(), rel)
	}
	if number > 1 {
		add(min(number-1, last), "prev")
	}
	if number < last {
		add(number+1, "next")
		add(last, "last")
	}
	if number > 1 {
		add(1, "first")
	}
	return part, b.String()
}

// withLink is a with a Link header, unless that is empty.
func withLink(a answer, link string) answer {
	if link != "" {
		a.header = map[string]string{"Link": link}
	}
	return a
}

// rateBucket is the primary rate limit of one installation, or of an App's own
// calls: so many requests an hour.
type rateBucket struct {
	mu    sync.Mutex // guards the rest
	limit int
	used  int
	reset time.Time
}

// take counts one request; false where none is left.
func (b *rateBucket) take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !now.Before(b.reset) {
		b.used, b.reset = 0, now.Add(time.Hour).Truncate(time.Second)
	}
	if b.used >= b.limit {
		return false
	}
	b.used++
	return true
}

// giveBack undoes take: an answer 304 is free.
func (b *rateBucket) giveBack() {
	b.mu.Lock()
	b.used--
	b.mu.Unlock()
}

func (b *rateBucket) set(limit, used int, reset time.Time) {
	b.mu.Lock()
	b.limit, b.used, b.reset = limit, used, reset
	b.mu.Unlock()
}

// headers writes the x-ratelimit headers.
func (b *rateBucket) headers(h http.Header) {
	b.mu.Lock()
	limit, used, reset := b.limit, b.used, b.reset
	b.mu.Unlock()
	h.Set("X-RateLimit-Limit", strconv.Itoa(limit))
	h.Set("X-RateLimit-Remaining", strconv.Itoa(max(0, limit-used)))
	h.Set("X-RateLimit-Used", strconv.Itoa(used))
	h.Set("X-RateLimit-Reset", strconv.FormatInt(reset.Unix(), 10))
	h.Set("X-RateLimit-Resource", "core")
}
