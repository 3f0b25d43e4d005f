package signertest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/octo-sts/appliance/signer"
)

const (
	pin           = "648219"
	checkpointKey = "audit-checkpoint"
	probeKey      = "probe-issuer"
)

// defaultOrigin is checkpoint.origin where Config gives no other.
const defaultOrigin = "sts.example.com/audit"

// Config says which signer to run.
type Config struct {
	// Binary is the path of octo-sts-signer. Required.
	Binary string
	// Dir is an existing, empty directory for the token, the configuration and the socket. A unix socket's path has at most
	// 107 bytes, so it must not be deep. Required.
	Dir string
	// Keys are the Apps and their private keys.
	Keys map[int64]*rsa.PrivateKey
	// AppIDs are further Apps, for which keys are made: see Signer.PublicKey.
	AppIDs []int64
	// AllowUsers is who may connect. Empty: the user that runs this process.
	AllowUsers []string
	// MaxSessions is max_sessions of the token. 0: the default.
	MaxSessions int
	// Origin is checkpoint.origin. Empty: sts.example.com/audit.
	Origin string
	// HSMs is how many tokens there are, in order of preference. 0: one.
	HSMs int
	// ProbeIssuer is probe.issuer. Empty: there is no section probe.
	ProbeIssuer string
	// Shim stands before the first token. nil: SoftHSM's own module.
	Shim *Shim
}

// Signer is a running octo-sts-signer with a token of its own. Stop, Kill and Restart belong to one goroutine at a time;
// the other methods may be called from any.
type Signer struct {
	config  Config
	keys    map[int64]*rsa.PrivateKey
	vkey    string // of the first token's checkpoint key
	softHSM *SoftHSM
	process *process // nil while stopped
	logs    *logBuffer
}

// Start makes the tokens, imports the keys by running `octo-sts-signer key import`, makes the checkpoint keys by running
// `key generate`, runs `octo-sts-signer serve`, and returns once every App is ready and every token open. The process ends
// with Stop or Kill, or when ctx ends.
func Start(ctx context.Context, c Config) (*Signer, error) {
	s := &Signer{config: c, keys: maps.Clone(c.Keys), logs: &logBuffer{}}
	if s.keys == nil {
		s.keys = map[int64]*rsa.PrivateKey{}
	}
	for _, id := range c.AppIDs {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return nil, fmt.Errorf("making a key for App %d: %w", id, err)
		}
		s.keys[id] = key
	}
	var err error
	if s.config.Dir, err = filepath.Abs(c.Dir); err != nil {
		return nil, fmt.Errorf("starting a test signer: %w", err)
	}
	s.config.HSMs = max(s.config.HSMs, 1)
	if s.softHSM, err = InitSoftHSM(ctx, s.config.Dir, TokenLabel(0), pin); err != nil {
		return nil, err
	}
	for i := 1; i < s.config.HSMs; i++ {
		if err := s.softHSM.InitToken(ctx, TokenLabel(i), pin); err != nil {
			return nil, err
		}
	}
	if err := s.writeFiles(); err != nil {
		return nil, err
	}
	for id, key := range s.keys {
		if err := s.importKey(ctx, id, key); err != nil {
			return nil, err
		}
	}
	if err := s.generateKeys(ctx); err != nil {
		return nil, err
	}
	if err := s.serve(ctx, func(status signer.Status) bool {
		return status.Ready && !slices.ContainsFunc(status.HSMs, func(h signer.HSMStatus) bool { return !h.Open })
	}); err != nil {
		return nil, err
	}
	return s, nil
}

// TokenLabel is the label of a token, the first of which is number 0.
func TokenLabel(hsm int) string { return numbered("octo-sts-test", hsm) }

// PINCredential is the name of the credential that holds its PIN.
func PINCredential(hsm int) string { return numbered("hsm-pin", hsm) }

func numbered(name string, hsm int) string {
	if hsm == 0 {
		return name
	}
	return name + "-" + strconv.Itoa(hsm)
}

// KeyLabel is the CKA_LABEL of an App's key.
func KeyLabel(appID int64) string { return "app-" + strconv.FormatInt(appID, 10) }

// Socket is the path of the signer's socket.
func (s *Signer) Socket() string { return filepath.Join(s.config.Dir, "signer.sock") }

// ConfigFile is the path of its signer.yaml.
func (s *Signer) ConfigFile() string { return filepath.Join(s.config.Dir, "signer.yaml") }

// StateDirectory is checkpoint.state_directory.
func (s *Signer) StateDirectory() string { return filepath.Join(s.config.Dir, "state") }

// Origin is checkpoint.origin.
func (s *Signer) Origin() string { return cmp.Or(s.config.Origin, defaultOrigin) }

// VerifierKey is the verifier key of the first token's checkpoint key.
func (s *Signer) VerifierKey() string { return s.vkey }

// Env is the environment in which octo-sts-signer finds the token and the PIN, for running further commands of it.
func (s *Signer) Env() []string {
	env := []string{s.softHSM.Env(), "CREDENTIALS_DIRECTORY=" + s.Credentials()}
	if s.config.Shim != nil {
		env = append(env, s.config.Shim.Env()...)
	}
	return env
}

// SoftHSM is the token.
func (s *Signer) SoftHSM() *SoftHSM { return s.softHSM }

// PublicKey is the public half of an App's key, nil for an App that it has none for.
func (s *Signer) PublicKey(appID int64) *rsa.PublicKey {
	if key, ok := s.keys[appID]; ok {
		return &key.PublicKey
	}
	return nil
}

// Client returns a new client of the signer.
func (s *Signer) Client() *signer.Client { return signer.NewClient(s.Socket()) }

