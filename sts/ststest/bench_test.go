package ststest

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// BenchmarkMint is what the fake costs a benchmark of the appliance: one mint
// over HTTP/2, with its client.
func BenchmarkMint(b *testing.B) {
	g, err := NewGitHub(b.Context(), GitHubConfig{})
	if err != nil {
		b.Fatal(err)
	}
	defer g.Close()
	g.AddApp(testApp, &testKey.PublicKey, map[string]string{"contents": "write"})
	g.AddRepository("acme", "one")
	url := fmt.Sprintf("%s/app/installations/%d/access_tokens", g.URL(), g.Install(testApp, "acme", InstallOptions{}))
	jwt, _, err := AppJWT(testKey, testApp, time.Now())
	if err != nil {
		b.Fatal(err)
	}
	client := g.Client()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			req, err := http.NewRequest("POST", url, strings.NewReader(`{"repositories":["one"],"permissions":{"contents":"read"}}`))
			if err != nil {
				b.Error(err)
				return
			}
			req.Header.Set("Authorization", "Bearer "+jwt)
			resp, err := client.Do(req)
			if err != nil {
				b.Error(err)
				return
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusCreated {
				b.Error(resp.Status, err)
				return
			}
			resp.Body.Close()
		}
	})
}
