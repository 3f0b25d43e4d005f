package signer

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func goList(t *testing.T, args ...string) []string {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list", "-e"}, args...)...).Output()
	if err != nil {
		t.Fatalf("go list %v: %v", args, err)
	}
	lines := strings.Fields(string(out))
	slices.Sort(lines)
	return lines
}

// The daemon imports this package and is built without cgo, and a vendor's module is loaded in one place only.
func TestCgoStaysInHSM(t *testing.T) {
	const module = "github.com/octo-sts/appliance/"
	// The standard library's optional uses of cgo are not meant: they fall away with CGO_ENABLED=0.
	const withCgo = `{{if and .CgoFiles (not .Standard)}}{{.ImportPath}}{{end}}`
	if got := goList(t, "-deps", "-f", withCgo, "."); len(got) > 0 {
		t.Errorf("package signer depends on cgo: %v", got)
	}
	if got := goList(t, "-deps", "-f", withCgo, "./hsm"); !slices.Equal(got, []string{"github.com/ThalesIgnite/crypto11", "github.com/miekg/pkcs11"}) {
		t.Errorf("package hsm depends on cgo in %v", got)
	}
	importsPKCS11 := `{{$p := .ImportPath}}{{range .Imports}}{{if or (eq . "github.com/miekg/pkcs11") (eq . "github.com/ThalesIgnite/crypto11") (eq . "C")}}{{$p}}{{"\n"}}{{end}}{{end}}`
	got := slices.Compact(goList(t, "-f", importsPKCS11, module+"signer/...", module+"sts/...", module+"appliance/...", module+"cmd/..."))
	if diff := cmp.Diff([]string{module + "signer/hsm"}, got); diff != "" {
		t.Errorf("packages that import PKCS#11 or cgo:\n%s", diff)
	}
	importsHSM := `{{$p := .ImportPath}}{{range .Imports}}{{if eq . "` + module + `signer/hsm"}}{{$p}}{{"\n"}}{{end}}{{end}}`
	got = goList(t, "-f", importsHSM, module+"signer/...", module+"sts/...", module+"appliance/...", module+"cmd/...")
	if diff := cmp.Diff([]string{module + "cmd/octo-sts-signer"}, got); diff != "" {
		t.Errorf("packages that import signer/hsm:\n%s", diff)
	}
}
