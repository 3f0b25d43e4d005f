package signer

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/octo-sts/appliance/sts/strictyaml"
)

// Config is signer.yaml. Unknown keys are errors. There are no keys for secrets: they are named here and read from the
// directory that systemd's LoadCredential= fills.
//
//	socket: /run/octo-sts-signer/signer.sock
//	allow_users: [octo-sts]
//	hsms:
//	  - module: /usr/lib/softhsm/libsofthsm2.so
//	    token_label: octo-sts
//	    pin_credential: hsm-pin
//	apps:
//	  - id: 1234
//	    keys: [app-1234-2026, app-1234-2025]
//	checkpoint:
//	  origin: sts.example.com/audit
//	  key: audit-checkpoint
//	probe:
//	  issuer: https://sts.example.com/probe-issuer
//	  key: probe-issuer
type Config struct {
	// Socket is the absolute path to listen on. Under systemd socket activation it is not used, the unit's
	// ListenStream= is. Required.
	Socket string `json:"socket"`

	// AllowUsers lists who may connect: user names, or numeric user IDs. The kernel says who a peer is (SO_PEERCRED). Nobody
	// is allowed who is not listed: neither root nor the signer's own user. Names are resolved once, at start.
	// Required.
	AllowUsers []string `json:"allow_users"`

	// HSMs lists the tokens that hold the keys, 1 to 8, in order of preference: a signature is made by the first one that
	// works. Each must hold every App's keys, and a checkpoint key of its own. Required.
	HSMs []HSMConfig `json:"hsms"`

	// Apps lists the GitHub Apps to sign for. Required.
	Apps []AppConfig `json:"apps"`

	// Checkpoint says whose audit log is countersigned. Required.
	Checkpoint CheckpointConfig `json:"checkpoint"`

	// Probe says what the ID tokens are signed with by which the daemon probes itself. Left out: none is.
	Probe ProbeConfig `json:"probe"`
}

// HSMConfig names one PKCS#11 token. Exactly one of TokenLabel, TokenSerial, Slot and URI is set.
type HSMConfig struct {
	// Module is the absolute path of the vendor's PKCS#11 shared library. It is code that runs with the PIN in its hands:
	// its file and every directory above it should belong to root. Required.
	Module string `json:"module"`

	// TokenLabel is the token's CKA_LABEL, without the padding.
	TokenLabel string `json:"token_label"`

	// TokenSerial is the token's serial number, as `pkcs11-tool --list-slots` shows it. Needed where two tokens share a
	// label.
	TokenSerial string `json:"token_serial"`

	// Slot is a slot ID. Prefer the label or the serial: some modules, SoftHSM among them, change slot IDs.
	Slot *uint `json:"slot"`

	// URI is a PKCS#11 URI (RFC 7512) that describes the token, such as pkcs11:token=octo-sts;manufacturer=SoftHSM%20project.
	URI string `json:"uri"`

	// PINCredential is the name of the file in $CREDENTIALS_DIRECTORY that holds the user PIN. A trailing newline is not
	// part of the PIN. Required.
	PINCredential string `json:"pin_credential"`

	// MaxSessions bounds the sessions that the signer holds open in the token, 3 to 256, default 8. One stays logged in,
	// one reads objects, so two fewer than this sign at a time. Too high, and other users of a small HSM get CKR_SESSION_COUNT.
	MaxSessions int `json:"max_sessions"`
}

// AppConfig is one GitHub App and its keys.
type AppConfig struct {
	// ID is the App's numeric ID, as the App's settings page shows it. Not the client ID.
	ID int64 `json:"id"`

	// Keys are CKA_LABELs. The first one signs. The others stand by for a rotation: `key list` and `key verify` show them,
	// nothing is signed with them. No key may serve two Apps.
	Keys []string `json:"keys"`
}

