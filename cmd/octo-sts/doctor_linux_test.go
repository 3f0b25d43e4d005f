package main

import (
	"strings"
	"testing"

	"github.com/octo-sts/appliance/cmd/octo-sts/doctor"
)

// A process that holds a port can have any name, and a finding stays one line.
func TestFindingIsOneLine(t *testing.T) {
	var out strings.Builder
	r := &doctor.Report{Findings: []doctor.Finding{{
		Check: "ports", Severity: doctor.Problem, What: "port 443 is held by x\nproblem: units (process 7)", Why: "a\x1b[2Jb", Command: "kill 7",
	}}}
	if err := writeFindings(&out, r, true); err != nil {
		t.Fatal(err)
	}
	const want = `problem: ports: port 443 is held by x\nproblem: units (process 7); a\x1b[2Jb | run: kill 7` + "\nproblems: 1, warnings: 0\n"
	if out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}
