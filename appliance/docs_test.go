package appliance_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/octo-sts/appliance/appliance"
	"github.com/octo-sts/appliance/sts/strictyaml"
)

// The example in the documentation can be used as it stands, but for the files
// that it names.
func TestDocumentedConfiguration(t *testing.T) {
	document, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(document), "```yaml\n")
	example, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("docs/configuration.md has no example")
	}
	file := filepath.Join(t.TempDir(), "octo-stsd.yaml")
	if err := os.WriteFile(file, []byte(example), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = appliance.Load(file)
	var problems strictyaml.Problems
	if err != nil && !errors.As(err, &problems) {
		t.Fatal(err)
	}
	for _, p := range problems {
		if !strings.HasSuffix(p.Message, "no such file or directory") {
			t.Errorf("%s", p)
		}
	}
}
