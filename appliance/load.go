package appliance

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/sts/audit/checkpoint"
	"github.com/octo-sts/appliance/sts/audit/forward"
	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/idtoken"
	"github.com/octo-sts/appliance/sts/strictyaml"
	"github.com/octo-sts/appliance/sts/trustpolicy"
)

// Load reads, completes and checks a configuration file. Its error is either
// that of reading the file, or wraps strictyaml.Problems with every fault found.
func Load(file string) (*Config, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	return parse(file, data)
}

func parse(file string, data []byte) (*Config, error) {
	c := &Config{file: file}
	doc, err := strictyaml.Decode(file, data, c)
	if doc != nil {
		c.complete()
		k := &checker{doc: doc}
		k.check(c)
		err = strictyaml.Join(err, k.problems)
	}
	if err != nil {
		return nil, fmt.Errorf("the configuration cannot be used:\n%w", err)
	}
	return c, nil
}

// complete fills in the defaults that the Config struct documents.
func (c *Config) complete() {
	setDefault(&c.Listen.HTTPS, ":443")
	setDefault(&c.Listen.Admin, "127.0.0.1:9464")
	setDefault(&c.TLS.ACME.Directory, "https://acme-v02.api.letsencrypt.org/directory")
	setDefault(&c.Limits.Concurrent, 512)
	setDefault(&c.Limits.Connections, 4096)
	setDefault(&c.Limits.ConnectionsPerAddress, 1024)
	setDefault(&c.Limits.PerAddress, 200)
	setDefault(&c.Limits.Burst, 1000)
	setDefault(&c.Limits.PerIssuer, 1000)
	setDefault(&c.Limits.BurstPerIssuer, 5000)
	setDefault(&c.Limits.DeniedPerSubject, 60)
	setDefault(&c.Limits.DeniedPerOwner, 600)
	setDefault(&c.GitHub.APIURL, "https://api.github.com")
	setDefault(&c.GitHub.PolicyRepository, ".github")
	setDefault(&c.GitHub.MaxConcurrent, 64)
	if c.GitHub.PolicyMaxAge == nil {
		age := githubapp.DefaultPolicyMaxAge
		c.GitHub.PolicyMaxAge = &age
	}
	for i := range c.GitHub.Apps {
		if c.GitHub.Apps[i].Organizations == nil {
			c.GitHub.Apps[i].Organizations = []string{"*"}
		}
	}
	for i := range c.Issuers {
		setDefault(&c.Issuers[i].MaxLifetime, 24*time.Hour)
	}
	setDefault(&c.Ceiling.Policies, "repository")
	setDefault(&c.Audit.Origin, c.Domain+"/audit")
	if c.Probe.Scope != "" {
		setDefault(&c.Probe.Identity, "probe")
		setDefault(&c.Probe.URL, "https://"+c.Domain)
	}
	setDefault(&c.Signer.Socket, "/run/octo-sts-signer/signer.sock")
	setDefault(&c.StateDirectory, "/var/lib/octo-sts")
	if c.Tracing.Sample == nil {
		all := 1.0
		c.Tracing.Sample = &all
	}
}

// Unchecked says what Load could not look at; empty where it looked at everything.
func (c *Config) Unchecked() string {
	if _, set := os.LookupEnv(credentialsDirectory); !set && (len(c.Webhook.Secrets) > 0 || c.Audit.CloudEventsCredential != "" || c.Tracing.OTLPCredential != "" || c.TLS.ACME.EAB.HMACCredential != "") {
		return "; $" + credentialsDirectory + " is not set, so the secrets were not looked at"
	}
	return ""
}

func setDefault[T comparable](field *T, value T) {
	var unset T
	if *field == unset {
		*field = value
	}
}

// checker collects what is wrong with a configuration that could be decoded.
type checker struct {
	doc      *strictyaml.Document
	problems strictyaml.Problems
}

// wrong notes a fault at a key, written as the file nests it: issuers[1].url.
func (k *checker) wrong(key, format string, args ...any) {
	k.problems = append(k.problems, k.doc.Problemf(key, key+": "+format, args...))
}

