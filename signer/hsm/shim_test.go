package hsm

import (
	"strings"
	"testing"

	"github.com/octo-sts/appliance/signer/signertest"
)

// shimToken is a softToken behind a module that does wrong what it is told to.
func shimToken(t *testing.T) (*signertest.Shim, TokenConfig) {
	t.Helper()
	_, config := softToken(t)
	shim, err := signertest.BuildShim(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, variable := range shim.Env() {
		name, value, _ := strings.Cut(variable, "=")
		t.Setenv(name, value)
	}
	config.Module = shim.Module
	return shim, config
}

func set(t *testing.T, shim *signertest.Shim, lines ...string) {
	t.Helper()
	if err := shim.Set(lines...); err != nil {
		t.Fatal(err)
	}
}

// counted says how often each function was called since the last forget.
func counted(t *testing.T, shim *signertest.Shim) map[string]int {
	t.Helper()
	calls, err := shim.Calls()
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for _, call := range calls {
		counts[call.Function]++
	}
	return counts
}

func forget(t *testing.T, shim *signertest.Shim) {
	t.Helper()
	if err := shim.ForgetCalls(); err != nil {
		t.Fatal(err)
	}
}
