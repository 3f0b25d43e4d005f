package appliance

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/octo-sts/appliance/sts"
)

// metrics counts, in a registry of its own. Every label has a small, bounded set
// of values: nothing that a caller sends becomes one.
type metrics struct {
	registry  *prometheus.Registry
	exchanges *prometheus.CounterVec
	seconds   prometheus.Histogram
	shed      *prometheus.CounterVec
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
	}
	m.registry.MustRegister(m.exchanges, m.seconds, m.shed,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) observe(o sts.Observation) {
	m.exchanges.WithLabelValues(o.Decision, o.Reason).Inc()
	m.seconds.Observe(o.Duration.Seconds())
}

func (m *metrics) shedBy(limit string) { m.shed.WithLabelValues(limit).Inc() }

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}
