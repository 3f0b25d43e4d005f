package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
)

// checkPrograms looks whether the programs are of one version.
func checkPrograms(ctx context.Context, m *machine) []Finding {
	var findings []Finding
	for _, name := range []string{"octo-stsd", "octo-sts-signer"} {
		said := m.run(ctx, "", m.program(name), "version")
		fields := strings.Fields(said.stdout)
		switch {
		case said.err != nil:
			findings = append(findings, Finding{
				Severity: Problem, What: fmt.Sprintf("%s cannot be run: %v", m.program(name), said.err), Why: "without it there is no appliance",
				Command: installAgain,
			})
		case len(fields) < 2 || strings.Trim(fields[1], "()") != m.Version:
			findings = append(findings, Finding{
				Severity: Problem, What: fmt.Sprintf("%s says it is %q, and octo-sts is of version %s", m.program(name), strings.TrimSpace(said.stdout), m.Version),
				Why: "the programs are made to be of one version", Command: installAgain,
			})
		}
	}
	return findings
}

// isAbsent tells that no appliance was ever installed here: the package octo-sts-client has this command, too.
func (m *machine) isAbsent() bool {
	for _, name := range []string{"octo-stsd", "octo-sts-signer"} {
		if _, err := os.Stat(m.program(name)); err == nil {
			return false
		}
	}
	return errors.Is(m.daemonText.err, os.ErrNotExist) && errors.Is(m.signerText.err, os.ErrNotExist)
}

func reportAbsence(context.Context, *machine) []Finding {
	return []Finding{{
		Severity: Problem, What: "there is no appliance on this machine, nor a configuration of one", Why: "this command is for the machine that it is on",
		Advice: "ask there, or install the package octo-sts here (https://github.com/octo-sts/appliance/blob/main/docs/install.md)",
	}}
}

// installAgain puts the package's own files back, whichever of the two packages and package managers it is.
const installAgain = "apt-get install --reinstall octo-sts || apt-get install --reinstall octo-sts-fips || dnf reinstall 'octo-sts*'"

// checkUsers looks for the accounts.
func checkUsers(_ context.Context, m *machine) []Finding {
	var findings []Finding
	for _, name := range []string{daemonUser, signerUser} {
		_, isUser := m.users[name]
		if _, isGroup := m.groups[name]; !isUser || !isGroup {
			findings = append(findings, Finding{
				Severity: Problem, What: "there is no user " + name + " with a group of that name", Why: "its service runs as that user",
				Command: "systemd-sysusers octo-sts.conf && systemd-tmpfiles --create octo-sts.conf",
			})
		}
	}
	return findings
}

// checkRestart looks whether what runs is what is installed and configured.
func checkRestart(_ context.Context, m *machine) []Finding {
	var findings []Finding
	for _, service := range []string{signerService, daemonService} {
		u := m.units[service]
		restart := "systemctl restart " + service
		if u["NeedDaemonReload"] == "yes" {
			findings = append(findings, Finding{
				Severity: Warning, What: "the files of " + service + " have changed, and systemd has not read them again", Why: "it runs as the old ones say",
				Command: "systemctl daemon-reload && " + restart,
			})
		}
		if pid := u["MainPID"]; pid != "" && pid != "0" && m.isRoot {
			program, err := os.Readlink(m.path("/proc/" + pid + "/exe"))
			if err == nil && strings.HasSuffix(program, " (deleted)") {
				findings = append(findings, Finding{
					Severity: Warning, What: service + " runs a program that was replaced since", Why: "an upgrade counts from the next start on", Command: restart,
				})
			}
		}
		if _, waiting, found := strings.Cut(u["StatusText"], "needs a restart: "); found {
			findings = append(findings, Finding{
				Severity: Warning, What: "changed keys of the configuration of " + service + " are not in force: " + waiting, Why: "these are read at the start alone", Command: restart,
			})
		}
		if _, problem, found := strings.Cut(u["StatusText"], "the configuration on disk is not in force: "); found && service == signerService {
			findings = append(findings, Finding{
				Severity: Warning, What: service + " has not taken up its configuration: " + shorten(problem), Why: "it goes on with what it read before",
				Command: "octo-sts-signer check-config && systemctl reload " + service,
			})
		}
	}
	return findings
}