func (k *checker) check(c *Config) {
	if c.Domain == "" {
		k.wrong("domain", "is required: the appliance's public name, such as sts.example.com")
	} else if strings.ContainsAny(c.Domain, "/: \t") {
		k.wrong("domain", "%q is not a host name: leave out the scheme, the port and the path", c.Domain)
	}
	k.checkListeners(c)
	k.checkLimits(c.Limits)
	k.checkGitHub(c.GitHub)
	for i, issuer := range c.Issuers {
		k.checkIssuer(fmt.Sprintf("issuers[%d]", i), issuer, c.Issuers[:i])
	}
	k.checkPermissions(c)
	k.checkWebhook(c.Webhook)
	k.checkAudit(c.Audit)
	k.checkProbe(c)
	k.checkTracing(c.Tracing)
}

func (k *checker) checkListeners(c *Config) {
	k.checkAddress("listen.https", c.Listen.HTTPS)
	k.checkAddress("listen.admin", c.Listen.Admin)
	if c.Listen.HTTP != "" {
		k.checkAddress("listen.http", c.Listen.HTTP)
	}
	k.checkProxies(c.Listen)
	k.checkTLS(c)
}

func (k *checker) checkAddress(key, address string) {
	if path, isUnix := strings.CutPrefix(address, "unix:"); isUnix {
		if !filepath.IsAbs(path) {
			k.wrong(key, "%q: a unix socket's path begins with a slash: unix:/run/…", address)
		}
		return
	}
	if _, port, err := net.SplitHostPort(address); err != nil || port == "" {
		k.wrong(key, "%q: want host:port, :port, or unix:/path", address)
	} else if _, err := net.LookupPort("tcp", port); err != nil {
		k.wrong(key, "%q: there is no port %q", address, port)
	}
}

// isLocal tells whether nobody off this machine can reach the address.
func isLocal(address string) bool {
	if strings.HasPrefix(address, "unix:") {
		return true
	}
	host, _, err := net.SplitHostPort(address)
	ip, parseErr := netip.ParseAddr(host)
	return err == nil && (host == "localhost" || parseErr == nil && ip.IsLoopback())
}

func (k *checker) checkGitHub(g GitHub) {
	if u, err := url.Parse(g.APIURL); err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		k.wrong("github.api_url", "%q is not a URL such as https://api.github.com or https://ghe.example.com/api/v3", g.APIURL)
	} else if u.Scheme != "https" && !(u.Scheme == "http" && isLocal(net.JoinHostPort(u.Hostname(), "80"))) {
		k.wrong("github.api_url", "%q: tokens travel there, so it has to be https", g.APIURL)
	}
	k.checkFile("github.ca_file", g.CAFile, false)
	if g.MaxConcurrent < 1 || g.MaxConcurrent > 99 {
		k.wrong("github.max_concurrent", "%d: want 1 to 99, since GitHub allows 100", g.MaxConcurrent)
	}
	if len(g.Apps) == 0 {
		k.wrong("github.apps", "is required: the GitHub App to act as: [{id: 1234}]")
	}
	seen := map[int64]bool{}
	for i, app := range g.Apps {
		key := fmt.Sprintf("github.apps[%d]", i)
		if app.ID <= 0 {
			k.wrong(key+".id", "is required: the number that the App's settings page calls App ID")
		} else if seen[app.ID] {
			k.wrong(key+".id", "%d is listed twice", app.ID)
		}
		seen[app.ID] = true
		if len(app.Organizations) == 0 {
			k.wrong(key+".organizations", `is empty, so the App would serve nobody: name organizations, or leave it out for ["*"]`)
		}
	}
}

