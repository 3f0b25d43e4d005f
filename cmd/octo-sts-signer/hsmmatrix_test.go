package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

// wholeMatrix says whether the long trials are made as well: every code of every call, ten-minute hangs and crashes in each
// of them, a hundred crashes.
func wholeMatrix() bool { return os.Getenv("OCTO_STS_HSM_MATRIX") == "all" }

// The ways to come to a call.
const (
	whileOpen    = "signing"   // it is made while the token is open
	whileReopens = "reopening" // a signature fails, and the token is opened afresh
	whileStarts  = "starting"  // the worker is killed, and another one opens the token
)

// cell is one trial of the matrix, and what came of it.
type cell struct {
	function, way string
	code          int // index in faultCodes
	outcome       *outcome
}

// trial lets a fault last until the pauses between attempts are at their longest, in the whole matrix.
func (c *cell) trial() trial {
	code := faultCodes[c.code]
	t := trial{
		fault:  []string{fmt.Sprintf("%s rv=%#x", c.function, code.value)},
		struck: struckBy(c.function, code.value),
		hold:   around(500 * time.Millisecond),
	}
	if wholeMatrix() {
		t.hold = around(4 * time.Second)
	}
	switch c.way {
	case whileReopens:
		t.fault = append(t.fault, reopening)
	case whileStarts:
		t.after = killWorker
	}
	return t
}

func killWorker(s *subject) error {
	return syscall.Kill(s.signer.WorkerPID(0), syscall.SIGKILL)
}

// learnCalls says of each way which calls it makes: what the shim logs while nothing is wrong.
func (s *subject) learnCalls(t *testing.T) map[string][]string {
	t.Helper()
	ways := map[string][]string{}
	for _, way := range []string{whileOpen, whileReopens, whileStarts} {
		c := trial{struck: func(*subject) error { return nil }, hold: 2500 * time.Millisecond}
		switch way {
		case whileReopens:
			c.fault = []string{reopening}
		case whileStarts:
			c.after = killWorker
		}
		if _, err := s.run(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		calls, err := s.shim.Calls()
		if err != nil {
			t.Fatal(err)
		}
		for _, call := range calls {
			if way == whileOpen && call.Function == "C_OpenSession" {
				continue // once in a while, where two ask at the same moment
			}
			if !slices.Contains(ways[way], call.Function) {
				ways[way] = append(ways[way], call.Function)
			}
		}
		slices.Sort(ways[way])
		t.Logf("%s calls %s", way, strings.Join(ways[way], ", "))
	}
	return ways
}

// missKey adds an App whose key is not in the token, which is looked for again and again: there are calls for that alone.
func (s *subject) missKey() error {
	return s.editConfig(func(config map[string]any) {
		config["apps"] = append(config["apps"].([]any), map[string]any{"id": 2, "keys": []any{"app-2"}})
	})
}

// editConfig changes signer.yaml and has the signer read it.
func (s *subject) editConfig(change func(config map[string]any)) error {
	data, err := os.ReadFile(s.signer.ConfigFile())
	if err != nil {
		return err
	}
	config := map[string]any{}
	if err := yaml.Unmarshal(data, &config); err != nil {
		return err
	}
	change(config)
	if data, err = yaml.Marshal(config); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(s.signer.ConfigFile(), data, 0o600), s.signer.Signal(syscall.SIGHUP))
}

// matrix is every code from every call in every way that comes to it, or the cut of it for every day: every code from
// C_Sign, and one after the other from all calls at once.
func matrix(ways map[string][]string) []*cell {
	var cells []*cell
	for code := range faultCodes {
		if !wholeMatrix() {
			cells = append(cells, &cell{function: "C_Sign", way: whileOpen, code: code})
			continue
		}
		for _, way := range []string{whileOpen, whileReopens, whileStarts} {
			for _, function := range append(ways[way], "*") {
				// What is called while the token is open anyway needs no reopening, and nothing more is learnt from one.
				if way == whileReopens && (function == "*" || slices.Contains(ways[whileOpen], function)) {
					continue
				}
				cells = append(cells, &cell{function: function, way: way, code: code})
			}
		}
	}
	if !wholeMatrix() {
		cells = append(cells, &cell{function: "*", way: whileOpen, code: 1}, &cell{function: "*", way: whileStarts, code: 8},
			&cell{function: "C_Login", way: whileReopens, code: 0}, &cell{function: "C_Initialize", way: whileReopens, code: 9})
	}
	return cells
}

