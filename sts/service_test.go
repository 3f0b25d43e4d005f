package sts

import (
	"testing"

	"go.uber.org/zap"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/idtoken"
)

// A Successor that never begins, since another part of the new configuration was
// refused, has changed nothing; one that does is heard by those that go on with the
// Service before it.
func TestSuccessor(t *testing.T) {
	c := Config{Domain: "sts.example.com", PolicyRepository: ".github", Verifier: &idtoken.Verifier{}, GitHub: &githubapp.Client{},
		Audit: &audit.Log{}, PerIssuer: 1, BurstPerIssuer: 1, DeniedPerSubject: 10, DeniedPerOwner: 10, Logger: zap.NewNop()}
	first, err := New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.issuerRates.take("https://issuer.example", true); err != nil {
		t.Fatal(err)
	}
	c.DeniedPerSubject = 2
	next, err := first.Successor(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	same := func(int) *purse { return caller("ci", "acme") }
	if got := refusals(first.budget, 3, same); got != 3 {
		t.Errorf("%d refusals before the successor began, want 3", got)
	}
	next.Begin()
	if got := refusals(first.budget, 5, same); got != 2 {
		t.Errorf("%d refusals since, want the 2 that may be saved up", got)
	}
	if next.issuerRates.take("https://issuer.example", true) == nil {
		t.Error("an issuer has its burst again after a reload")
	}
}