func (k *checker) checkIssuer(key string, issuer Issuer, before []Issuer) {
	networks := make([]netip.Prefix, 0, len(issuer.Networks))
	for i, network := range issuer.Networks {
		prefix, err := netip.ParsePrefix(network)
		if err != nil {
			k.wrong(fmt.Sprintf("%s.networks[%d]", key, i), "%q is not a network such as 10.20.0.0/16", network)
			continue
		}
		networks = append(networks, prefix)
	}
	if issuer.URL == "" {
		k.wrong(key+".url", "is required: exactly what ID tokens have as iss")
	} else if err := idtoken.CheckIssuerURL(issuer.URL, networks); err != nil {
		k.wrong(key+".url", "%v", err)
	}
	for _, other := range before {
		if other.URL == issuer.URL {
			k.wrong(key+".url", "%s is listed twice", issuer.URL)
		}
	}
	if issuer.JWKSURL != "" && issuer.JWKSFile != "" {
		k.wrong(key+".jwks_file", "excludes jwks_url: the keys come from one place")
	}
	if issuer.JWKSURL != "" {
		if err := idtoken.CheckIssuerURL(issuer.JWKSURL, networks); err != nil {
			k.wrong(key+".jwks_url", "%v", err)
		}
	}
	k.checkFile(key+".jwks_file", issuer.JWKSFile, false)
	k.checkFile(key+".ca_file", issuer.CAFile, false)
}

func (k *checker) checkPermissions(c *Config) {
	switch c.Ceiling.Policies {
	case "repository", "organization":
	default:
		k.wrong("ceiling.policies", "%q: want repository or organization", c.Ceiling.Policies)
	}
	known := trustpolicy.GitHubPermissions().With(c.Permissions)
	for _, name := range slices.Sorted(maps.Keys(c.Ceiling.Permissions)) {
		if err := known.Check(name, c.Ceiling.Permissions[name]); err != nil {
			k.wrong("ceiling.permissions."+name, "%v", err)
		}
	}
}

func (k *checker) checkWebhook(w Webhook) {
	for i, name := range w.Secrets {
		k.checkCredential(fmt.Sprintf("webhook.secrets[%d]", i), name)
	}
}

func (k *checker) checkAudit(a Audit) {
	if err := checkpoint.CheckOrigin(a.Origin); err != nil && k.doc.Has("audit.origin") {
		k.wrong("audit.origin", "%v: want a name such as sts.example.com/audit", err)
	}
	if a.Directory == "" {
		k.wrong("audit.directory", "is required: where the audit log is written, such as /var/log/octo-sts/audit")
	}
	if a.CloudEventsSink == "" {
		if a.CloudEventsCAFile != "" || a.CloudEventsCredential != "" || a.CloudEventsFrom != 0 {
			k.wrong("audit.cloudevents_sink", "is left out, and without it the other cloudevents keys mean nothing")
		}
		return
	}
	if _, err := forward.CheckSink(a.CloudEventsSink); err != nil {
		k.wrong("audit.cloudevents_sink", "%v", err)
	}
	k.checkFile("audit.cloudevents_ca_file", a.CloudEventsCAFile, false)
	if a.CloudEventsCredential != "" {
		k.checkCredential("audit.cloudevents_credential", a.CloudEventsCredential)
	}
}

// checkCredential reads a secret, where it can be told where they are: a person
// who checks a configuration outside of systemd has none.
func (k *checker) checkCredential(key, name string) {
	directory, set := os.LookupEnv(credentialsDirectory)
	if !set {
		return
	}
	if _, err := signer.ReadCredential(directory, name); errors.Is(err, fs.ErrNotExist) {
		k.wrong(key, "%v (systemd passes credentials at a start, and not at a reload)", err)
	} else if err != nil {
		k.wrong(key, "%v", err)
	}
}

func (k *checker) checkFile(key, file string, required bool) {
	if file == "" {
		if required {
			k.wrong(key, "is required")
		}
		return
	}
	f, err := os.Open(file)
	if err != nil {
		k.wrong(key, "%v", err)
		return
	}
	defer f.Close() // opened only to see whether it can be read: a directory cannot
	if n, err := f.Read(make([]byte, 1)); err != nil && !errors.Is(err, io.EOF) {
		k.wrong(key, "%v", err)
	} else if n == 0 {
		k.wrong(key, "%s is empty", file)
	}
}
