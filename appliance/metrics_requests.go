package appliance

import (
	"cmp"
	"net/http"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/octo-sts/appliance/sts"
)

// An endpoint is what a request's path leads to, as the metrics have it. Paths are
// anybody's to write; these are all there are.
type endpoint int

const (
	otherEndpoint endpoint = iota
	exchangeEndpoint
	grpcEndpoint // gRPC, gRPC-Web and Connect, health checks too
	tokenEndpoint
	revokeEndpoint
	webhookEndpoint
	probeIssuerEndpoint
	metricsEndpoint
	healthEndpoint
	readyEndpoint
	probeEndpoint
	endpoints
)

var endpointNames = [endpoints]string{"other", "/sts/exchange", "grpc", "/sts/token", "/sts/revoke", "/webhook",
	"/probe-issuer", "/metrics", "/healthz", "/readyz", "/probe"}

// publicEndpoint is for listen.https.
func publicEndpoint(path string) endpoint {
	switch path {
	case "/sts/exchange":
		return exchangeEndpoint
	case "/sts/token":
		return tokenEndpoint
	case "/sts/revoke":
		return revokeEndpoint
	case "/webhook":
		return webhookEndpoint
	}
	switch {
	case strings.HasPrefix(path, "/chainguard.platform.oidc.SecurityTokenService/"), strings.HasPrefix(path, "/grpc.health.v1.Health/"):
		return grpcEndpoint
	case strings.HasPrefix(path, "/probe-issuer/"):
		return probeIssuerEndpoint
	}
	return otherEndpoint
}

// adminEndpoint is for listen.admin.
func adminEndpoint(path string) endpoint {
	switch path {
	case "/metrics":
		return metricsEndpoint
	case "/healthz":
		return healthEndpoint
	case "/readyz":
		return readyEndpoint
	case "/probe":
		return probeEndpoint
	}
	return otherEndpoint
}

// requestMetrics are rate, errors and duration of each endpoint. The code is
// HTTP's; a gRPC answer counts under the one that its own code stands for.
type requestMetrics struct {
	requests *prometheus.CounterVec
	ok       [endpoints]prometheus.Counter // those of requests that most count
	seconds  [endpoints]prometheus.Observer
}

func newRequestMetrics(m *metrics) *requestMetrics {
	r := &requestMetrics{requests: m.counters("octo_sts_requests_total",
		"Requests that were answered, those that were shed too, by endpoint and HTTP status (for gRPC the one that its code stands for).", "endpoint", "code")}
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "octo_sts_request_duration_seconds",
		Help:    "Duration of requests, by endpoint.",
		Buckets: []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10},
	}, []string{"endpoint"})
	m.registry.MustRegister(seconds)
	for e, name := range endpointNames {
		r.ok[e], r.seconds[e] = r.requests.WithLabelValues(name, "200"), seconds.WithLabelValues(name)
	}
	return r
}

// count counts the answer that w was given to a request that began then.
func (r *requestMetrics) count(e endpoint, w *recorder, began time.Time) {
	status := cmp.Or(w.status, http.StatusOK) // which is what net/http makes of none
	if grpc := grpcStatus(w.Header()); grpc != "" && status == http.StatusOK {
		status = httpStatus(grpc)
	}
	if status == http.StatusOK {
		r.ok[e].Inc()
	} else {
		r.requests.WithLabelValues(endpointNames[e], strconv.Itoa(status)).Inc()
	}
	r.seconds[e].Observe(time.Since(began).Seconds())
}

// grpcStatus finds the code of a gRPC answer where package connect puts it: a
// trailer that was announced, or was not. That of a gRPC-Web answer with a body is
// in the body, so that such a refusal counts as 200.
func grpcStatus(h http.Header) string {
	for _, key := range [...]string{http.TrailerPrefix + "Grpc-Status", "Grpc-Status"} {
		if values := h[key]; len(values) > 0 {
			return values[0]
		}
	}
	return ""
}

func httpStatus(grpc string) int {
	code, err := strconv.ParseUint(grpc, 10, 32)
	if err != nil {
		return http.StatusInternalServerError
	}
	return sts.HTTPStatus(connect.Code(code))
}

// counting counts what next answers.
func (r *requestMetrics) counting(which func(path string) endpoint, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		began := time.Now()
		answer := &recorder{ResponseWriter: w}
		next.ServeHTTP(answer, req)
		if answer.status != 0 || req.Context().Err() == nil { // else nobody waited for one
			r.count(which(req.URL.Path), answer, began)
		}
	})
}

// recorder remembers the status of an answer; 0 where there was none.
type recorder struct {
	http.ResponseWriter
	status int
}

// Unwrap is for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && status >= http.StatusOK { // a 1xx is no answer yet
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

// Flush is for package connect, which asks for it by its type.
func (r *recorder) Flush() { _ = http.NewResponseController(r.ResponseWriter).Flush() }