// CheckpointConfig is the audit log whose checkpoints this signer countersigns.
type CheckpointConfig struct {
	// Origin is the log's name, the first line of each checkpoint and the name of the key (c2sp.org/tlog-checkpoint),
	// conventionally a URL without its scheme, such as sts.example.com/audit. The daemon's audit.origin must be the same.
	// It cannot be changed later without a new log. Required.
	Origin string `json:"origin"`

	// Key is the CKA_LABEL of the checkpoint key, which `key generate` makes in each HSM. No App may use it. Required.
	Key string `json:"key"`

	// StateDirectory is where the signer keeps the size and root that it signed last, and which PIN a token refused.
	// Whoever writes there can have history rewritten or a token locked: it belongs to the signer's user alone. It must
	// exist. Default /var/lib/octo-sts-signer.
	StateDirectory string `json:"state_directory"`
}

// ProbeConfig is the issuer of the ID tokens with which the daemon probes its own exchange. Every claim of theirs is made by
// the signer; a policy that they are to be exchanged under names the issuer, and the subject `probe`.
type ProbeConfig struct {
	// Issuer is https://{domain}/probe-issuer, with the domain of octo-stsd.yaml: the daemon serves its keys there. The
	// audience of the ID tokens is that domain. Required where the section is there.
	Issuer string `json:"issuer"`

	// Key is the CKA_LABEL of the P-256 key, which `key generate --probe` makes in each HSM. Nothing else may use it.
	// Required where the section is there.
	Key string `json:"key"`
}

const defaultStateDirectory = "/var/lib/octo-sts-signer"

// maxHSMs bounds hsms: each is a process, and more than a few are a mistake.
const maxHSMs = 8

const (
	defaultMaxSessions = 8
	minMaxSessions     = 3 // hsm.MinSessions, which this package cannot import: the command's tests hold such pairs together
	maxMaxSessions     = 256
)

// maxOrigin bounds the origin, in bytes, so that a checkpoint stays small.
const maxOrigin = 256

// MaxKeyLabel bounds the CKA_LABEL of a key, in bytes.
const MaxKeyLabel = 128

// ConcurrentSignatures is how many signatures the token can be asked for at once.
func (h HSMConfig) ConcurrentSignatures() int { return h.MaxSessions - 2 }

// LatchName names the file, in the state directory, of the token's PINLatch. It follows the token and not its place in
// the list, which operators change.
func (h HSMConfig) LatchName() string {
	slot := ""
	if h.Slot != nil {
		slot = strconv.FormatUint(uint64(*h.Slot), 10)
	}
	sum := sha256.Sum256([]byte(strings.Join([]string{h.Module, h.TokenLabel, h.TokenSerial, slot, h.URI}, "\x00")))
	return "pin-" + hex.EncodeToString(sum[:8])
}

// AppKeyLabels lists every key of an App, in the order of the file.
func (c *Config) AppKeyLabels() []string {
	var labels []string
	for _, app := range c.Apps {
		labels = append(labels, app.Keys...)
	}
	return labels
}

// KeyLabels lists every configured key: the Apps', the checkpoint key, and the probe's where there is one.
func (c *Config) KeyLabels() []string {
	labels := append(c.AppKeyLabels(), c.Checkpoint.Key)
	if c.Probe.Key != "" {
		labels = append(labels, c.Probe.Key)
	}
	return labels
}

// App returns the configuration of an App, false where it is not listed.
func (c *Config) App(id int64) (AppConfig, bool) {
	for _, app := range c.Apps {
		if app.ID == id {
			return app, true
		}
	}
	return AppConfig{}, false
}

// AppOfKey returns the App that a label is configured for, false where there is none.
func (c *Config) AppOfKey(label string) (AppConfig, bool) {
	for _, app := range c.Apps {
		for _, key := range app.Keys {
			if key == label {
				return app, true
			}
		}
	}
	return AppConfig{}, false
}

// LoadConfig reads and checks signer.yaml and fills in defaults. It looks at no secret. The error is strictyaml.Problems,
// every problem in the file at once, except where the file cannot be read at all.
func LoadConfig(path string) (*Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	return parseConfig(path, data)
}

