package appliance

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts"
	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/githubapp"
)

// What a warm exchange counts costs it one allocation, that of the recorder.
func TestCountingAnExchangeIsCheap(t *testing.T) {
	m := newMetrics()
	next := m.requests.counting(publicEndpoint, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }))
	w, r := discard{http.Header{}}, httptest.NewRequest(http.MethodGet, "/sts/exchange", nil)
	allocations := testing.AllocsPerRun(100, func() {
		m.observe(sts.Observation{Decision: audit.DecisionGranted, Duration: time.Millisecond, PolicyAge: time.Second})
		m.called(githubapp.Observation{Operation: "mint", Outcome: githubapp.OutcomeOK, Duration: time.Millisecond})
		m.appended(time.Millisecond)
		m.appended(time.Millisecond)
		m.written(time.Millisecond)
		next.ServeHTTP(w, r)
	})
	if allocations > 1 {
		t.Errorf("%v allocations", allocations)
	}
}

// A path that is anybody's to write becomes one of few endpoints.
func TestEndpoints(t *testing.T) {
	for path, want := range map[string]string{
		"/sts/exchange": "/sts/exchange", "/sts/token": "/sts/token", "/sts/revoke": "/sts/revoke", "/webhook": "/webhook",
		"/chainguard.platform.oidc.SecurityTokenService/Exchange": "grpc", "/grpc.health.v1.Health/Check": "grpc",
		"/probe-issuer/.well-known/openid-configuration": "/probe-issuer",
		"/": "other", "": "other", "/sts/exchange/": "other", "/metrics": "other", "/STS/EXCHANGE": "other", "/webhook/../metrics": "other",
	} {
		if got := endpointNames[publicEndpoint(path)]; got != want {
			t.Errorf("%q is %s, want %s", path, got, want)
		}
	}
	for path, want := range map[string]string{"/metrics": "/metrics", "/probe": "/probe", "/healthz": "/healthz", "/readyz": "/readyz", "/sts/exchange": "other"} {
		if got := endpointNames[adminEndpoint(path)]; got != want {
			t.Errorf("%q is %s at listen.admin, want %s", path, got, want)
		}
	}
}
