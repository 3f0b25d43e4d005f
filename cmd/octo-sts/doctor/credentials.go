package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Where systemd looks for a credential that is loaded by name (systemd.exec(5), LoadCredential=).
var (
	encryptedStores = []string{"/etc/credstore.encrypted", "/run/credstore.encrypted", "/usr/lib/credstore.encrypted"}
	plainStores     = []string{"/etc/credstore", "/run/credstore", "/usr/lib/credstore"}
)

// secret is a credential that a configuration names.
type secret struct{ name, service, use string }

func (m *machine) secrets() []secret {
	var all []secret
	add := func(name, service, use string) {
		if name != "" {
			all = append(all, secret{name, service, use})
		}
	}
	if m.signer != nil {
		for _, h := range m.signer.HSMs {
			add(h.PINCredential, signerService, "the PIN of the token of "+h.Module)
		}
	}
	if m.daemon != nil {
		for _, name := range m.daemon.Webhook.Secrets {
			add(name, daemonService, "a secret of the webhook")
		}
		add(m.daemon.Audit.CloudEventsCredential, daemonService, "what the collector of the audit log is shown")
		add(m.daemon.Tracing.OTLPCredential, daemonService, "what the collector of traces is shown")
		add(m.daemon.TLS.ACME.EAB.HMACCredential, daemonService, "the key of the account at the certificate authority")
	}
	return all
}

// checkCredentials looks whether each secret is there, can be decrypted, and is loaded by its unit.
func checkCredentials(ctx context.Context, m *machine) []Finding {
	var findings []Finding
	loads := map[string]map[string]string{}
	for _, s := range m.secrets() {
		if loads[s.service] == nil && m.units != nil {
			loads[s.service] = parseLoads(m.run(ctx, "", "systemctl", "cat", "--no-pager", s.service).stdout)
		}
		from, loaded := loads[s.service][s.name]
		if m.units != nil && !loaded {
			file := fmt.Sprintf("/etc/systemd/system/%s.d/credential-%s.conf", s.service, s.name)
			findings = append(findings, Finding{
				Severity: Problem, What: fmt.Sprintf("%s does not load the credential %s", s.service, s.name), Why: "it is " + s.use,
				Command: fmt.Sprintf("mkdir -p %s && printf '[Service]\\nLoadCredentialEncrypted=%s\\n' > %s && systemctl daemon-reload && systemctl restart %s", path.Dir(file), s.name, file, s.service),
			})
			continue
		}
		if !m.isRoot && m.Root == "" {
			findings = append(findings, Finding{Severity: Unseen, What: "whether the credential " + s.name + " is there", Command: "sudo octo-sts doctor"})
			continue
		}
		findings = append(findings, m.lookAtSecret(ctx, s, from)...)
	}
	return findings
}

// parseLoads reads which credentials a unit loads, and from which path; "" where systemd looks for the name.
func parseLoads(unitFiles string) map[string]string {
	loads := map[string]string{}
	for line := range strings.Lines(unitFiles) {
		key, value, found := strings.Cut(strings.TrimSpace(line), "=")
		switch key = strings.TrimSpace(key); {
		case !found || !strings.HasPrefix(key, "LoadCredential") && !strings.HasPrefix(key, "SetCredential"):
		case value == "":
			clear(loads)
		default:
			name, from, _ := strings.Cut(strings.TrimSpace(value), ":")
			if strings.HasPrefix(key, "SetCredential") {
				from = "the unit"
			}
			loads[name] = from
		}
	}
	return loads
}

func (m *machine) lookAtSecret(ctx context.Context, s secret, from string) []Finding {
	make := fmt.Sprintf("systemd-creds encrypt --name=%s - /etc/credstore.encrypted/%[1]s && systemctl restart %s", s.name, s.service)
	typing := "the command reads the secret from its standard input: type it and press Ctrl-D twice, or have systemd-ask-password -n write it"
	var candidates []string
	switch {
	case path.IsAbs(from):
		candidates = []string{from}
	case from != "":
		return nil // it stands in the unit, or comes from a socket or the machine's manager
	default:
		for _, store := range append(encryptedStores, plainStores...) {
			candidates = append(candidates, path.Join(store, s.name))
		}
	}
	for _, file := range candidates {
		info, err := os.Stat(m.path(file))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return []Finding{{Severity: Problem, What: err.Error(), Why: "it is " + s.use, Command: make, Advice: typing}}
		}
		if strings.Contains(path.Dir(file), "encrypted") {
			if said := m.run(ctx, "", "systemd-creds", "decrypt", "--name="+s.name, m.path(file), "-"); said.err != nil || said.stdout == "" {
				return []Finding{{
					Severity: Problem, What: fmt.Sprintf("%s cannot be decrypted on this machine: %s", file, shorten(said.stderr)), Why: "it is " + s.use + ", and " + s.service + " does not start without it",
					Command: make, Advice: typing,
				}}
			}
		} else if mode := info.Mode().Perm(); mode&0o077 != 0 {
			return []Finding{{
				Severity: Problem, What: fmt.Sprintf("%s, a secret in the clear, has the mode %04o", file, mode), Why: "others than root can read it", Command: "chmod 0600 " + file,
			}}
		}
		return m.lookAtLoaded(s, info.ModTime())
	}
	return []Finding{{
		Severity: Problem, What: "the credential " + s.name + " is nowhere", Why: "it is " + s.use + ", and " + s.service + " does not start without it", Command: make, Advice: typing,
	}}
}