func parseConfig(path string, data []byte) (*Config, error) {
	var c Config
	doc, err := strictyaml.Decode(path, data, &c)
	if doc == nil {
		return nil, err
	}
	check := checker{doc: doc, faulty: err != nil}
	check.config(&c)
	if err := strictyaml.Join(err, check.problems); err != nil {
		return nil, err
	}
	for i := range c.HSMs {
		if c.HSMs[i].MaxSessions == 0 {
			c.HSMs[i].MaxSessions = defaultMaxSessions
		}
	}
	if c.Checkpoint.StateDirectory == "" {
		c.Checkpoint.StateDirectory = defaultStateDirectory
	}
	return &c, nil
}

// checker collects what is wrong with a decoded file's meaning.
type checker struct {
	doc      *strictyaml.Document
	faulty   bool // decoding found faults, so a present key may be zero because of one that is reported already
	problems strictyaml.Problems
}

func (k *checker) add(path, format string, args ...any) {
	k.problems = append(k.problems, k.doc.Problemf(path, format, args...))
}

// given reports whether a required key has a value, and adds a problem where it has none.
func (k *checker) given(path string, empty bool, what string) bool {
	switch {
	case !k.doc.Has(path):
		k.add(path, "%s is required: %s", path, what)
	case empty && !k.faulty:
		k.add(path, "%s is empty: %s", path, what)
	}
	return !empty
}

func (k *checker) config(c *Config) {
	if k.given("socket", c.Socket == "", "the absolute path of the unix socket to listen on") && !filepath.IsAbs(c.Socket) {
		k.add("socket", "socket must be an absolute path, not %q", c.Socket)
	}
	k.given("allow_users", len(c.AllowUsers) == 0, "the user that the daemon runs as, or nobody can connect")
	for i, user := range c.AllowUsers {
		path := fmt.Sprintf("allow_users[%d]", i)
		if k.given(path, user == "", "a user name or a numeric user ID") {
			if _, err := resolveUser(user); err != nil {
				k.add(path, "%s: %v", path, err)
			}
		}
	}
	if k.given("hsms", len(c.HSMs) == 0, "the token that holds the keys") && len(c.HSMs) > maxHSMs {
		k.add("hsms", "hsms has %d elements, at most %d are supported", len(c.HSMs), maxHSMs)
	}
	for i, hsm := range c.HSMs {
		k.hsm(fmt.Sprintf("hsms[%d]", i), hsm)
		for j, other := range c.HSMs[:i] {
			if hsm.LatchName() == other.LatchName() && hsm.Module != "" {
				k.add(fmt.Sprintf("hsms[%d]", i), "hsms[%d] names the same token as hsms[%d] (line %d)", i, j, k.doc.Line(fmt.Sprintf("hsms[%d]", j)))
			}
		}
	}
	k.given("apps", len(c.Apps) == 0, "the GitHub Apps to sign for")
	k.apps(c.Apps)
	if k.given("checkpoint", false, "the origin of the audit log and the label of the key that signs its checkpoints"); k.doc.Has("checkpoint") {
		k.checkpoint(c)
	}
	if k.doc.Has("probe") {
		k.probe(c)
	}
}

func (k *checker) checkpoint(c *Config) {
	p := c.Checkpoint
	if k.given("checkpoint.origin", p.Origin == "", "the name of the audit log, such as sts.example.com/audit") {
		// c2sp.org/signed-note: a key name, which the origin is too, "MUST be non-empty and not have any Unicode spaces or plus".
		bad := func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) || r == '+' }
		if len(p.Origin) > maxOrigin || strings.ContainsFunc(p.Origin, bad) || !utf8.ValidString(p.Origin) {
			k.add("checkpoint.origin", "checkpoint.origin must have at most %d bytes and no spaces, no plus sign and no control characters", maxOrigin)
		}
	}
	if k.given("checkpoint.key", p.Key == "", "the CKA_LABEL of the checkpoint key") {
		if !goodLabel(p.Key) {
			k.add("checkpoint.key", "checkpoint.key must have at most %d bytes and no control characters", MaxKeyLabel)
		}
		if app, ok := c.AppOfKey(p.Key); ok {
			k.add("checkpoint.key", "checkpoint.key: key %q belongs to App %d; the checkpoint key signs checkpoints alone", p.Key, app.ID)
		}
	}
	if state := "checkpoint.state_directory"; k.doc.Has(state) && k.given(state, p.StateDirectory == "", "leave it out for the default") && !filepath.IsAbs(p.StateDirectory) {
		k.add(state, "%s must be an absolute path, not %q", state, p.StateDirectory)
	}
}

