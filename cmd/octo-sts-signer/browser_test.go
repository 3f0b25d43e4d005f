package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"

	"golang.org/x/net/html"
)

// browser is what a person drives: it reads forms out of pages and submits them with what they hold, follows redirects,
// and says of each request where it comes from, as browsers do.
type browser struct {
	t      *testing.T
	client *http.Client
	at     *url.URL
	page   *html.Node
	text   string
	status int
}

func newBrowser(t *testing.T, client *http.Client) *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client.Jar = jar
	client.CheckRedirect = nil
	return &browser{t: t, client: client}
}

func (b *browser) open(address string) {
	b.t.Helper()
	request, err := http.NewRequest(http.MethodGet, address, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	b.do(request, "none")
}

func (b *browser) do(request *http.Request, site string) {
	b.t.Helper()
	request.Header.Set("Sec-Fetch-Site", site)
	response, err := b.client.Do(request)
	if err != nil {
		b.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	if b.page, err = html.Parse(strings.NewReader(string(body))); err != nil {
		b.t.Fatal(err)
	}
	b.at, b.text, b.status = response.Request.URL, string(body), response.StatusCode
}

// form is the one form of the page, with what it would send untouched.
type form struct {
	action *url.URL
	fields url.Values
}

func (b *browser) form() form {
	b.t.Helper()
	f := form{fields: url.Values{}}
	var walk func(*html.Node, string)
	walk = func(n *html.Node, selectName string) {
		a := attributes(n)
		switch n.Data {
		case "form":
			target, err := b.at.Parse(a["action"])
			if err != nil || a["method"] != "post" {
				b.t.Fatalf("the form goes to %q by %q", a["action"], a["method"])
			}
			f.action = target
		case "input":
			_, checked := a["checked"]
			if a["type"] != "checkbox" || checked {
				f.fields.Add(a["name"], a["value"])
			}
		case "select":
			selectName = a["name"]
		case "option":
			value, given := a["value"]
			if !given && n.FirstChild != nil {
				value = n.FirstChild.Data
			}
			if _, selected := a["selected"]; selected || !f.fields.Has(selectName) {
				f.fields.Set(selectName, value)
			}
		}
		for c := n.FirstChild; c != nil; c = c.NextSibling {
			walk(c, selectName)
		}
	}
	walk(b.page, "")
	if f.action == nil {
		b.t.Fatalf("%s has no form:\n%s", b.at, b.text)
	}
	return f
}

func attributes(n *html.Node) map[string]string {
	all := map[string]string{}
	if n.Type == html.ElementNode {
		for _, a := range n.Attr {
			all[a.Key] = a.Val
		}
	}
	return all
}

func (b *browser) submit(f form) {
	b.t.Helper()
	request, err := http.NewRequest(http.MethodPost, f.action.String(), strings.NewReader(f.fields.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Origin", fmt.Sprintf("%s://%s", b.at.Scheme, b.at.Host))
	site := "cross-site"
	if f.action.Host == b.at.Host {
		site = "same-origin"
	}
	b.do(request, site)
}
