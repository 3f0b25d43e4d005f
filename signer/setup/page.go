package setup

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/octo-sts/appliance/sts/trustpolicy"
)

//go:embed page.html
var pageTemplate string

const (
	// maxForm bounds the form of the page, which has some 3 kB.
	maxForm = 64 << 10
	// maxStates bounds how often the manifest can be composed anew.
	maxStates = 32
	// lastAnswer is how long the page that says "done" may take to reach the browser.
	lastAnswer = 5 * time.Second
)

// PageConfig configures a Page.
type PageConfig struct {
	GitHub  GitHub
	Domain  string // public name of the appliance
	Catalog trustpolicy.Catalog
}

// Page is one web page on a loopback address, on which the operator composes the manifest, sees it, and has the browser post
// it to GitHub; and the address that GitHub sends the browser back to. It is good for one App.
//
// Others on the machine can connect to it, and so can what other pages make the browser do. So its path is a secret that
// only the terminal shows, its Host header must be the address itself (or another name could be made to resolve to it),
// requests from other sites are refused by the Origin and Sec-Fetch-Site headers, and GitHub's redirect, which alone
// comes from elsewhere, must carry a state that was made here and travelled through GitHub's page.
type Page struct {
	config   PageConfig
	listener net.Listener
	server   *http.Server
	secret   string // first segment of the path
	view     *template.Template
	back     chan Agreed // holds at most one

	mu     sync.Mutex
	states map[string]Choice // whose manifests were shown; guarded by mu
	done   bool              // GitHub's redirect came; guarded by mu
}

// Agreed is what comes back from GitHub.
type Agreed struct {
	Choice Choice
	Code   string // to Convert
}

// NewPage listens on a free port of 127.0.0.1 and serves the page until Close.
func NewPage(ctx context.Context, c PageConfig) (*Page, error) {
	view, err := template.New("page").Parse(pageTemplate)
	if err != nil {
		return nil, fmt.Errorf("reading the page's template: %w", err)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("serving the page: %w", err)
	}
	p := &Page{config: c, listener: listener, secret: rand.Text(), view: view, back: make(chan Agreed, 1), states: map[string]Choice{}}
	p.server = &http.Server{
		Handler:           p.handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          log.New(io.Discard, "", 0), // its lines hold bytes that peers chose
	}
	go func() { _ = p.server.Serve(listener) }()
	return p, nil
}

// URL is what to open in a browser. It is a secret.
func (p *Page) URL() string { return "http://" + p.address() + "/" + p.secret + "/" }

// address is the only Host that is served.
func (p *Page) address() string { return p.listener.Addr().String() }

// Wait waits until GitHub has sent the browser back, or ctx ends.
func (p *Page) Wait(ctx context.Context) (Agreed, error) {
	select {
	case agreed := <-p.back:
		return agreed, nil
	case <-ctx.Done():
		return Agreed{}, ctx.Err()
	}
}

// Close ends the page, once the answers under way have been sent.
func (p *Page) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), lastAnswer)
	defer cancel()
	if err := p.server.Shutdown(ctx); err != nil {
		return p.server.Close()
	}
	return nil
}

func (p *Page) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /"+p.secret+"/{$}", p.showForm)
	mux.HandleFunc("POST /"+p.secret+"/manifest", p.showManifest)
	mux.HandleFunc("GET /made", p.made)
	sameSite := http.NewCrossOriginProtection().Handler(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Cache-Control", "no-store")
		header.Set("X-Content-Type-Options", "nosniff")
		// GitHub is told where the browser comes from, as without any policy, but not the path, which is a secret.
		header.Set("Referrer-Policy", "origin")
		header.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'")
		if r.Host != p.address() {
			p.refuse(w, http.StatusMisdirectedRequest, "This page has one address, the one that the terminal shows.")
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		sameSite.ServeHTTP(w, r)
	})
}

func (p *Page) refuse(w http.ResponseWriter, status int, text string) {
	w.WriteHeader(status)
	p.render(w, "message", map[string]any{"Title": "Not possible", "Text": text})
}

// render shows a page. A browser that went away is no error of ours.
func (p *Page) render(w http.ResponseWriter, name string, data any) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_ = p.view.ExecuteTemplate(w, name, data)
}

func (p *Page) showForm(w http.ResponseWriter, _ *http.Request) {
	p.render(w, "form", p.formOf(DefaultChoice(), nil))
}

// showManifest shows the manifest of what was picked, and with it the form that posts it to GitHub.
func (p *Page) showManifest(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		p.refuse(w, http.StatusBadRequest, "The form could not be read.")
		return
	}
	choice := readChoice(r.PostForm)
	if problems := choice.Problems(p.config.Catalog); len(problems) > 0 {
		w.WriteHeader(http.StatusUnprocessableEntity)
		p.render(w, "form", p.formOf(choice, problems))
		return
	}
	manifest, err := json.MarshalIndent(choice.Manifest(p.config.Domain, "http://"+p.address()+"/made"), "", "  ")
	if err != nil {
		p.refuse(w, http.StatusInternalServerError, "The manifest could not be written.")
		return
	}
	state, err := p.newState(choice)
	if err != nil {
		p.refuse(w, http.StatusTooManyRequests, err.Error())
		return
	}
	p.render(w, "manifest", map[string]any{
		"Title":    "The manifest",
		"Manifest": string(manifest),
		"Action":   p.config.GitHub.NewAppURL(choice.Owner, state),
		"Owner":    choice.Owner,
		"GitHub":   p.config.GitHub.WebURL,
	})
}

// newState makes the state that GitHub's redirect has to carry for choice. Earlier ones stay good: the browser has a
// button to go back.
func (p *Page) newState(choice Choice) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.states) >= maxStates {
		return "", errors.New("The manifest was composed too often. Stop the command, and begin again.")
	}
	state := rand.Text()
	p.states[state] = choice
	return state, nil
}

// made is where GitHub sends the browser to.
func (p *Page) made(w http.ResponseWriter, r *http.Request) {
	code := r.URL.Query().Get("code")
	choice, status, refusal := p.accept(r.URL.Query().Get("state"), code)
	if refusal != "" {
		p.refuse(w, status, refusal)
		return
	}
	p.back <- Agreed{Choice: choice, Code: code}
	p.render(w, "message", map[string]any{"Title": "GitHub has made the App", "Text": "Its key is on its way into the HSM. The terminal says how it went; this page can be closed."})
}

// accept takes the first redirect that has a state of ours and a code, and no other.
func (p *Page) accept(state, code string) (choice Choice, status int, refusal string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	found := false
	for known, c := range p.states {
		if subtle.ConstantTimeCompare([]byte(known), []byte(state)) == 1 {
			choice, found = c, true
		}
	}
	switch {
	case !found:
		return choice, http.StatusForbidden, "This did not begin at this page, so nothing is done with it."
	case code == "":
		return choice, http.StatusBadRequest, "GitHub sent no code, so there is no App yet. Go back and try again."
	case p.done:
		return choice, http.StatusGone, "An App came from this page already. It is good for one."
	}
	p.done = true
	return choice, http.StatusOK, ""
}

// Elsewhere is what to type on the machine where the browser is, if that is another: a tunnel to the page.
func (p *Page) Elsewhere(host string) string {
	_, port, _ := strings.Cut(p.address(), ":")
	return fmt.Sprintf("ssh -L %s:127.0.0.1:%s %s", port, port, host)
}