func goodLabel(label string) bool {
	return len(label) <= MaxKeyLabel && !strings.ContainsFunc(label, unicode.IsControl)
}

func (k *checker) hsm(path string, h HSMConfig) {
	if module := path + ".module"; k.given(module, h.Module == "", "the absolute path of the vendor's PKCS#11 library") {
		if !filepath.IsAbs(h.Module) {
			k.add(module, "%s must be an absolute path, not %q", module, h.Module)
		} else if info, err := os.Stat(h.Module); err != nil {
			k.add(module, "%s cannot be used: %v", module, err)
		} else if !info.Mode().IsRegular() {
			k.add(module, "%s is not a file: %s", module, h.Module)
		}
	}
	selectors := 0
	for _, key := range []string{"token_label", "token_serial", "slot", "uri"} {
		if k.doc.Has(path + "." + key) {
			selectors++
		}
	}
	if selectors != 1 {
		k.add(path, "%s must name its token by exactly one of token_label, token_serial, slot and uri, not by %d of them", path, selectors)
	}
	for key, value := range map[string]string{"token_label": h.TokenLabel, "token_serial": h.TokenSerial, "uri": h.URI} {
		if k.doc.Has(path + "." + key) {
			k.given(path+"."+key, value == "", "leave it out where another key names the token")
		}
	}
	if h.URI != "" {
		if _, err := ParseURI(h.URI, h.Module); err != nil {
			k.add(path+".uri", "%s.uri: %v", path, err)
		}
	}
	if pin := path + ".pin_credential"; k.given(pin, h.PINCredential == "", "the name of the credential that holds the PIN") {
		if err := checkCredentialName(h.PINCredential); err != nil {
			k.add(pin, "%s: %v", pin, err)
		}
	}
	sessions := path + ".max_sessions"
	if tooFew := h.MaxSessions < minMaxSessions; k.doc.Has(sessions) && (tooFew && !(k.faulty && h.MaxSessions == 0) || h.MaxSessions > maxMaxSessions) {
		k.add(sessions, "%s must be %d to %d, not %d", sessions, minMaxSessions, maxMaxSessions, h.MaxSessions)
	}
}

func (k *checker) apps(apps []AppConfig) {
	idAt, labelAt := map[int64]string{}, map[string]string{}
	for i, app := range apps {
		path := fmt.Sprintf("apps[%d]", i)
		if id := path + ".id"; k.given(id, app.ID == 0, "the App's numeric ID, from its settings page at GitHub") {
			if app.ID < 0 {
				k.add(id, "%s must be positive, not %d", id, app.ID)
			} else if first, ok := idAt[app.ID]; ok {
				k.add(id, "%s: App %d is listed already at %s (line %d)", id, app.ID, first, k.doc.Line(first))
			} else {
				idAt[app.ID] = id
			}
		}
		k.given(path+".keys", len(app.Keys) == 0, "the CKA_LABELs of the App's keys, the one that signs first")
		for j, label := range app.Keys {
			key := fmt.Sprintf("%s.keys[%d]", path, j)
			if !k.given(key, label == "", "a CKA_LABEL") {
				continue
			}
			if !goodLabel(label) {
				k.add(key, "%s must have at most %d bytes and no control characters", key, MaxKeyLabel)
			}
			if first, ok := labelAt[label]; ok {
				k.add(key, "%s: key %q is listed already at %s (line %d); each key serves one App, once", key, label, first, k.doc.Line(first))
				continue
			}
			labelAt[label] = key
		}
	}
}
