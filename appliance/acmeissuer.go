package appliance

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
	"go.uber.org/zap/exp/zapslog"

	"github.com/octo-sts/appliance/signer"
)

// acmeIssuer is what certmagic gets certificates from. certmagic has an issuer of
// its own, which is for servers that bind their ports themselves: it opens port
// 443 and 80 where it thinks that nobody listens there, and keeps challenges,
// limits and addresses of e-mail in variables of its package. This one uses the
// same ACME client, acmez.
type acmeIssuer struct {
	config TLSACME
	eab    *acme.EAB // nil: none
	owner  *acmeCertificates
	client *slog.Logger
}

func newACMEIssuer(config TLSACME, owner *acmeCertificates) (*acmeIssuer, error) {
	i := &acmeIssuer{config: config, owner: owner, client: slog.New(zapslog.NewHandler(owner.logger.Core(),
		zapslog.WithName("acme.client"), zapslog.AddStacktraceAt(slog.Level(127))))} // no stack traces: nothing is that severe
	if config.EAB.KeyID == "" {
		return i, nil
	}
	key, err := signer.ReadCredential(os.Getenv(credentialsDirectory), config.EAB.HMACCredential)
	if err != nil {
		return nil, fmt.Errorf("tls.acme.eab: %w", err)
	}
	if key, err = rawBase64URL(key); err != nil {
		return nil, fmt.Errorf("tls.acme.eab: credential %s: %w", config.EAB.HMACCredential, err)
	}
	i.eab = &acme.EAB{KeyID: config.EAB.KeyID, MACKey: key}
	return i, nil
}

// rawBase64URL puts a key into the one alphabet that acmez takes, from either that
// CAs show. Its error says nothing of the key.
func rawBase64URL(key string) (string, error) {
	key = strings.NewReplacer("+", "-", "/", "_").Replace(strings.TrimRight(key, "="))
	if _, err := base64.RawURLEncoding.DecodeString(key); err != nil {
		return "", errors.New("is not base64url: it has to be the HMAC key as the CA shows it")
	}
	return key, nil
}

// IssuerKey names the CA in paths of the store.
func (i *acmeIssuer) IssuerKey() string {
	u, err := url.Parse(i.config.Directory)
	if err != nil {
		return "ca"
	}
	return regexp.MustCompile(`[^\w.-]+`).ReplaceAllString(strings.Trim(u.Host+u.Path, "/"), "-")
}

// issueError is why a certificate could not be had. It is not for certmagic to try
// again: run does.
type issueError struct{ error }

func (e *issueError) Unwrap() error { return e.error }

// maxErrorText bounds what a CA, or what answers in its place, may have us say.
const maxErrorText = 600 // bytes

func (e *issueError) Error() string {
	text := strings.Join(strings.Fields(e.error.Error()), " ")
	if len(text) > maxErrorText {
		text = strings.ToValidUTF8(text[:maxErrorText], "") + "…"
	}
	return text
}

// Issue orders a certificate and proves that we are its name.
func (i *acmeIssuer) Issue(ctx context.Context, request *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	chain, err := i.issue(ctx, request)
	if err != nil {
		return nil, certmagic.ErrNoRetry{Err: &issueError{err}}
	}
	return &certmagic.IssuedCertificate{Certificate: chain.ChainPEM, Metadata: chain}, nil
}

func (i *acmeIssuer) issue(ctx context.Context, request *x509.CertificateRequest) (acme.Certificate, error) {
	client, done, err := i.newClient()
	if err != nil {
		return acme.Certificate{}, err
	}
	defer done()
	account, err := i.account(ctx, client)
	if err != nil {
		return acme.Certificate{}, err
	}
	params, err := acmez.OrderParametersFromCSR(account, request)
	if err != nil {
		return acme.Certificate{}, fmt.Errorf("ordering a certificate: %w", err)
	}
	chains, err := client.ObtainCertificate(ctx, params)
	if err == nil && len(chains) == 0 {
		err = errors.New("the CA sent none")
	}
	if err != nil {
		return acme.Certificate{}, fmt.Errorf("ordering a certificate from %s: %w", i.config.Directory, err)
	}
	if err := checkIssued(chains[0].ChainPEM, request, i.owner.domain); err != nil {
		return acme.Certificate{}, fmt.Errorf("what %s sent is of no use: %w", i.config.Directory, err)
	}
	return chains[0], nil
}

// checkIssued looks at what a CA sent before it takes an older certificate's place.
func checkIssued(chain []byte, request *x509.CertificateRequest, domain string) error {
	block, _ := pem.Decode(chain)
	if block == nil || block.Type != "CERTIFICATE" {
		return errors.New("it holds no PEM certificate")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	if key, ok := request.PublicKey.(*ecdsa.PublicKey); !ok || !key.Equal(leaf.PublicKey) {
		return errors.New("it is for another key")
	}
	if err := leaf.VerifyHostname(domain); err != nil {
		return err
	}
	if time.Now().After(leaf.NotAfter) {
		return fmt.Errorf("it expired at %s: is this host's clock right?", leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// GetRenewalInfo asks the CA when it would have a certificate renewed, which is how
// one learns of a revocation from a CA without OCSP (RFC 9773).
func (i *acmeIssuer) GetRenewalInfo(ctx context.Context, c certmagic.Certificate) (acme.RenewalInfo, error) {
	client, done, err := i.newClient()
	if err != nil {
		return acme.RenewalInfo{}, err
	}
	defer done()
	return client.GetRenewalInfo(ctx, c.Leaf)
}

// newClient is a client for one attempt: it reads the roots as they are now, and
// keeps no connection until the next one.
func (i *acmeIssuer) newClient() (_ *acmez.Client, done func(), _ error) {
	httpClient, err := newACMEHTTP(i.config.Roots, i.owner.askedToWait)
	if err != nil {
		return nil, nil, fmt.Errorf("tls.acme.roots: %w", err)
	}
	return &acmez.Client{
		Client: &acme.Client{
			Directory:   i.config.Directory,
			HTTPClient:  httpClient,
			UserAgent:   "octo-stsd",
			PollTimeout: 2 * time.Minute,
			Logger:      i.client,
		},
		ChallengeSolvers: i.owner.challenge.solvers(),
	}, httpClient.CloseIdleConnections, nil
}
