package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

// readyLimit bounds the question to the daemon, which asks the signer in turn.
const readyLimit = 15 * time.Second

// readiness is what the daemon's /readyz answers.
type readiness struct {
	State  string
	Checks []readyCheck
}

type readyCheck struct{ Name, State, Detail string }

// has says whether the daemon that runs looks at a thing itself.
func (r *readiness) has(name string) bool {
	return r != nil && slices.ContainsFunc(r.Checks, func(c readyCheck) bool { return c.Name == name })
}

// said is the detail of a check that is not well; "" where it is.
func (r *readiness) said(name string) string {
	if r == nil {
		return ""
	}
	for _, c := range r.Checks {
		if c.Name == name && c.State != "ready" {
			return c.Detail
		}
	}
	return ""
}

// askReady asks the daemon's admin listener. nil: it does not answer.
func askReady(ctx context.Context, admin string) *readiness {
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	transport := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		if path, isSocket := strings.CutPrefix(admin, "unix:"); isSocket {
			network, address = "unix", path
		}
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}}
	defer transport.CloseIdleConnections()
	host := admin
	switch {
	case strings.HasPrefix(admin, "unix:"):
		host = "localhost"
	case strings.HasPrefix(admin, ":"), strings.HasPrefix(admin, "0.0.0.0:"), strings.HasPrefix(admin, "[::]:"):
		host = "127.0.0.1" + admin[strings.LastIndex(admin, ":"):]
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+"/readyz", nil)
	if err != nil {
		return nil
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return nil
	}
	defer response.Body.Close()
	var r readiness
	if json.NewDecoder(io.LimitReader(response.Body, 1<<20)).Decode(&r) != nil || r.State == "" {
		return nil
	}
	return &r
}

// remedy is what a check of /readyz means, and what mends it. The first whose words are in the detail counts.
type remedy struct {
	check, words         string
	why, command, advice string
}

