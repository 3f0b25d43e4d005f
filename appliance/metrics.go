package appliance

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/octo-sts/appliance/sts"
	"github.com/octo-sts/appliance/webhook"
)

// metrics counts, in a registry of its own. Every label has a small, bounded set
// of values: nothing that a caller sends becomes one.
type metrics struct {
	registry  *prometheus.Registry
	exchanges *prometheus.CounterVec
	seconds   prometheus.Histogram
	shed      *prometheus.CounterVec
	closed    *prometheus.CounterVec
	webhooks  *prometheus.CounterVec
	revokes   *prometheus.CounterVec
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		exchanges: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "octo_sts_exchanges_total",
			Help: "Exchanges that ended, by decision, and by reason where no token was handed out.",
		}, []string{"decision", "reason"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "octo_sts_exchange_duration_seconds",
			Help:    "Duration of exchanges, whatever their decision.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}),
		shed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "octo_sts_requests_shed_total",
			Help: "Requests refused unread because of load, by limit.",
		}, []string{"limit"}),
		closed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "octo_sts_connections_shed_total",
			Help: "Connections refused, or closed to make room for others, by limit.",
		}, []string{"limit"}),
		webhooks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "octo_sts_webhook_deliveries_total",
			Help: "Webhook deliveries, by event, and by what became of them.",
		}, []string{"event", "outcome"}),
		revokes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "octo_sts_revocations_total",
			Help: "Revocations of installation tokens that somebody asked for, by what became of them.",
		}, []string{"outcome"}),
	}
	m.registry.MustRegister(m.exchanges, m.seconds, m.shed, m.closed, m.webhooks, m.revokes,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) observe(o sts.Observation) {
	m.exchanges.WithLabelValues(o.Decision, o.Reason).Inc()
	m.seconds.Observe(o.Duration.Seconds())
}

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