// Status asks the running signer for its status.
func (s *Signer) Status(ctx context.Context) (signer.Status, error) {
	client := s.Client()
	defer client.Close()
	return client.Status(ctx)
}

// Logs is everything that the signer has written to its standard output and error so far, over all restarts.
func (s *Signer) Logs() string { return s.logs.String() }

// Credentials is the directory that holds the PINs.
func (s *Signer) Credentials() string { return filepath.Join(s.config.Dir, "credentials") }

func (s *Signer) writeFiles() error {
	if err := os.Mkdir(s.Credentials(), 0o700); err != nil {
		return fmt.Errorf("making the credentials directory: %w", err)
	}
	if err := os.Mkdir(s.StateDirectory(), 0o700); err != nil {
		return fmt.Errorf("making the state directory: %w", err)
	}
	for i := range s.config.HSMs {
		if err := s.WritePIN(i, pin); err != nil {
			return err
		}
	}
	allow := s.config.AllowUsers
	if len(allow) == 0 {
		allow = []string{strconv.Itoa(os.Getuid())}
	}
	// Maps and not signer.Config, so that no key is written that has no value.
	var hsms []any
	for i := range s.config.HSMs {
		hsm := map[string]any{"module": s.softHSM.Module, "token_label": TokenLabel(i), "pin_credential": PINCredential(i)}
		if i == 0 && s.config.Shim != nil {
			hsm["module"] = s.config.Shim.Module
		}
		if s.config.MaxSessions != 0 {
			hsm["max_sessions"] = s.config.MaxSessions
		}
		hsms = append(hsms, hsm)
	}
	var apps []any
	for _, id := range slices.Sorted(maps.Keys(s.keys)) {
		apps = append(apps, map[string]any{"id": id, "keys": []string{KeyLabel(id)}})
	}
	checkpoint := map[string]any{"origin": s.Origin(), "key": checkpointKey, "state_directory": s.StateDirectory()}
	config := map[string]any{"socket": s.Socket(), "allow_users": allow, "hsms": hsms, "apps": apps, "checkpoint": checkpoint}
	if s.config.ProbeIssuer != "" {
		config["probe"] = map[string]any{"issuer": s.config.ProbeIssuer, "key": probeKey}
	}
	text, err := yaml.Marshal(config)
	if err != nil {
		return fmt.Errorf("encoding signer.yaml: %w", err)
	}
	if err := os.WriteFile(s.ConfigFile(), text, 0o600); err != nil {
		return fmt.Errorf("writing signer.yaml: %w", err)
	}
	return nil
}

// WritePIN replaces the PIN that a credential holds, and leaves the token's as it is.
func (s *Signer) WritePIN(hsm int, pin string) error {
	if err := os.WriteFile(filepath.Join(s.Credentials(), PINCredential(hsm)), []byte(pin+"\n"), 0o600); err != nil {
		return fmt.Errorf("writing a PIN: %w", err)
	}
	return nil
}

func (s *Signer) importKey(ctx context.Context, appID int64, key *rsa.PrivateKey) error {
	block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}
	_, err := s.run(ctx, bytes.NewReader(pem.EncodeToMemory(block)), "key", "import", "--app", strconv.FormatInt(appID, 10), "--pem", "-")
	return err
}

// run runs a command of octo-sts-signer to its end and returns its standard output.
func (s *Signer) run(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, s.config.Binary, append(args, "--config", s.ConfigFile())...)
	cmd.Env = append(os.Environ(), s.Env()...)
	cmd.Stdin = stdin
	var problems bytes.Buffer
	cmd.Stderr = &problems
	output, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("running octo-sts-signer %s: %w\n%s", strings.Join(args, " "), err, &problems)
	}
	return output, nil
}

func (s *Signer) generateKeys(ctx context.Context) error {
	output, err := s.run(ctx, nil, "key", "generate", "--output", "json")
	if err != nil {
		return err
	}
	var answer struct {
		HSMs []struct {
			VerifierKey string `json:"verifier_key"`
		} `json:"hsms"`
	}
	if err := json.Unmarshal(output, &answer); err != nil || len(answer.HSMs) != s.config.HSMs {
		return fmt.Errorf("making the checkpoint keys: the answer has no verifier keys: %w\n%s", err, output)
	}
	s.vkey = answer.HSMs[0].VerifierKey
	if s.config.ProbeIssuer != "" {
		_, err = s.run(ctx, nil, "key", "generate", "--probe")
	}
	return err
}

// readyWait is a safety limit for a start on a machine that is very busy.
const readyWait = 60 * time.Second

func (s *Signer) serve(ctx context.Context, ready func(signer.Status) bool) error {
	p, err := startProcess(ctx, s.config.Binary, []string{"serve", "--config", s.ConfigFile()}, append(os.Environ(), s.Env()...), s.logs)
	if err != nil {
		return err
	}
	s.process = p
	if err := s.awaitReady(ctx, ready); err != nil {
		p.kill()
		s.process = nil
		return fmt.Errorf("starting a test signer: %w\n%s", err, s.Logs())
	}
	return nil
}

func (s *Signer) awaitReady(ctx context.Context, ready func(signer.Status) bool) error {
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	client := s.Client()
	defer client.Close()
	for {
		status, err := client.Status(ctx)
		if err == nil && ready(status) {
			return nil
		}
		if errors.Is(err, signer.ErrRefused) {
			return nil // it serves, and this process is not among AllowUsers, as the caller wished
		}
		select {
		case <-s.process.done:
			return fmt.Errorf("octo-sts-signer ended before it was ready: %w", s.process.err)
		case <-ctx.Done():
			return fmt.Errorf("octo-sts-signer did not get ready: %w; last status %+v, %w", ctx.Err(), status, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
