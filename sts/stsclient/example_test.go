package stsclient_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"golang.org/x/oauth2"

	"github.com/octo-sts/appliance/sts/stsclient"
	"github.com/octo-sts/appliance/sts/ststest"
)

// A program that runs for long has a TokenSource, and builds its HTTP client on that.
func ExampleClient_TokenSource() {
	appliance, done := startAppliance()
	defer done()
	ctx := context.Background()

	client, err := stsclient.New(ctx, stsclient.Config{
		URL:        appliance.URL(), // https://sts.example.com
		Scope:      "my-org/my-repo",
		Identity:   "deploy",
		IDToken:    func(context.Context) (string, error) { return idToken(appliance) }, // of the CI system, a file, …
		HTTPClient: appliance.Client(),                                                  // leave it out, unless there is a CA of your own
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	source := client.TokenSource(ctx)

	github := oauth2.NewClient(context.WithValue(ctx, oauth2.HTTPClient, appliance.GitHub.Client()), source)
	resp, err := github.Get(appliance.GitHub.URL() + "/repos/my-org/my-repo/contents/README.md")
	if err != nil {
		fmt.Println(err)
		return
	}
	resp.Body.Close()
	fmt.Println(resp.Status)

	// At the end nobody needs the token any more.
	token, err := source.Token()
	if err == nil {
		err = client.Revoke(ctx, token.AccessToken)
	}
	fmt.Println(err, appliance.GitHub.IsLive(token.AccessToken))
	// Output:
	// 200 OK
	// <nil> false
}

// A refusal says who was refused, and how its reason is found; the reason itself stays with
// the appliance's operator.
func ExampleRefusedError() {
	appliance, done := startAppliance()
	defer done()
	ctx := context.Background()
	client, err := stsclient.New(ctx, stsclient.Config{
		URL: appliance.URL(), Scope: "my-org/my-repo", Identity: "no-such-policy", HTTPClient: appliance.Client(),
		IDToken: func(context.Context) (string, error) { return idToken(appliance) },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = client.Exchange(ctx)
	var refused *stsclient.RefusedError
	if errors.As(err, &refused) {
		fmt.Println(refused.Status, refused.RequestID != "", refused.Sent.Subject, refused.Sent.Audiences)
	}
	// Output:
	// 403 true repo:my-org/my-repo:ref:refs/heads/main [sts.example.com]
}

// startAppliance runs the real daemon and signer against a fake GitHub, with the policy
// deploy in my-org/my-repo.
func startAppliance() (s *ststest.Service, done func()) {
	s, err := ststest.Start(context.Background(), ststest.ServiceConfig{BinDir: programs(), TLS: true})
	if err != nil {
		panic(err)
	}
	s.GitHub.AddRepository("my-org", "my-repo")
	s.GitHub.PutFile("my-org", "my-repo", "README.md", "# my-repo\n")
	s.GitHub.Install(ststest.DefaultApp, "my-org", ststest.InstallOptions{})
	s.GitHub.PutPolicy("my-org", "my-repo", "deploy",
		"issuer: "+s.Issuer.URL()+"\nsubject: repo:my-org/my-repo:ref:refs/heads/main\npermissions: {contents: read}\n")
	return s, func() {
		if err := s.Close(); err != nil {
			panic(err)
		}
	}
}

func idToken(s *ststest.Service) (string, error) {
	claims := ststest.GitHubActions{Owner: "my-org", Repo: "my-repo"}.Claims()
	claims["aud"] = "sts.example.com"
	return s.Issuer.Sign(claims)
}

// programs is where the real programs are: $OCTO_STS_BIN as the Makefile sets it, or they
// are built, into the directory of the test program, which go test removes.
var programs = sync.OnceValue(func() string {
	if dir := os.Getenv("OCTO_STS_BIN"); dir != "" {
		return dir
	}
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	dir := filepath.Join(filepath.Dir(self), "programs")
	for _, name := range []string{"octo-stsd", "octo-sts-signer"} {
		build := exec.Command("go", "build", "-o", filepath.Join(dir, name), "github.com/octo-sts/appliance/cmd/"+name)
		if out, err := build.CombinedOutput(); err != nil {
			panic(fmt.Sprintf("building %s: %v\n%s", name, err, out))
		}
	}
	return dir
})
