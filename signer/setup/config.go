package setup

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"strings"
	"text/template"
	"time"

	"github.com/octo-sts/appliance/signer"
)

//go:embed octo-stsd.yaml.tmpl
var daemonTemplate string

//go:embed signer.yaml.tmpl
var signerTemplate string

// Appliance is what both configuration files are written from.
type Appliance struct {
	Domain         string
	GitHub         GitHub
	CAFile         string // PEM roots of a GitHub Enterprise Server; "": the system's
	TLSCertificate string // PEM files; both empty: a certificate authority's, over ACME
	TLSKey         string
	BehindProxy    bool   // a proxy on this machine ends TLS
	WebhookSecret  string // name of the credential; "": no webhook
	DaemonUser     string // whom the signer lets connect: a name, or a numeric user ID
	HSMs           []signer.HSMConfig
	CheckpointKey  string // CKA_LABEL
	ProbeKey       string // CKA_LABEL
	StateDirectory string // the signer's

	AppID   int64
	AppSlug string
	KeyName string // CKA_LABEL of the App's key

	Written time.Time
}

// Origin is the name of the audit log.
func (a Appliance) Origin() string { return a.Domain + "/audit" }

// ProbeIssuer is the issuer of the probe's ID tokens.
func (a Appliance) ProbeIssuer() string {
	return "https://" + strings.ToLower(a.Domain) + signer.ProbeIssuerPath
}

// Date is the day of writing.
func (a Appliance) Date() string { return a.Written.Format(time.DateOnly) }

// DaemonConfig is octo-stsd.yaml.
func (a Appliance) DaemonConfig() ([]byte, error) { return a.render("octo-stsd.yaml", daemonTemplate) }

// SignerConfig is signer.yaml.
func (a Appliance) SignerConfig() ([]byte, error) { return a.render("signer.yaml", signerTemplate) }

func (a Appliance) render(name, text string) ([]byte, error) {
	t, err := template.New(name).Funcs(template.FuncMap{"quote": quote}).Parse(text)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, a); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// quote writes a string as a double-quoted scalar of YAML 1.2, of which JSON's strings are a subset.
func quote(text string) (string, error) {
	var out strings.Builder
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(text)
	return strings.TrimSuffix(out.String(), "\n"), err
}
