package main

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// Whatever the module does meanwhile, SIGTERM ends the signer with status 0, and no worker is left.
func TestStopWithAFault(t *testing.T) {
	t.Parallel()
	faults := []string{"* rv=0x30", "C_CloseSession hang", "C_Finalize crash"}
	if wholeMatrix() {
		faults = append(faults, "C_Finalize hang", "C_CloseSession crash")
		for _, function := range []string{"C_CloseSession", "C_Finalize"} {
			for _, code := range faultCodes {
				faults = append(faults, fmt.Sprintf("%s rv=%#x", function, code.value))
			}
		}
	}
	s := newSubject(t, 1)
	for _, fault := range faults {
		worker := s.signer.WorkerPID(0)
		if err := s.shim.Set(fault); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := s.signer.Stop(); err != nil {
			t.Errorf("%s: %v", fault, err)
		}
		t.Logf("%s: stopped within %.2f s", fault, time.Since(began).Seconds())
		eventually(t, fault+": no worker is left", func() bool { return worker != 0 && !exists(worker) })
		if err := errors.Join(s.shim.Clear(), s.signer.Restart(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
}
