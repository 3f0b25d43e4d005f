package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// networkLimit bounds each question to the network.
const networkLimit = 5 * time.Second

// checkCertificate looks at certificate files: whether they are for the domain, and valid. What a CA issues, the daemon looks at.
func checkCertificate(_ context.Context, m *machine) []Finding {
	if m.daemon == nil || m.daemon.TLS.Mode != "files" {
		return nil
	}
	file := m.daemon.TLS.Files.Certificate
	text, err := os.ReadFile(m.path(file))
	if isHidden(err) {
		return []Finding{{Severity: Unseen, What: file + " cannot be read by this user", Command: "sudo octo-sts doctor"}}
	}
	replace := "put the domain's certificate into it, and its key into " + m.daemon.TLS.Files.Key + "; the daemon takes them up by itself"
	wrong := func(severity Severity, what string) []Finding {
		return []Finding{{Severity: severity, What: what, Why: "callers refuse it", Advice: replace}}
	}
	if err != nil {
		return wrong(Problem, err.Error())
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return wrong(Problem, file+" holds no PEM certificate")
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return wrong(Problem, fmt.Sprintf("%s: %v", file, err))
	}
	now := time.Now()
	until := certificate.NotAfter.UTC().Format(time.RFC3339)
	switch {
	case certificate.VerifyHostname(m.daemon.Domain) != nil:
		return wrong(Problem, fmt.Sprintf("%s is not for %s, but for %s", file, m.daemon.Domain, strings.Join(certificate.DNSNames, ", ")))
	case m.ready.has("certificate"):
		return nil // the daemon tells of its times
	case now.After(certificate.NotAfter):
		return wrong(Problem, fmt.Sprintf("%s expired at %s", file, until))
	case now.Before(certificate.NotBefore):
		return wrong(Problem, fmt.Sprintf("%s is not valid before %s", file, certificate.NotBefore.UTC().Format(time.RFC3339)))
	case certificate.NotAfter.Sub(now) < certificate.NotAfter.Sub(certificate.NotBefore)/4:
		return wrong(Warning, fmt.Sprintf("%s expires at %s", file, until))
	}
	return nil
}

// checkDNS looks whether the domain has an address. Which one is none of our business: it may be a load balancer's.
func checkDNS(ctx context.Context, m *machine) []Finding {
	if m.daemon == nil || net.ParseIP(m.daemon.Domain) != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, networkLimit)
	defer cancel()
	if _, err := net.DefaultResolver.LookupHost(ctx, m.daemon.Domain); err != nil {
		return []Finding{{
			Severity: Warning, What: fmt.Sprintf("%s has no address: %v", m.daemon.Domain, err), Why: "CI jobs and GitHub find the appliance by its name, and a certificate authority looks there",
			Advice: "make an A or AAAA record for " + m.daemon.Domain + "; where only this machine does not know it, a line in /etc/hosts is enough",
		}}
	}
	return nil
}

// timeServices are those that keep clocks right, by their units.
var timeServices = []string{"systemd-timesyncd.service", "chrony.service", "chronyd.service", "ntpsec.service", "ntp.service", "ntpd.service", "openntpd.service"}

// checkClock looks whether something keeps the clock right. A container has the clock of the machine around it.
func checkClock(ctx context.Context, m *machine) []Finding {
	if _, err := os.Stat(m.path("/run/systemd/container")); err == nil || m.Root != "" || m.units == nil {
		return nil
	}
	var t unix.Timex // all zero: nothing is changed
	state, err := unix.Adjtimex(&t)
	if err != nil || state != unix.TIME_ERROR {
		return nil
	}
	said := m.run(ctx, "", "systemctl", append([]string{"is-active"}, timeServices...)...)
	return clockFinding(strings.Fields(said.stdout))
}

// clockFinding tells of a clock that the kernel knows to be synchronized by nobody. states are those of timeServices.
func clockFinding(states []string) []Finding {
	f := Finding{
		Severity: Warning, What: "nothing keeps this machine's clock right", Why: "ID tokens and App JWTs of a machine whose clock is a minute off are refused",
		Command: "timedatectl set-ntp true", Advice: "where that says that NTP is not supported: apt-get install systemd-timesyncd, or dnf install chrony",
	}
	for i, state := range states {
		if state == "active" && i < len(timeServices) {
			f.What = timeServices[i] + " runs, and has not synchronized this machine's clock"
			f.Command, f.Advice = "systemctl restart "+timeServices[i], "it needs a time server that it can reach: journalctl -u "+timeServices[i]+" -n 20"
		}
	}
	return []Finding{f}
}

