package appliance

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/octo-sts/appliance/sts"
	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/webhook"
)

// metrics counts what happens, in a registry of its own; what is the case is read
// when it is asked for: see metrics_state.go. Every label has a small, bounded set
// of values: nothing that a caller sends becomes one. What an exchange counts is
// looked up by labels beforehand, so that it costs next to nothing.
type metrics struct {
	registry *prometheus.Registry

	requests *requestMetrics
	shed     *prometheus.CounterVec
	closed   *prometheus.CounterVec

	exchanges *prometheus.CounterVec
	granted   prometheus.Counter // the one of exchanges that grants count
	seconds   prometheus.Histogram
	policyAge prometheus.Histogram

	calls map[githubapp.Observation]prometheus.Counter // by operation and outcome; never changes
	spent map[string]prometheus.Observer               // by operation; never changes

	appends  prometheus.Histogram
	writes   prometheus.Histogram
	webhooks *prometheus.CounterVec
	revokes  *prometheus.CounterVec
}

func newMetrics() *metrics {
	m := &metrics{registry: prometheus.NewRegistry()}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.requests = newRequestMetrics(m)
	m.shed = m.counters("octo_sts_requests_shed_total", "Requests refused unread because of load, by limit.", "limit")
	m.closed = m.counters("octo_sts_connections_shed_total", "Connections refused, or closed to make room for others, by limit.", "limit")
	for _, limit := range []string{"address_rate", "bodies", "body", "concurrency", "transfer_encoding"} {
		m.shed.WithLabelValues(limit) // counted from 0 on
	}
	for _, limit := range []string{"connection_rate", "connections", "connections_per_address", "flood", "idle_bytes", "proxy_header"} {
		m.closed.WithLabelValues(limit)
	}
	m.exchanges = m.counters("octo_sts_exchanges_total", "Exchanges that ended, by decision, and by reason where no token was handed out.", "decision", "reason")
	m.granted = m.exchanges.WithLabelValues(audit.DecisionGranted, "")
	m.seconds = m.histogram("octo_sts_exchange_duration_seconds", "Duration of exchanges, whatever their decision.",
		prometheus.ExponentialBuckets(0.001, 2, 14))
	m.policyAge = m.histogram("octo_sts_exchange_policy_age_seconds", "How long before an exchange GitHub was last asked about its trust policy.",
		[]float64{0.1, 1, 5, 15, 30, 60, 120, 300, 600})
	m.countCalls()
	disk := prometheus.ExponentialBuckets(0.0001, 2, 17) // to 6.5 s; after 10 s the log gives up
	m.appends = m.histogram("octo_sts_audit_append_duration_seconds", "How long entries of the audit log waited until they were durable.", disk)
	m.writes = m.histogram("octo_sts_audit_sync_duration_seconds", "Duration of writing entries to the audit log together, with their sync.", disk)
	m.webhooks = m.counters("octo_sts_webhook_deliveries_total", "Webhook deliveries, by event, and by what became of them.", "event", "outcome")
	m.revokes = m.counters("octo_sts_revocations_total", "Revocations of installation tokens that somebody asked for, by what became of them.", "outcome")
	return m
}

// countCalls has each kind of call counted from 0 on, so that the first one of its
// outcome is seen to be one more.
func (m *metrics) countCalls() {
	calls := m.counters("octo_sts_github_calls_total", "Calls to GitHub, by operation and by what came of them; held_back: not sent.", "operation", "outcome")
	spent := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "octo_sts_github_call_duration_seconds",
		Help:    "Duration of calls that were sent to GitHub, from sending to the last byte, by operation.",
		Buckets: []float64{0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10},
	}, []string{"operation"})
	m.registry.MustRegister(spent)
	m.calls, m.spent = map[githubapp.Observation]prometheus.Counter{}, map[string]prometheus.Observer{}
	for _, operation := range githubapp.Operations() {
		m.spent[operation] = spent.WithLabelValues(operation)
		for _, outcome := range githubapp.Outcomes() {
			m.calls[githubapp.Observation{Operation: operation, Outcome: outcome}] = calls.WithLabelValues(operation, outcome)
		}
	}
}

func (m *metrics) counters(name, help string, labels ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	m.registry.MustRegister(v)
	return v
}

func (m *metrics) histogram(name, help string, buckets []float64) prometheus.Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
	m.registry.MustRegister(h)
	return h
}

// observe counts an exchange.
func (m *metrics) observe(o sts.Observation) {
	if o.Decision == audit.DecisionGranted && o.Reason == "" {
		m.granted.Inc()
	} else {
		m.exchanges.WithLabelValues(o.Decision, o.Reason).Inc()
	}
	m.seconds.Observe(o.Duration.Seconds())
	if o.PolicyAge >= 0 {
		m.policyAge.Observe(o.PolicyAge.Seconds())
	}
}

// called counts a call to GitHub.
func (m *metrics) called(o githubapp.Observation) {
	m.calls[githubapp.Observation{Operation: o.Operation, Outcome: o.Outcome}].Inc()
	if o.Outcome != githubapp.OutcomeHeldBack {
		m.spent[o.Operation].Observe(o.Duration.Seconds())
	}
}

func (m *metrics) appended(d time.Duration) { m.appends.Observe(d.Seconds()) }

func (m *metrics) written(d time.Duration) { m.writes.Observe(d.Seconds()) }

func (m *metrics) delivered(o webhook.Observation) {
	m.webhooks.WithLabelValues(o.Event, o.Outcome).Inc()
}

func (m *metrics) revoked(o sts.RevocationOutcome) { m.revokes.WithLabelValues(string(o)).Inc() }

func (m *metrics) shedBy(limit string) { m.shed.WithLabelValues(limit).Inc() }

func (m *metrics) shedConnection(limit string) { m.closed.WithLabelValues(limit).Inc() }

func (m *metrics) measureConnections(open func() int) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "octo_sts_connections_open",
		Help: "Connections that are open at the public listeners.",
	}, func() float64 { return float64(open()) }))
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}