// lookAtLoaded looks whether the service got the credential that is there now.
func (m *machine) lookAtLoaded(s secret, written time.Time) []Finding {
	info, err := os.Stat(m.path(path.Join("/run/credentials", s.service, s.name)))
	if err != nil || !m.units[s.service].is("active") || !written.After(info.ModTime()) {
		return nil
	}
	return []Finding{{
		Severity: Warning, What: fmt.Sprintf("the credential %s was changed after %s started", s.name, s.service), Why: "it is " + s.use + ", and is read at the start alone", Command: "systemctl restart " + s.service,
	}}
}

// latchFile is the name of a latch (signer.HSMConfig.LatchName). Other files of the signer's are none of root's shell's business.
var latchFile = regexp.MustCompile(`^pin-[0-9a-f]{16}$`)

// checkPIN looks for PINs that a token refused and that the signer does not try again. See signer.PINLatch.
func checkPIN(_ context.Context, m *machine) []Finding {
	names := map[string]string{} // of latches, and the credential of each
	if m.signer != nil {
		for _, h := range m.signer.HSMs {
			names[h.LatchName()] = h.PINCredential
		}
	}
	files, err := filepath.Glob(m.path(path.Join(m.signerState(), "pin-*")))
	if err != nil || len(files) == 0 {
		return nil
	}
	var findings []Finding
	for _, file := range files {
		var note struct {
			State string    `json:"state"`
			Hash  []byte    `json:"pbkdf2_sha256_600000"`
			Time  time.Time `json:"time"`
		}
		credential, ours := names[filepath.Base(file)]
		if !latchFile.MatchString(filepath.Base(file)) || !ours && len(names) > 0 {
			continue
		}
		text, err := readStrangers(file)
		if err != nil {
			continue
		}
		if json.Unmarshal(text, &note) == nil && len(note.Hash) == 0 {
			continue // an attempt is under way
		}
		if credential == "" {
			credential = "hsm-pin"
		}
		latch := path.Join(m.signerState(), filepath.Base(file))
		findings = append(findings, Finding{
			Severity: Problem, What: fmt.Sprintf("a token refused the PIN of the credential %s at %s, and it is not tried again", credential, note.Time.UTC().Format(time.RFC3339)),
			Why:     "a few more wrong ones would lock the token for good, so it cannot sign until a person has looked",
			Command: fmt.Sprintf("systemd-creds encrypt --name=%s - /etc/credstore.encrypted/%[1]s && systemctl restart %s", credential, signerService),
			Advice:  fmt.Sprintf("the command reads the right PIN from its standard input; where the one that is there is right after all, have it tried once more: rm %s && systemctl restart %s", latch, signerService),
		})
	}
	return findings
}

// checkSoftHSM looks whether the signer's user and sandbox let SoftHSM get at its files.
func checkSoftHSM(_ context.Context, m *machine) []Finding {
	if m.signer == nil {
		return nil
	}
	for _, h := range m.signer.HSMs {
		if !strings.Contains(path.Base(h.Module), "softhsm") {
			continue
		}
		var findings []Finding
		const dropIn = "octo-sts-signer.service.d/softhsm.conf"
		if u := m.units[signerService]; u.exists() && u["DropInPaths"] == "" {
			findings = append(findings, Finding{
				Severity: Problem, What: signerService + " has no drop-in, and SoftHSM's files are outside of its sandbox", Why: "the signer does not find the token",
				Command: "install -D -m 644 /usr/share/octo-sts/drop-ins/" + dropIn + " /etc/systemd/system/" + dropIn + " && systemctl daemon-reload && systemctl restart " + signerService,
			})
		}
		for _, group := range []string{"softhsm", "ods"} { // Debian's name, and Fedora's
			if members, there := m.members[group]; there && !slices.Contains(members, signerUser) {
				findings = append(findings, Finding{
					Severity: Problem, What: "the user " + signerUser + " is not in the group " + group, Why: "the signer cannot read SoftHSM's configuration and tokens",
					Command: "usermod --append --groups " + group + " " + signerUser + " && systemctl restart " + signerService,
				})
			}
		}
		return findings
	}
	return nil
}
