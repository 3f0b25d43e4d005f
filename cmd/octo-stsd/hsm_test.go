package main

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/octo-sts/appliance/signer/signertest"
	"github.com/octo-sts/appliance/sts/ststest"
)

// steady is exchanges at a fixed rate, whatever becomes of those before.
type steady struct {
	granted, failed atomic.Int64
	slowest         atomic.Int64 // nanoseconds
	first           sync.Map     // of each kind of failure
	stop            func()
}

func (r *rig) startSteady(every time.Duration) *steady {
	s := &steady{}
	done := make(chan struct{})
	var calls sync.WaitGroup
	calls.Go(func() {
		for next := time.Now(); ; next = next.Add(every) {
			select {
			case <-done:
				return
			case <-time.After(time.Until(next)):
			}
			calls.Go(func() {
				began := time.Now()
				x, err := r.oneOfLoad("acme/app", "reader")
				for took := int64(time.Since(began)); ; {
					before := s.slowest.Load()
					if took <= before || s.slowest.CompareAndSwap(before, took) {
						break
					}
				}
				if err == nil && x.Status == http.StatusOK {
					s.granted.Add(1)
					return
				}
				s.failed.Add(1)
				s.first.LoadOrStore(x.Status, fmt.Sprintf("%s %v", x.Body, err))
			})
		}
	})
	s.stop = sync.OnceFunc(func() {
		close(done)
		calls.Wait()
	})
	r.t.Cleanup(s.stop)
	return s
}

// Whatever the HSM's module does, exchanges go on with the App JWT at hand, a hundred a second and not one refused; /readyz
// says what is wrong, and by itself that it is over. The daemon is the same process at the end.
func TestExchangesThroughHSMFaults(t *testing.T) {
	shim, err := signertest.BuildShim(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, ststest.ServiceConfig{Issuer: ststest.IssuerConfig{Alg: "ES256"}, Shim: shim})
	r.granted("acme/app", "reader") // so that there is an App JWT
	r.awaitReadiness(http.StatusOK, "ready")
	type fault struct {
		name, line string
		lost       bool   // the worker is killed
		says       string // in /readyz
	}
	faults := []fault{
		{"an error from every call", "* rv=0x30", true, "CKR_DEVICE_ERROR"},
		{"a crash at every login", "C_Login crash", true, "its worker crashed"},
	}
	if os.Getenv("OCTO_STS_HSM_MATRIX") == "all" {
		faults = append(faults,
			fault{"a hang of every signature", "C_Sign hang", false, "call into the module has lasted"},
			fault{"a hang of the login", "C_Login hang", true, "call into the module has lasted"},
			fault{"a crash at every signature", "C_Sign crash", false, "its worker crashed"},
			fault{"wrong signatures", "C_Sign corrupt", false, "does not verify"},
			fault{"no sessions", "C_OpenSession rv=0xb1", true, "CKR_SESSION_COUNT"},
			fault{"a token that is gone", "* rv=0xe0", false, "CKR_TOKEN_NOT_PRESENT"},
		)
	}
	daemon := r.PID()
	load := r.startSteady(10 * time.Millisecond)
	for _, f := range faults {
		before := load.granted.Load()
		if err := shim.Set(f.line); err != nil {
			t.Fatal(err)
		}
		if f.lost {
			if err := syscall.Kill(r.Signer.WorkerPID(0), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		var detail string
		r.eventually("/readyz to say what is wrong with "+f.name, func() bool {
			status, state, checks := r.readiness()
			detail = checks["signer"] + " / " + checks["checkpoint"]
			return status == http.StatusOK && state == "degraded" && strings.Contains(detail, f.says)
		})
		r.eventually("exchanges with "+f.name, func() bool { return load.granted.Load() > before+200 })
		if err := shim.Clear(); err != nil {
			t.Fatal(err)
		}
		end := time.Now()
		r.awaitReadiness(http.StatusOK, "ready")
		t.Logf("%s: ready %.2f s after its end; /readyz had said %q", f.name, time.Since(end).Seconds(), detail)
	}
	load.stop()
	t.Logf("%d exchanges, %d refused, the slowest in %v", load.granted.Load(), load.failed.Load(), time.Duration(load.slowest.Load()))
	if load.failed.Load() > 0 {
		load.first.Range(func(status, what any) bool {
			t.Errorf("%d exchanges were not granted, for example with %v: %v", load.failed.Load(), status, what)
			return true
		})
	}
	if r.PID() != daemon {
		t.Error("the daemon was restarted")
	}
}
