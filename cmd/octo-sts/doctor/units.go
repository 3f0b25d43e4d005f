package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// checkUnits looks whether everything that is to run does, and will after a reboot.
func checkUnits(ctx context.Context, m *machine) []Finding {
	if m.units == nil {
		return []Finding{{Severity: Unseen, What: "systemd does not answer here, so no unit was looked at", Advice: "run octo-sts doctor on the appliance's machine"}}
	}
	var findings []Finding
	all := m.units[target]
	if !all.exists() {
		return []Finding{{Severity: Problem, What: target + " is not there", Why: "it is what starts everything", Command: installAgain + "; systemctl daemon-reload"}}
	}
	if all["UnitFileState"] != "enabled" {
		findings = append(findings, Finding{
			Severity: Problem, What: fmt.Sprintf("%s is %s", target, all["UnitFileState"]), Why: "nothing is started after a reboot", Command: "systemctl enable --now " + target,
		})
	}
	if !all.is("active") {
		return append(append(findings, m.failed(ctx)...), Finding{Severity: Problem, What: target + " is not active", Why: "the appliance does not run", Command: "systemctl start " + target})
	}
	findings = append(findings, m.failed(ctx)...)
	for _, name := range []string{signerService, daemonService, "octo-sts-signer.socket", "octo-stsd.socket", "octo-stsd-http.socket"} {
		u := m.units[name]
		masked := u["LoadState"] == "masked"
		switch {
		case u.is("failed") || u["SubState"] == "auto-restart" || u.is("active"):
			continue // the first two, failed tells of
		case masked && strings.HasSuffix(name, ".socket"):
			continue // a port that is closed by will
		case masked:
			findings = append(findings, Finding{Severity: Problem, What: name + " is masked", Why: "it cannot be started", Command: "systemctl unmask " + name + " && systemctl start " + name})
		case u.is("activating") || u.is("deactivating") || u.is("reloading"):
			findings = append(findings, Finding{Severity: Warning, What: fmt.Sprintf("%s is %s: %s", name, u["ActiveState"], u["StatusText"]), Why: "it is not yet what it will be", Advice: "look again in a minute"})
		default:
			findings = append(findings, Finding{Severity: Problem, What: fmt.Sprintf("%s is %s", name, u["ActiveState"]), Why: "the appliance needs it", Command: "systemctl start " + name})
		}
	}
	return findings
}

// failed tells of units that failed, each with the last error that it left in the journal.
func (m *machine) failed(ctx context.Context) []Finding {
	var findings []Finding
	for _, name := range unitNames {
		u := m.units[name]
		if !u.is("failed") && u["SubState"] != "auto-restart" {
			continue
		}
		said := m.lastError(ctx, u)
		if said != "" {
			said = ": " + said
		}
		f := Finding{
			Severity: Problem, What: fmt.Sprintf("%s failed (%s)%s", name, u["Result"], said), Why: "it does not run",
			Command: "systemctl restart " + name, Advice: "more of what it said: journalctl -u " + name + " -n 30; where the restart fails again, mend first what is told above",
		}
		if said == "" && !m.isRoot {
			f.Advice = "the journal was not for this user to read: sudo journalctl -u " + name + " -n 30"
		}
		if name == "octo-sts-probe.service" {
			f.Why, f.Command = "the last probe found that the appliance does not do what it should", "octo-sts probe --negative"
			if m.daemon != nil && m.daemon.Probe.Scope == "" {
				f.Severity, f.Why = Warning, "its timer is enabled, and octo-stsd.yaml has no section probe"
				f.Command, f.Advice = "systemctl disable --now octo-sts-probe.timer; systemctl reset-failed "+name, "or configure a probe: file:///usr/share/doc/octo-sts/probes.md"
			}
		}
		if strings.HasSuffix(name, ".socket") {
			f.Why = "nobody can connect"
		}
		findings = append(findings, f)
	}
	return findings
}

// checkProbe looks whether the probe that is configured is made again and again.
func checkProbe(_ context.Context, m *machine) []Finding {
	timer := m.units["octo-sts-probe.timer"]
	if m.daemon == nil || m.daemon.Probe.Scope == "" || !timer.exists() || timer.is("active") {
		return nil
	}
	return []Finding{{
		Severity: Warning, What: "a probe is configured, and octo-sts-probe.timer is " + timer["ActiveState"], Why: "nobody is told when exchanges stop to work",
		Command: "systemctl enable --now octo-sts-probe.timer",
	}}
}

// listening are the ports of a socket unit, "443" of "[::]:443 (Stream)".
func listening(u unit) []string {
	var ports []string
	for line := range strings.SplitSeq(u["Listen"], "\n") {
		address, _, _ := strings.Cut(line, " ")
		if at := strings.LastIndex(address, ":"); at >= 0 && !slices.Contains(ports, address[at+1:]) {
			ports = append(ports, address[at+1:])
		}
	}
	return ports
}
