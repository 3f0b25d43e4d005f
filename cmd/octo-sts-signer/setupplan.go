package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/signer/setup"
)

const (
	webhookCredential = "webhook-secret"
	pinCredential     = "hsm-pin"
	checkpointLabel   = "audit-checkpoint"
	probeLabel        = "probe-issuer"
)

// domainPattern is a host name (RFC 1123, section 2.1).
var domainPattern = regexp.MustCompile(`^(?i:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)(?:\.(?i:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?))*$`)

// setupRun is one run of setup.
type setupRun struct {
	options     setupOptions
	appliance   setup.Appliance
	credentials *setup.Credentials
	client      *http.Client
	daemonFile  setup.File
	signerFile  setup.File
	// config is signer.yaml as it will be, but for the App.
	config *signer.Config
	pins   []string // one for each HSM
	asked  bool     // the PINs do not come from a credential, so they are made into some
	stored []string // paths of the PINs' credentials that this run made where there were none
}

// planSetup checks everything that needs neither a PIN nor GitHub.
func planSetup(ctx context.Context, o setupOptions) (*setupRun, error) {
	s := &setupRun{options: o}
	if !domainPattern.MatchString(o.domain) || len(o.domain) > 253 {
		return nil, usageError{fmt.Errorf("--domain %q is not a host name such as sts.example.com", o.domain)}
	}
	gitHub, err := setup.NewGitHub(o.gitHubURL, o.apiURL)
	if err != nil {
		return nil, usageError{err}
	}
	if s.client, err = newGitHubClient(gitHub.APIURL, o.caFile); err != nil {
		return nil, usageError{err}
	}
	hsms, err := parseHSMs(o.hsms)
	if err != nil {
		return nil, usageError{err}
	}
	if err := checkTLSFiles(o); err != nil {
		return nil, usageError{err}
	}
	s.appliance = setup.Appliance{
		Domain: o.domain, GitHub: gitHub, CAFile: o.caFile, TLSCertificate: o.tlsCertificate, TLSKey: o.tlsKey, BehindProxy: o.behindProxy,
		DaemonUser: o.daemonUser, HSMs: hsms, CheckpointKey: checkpointLabel, ProbeKey: probeLabel, StateDirectory: o.stateDir, Written: time.Now(),
	}
	if err := s.checkDirectories(); err != nil {
		return nil, usageError{err}
	}
	if err := s.draft(); err != nil {
		return nil, usageError{err}
	}
	if s.credentials, err = setup.NewCredentials(ctx, o.credentialsDir); err != nil {
		return nil, fmt.Errorf("%w\nThe webhook's secret would have nowhere to go; nothing was made", err)
	}
	return s, nil
}

// parseHSMs reads --hsm MODULE:TOKEN.
func parseHSMs(flags []string) ([]signer.HSMConfig, error) {
	if len(flags) == 0 {
		return nil, errors.New("--hsm MODULE:TOKEN is required, such as --hsm /usr/lib/softhsm/libsofthsm2.so:octo-sts")
	}
	var hsms []signer.HSMConfig
	for i, text := range flags {
		module, token, found := strings.Cut(text, ":")
		if !found || module == "" || token == "" {
			return nil, fmt.Errorf("--hsm %q: want the path of a PKCS#11 module, a colon, and a token's label or PKCS#11 URI", text)
		}
		h := signer.HSMConfig{Module: module, PINCredential: pinCredential}
		if i > 0 {
			h.PINCredential = fmt.Sprintf("%s-%d", pinCredential, i+1)
		}
		if strings.HasPrefix(strings.ToLower(token), "pkcs11:") {
			h.URI = token
		} else {
			h.TokenLabel = token
		}
		hsms = append(hsms, h)
	}
	return hsms, nil
}

func checkTLSFiles(o setupOptions) error {
	if (o.tlsCertificate == "") != (o.tlsKey == "") {
		return errors.New("--tls-certificate and --tls-key go together")
	}
	if o.behindProxy && o.tlsKey != "" {
		return errors.New("--behind-proxy and --tls-certificate exclude each other: where a proxy ends TLS, the daemon has no certificate")
	}
	for _, path := range []string{o.tlsCertificate, o.tlsKey, o.caFile} {
		if path == "" {
			continue
		}
		if !filepath.IsAbs(path) {
			return fmt.Errorf("%q will stand in the daemon's configuration, so it must be an absolute path", path)
		}
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("a file of the daemon's: %w", err)
		}
	}
	return nil
}

// checkDirectories makes sure that every file can be written, under a name that is free.
func (s *setupRun) checkDirectories() error {
	o := s.options
	daemonUID, daemonGID, err := lookUpUser(o.daemonUser, "--daemon-user")
	if err != nil {
		return err
	}
	signerUID, signerGID, err := lookUpUser(o.signerUser, "--signer-user")
	if err != nil {
		return err
	}
	if os.Getuid() != 0 && (daemonUID != os.Getuid() || signerUID != os.Getuid()) {
		return errors.New("setup is run by root: it gives files to the users of the two daemons")
	}
	s.daemonFile = setup.File{Path: filepath.Join(o.configDir, "octo-stsd.yaml"), Mode: 0o640, UID: -1, GID: daemonGID, Replace: o.overwrite}
	s.signerFile = setup.File{Path: filepath.Join(o.configDir, "signer.yaml"), Mode: 0o640, UID: -1, GID: signerGID, Replace: o.overwrite}
	secret := setup.File{Path: filepath.Join(o.credentialsDir, webhookCredential), Mode: 0o600, UID: -1, GID: -1, Replace: o.overwrite}
	for _, file := range []setup.File{s.daemonFile, s.signerFile, secret} {
		if err := file.Check(); err != nil {
			return err
		}
	}
	return makeStateDirectory(o.stateDir, signerUID, signerGID)
}

// makeStateDirectory makes the signer's directory where it is not there.
func makeStateDirectory(path string, uid, gid int) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("--state-dir %q must be an absolute path", path)
	}
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.Mkdir(path, 0o700)
	}
	if err == nil {
		err = os.Chown(path, uid, gid)
	}
	if errors.Is(err, os.ErrExist) {
		err = unix.Access(path, unix.W_OK|unix.X_OK)
	}
	if err != nil {
		return fmt.Errorf("the signer's state directory %s: %w", path, err)
	}
	return nil
}

func lookUpUser(name, flag string) (uid, gid int, err error) {
	found, err := user.Lookup(name)
	if err != nil {
		found, err = user.LookupId(name)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("%s %s: there is no such user; make it, or name another", flag, name)
	}
	uid, err = strconv.Atoi(found.Uid)
	if err == nil {
		gid, err = strconv.Atoi(found.Gid)
	}
	return uid, gid, err
}

// draft writes signer.yaml to a file that goes away again, with an App of no meaning, and reads it as the signer will.
func (s *setupRun) draft() error {
	draft := s.appliance
	draft.AppID, draft.AppSlug, draft.KeyName = 1, "draft", "draft"
	text, err := draft.SignerConfig()
	if err != nil {
		return err
	}
	directory, err := os.MkdirTemp("", "octo-sts-setup-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(directory)
	path := filepath.Join(directory, "signer.yaml")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return err
	}
	if s.config, err = signer.LoadConfig(path); err != nil {
		return fmt.Errorf("signer.yaml would be wrong:\n%w", err)
	}
	return nil
}