// Each of the twelve codes from each of the calls that serve makes, at the real program: callers hear within their time-out,
// the status says why, and once the fault has ended everything is signed again without anybody's help. The table of how long
// that took goes into the log, and into the file that OCTO_STS_TABLE names.
func TestRecoveryFromEveryCode(t *testing.T) {
	t.Parallel()
	subjects := make([]*subject, 4)
	if wholeMatrix() {
		subjects = make([]*subject, 8)
	}
	for i := range subjects {
		subjects[i] = newSubject(t, 1)
	}
	ways := map[string][]string{}
	if wholeMatrix() {
		for _, s := range subjects {
			if err := s.missKey(); err != nil {
				t.Fatal(err)
			}
		}
		ways = subjects[0].learnCalls(t)
		if n := len(ways[whileReopens]); n < 17 {
			t.Errorf("serve makes %d kinds of calls only", n)
		}
	}
	cells := matrix(ways)
	queue := make(chan *cell, len(cells))
	for _, c := range cells {
		queue <- c
	}
	close(queue)
	var working sync.WaitGroup
	for _, s := range subjects {
		working.Go(func() {
			for c := range queue {
				name := fmt.Sprintf("%s from %s while %s", faultCodes[c.code].name, c.function, c.way)
				var err error
				if c.outcome, err = s.run(t.Context(), c.trial()); err != nil {
					t.Errorf("%s: %v", name, err)
					continue
				}
				// The trial's own reason, or what brings about the reopening.
				if err := c.outcome.verdict(faultCodes[c.code].name, "its worker", "CKR_DEVICE_ERROR"); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
	working.Wait()
	table := recoveryTable(cells)
	t.Log("\n" + table)
	if path := os.Getenv("OCTO_STS_TABLE"); path != "" {
		if err := os.WriteFile(path, []byte(table), 0o600); err != nil {
			t.Error(err)
		}
	}
}

// recoveryTable is in Markdown: a row for each call and way, a column for each code, in it the seconds until recovery. A
// second table sums each row up.
func recoveryTable(cells []*cell) string {
	type row struct{ function, way string }
	var rows []row
	times := map[row][]*outcome{}
	for _, c := range cells {
		r := row{c.function, c.way}
		if times[r] == nil {
			rows = append(rows, r)
			times[r] = make([]*outcome, len(faultCodes))
		}
		times[r][c.code] = c.outcome
	}
	slices.SortFunc(rows, func(a, b row) int { return strings.Compare(a.way+a.function, b.way+b.function) })
	var out, sums strings.Builder
	out.WriteString("| call | while |")
	for _, code := range faultCodes {
		out.WriteString(" " + strings.TrimPrefix(code.name, "CKR_") + " |")
	}
	out.WriteString("\n|---|---|" + strings.Repeat("--:|", len(faultCodes)) + "\n")
	sums.WriteString("| call | while | trials | recovery, median | recovery, worst | trials in which calls were refused | slowest call |\n|---|---|--:|--:|--:|--:|--:|\n")
	for _, r := range rows {
		var recoveries []time.Duration
		var refused int
		var slowest time.Duration
		fmt.Fprintf(&out, "| %s | %s |", r.function, r.way)
		for _, o := range times[r] {
			if o == nil {
				out.WriteString("  |")
				continue
			}
			fmt.Fprintf(&out, " %.2f |", o.recovery.Seconds())
			recoveries = append(recoveries, o.recovery)
			slowest = max(slowest, o.slowest)
			if o.refused > 0 {
				refused++
			}
		}
		out.WriteString("\n")
		slices.Sort(recoveries)
		if n := len(recoveries); n > 0 {
			fmt.Fprintf(&sums, "| %s | %s | %d | %.2f s | %.2f s | %d | %.2f s |\n", r.function, r.way, n,
				recoveries[n/2].Seconds(), recoveries[n-1].Seconds(), refused, slowest.Seconds())
		}
	}
	return out.String() + "\n" + sums.String()
}
