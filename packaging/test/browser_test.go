//go:build packages

package packaging_test

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

// browser is what the operator drives: it submits the one form of each page with what it holds.
type browser struct {
	t      *testing.T
	client *http.Client
	at     *url.URL
	page   *html.Node
	text   string
}

func newBrowser(t *testing.T, client *http.Client) *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client.Jar = jar
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
	if response.StatusCode != http.StatusOK {
		b.t.Fatalf("%s: %s\n%s", request.URL, response.Status, body)
	}
	if b.page, err = html.Parse(strings.NewReader(string(body))); err != nil {
		b.t.Fatal(err)
	}
	b.at, b.text = response.Request.URL, string(body)
}

// submit sends the page's form as it is, but for changes; an empty value takes the field away.
func (b *browser) submit(changes map[string]string) {
	b.t.Helper()
	fields, target := url.Values{}, (*url.URL)(nil)
	selected := ""
	for n := range b.page.Descendants() {
		a := map[string]string{}
		for _, attribute := range n.Attr {
			a[attribute.Key] = attribute.Val
		}
		switch n.Data {
		case "form":
			target, _ = b.at.Parse(a["action"])
		case "input":
			if _, checked := a["checked"]; checked || a["type"] != "checkbox" {
				fields.Add(a["name"], a["value"])
			}
		case "select":
			selected = a["name"]
		case "option":
			value, given := a["value"]
			if !given && n.FirstChild != nil {
				value = n.FirstChild.Data
			}
			if _, chosen := a["selected"]; chosen || !fields.Has(selected) {
				fields.Set(selected, value)
			}
		}
	}
	if target == nil {
		b.t.Fatalf("%s has no form:\n%s", b.at, b.text)
	}
	for name, value := range changes {
		fields.Del(name)
		if value != "" {
			fields.Set(name, value)
		}
	}
	request, err := http.NewRequest(http.MethodPost, target.String(), strings.NewReader(fields.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Origin", fmt.Sprintf("%s://%s", b.at.Scheme, b.at.Host))
	site := "cross-site"
	if target.Host == b.at.Host {
		site = "same-origin"
	}
	b.do(request, site)
}
