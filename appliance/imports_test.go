package appliance_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/octo-sts/appliance/"

// allowed says what each package of the module may import of the module. A
// package that is not named here may not exist: whoever adds one decides where
// it belongs.
var allowed = map[string][]string{
	"sts/strictyaml":       {},
	"sts/trustpolicy":      {"sts/strictyaml"},
	"sts/audit":            {"sts/audit/checkpoint"},
	"sts/audit/checkpoint": {},
	"sts/audit/forward":    {"sts/audit", "sts/journald"},
	"sts/idtoken":          {},
	"sts/journald":         {},
	"sts/span":             {},
	"sts/githubapp":        {"sts/span"},

	"sts/stspb":              {},
	"sts/stspb/stspbconnect": {"sts/stspb"},
	"sts":                    {"sts/audit", "sts/githubapp", "sts/idtoken", "sts/span", "sts/trustpolicy", "sts/stspb", "sts/stspb/stspbconnect"},

	// What its users import brings nothing of the appliance along.
	"sts/idsource":  {},
	"sts/stsclient": {},

	"webhook": {"sts/audit", "sts/githubapp", "sts/span", "sts/trustpolicy"},

	"signer":         {"sts/strictyaml", "sts/audit/checkpoint", "sts/span", "signer/systemd"},
	"signer/hsm":     {"signer"},
	"signer/setup":   {"signer", "sts/trustpolicy"},
	"signer/systemd": {},

	"probe": {"sts/stsclient"},

	"appliance": {"probe", "signer", "signer/systemd", "sts", "sts/audit", "sts/audit/checkpoint", "sts/audit/forward", "sts/githubapp", "sts/idtoken", "sts/span", "sts/strictyaml", "sts/trustpolicy", "webhook"},

	"systemd": {}, // tests of the units

	// For tests and the demonstration; nothing that is shipped imports them.
	"signer/signertest":      {"signer"},
	"sts/ststest":            {"signer/signertest"},
	"sts/ststest/openapigen": {},

	// What is made for the packages; with the build tag manual alone the commands import it.
	"packaging/manual":   {},
	"packaging/generate": {"packaging/manual", "sts/trustpolicy"},

	"cmd/octo-stsd":       {"appliance", "sts/journald"},
	"cmd/octo-sts":        {"cmd/octo-sts/doctor", "probe", "sts/idsource", "sts/stsclient", "sts/audit", "sts/audit/checkpoint", "sts/idtoken", "sts/trustpolicy"},
	"cmd/octo-sts/doctor": {"signer", "sts/audit"},
	"cmd/octo-sts-signer": {"signer", "signer/hsm", "signer/setup", "signer/systemd", "sts/audit/checkpoint", "sts/journald", "sts/strictyaml", "sts/trustpolicy"},
	"cmd/octo-sts-demo":   {"signer", "sts/audit", "sts/audit/checkpoint", "sts/ststest"},
}

type goPackage struct {
	ImportPath string
	Imports    []string
	CgoFiles   []string
	Deps       []string
}

func list(t *testing.T, args ...string) []goPackage {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports,CgoFiles,Deps"}, args...)...).Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var packages []goPackage
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

func TestImportsGoOneWay(t *testing.T) {
	for _, p := range list(t, module+"...") {
		name := strings.TrimPrefix(p.ImportPath, module)
		may, known := allowed[name]
		if !known {
			t.Errorf("package %s has no place in the table of allowed imports", name)
		}
		for _, imported := range p.Imports {
			if own, ok := strings.CutPrefix(imported, module); ok && !slices.Contains(may, own) {
				t.Errorf("%s imports %s", name, own)
			}
			if imported == "testing" {
				t.Errorf("%s imports testing outside a test", name)
			}
		}
	}
}

// Vendors' C code belongs in one process, so cgo belongs in one package.
func TestCgoIsInOnePackage(t *testing.T) {
	const thePackage = module + "signer/hsm"
	for _, p := range list(t, module+"...") {
		if len(p.CgoFiles) > 0 {
			t.Errorf("%s uses cgo itself", p.ImportPath)
		}
		direct := slices.ContainsFunc(p.Imports, func(s string) bool {
			return strings.HasPrefix(s, "github.com/miekg/pkcs11") || strings.HasPrefix(s, "github.com/ThalesIgnite/crypto11")
		})
		if direct && p.ImportPath != thePackage {
			t.Errorf("%s imports a PKCS#11 library", p.ImportPath)
		}
		reaches := p.ImportPath == thePackage || slices.Contains(p.Deps, thePackage)
		if reaches && p.ImportPath != thePackage && p.ImportPath != module+"cmd/octo-sts-signer" {
			t.Errorf("%s depends on %s", p.ImportPath, thePackage)
		}
	}
}
