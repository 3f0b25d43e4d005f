package githubapp_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"
)

// The two benchmarks do one and the same thing to the same fake, whose own work
// is in both figures: compare their differences, not their ratio alone.

// BenchmarkMint is a mint as an exchange makes it.
func BenchmarkMint(b *testing.B) {
	w := newWorldTB(nil, b)
	inst, err := w.client.Installation(w.ctx, "acme", "app")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := w.client.Mint(w.ctx, inst, readIssues); err != nil {
				b.Error(err)
			}
		}
	})
}

// BenchmarkMintFloor is the least that a Go program can do to mint: one POST
// with a bare http.Client, JSON both ways, nothing checked.
func BenchmarkMintFloor(b *testing.B) {
	w := newWorldTB(nil, b)
	inst, err := w.client.Installation(w.ctx, "acme", "app")
	if err != nil {
		b.Fatal(err)
	}
	jwt, _, err := w.signer.appJWT(w.ctx, appID)
	if err != nil {
		b.Fatal(err)
	}
	client := w.github.Client()
	url := fmt.Sprintf("%s/app/installations/%d/access_tokens", w.github.URL(), inst.ID)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := bareMint(client, url, jwt); err != nil {
				b.Error(err)
			}
		}
	})
}

func bareMint(client *http.Client, url, jwt string) error {
	body, err := json.Marshal(map[string]any{"repositories": readIssues.Repositories, "permissions": readIssues.Permissions})
	if err != nil {
		return err
	}
	request, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+jwt)
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	var minted struct {
		Token     string    `json:"token"`
		ExpiresAt time.Time `json:"expires_at"`
	}
	return json.Unmarshal(answer, &minted)
}

// BenchmarkFile is a policy at hand: no call.
func BenchmarkFile(b *testing.B) {
	w := newWorldTB(nil, b)
	inst, err := w.client.Installation(w.ctx, "acme", "app")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.client.File(w.ctx, inst, "app", policyPath); err != nil {
			b.Fatal(err)
		}
	}
}
