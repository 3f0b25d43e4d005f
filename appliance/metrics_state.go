package appliance

import (
	"context"
	"crypto/fips140"
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/idtoken"
	"github.com/octo-sts/appliance/webhook"
)

// families are metrics that are read when they are scraped, of one thing that is
// asked for once.
type families[T any] struct {
	now func() T
	of  []family[T]
}

type family[T any] struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func(now T, sample sampler)
}

// sampler takes a value, with those of its labels.
type sampler = func(value float64, labels ...string)

// Describe is prometheus.Collector's.
func (f families[T]) Describe(to chan<- *prometheus.Desc) {
	for _, one := range f.of {
		to <- one.desc
	}
}

// Collect is prometheus.Collector's.
func (f families[T]) Collect(to chan<- prometheus.Metric) {
	now := f.now()
	for _, one := range f.of {
		one.read(now, func(value float64, labels ...string) {
			to <- prometheus.MustNewConstMetric(one.desc, one.kind, value, labels...)
		})
	}
}

// gauge and counter begin a family; labels are the names of those that read gives
// values for.
func gauge[T any](name, help string, read func(T, sampler), labels ...string) family[T] {
	return family[T]{prometheus.NewDesc(name, help, labels, nil), prometheus.GaugeValue, read}
}

func counter[T any](name, help string, read func(T, sampler), labels ...string) family[T] {
	return family[T]{prometheus.NewDesc(name, help, labels, nil), prometheus.CounterValue, read}
}