func remedies() []remedy {
	const pages = "file:///usr/share/doc/octo-sts/"
	return []remedy{
		{"audit", "no space", "no exchange is granted that cannot be logged", "", "make room: move the oldest segments away (" + pages + "audit.md); it goes on by itself"},
		{"audit", "", "no exchange is granted that cannot be logged", "systemctl restart " + daemonService, "what the log's disk says: journalctl -k -p err"},
		{"checkpoint", "NOT THE ONE", "somebody changed the log, or put back an older one", "octo-sts audit verify --key /root/audit.vkey", "the key is the verifier key that setup printed; what to do: " + pages + "audit.md, \"What a no means\""},
		{"checkpoint", "", "entries of the log that no checkpoint covers could be changed unnoticed", "systemctl restart " + signerService, "where that does not help: journalctl -u " + signerService + " -n 30"},
		{"signer", "not in the signer's configuration", "its organizations get no token", "octo-sts-signer check-config && systemctl reload " + signerService, "add the App to signer.yaml first"},
		{"signer", "PIN", "nothing can be signed", "systemd-creds encrypt --name=hsm-pin - /etc/credstore.encrypted/hsm-pin && systemctl restart " + signerService, "the command reads the right PIN from its standard input"},
		{"signer", "no such file or directory", "nothing can be signed", socketAgain, ""},
		{"signer", "connection refused", "nothing can be signed", socketAgain, ""},
		{"signer", "permission denied", "nothing can be signed", socketAgain, ""},
		{"signer", "", "once the App JWTs that are there have expired, after nine minutes, nobody gets a token", "systemctl restart " + signerService,
			"what the HSM says: systemctl status " + signerService + ", and: systemd-run --quiet --pipe --wait --property=LoadCredentialEncrypted=hsm-pin octo-sts-signer key list"},
		{"hsm", "PIN", "that token signs nothing until a person has looked", "systemd-creds encrypt --name=hsm-pin - /etc/credstore.encrypted/hsm-pin && systemctl restart " + signerService, "the command reads the right PIN from its standard input; a further token's is hsm-pin-2, and so on"},
		{"hsm", "", "another token signs, where there is one; where there is none, nobody gets a token", "systemctl restart " + signerService, "see to the HSM first: that it has power, is connected, and that its own tools find it"},
		{"probe", "", "nobody is told when exchanges stop to work", "systemd-run --quiet --pipe --wait --property=LoadCredentialEncrypted=hsm-pin octo-sts-signer key generate --probe", "and the section probe of signer.yaml: " + pages + "probes.md"},
		{"github", "clock", "GitHub takes no App JWT of a machine whose clock is wrong", "timedatectl set-ntp true", "or set up chrony"},
		{"github", "no answer", "nobody gets a token", "", "find out whether this machine gets there: curl -sSI https://api.github.com/; where a proxy is needed: " + pages + "operations.md, \"Proxies\""},
		{"github", "", "the App's organizations get no token", "", "look at the App's settings at GitHub: that it is not suspended, has the key that `octo-sts-signer key list` shows, and the permissions that it needs"},
		{"issuers", "no issuer", "nobody can exchange a token", "", "list them under issuers in octo-stsd.yaml, then: systemctl reload " + daemonService},
		{"issuers", "", "the ID tokens of such an issuer cannot be verified", "", "find out whether this machine gets there: curl -sS URL/.well-known/openid-configuration; a private address has to be in the issuer's networks"},
		{"certificate", "", "callers refuse a certificate that is missing or not valid, and one that is not renewed will be", "systemctl reload " + daemonService,
			"it tries at once when it is reloaded. An ACME authority has to reach port 443 or 80 of the domain, and files have to be replaced: " + pages + "tls.md"},
		{"webhook", "", "changes of policies count up to a minute later, and checks of pull requests wait", "", "look at the deliveries in the App's settings at GitHub, Advanced: " + pages + "webhooks.md"},
		{"configuration", "", "the daemon goes on with what it read before", "octo-stsd check-config && systemctl reload " + daemonService, ""},
		{"disk", "", "when it is full, every exchange is refused until there is room", "", "move the oldest segments of the audit log away, or make the file system larger: " + pages + "audit.md"},
		{"clock", "", "ID tokens and App JWTs of a machine whose clock is wrong are refused", "timedatectl set-ntp true", "or set up chrony"},
		{"audit journal", "", "the journal gets no copy of the audit log; the log itself goes on", "systemctl restart systemd-journald.service", ""},
		{"audit cloudevents", "", "the collector gets no copy of the audit log; the log itself goes on", "", "look at the collector"},
	}
}

// checkReady puts what the running daemon says of itself into words.
func checkReady(_ context.Context, m *machine) []Finding {
	if m.ready == nil {
		if m.Root != "" || !m.units[daemonService].is("active") {
			return nil // that it does not run is told already
		}
		return []Finding{{
			Severity: Problem, What: "octo-stsd is active, and does not answer at http://" + m.admin() + "/readyz", Why: "nobody can see how it is", Command: "systemctl restart " + daemonService,
			Advice: "another port than 9464 for listen.admin wants SocketBindAllow=tcp:PORT in a drop-in",
		}}
	}
	var findings []Finding
	for _, c := range m.ready.Checks {
		if c.State != "ready" {
			findings = append(findings, inWords(c))
		}
	}
	return findings
}

func inWords(c readyCheck) Finding {
	f := Finding{Severity: Warning, What: fmt.Sprintf("octo-stsd says of %s: %s", c.Name, shorten(c.Detail)), Advice: "what it means: file:///usr/share/doc/octo-sts/operations.md"}
	if c.State == "failing" {
		f.Severity, f.Why = Problem, "no exchange is granted meanwhile"
	}
	for _, r := range remedies() {
		if r.check == c.Name && strings.Contains(c.Detail, r.words) {
			f.Why, f.Command, f.Advice = r.why, r.command, r.advice
			break
		}
	}
	return f
}
