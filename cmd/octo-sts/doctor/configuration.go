package doctor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/octo-sts/appliance/signer"
)

// daemonConfig is as much of octo-stsd.yaml as is looked at here, as `octo-stsd check-config --output json` prints it.
type daemonConfig struct {
	Domain string
	Listen struct{ HTTPS, HTTP, Admin string }
	TLS    struct {
		Mode  string
		Files struct{ Certificate, Key string }
		ACME  struct {
			EAB struct {
				HMACCredential string `json:"hmac_credential"`
			}
		}
	}
	GitHub struct {
		APIURL string `json:"api_url"`
		CAFile string `json:"ca_file"`
		Apps   []struct{ ID int64 }
	}
	Webhook struct{ Secrets []string }
	Audit   struct {
		Directory, Origin     string
		CloudEventsCredential string `json:"cloudevents_credential"`
	}
	Tracing struct {
		OTLPCredential string `json:"otlp_credential"`
	}
	Signer         struct{ Socket string }
	StateDirectory string `json:"state_directory"`
	Probe          struct{ Scope string }
}

// The packages' directories, where the configuration cannot be asked.
const (
	defaultAdmin          = "127.0.0.1:9464"
	defaultAuditDirectory = "/var/log/octo-sts/audit"
	defaultDaemonState    = "/var/lib/octo-sts"
	defaultSignerState    = "/var/lib/octo-sts-signer"
	defaultSocket         = "/run/octo-sts-signer/signer.sock"
)

func (m *machine) admin() string {
	if m.daemon != nil {
		return m.daemon.Listen.Admin
	}
	return defaultAdmin
}

func (m *machine) auditDirectory() string {
	if m.daemon != nil {
		return m.daemon.Audit.Directory
	}
	return defaultAuditDirectory
}

func (m *machine) daemonState() string {
	if m.daemon != nil {
		return m.daemon.StateDirectory
	}
	return defaultDaemonState
}

func (m *machine) signerState() string {
	if m.signer != nil {
		return m.signer.Checkpoint.StateDirectory
	}
	return defaultSignerState
}

// configFile is one of the two files, and what its daemon says of it.
type configFile struct {
	path, program, user, service string
	err                          error // of reading it
	bare                         bool  // it holds nothing but comments
	problems                     []string
	notRun                       string // why its daemon could not be asked
}

func (m *machine) readConfigurations(ctx context.Context) {
	m.daemonText = configFile{path: daemonFile, program: "octo-stsd", user: daemonUser, service: daemonService}
	m.signerText = configFile{path: signerFile, program: "octo-sts-signer", user: signerUser, service: signerService}
	var daemon daemonConfig
	if m.readConfiguration(ctx, &m.daemonText, &daemon) {
		m.daemon = &daemon
	}
	var config signer.Config
	if m.readConfiguration(ctx, &m.signerText, &config) {
		m.signer = &config
	}
	m.unconfigured = m.daemonText.missing() && m.signerText.missing()
}

func (f *configFile) missing() bool { return f.bare || errors.Is(f.err, os.ErrNotExist) }

// readConfiguration has a file checked by its daemon, as the user that it runs as, and decodes what that makes of it.
func (m *machine) readConfiguration(ctx context.Context, f *configFile, into any) (usable bool) {
	text, err := os.ReadFile(m.path(f.path))
	if f.err = err; err != nil {
		return false
	}
	f.bare = true
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		f.bare = f.bare && (line == "" || line == "---" || strings.HasPrefix(line, "#"))
	}
	if f.bare {
		return false
	}
	ask := func(as string) answer {
		return m.run(ctx, as, m.program(f.program), "check-config", "--config", m.path(f.path), "--output", "json")
	}
	said := ask(f.user)
	if said.status != 0 && strings.Contains(said.stderr, m.path(f.path)+": permission denied") {
		said = ask("") // the check of directories says who may read it
	}
	switch said.status {
	case 0:
		if err := json.Unmarshal([]byte(said.stdout), into); err != nil {
			f.notRun = fmt.Sprintf("%s check-config printed something else than JSON: %v", f.program, err)
			return false
		}
		return true
	case 2:
		f.problems = problemsOf(said.stderr, m.path(f.path))
	default:
		f.notRun = fmt.Sprintf("running %s check-config: %v: %s", f.program, said.err, said.stderr)
	}
	return false
}

