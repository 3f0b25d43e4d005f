package signertest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/octo-sts/appliance/signer"
)

const (
	tokenLabel    = "octo-sts-test"
	pin           = "648219"
	pinCredential = "hsm-pin"
)

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
}

// Signer is a running octo-sts-signer with a token of its own. Stop, Kill and Restart belong to one goroutine at a time;
// the other methods may be called from any.
type Signer struct {
	config  Config
	keys    map[int64]*rsa.PrivateKey
	softHSM *SoftHSM
	process *process // nil while stopped
	logs    *logBuffer
}

// Start makes the token, imports the keys by running `octo-sts-signer key import`, runs `octo-sts-signer serve`, and returns
// once every App is ready. The process ends with Stop or Kill, or when ctx ends.
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
	if s.softHSM, err = InitSoftHSM(ctx, s.config.Dir, tokenLabel, pin); err != nil {
		return nil, err
	}
	if err := s.writeFiles(); err != nil {
		return nil, err
	}
	for id, key := range s.keys {
		if err := s.importKey(ctx, id, key); err != nil {
			return nil, err
		}
	}
	if err := s.serve(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// KeyLabel is the CKA_LABEL of an App's key.
func KeyLabel(appID int64) string { return "app-" + strconv.FormatInt(appID, 10) }

// Socket is the path of the signer's socket.
func (s *Signer) Socket() string { return filepath.Join(s.config.Dir, "signer.sock") }

// ConfigFile is the path of its signer.yaml.
func (s *Signer) ConfigFile() string { return filepath.Join(s.config.Dir, "signer.yaml") }

// Env is the environment in which octo-sts-signer finds the token and the PIN, for running further commands of it.
func (s *Signer) Env() []string {
	return []string{s.softHSM.Env(), "CREDENTIALS_DIRECTORY=" + s.credentials()}
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

func (s *Signer) credentials() string { return filepath.Join(s.config.Dir, "credentials") }

func (s *Signer) writeFiles() error {
	if err := os.Mkdir(s.credentials(), 0o700); err != nil {
		return fmt.Errorf("making the credentials directory: %w", err)
	}
	if err := os.WriteFile(filepath.Join(s.credentials(), pinCredential), []byte(pin+"\n"), 0o600); err != nil {
		return fmt.Errorf("writing the PIN: %w", err)
	}
	allow := s.config.AllowUsers
	if len(allow) == 0 {
		allow = []string{strconv.Itoa(os.Getuid())}
	}
	// A map and not signer.Config, so that no key is written that has no value.
	hsm := map[string]any{"module": s.softHSM.Module, "token_label": tokenLabel, "pin_credential": pinCredential}
	if s.config.MaxSessions != 0 {
		hsm["max_sessions"] = s.config.MaxSessions
	}
	var apps []any
	for _, id := range slices.Sorted(maps.Keys(s.keys)) {
		apps = append(apps, map[string]any{"id": id, "keys": []string{KeyLabel(id)}})
	}
	text, err := yaml.Marshal(map[string]any{"socket": s.Socket(), "allow_users": allow, "hsms": []any{hsm}, "apps": apps})
	if err != nil {
		return fmt.Errorf("encoding signer.yaml: %w", err)
	}
	if err := os.WriteFile(s.ConfigFile(), text, 0o600); err != nil {
		return fmt.Errorf("writing signer.yaml: %w", err)
	}
	return nil
}

func (s *Signer) importKey(ctx context.Context, appID int64, key *rsa.PrivateKey) error {
	block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}
	cmd := exec.CommandContext(ctx, s.config.Binary, "key", "import", "--config", s.ConfigFile(), "--app", strconv.FormatInt(appID, 10), "--pem", "-")
	cmd.Env = append(os.Environ(), s.Env()...)
	cmd.Stdin = bytes.NewReader(pem.EncodeToMemory(block))
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("importing the key of App %d: %w\n%s", appID, err, output)
	}
	return nil
}

// readyWait is a safety limit for a start on a machine that is very busy.
const readyWait = 60 * time.Second

func (s *Signer) serve(ctx context.Context) error {
	p, err := startProcess(ctx, s.config.Binary, []string{"serve", "--config", s.ConfigFile()}, append(os.Environ(), s.Env()...), s.logs)
	if err != nil {
		return err
	}
	s.process = p
	if err := s.awaitReady(ctx); err != nil {
		p.kill()
		s.process = nil
		return fmt.Errorf("starting a test signer: %w\n%s", err, s.Logs())
	}
	return nil
}

func (s *Signer) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	client := s.Client()
	defer client.Close()
	for {
		status, err := client.Status(ctx)
		if err == nil && status.Ready {
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