// flag is 1 for true, as metrics have it.
func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// unixTime is 0 for the zero time.
func unixTime(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

// measureState adds what is the case to the metrics.
func (d *Daemon) measureState() {
	d.counts.registry.MustRegister(
		d.measureBuild(), d.measureGitHub(), d.measureIssuers(), d.measureAudit(),
		d.measureChecks(), measureSigner(d.signer.Status), d.measureOwnState())
	if d.webhook != nil {
		d.counts.registry.MustRegister(measureWebhook(d.webhook.Status))
	}
}

func (d *Daemon) measureBuild() prometheus.Collector {
	return families[struct{}]{func() struct{} { return struct{}{} }, []family[struct{}]{
		gauge("octo_sts_build_info", "1, of this version, made with this Go, with Go's FIPS 140-3 module in use or not.",
			func(_ struct{}, sample sampler) {
				sample(1, d.version, runtime.Version(), strconv.FormatBool(fips140.Enabled()))
			}, "version", "goversion", "fips"),
	}}
}

func (d *Daemon) measureGitHub() prometheus.Collector {
	type client = *githubapp.Client
	each := func(value func(githubapp.QuotaStatus) float64) func(client, sampler) {
		return func(c client, sample sampler) {
			for _, q := range c.Quotas() {
				sample(value(q), strconv.FormatInt(q.AppID, 10))
			}
		}
	}
	caches := func(read func(githubapp.CacheStatus, sampler)) func(client, sampler) {
		return func(c client, sample sampler) {
			for _, cache := range c.Caches() {
				read(cache, sample)
			}
		}
	}
	return families[client]{func() client { return d.generations.current.Load().github }, []family[client]{
		gauge("octo_sts_github_down", "1 while GitHub does not answer and calls fail at once, but for one now and then.",
			func(c client, sample sampler) { sample(flag(c.Host().Down)) }),
		gauge("octo_sts_github_clock_skew_seconds", "How far this host's clock is ahead of GitHub's, by the last answer; below 0: behind it.",
			func(c client, sample sampler) { sample(c.Host().ClockSkew.Seconds()) }),
		gauge("octo_sts_github_quota_limit", "Calls an hour that GitHub allows the App's installation that has the smallest part left.",
			each(func(q githubapp.QuotaStatus) float64 { return float64(q.Limit) }), "app"),
		gauge("octo_sts_github_quota_remaining", "Calls that are left of them.",
			each(func(q githubapp.QuotaStatus) float64 { return float64(q.Remaining) }), "app"),
		gauge("octo_sts_github_quota_reset_timestamp_seconds", "When they are all there again, in Unix time.",
			each(func(q githubapp.QuotaStatus) float64 { return unixTime(q.Reset) }), "app"),
		counter("octo_sts_cache_lookups_total", "Questions about policies and installations, by whether GitHub had to be asked (miss).",
			caches(func(s githubapp.CacheStatus, sample sampler) {
				sample(float64(s.Hits), s.Name, "hit")
				sample(float64(s.Misses), s.Name, "miss")
			}), "cache", "result"),
		gauge("octo_sts_cache_entries", "What is kept in memory of what GitHub said.",
			caches(func(s githubapp.CacheStatus, sample sampler) { sample(float64(s.Entries), s.Name) }), "cache"),
		gauge("octo_sts_app_jwt_expiration_timestamp_seconds", "Until when the App can act without the signer, in Unix time; 0: it cannot.",
			func(c client, sample sampler) {
				for _, app := range c.Status() {
					sample(unixTime(app.CachedUntil), strconv.FormatInt(app.AppID, 10))
				}
			}, "app"),
	}}
}

func (d *Daemon) measureIssuers() prometheus.Collector {
	type statuses = []idtoken.IssuerStatus
	return families[statuses]{func() statuses { return d.generations.current.Load().verifier.Status() }, []family[statuses]{
		gauge("octo_sts_issuer_keys_usable", "1 while ID tokens of the issuer can be verified.",
			func(all statuses, sample sampler) {
				for _, issuer := range all {
					sample(flag(issuer.Usable), issuer.URL)
				}
			}, "issuer"),
		gauge("octo_sts_issuer_keys_age_seconds", "Time since the issuer's keys that are in use were fetched; of an issuer without any there is none.",
			func(all statuses, sample sampler) {
				for _, issuer := range all {
					if !issuer.LastSuccess.IsZero() {
						sample(time.Since(issuer.LastSuccess).Seconds(), issuer.URL)
					}
				}
			}, "issuer"),
	}}
}

func (d *Daemon) measureAudit() prometheus.Collector {
	type log = *audit.Log
	return families[log]{func() log { return d.audit }, []family[log]{
		counter("octo_sts_audit_entries_total", "Entries of the audit log, those from before the start too.",
			func(l log, sample sampler) { sample(float64(l.Size())) }),
		gauge("octo_sts_audit_accepting", "1 while the audit log takes entries, without which no token is handed out.",
			func(l log, sample sampler) { sample(flag(l.Err() == nil)) }),
	}}
}

// measureChecks has the checks of /readyz.
func (d *Daemon) measureChecks() prometheus.Collector {
	type aged struct {
		checks []check
		age    time.Duration
	}
	last := &latest[[]check]{ask: func(ctx context.Context) []check { return d.health.checks(ctx) }}
	now := func() (a aged) { a.checks, a.age = last.get(); return a }
	states := map[string]float64{stateReady: 0, stateDegraded: 1, stateFailing: 2}
	return families[aged]{now, []family[aged]{
		gauge("octo_sts_check_state", "The checks of /readyz: 0 ready, 1 degraded, 2 failing.",
			func(a aged, sample sampler) {
				for _, c := range a.checks {
					sample(states[c.State], c.Name)
				}
			}, "check"),
		gauge("octo_sts_check_age_seconds", "Age of octo_sts_check_state, which grows while a check does not end.",
			func(a aged, sample sampler) { sample(a.age.Seconds()) }),
	}}
}

// measureOwnState has what the daemon knows of itself.
func (d *Daemon) measureOwnState() prometheus.Collector {
	type daemon = *Daemon
	return families[daemon]{func() daemon { return d }, []family[daemon]{
		gauge("octo_sts_exchanges_under_way", "Exchanges that have begun and not ended.",
			func(d daemon, sample sampler) { sample(float64(d.generations.underWay.Load())) }),
		gauge("octo_sts_config_reload_failing", "1 while the configuration's file is not the one in force because it was refused.",
			func(d daemon, sample sampler) {
				problem, _ := d.reloads.status()
				sample(flag(problem != nil))
			}),
		gauge("octo_sts_config_last_reload_timestamp_seconds", "When a configuration came into force last, in Unix time: at the start, or by a reload.",
			func(d daemon, sample sampler) { sample(unixTime(d.reloads.lastGood())) }),
		gauge("octo_sts_config_restart_pending_keys", "Keys of the configuration whose change waits for a restart.",
			func(d daemon, sample sampler) {
				_, waiting := d.reloads.status()
				sample(float64(len(waiting)))
			}),
		gauge("octo_sts_watchdog_failing", "1 while the service manager's watchdog is not answered because something is stuck; it restarts the daemon then.",
			func(d daemon, sample sampler) { sample(flag(d.isStuck.Load())) }),
	}}
}

func measureWebhook(status func() webhook.Status) prometheus.Collector {
	type now = webhook.Status
	return families[now]{status, []family[now]{
		gauge("octo_sts_webhook_queue_deliveries", "Webhook deliveries that wait or are being worked on.",
			func(s now, sample sampler) { sample(float64(s.Queued)) }),
		gauge("octo_sts_webhook_queue_oldest_seconds", "For how long the oldest of them has waited; 0 where there is none.",
			func(s now, sample sampler) {
				age := 0.0
				if !s.Oldest.IsZero() {
					age = max(0, time.Since(s.Oldest).Seconds())
				}
				sample(age)
			}),
		gauge("octo_sts_webhook_recovery_failing", "1 while GitHub could not be asked, last time, for deliveries that did not arrive.",
			func(s now, sample sampler) { sample(flag(s.Recovery.Error != "")) }),
	}}
}
