package appliance

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
)

func (k *checker) checkTracing(t Tracing) {
	if !(*t.Sample >= 0 && *t.Sample <= 1) { // nor not a number
		k.wrong("tracing.sample", "%v: want a part of the whole, from 0 to 1", *t.Sample)
	}
	if t.OTLPEndpoint == "" {
		if t.OTLPCAFile != "" || t.OTLPCredential != "" || k.doc.Has("tracing.sample") {
			k.wrong("tracing.otlp_endpoint", "is left out, and without it the other keys of tracing mean nothing")
		}
		return
	}
	if _, err := tracesURL(t.OTLPEndpoint); err != nil {
		k.wrong("tracing.otlp_endpoint", "%v", err)
	}
	k.checkFile("tracing.otlp_ca_file", t.OTLPCAFile, false)
	if t.OTLPCredential != "" {
		k.checkCredential("tracing.otlp_credential", t.OTLPCredential)
	}
}

// tracesURL is where a collector takes traces, by its base URL (OTLP specification,
// "OTLP/HTTP Request"). An error does not repeat what may be a secret.
func tracesURL(endpoint string) (string, error) {
	u, err := url.Parse(endpoint)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return "", errors.New("it is not a URL such as https://otel.corp.example:4318")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return "", fmt.Errorf("the URL at %q has a user, a query or a fragment: a secret belongs into tracing.otlp_credential", u.Host)
	case u.Scheme == "http" && !isLocal(net.JoinHostPort(u.Hostname(), "4318")):
		return "", fmt.Errorf("the URL at %q is not https, and not on a loopback address: traces would cross the network in the clear", u.Host)
	case strings.HasSuffix(u.Path, "/v1/traces"):
		return "", fmt.Errorf("the URL at %q already has /v1/traces at its end, which is added to it: leave it out", u.Host)
	}
	return u.JoinPath("v1", "traces").String(), nil
}