// problemsOf are the lines of an error that name a line of the file; where none does, the whole error.
func problemsOf(stderr, path string) []string {
	var problems []string
	for line := range strings.Lines(stderr) {
		if at := strings.Index(line, path+":"); at >= 0 {
			problems = append(problems, strings.TrimSpace(line[at:]))
		}
	}
	if problems == nil {
		problems = []string{strings.Join(strings.Fields(stderr), " ")}
	}
	return problems
}

func checkConfiguration(_ context.Context, m *machine) []Finding {
	if m.unconfigured {
		return []Finding{{
			Severity: Problem, What: "the appliance is not configured yet: " + daemonFile + " and " + signerFile + " hold nothing", Why: "neither daemon starts before they do",
			Advice: "the next step makes the GitHub App, puts its key into the HSM and writes both files: octo-sts-signer setup --domain NAME --hsm MODULE:TOKEN (file:///usr/share/doc/octo-sts/install.md)",
		}}
	}
	var findings []Finding
	for _, f := range []configFile{m.daemonText, m.signerText} {
		findings = append(findings, f.findings(m)...)
	}
	return findings
}

func (f *configFile) findings(m *machine) []Finding {
	page := map[string]string{daemonFile: "octo-stsd.yaml(5)", signerFile: "signer.yaml(5)"}[f.path]
	switch {
	case f.missing():
		what := f.path + " holds nothing but comments"
		if f.err != nil {
			what = f.path + " is not there"
		}
		return []Finding{{Severity: Problem, What: what, Why: f.service + " does not start without it", Advice: "write it, as " + page + " says, or restore it from a backup; then: systemctl start " + target}}
	case isHidden(f.err):
		return []Finding{{Severity: Unseen, What: f.path + " cannot be read by this user, so what it says was not looked at", Command: "sudo octo-sts doctor"}}
	case f.err != nil:
		return []Finding{{Severity: Problem, What: f.err.Error(), Why: f.service + " cannot start", Advice: "make it a file that its user can read"}}
	case f.notRun != "":
		return []Finding{{Severity: Unseen, What: f.notRun, Command: m.program(f.program) + " check-config"}}
	}
	var findings []Finding
	for _, problem := range f.problems {
		findings = append(findings, Finding{
			Severity: Problem, What: problem, Why: f.service + " does not start with it, and one that runs goes on with what it read before",
			Advice: "correct the file as " + page + " says, then: " + f.program + " check-config && systemctl reload-or-restart " + f.service,
		})
	}
	return findings
}

// checkAgreement holds the two files against each other.
func checkAgreement(_ context.Context, m *machine) []Finding {
	if m.daemon == nil || m.signer == nil {
		return nil
	}
	var findings []Finding
	differ := func(what, why, advice string) {
		findings = append(findings, Finding{Severity: Problem, What: what, Why: why, Advice: advice})
	}
	d, s := m.daemon, m.signer
	if d.Audit.Origin != s.Checkpoint.Origin {
		differ(fmt.Sprintf("audit.origin of octo-stsd.yaml is %s, and checkpoint.origin of signer.yaml is %s", d.Audit.Origin, s.Checkpoint.Origin),
			"the signer signs the checkpoints of its own log alone",
			"give both the origin that the log's checkpoint begins with ("+d.Audit.Directory+"/checkpoint), then: systemctl restart "+signerService+" "+daemonService)
	}
	if d.Signer.Socket != s.Socket {
		differ(fmt.Sprintf("signer.socket of octo-stsd.yaml is %s, and socket of signer.yaml is %s", d.Signer.Socket, s.Socket),
			"the daemon asks for signatures where nobody answers",
			"write the same path into both, that of ListenStream= in octo-sts-signer.socket, then: systemctl restart "+signerService+" "+daemonService)
	}
	for _, app := range d.GitHub.Apps {
		if _, ok := s.App(app.ID); !ok {
			differ(fmt.Sprintf("App %d of octo-stsd.yaml is not among the apps of signer.yaml", app.ID),
				"nothing can be signed for it, so its organizations get no token",
				fmt.Sprintf("add it there, with the label of its key, then: systemctl reload %s; or take it out of octo-stsd.yaml", signerService))
		}
	}
	if user := cmp.Or(m.units[daemonService].property("User"), daemonUser); !slices.Contains(s.AllowUsers, user) && !slices.Contains(s.AllowUsers, fmt.Sprint(m.users[user])) {
		differ(fmt.Sprintf("allow_users of signer.yaml does not list %s, the user of %s", user, daemonService),
			"the signer answers nobody else", fmt.Sprintf("write allow_users: [%s], then: systemctl reload %s", user, signerService))
	}
	return findings
}
