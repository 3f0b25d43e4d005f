package appliance

import (
	"context"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/octo-sts/appliance/signer"
)

// signerNow is what the signer said last; up is whether that was lately. Where it
// did not answer there are no figures of its HSMs, rather than old ones.
type signerNow struct {
	signer.Status
	up bool
}

// measureSigner asks the signer when it is scraped, and waits for it no longer than
// a scrape may take.
func measureSigner(ask func(context.Context) (signer.Status, error)) prometheus.Collector {
	last := &latest[signerNow]{ask: func(ctx context.Context) signerNow {
		status, err := ask(ctx)
		return signerNow{status, err == nil}
	}}
	now := func() signerNow {
		status, age := last.get()
		if age > scrapeOld {
			return signerNow{}
		}
		return status
	}
	return families[signerNow]{now, append(signerFamilies(), hsmFamilies()...)}
}

func signerFamilies() []family[signerNow] {
	return []family[signerNow]{
		gauge("octo_sts_signer_up", "1 while octo-sts-signer answers.",
			func(s signerNow, sample sampler) { sample(flag(s.up)) }),
		counter("octo_sts_signer_app_jwts_total", "App JWTs that the signer has signed since it was started.",
			whenUp(func(s signerNow, sample sampler) { sample(float64(s.Signatures)) })),
		gauge("octo_sts_signer_app_ready", "1 while the signer can sign for the App.",
			whenUp(func(s signerNow, sample sampler) {
				for _, app := range s.Apps {
					sample(flag(app.Ready), strconv.FormatInt(app.AppID, 10))
				}
			}), "app"),
		gauge("octo_sts_signer_checkpoint_ready", "1 while the signer knows which checkpoint of the audit log it signed last.",
			whenUp(func(s signerNow, sample sampler) { sample(flag(s.Checkpoint.Ready)) })),
	}
}

func hsmFamilies() []family[signerNow] {
	return []family[signerNow]{
		gauge("octo_sts_hsm_open", "1 while the HSM's token is open, by its place in signer.yaml, from 0.",
			eachHSM(func(h signer.HSMStatus) float64 { return flag(h.Open) }), "hsm"),
		gauge("octo_sts_hsm_active", "1 for the HSM that is asked first.",
			eachHSM(func(h signer.HSMStatus) float64 { return flag(h.Active) }), "hsm"),
		gauge("octo_sts_hsm_sessions_open", "Sessions with the HSM that are open.",
			eachHSM(func(h signer.HSMStatus) float64 { return float64(h.Sessions) }), "hsm"),
		gauge("octo_sts_hsm_sessions_limit", "Sessions with the HSM that may be open at once; 0 while it is not open.",
			eachHSM(func(h signer.HSMStatus) float64 { return float64(h.MaxSessions) }), "hsm"),
		gauge("octo_sts_hsm_keys_missing", "Configured keys that cannot be used in the HSM.",
			eachHSM(func(h signer.HSMStatus) float64 {
				missing := 0
				for _, key := range h.Keys {
					if !key.Ready {
						missing++
					}
				}
				return float64(missing)
			}), "hsm"),
		counter("octo_sts_hsm_signatures_total", "Signatures of the HSM's, App JWTs and checkpoints, since the signer was started.",
			eachHSM(func(h signer.HSMStatus) float64 { return float64(h.Signatures) }), "hsm"),
		counter("octo_sts_hsm_failures_total", "Signatures that the HSM did not make, or made wrong, since the signer was started.",
			eachHSM(func(h signer.HSMStatus) float64 { return float64(h.Failures) }), "hsm"),
		counter("octo_sts_hsm_failovers_total", "How often another HSM took over because this one failed, since the signer was started.",
			eachHSM(func(h signer.HSMStatus) float64 { return float64(h.Failovers) }), "hsm"),
		counter("octo_sts_hsm_worker_restarts_total", "How often the HSM's process was replaced, since the signer was started.",
			eachHSM(func(h signer.HSMStatus) float64 { return float64(h.Restarts) }), "hsm"),
		gauge("octo_sts_hsm_last_failover_timestamp_seconds", "When another HSM last took over from this one, in Unix time; 0: never.",
			eachHSM(func(h signer.HSMStatus) float64 { return unixTime(h.LastFailover) }), "hsm"),
	}
}

func whenUp(read func(signerNow, sampler)) func(signerNow, sampler) {
	return func(s signerNow, sample sampler) {
		if s.up {
			read(s, sample)
		}
	}
}

func eachHSM(value func(signer.HSMStatus) float64) func(signerNow, sampler) {
	return whenUp(func(s signerNow, sample sampler) {
		for i, hsm := range s.HSMs {
			sample(value(hsm), strconv.Itoa(i))
		}
	})
}
