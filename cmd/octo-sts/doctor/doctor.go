// Package doctor finds out what is wrong with an installation of the appliance, from the machine that it is on, and says in
// words what that means and which command mends it. It changes nothing. What a running daemon knows of itself is taken from
// its /readyz; the rest is what only the machine shows.
package doctor

import (
	"context"
	"slices"
)

// Severity says how bad a finding is.
type Severity string

const (
	Problem Severity = "problem" // exchanges fail for it, or somebody can do what nobody should
	Warning Severity = "warning" // exchanges go on, but not for everyone, or not for ever
	Unseen  Severity = "unseen"  // it could not be looked at; nothing is known to be wrong
)

// Finding is one thing that is wrong. It has a Command or Advice, and may have both.
type Finding struct {
	Check    string   `json:"check"` // the name of the check that found it
	Severity Severity `json:"severity"`
	What     string   `json:"what"`              // what is wrong, without a full stop
	Why      string   `json:"why,omitempty"`     // why that matters, likewise
	Command  string   `json:"command,omitempty"` // for root's shell: it mends the thing
	Advice   string   `json:"advice,omitempty"`  // what a person has to do, likewise without a full stop
}

// Report is everything that was found.
type Report struct {
	OK       bool      `json:"ok"` // nothing is wrong, of what could be looked at
	Findings []Finding `json:"findings"`
}

// Config says what to look at.
type Config struct {
	// Version is that of the program that asks; the daemons' should be the same.
	Version string
	// Root is the absolute path of the machine's root directory. "": this machine's, with its systemd and its network.
	Root string
	// Programs is the directory of octo-stsd and octo-sts-signer. Default /usr/bin.
	Programs string
}

// check is one thing to look at.
type check struct {
	name string
	// configured checks make no sense before the appliance was configured.
	configured bool
	look       func(context.Context, *machine) []Finding
}

// checks are all of them, in the order in which things have to be mended.
func checks() []check {
	return []check{
		{"programs", false, checkPrograms},
		{"users", false, checkUsers},
		{"directories", false, checkDirectories},
		{"configuration", false, checkConfiguration},
		{"agreement", true, checkAgreement},
		{"credentials", true, checkCredentials},
		{"hsm", true, checkSoftHSM},
		{"pin", true, checkPIN},
		{"drop-ins", false, checkDropIns},
		{"disk", false, checkDisk},
		{"units", true, checkUnits},
		{"ports", true, checkPorts},
		{"signer socket", true, checkSignerSocket},
		{"restart", true, checkRestart},
		{"certificate", true, checkCertificate},
		{"dns", true, checkDNS},
		{"clock", false, checkClock},
		{"proxy", true, checkProxy},
		{"github", true, checkGitHub},
		{"ready", true, checkReady},
		{"audit log", true, checkAuditLog},
		{"probe", true, checkProbe},
	}
}

// Examine looks at everything.
func Examine(ctx context.Context, c Config) *Report {
	m := newMachine(ctx, c)
	r := &Report{Findings: []Finding{}}
	todo := checks()
	if m.isAbsent() {
		todo = []check{{"programs", false, reportAbsence}}
	}
	for _, check := range todo {
		if check.configured && m.unconfigured {
			continue
		}
		for _, f := range check.look(ctx, m) {
			f.Check = check.name
			r.Findings = append(r.Findings, f)
		}
	}
	r.OK = !slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Severity != Unseen })
	return r
}
