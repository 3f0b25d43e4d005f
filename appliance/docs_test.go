package appliance_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/octo-sts/appliance/appliance"
	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/sts/strictyaml"
	"github.com/octo-sts/appliance/sts/trustpolicy"
)

// The examples in the documentation can be used as they stand, but for the files
// and the user that they name.
func TestDocumentedConfigurations(t *testing.T) {
	blocks := yamlBlocks(t, "../docs/configuration.md")
	if len(blocks) != 2 {
		t.Fatalf("docs/configuration.md has %d examples, want octo-stsd.yaml and signer.yaml", len(blocks))
	}
	for i, load := range []func(file string) error{
		func(file string) error { _, err := appliance.Load(file); return err },
		func(file string) error { _, err := signer.LoadConfig(file); return err },
	} {
		file := filepath.Join(t.TempDir(), "example.yaml")
		if err := os.WriteFile(file, []byte(blocks[i]), 0o600); err != nil {
			t.Fatal(err)
		}
		err := load(file)
		var problems strictyaml.Problems
		if err != nil && !errors.As(err, &problems) {
			t.Fatal(err)
		}
		for _, p := range problems {
			if !strings.HasSuffix(p.Message, "no such file or directory") && !strings.HasSuffix(p.Message, "unknown user octo-sts") {
				t.Errorf("%s", p)
			}
		}
	}
}

// The README's first policy is one that lint has nothing to say about.
func TestDocumentedPolicy(t *testing.T) {
	for _, policy := range yamlBlocks(t, "../README.md") {
		for _, finding := range trustpolicy.Lint("deploy.sts.yaml", []byte(policy), trustpolicy.GitHubPermissions()) {
			t.Errorf("%+v", finding)
		}
	}
}

func yamlBlocks(t *testing.T, file string) (blocks []string) {
	t.Helper()
	document, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, rest := range strings.Split(string(document), "```yaml\n")[1:] {
		block, _, _ := strings.Cut(rest, "```")
		blocks = append(blocks, block)
	}
	if len(blocks) == 0 {
		t.Fatalf("%s has no example", file)
	}
	return blocks
}