// proxyOf are the variables of the environment of the daemon that are about proxies, by their names in capitals.
func proxyOf(environment string) map[string]string {
	found := map[string]string{}
	for _, assignment := range strings.Fields(environment) {
		name, value, _ := strings.Cut(strings.Trim(assignment, `"'`), "=")
		switch name = strings.ToUpper(name); name {
		case "HTTPS_PROXY", "NO_PROXY":
			found[name] = strings.Trim(value, `"'`)
		}
	}
	return found
}

var machineProxy = regexp.MustCompile(`(?im)^(?:export\s+)?https_proxy=["']?([^"'\s]+)`)

// checkProxy looks whether the daemon knows of the proxy that it needs.
func checkProxy(_ context.Context, m *machine) []Finding {
	proxy := proxyOf(m.units[daemonService]["Environment"])["HTTPS_PROXY"]
	if proxy != "" {
		if u, err := url.Parse(proxy); err != nil || u.Host == "" {
			return []Finding{{
				Severity: Problem, What: fmt.Sprintf("HTTPS_PROXY of %s is no URL: %s", daemonService, proxy), Why: "nothing that it asks of GitHub gets out", Advice: "correct it, as http://HOST:PORT: systemctl edit " + daemonService,
			}}
		}
		return nil
	}
	text, err := os.ReadFile(m.path("/etc/environment"))
	found := machineProxy.FindStringSubmatch(string(text))
	if err != nil || found == nil || m.ready != nil && !strings.Contains(m.ready.said("github"), "no answer") {
		return nil
	}
	file := "/etc/systemd/system/" + daemonService + ".d/proxy.conf"
	return []Finding{{
		Severity: Warning, What: "/etc/environment names the proxy " + found[1] + ", and " + daemonService + " does not know of it", Why: "services do not read that file",
		Command: fmt.Sprintf("mkdir -p %s && printf '[Service]\\nEnvironment=HTTPS_PROXY=%s\\n' > %s && systemctl daemon-reload && systemctl restart %s", path.Dir(file), found[1], file, daemonService),
		Advice:  "unless GitHub can be reached without",
	}}
}

// maxSkew is as far off as a clock may be: GitHub refuses App JWTs from a minute on.
const maxSkew = 30 * time.Second

// checkGitHub asks GitHub for its time. A daemon that runs knows more.
func checkGitHub(ctx context.Context, m *machine) []Finding {
	if m.daemon == nil || m.ready != nil || m.Root != "" {
		return nil
	}
	client, err := m.gitHubClient()
	if err != nil {
		return []Finding{{Severity: Problem, What: "github.ca_file: " + err.Error(), Why: "GitHub's certificate cannot be verified", Advice: "correct the file"}}
	}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, networkLimit)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodHead, m.daemon.GitHub.APIURL, nil)
	if err != nil {
		return nil // the check of the configuration says so
	}
	response, err := client.Do(request)
	if err != nil {
		return []Finding{{
			Severity: Problem, What: "GitHub cannot be reached: " + shorten(err.Error()), Why: "nobody gets a token", Advice: "find out what is between: curl -sSI " + m.daemon.GitHub.APIURL,
		}}
	}
	_ = response.Body.Close()
	theirs, err := http.ParseTime(response.Header.Get("Date"))
	if err != nil {
		return nil // it is no GitHub, or none that says its time
	}
	return skewFinding(time.Since(theirs))
}

func skewFinding(skew time.Duration) []Finding {
	if skew.Abs() <= maxSkew {
		return nil
	}
	return []Finding{{
		Severity: Problem, What: fmt.Sprintf("this machine's clock is off by %s against GitHub's", skew.Round(time.Second)), Why: "GitHub refuses its App JWTs",
		Command: "timedatectl set-ntp true", Advice: "or set up chrony",
	}}
}

func (m *machine) gitHubClient() (*http.Client, error) {
	roots := (*x509.CertPool)(nil)
	if file := m.daemon.GitHub.CAFile; file != "" {
		text, err := os.ReadFile(m.path(file))
		if err != nil {
			return nil, err
		}
		if roots = x509.NewCertPool(); !roots.AppendCertsFromPEM(text) {
			return nil, errors.New(file + " holds no PEM certificate")
		}
	}
	proxy := http.ProxyFromEnvironment
	if named := proxyOf(m.units[daemonService]["Environment"])["HTTPS_PROXY"]; named != "" {
		through, err := url.Parse(named)
		if err != nil {
			return nil, err
		}
		proxy = http.ProxyURL(through)
	}
	return &http.Client{
		Transport:     &http.Transport{Proxy: proxy, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}
