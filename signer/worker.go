package signer

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/rpc"
	"net/rpc/jsonrpc"
	"slices"
	"sync"
	"time"
)

// WorkerSetup is what a worker process is told on its standard input, in JSON: which token it holds, and for which keys.
// It does not read signer.yaml itself, so that a file broken since the parent read it takes no HSM away.
type WorkerSetup struct {
	HSM            HSMConfig
	Labels         []string // CKA_LABELs of the keys to keep usable
	CheckpointKey  string   // the one of them that signs checkpoints
	ProbeKey       string   // the one that signs a probe's ID tokens, "" where there is none; the others are Apps'
	StateDirectory string
}

// Suits says why a key of this kind is not for what the key under label is for, nil where it is.
func (s WorkerSetup) Suits(label string, public crypto.PublicKey) error {
	_, isRSA := public.(*rsa.PublicKey)
	switch {
	case label == s.ProbeKey && label != "":
		return suitsProbe(public)
	case label == s.CheckpointKey && isRSA:
		return errors.New("it is an RSA key, and checkpoints are signed with an Ed25519 or P-256 key")
	case label != s.CheckpointKey && !isRSA:
		return errors.New("an App's key is RSA, and it is not")
	}
	return nil
}

// WorkerFD is the file descriptor of the socket to the parent that a worker process inherits.
const WorkerFD = 3

// WorkerServerConfig configures a WorkerServer.
type WorkerServerConfig struct {
	// Key returns the key under a CKA_LABEL, fit to sign at this moment, or why there is none. Required.
	Key func(label string) (crypto.MessageSigner, error)
	// Token returns the state of the token, and when the oldest call into the module that is still under way began, zero
	// where none is. It must not wait for the module. Required.
	Token func() (state TokenStatus, callSince time.Time)
	// SetLabels has other keys kept usable from now on, and must not wait for the module. Required.
	SetLabels func(labels []string)
	// Labels are the keys to begin with.
	Labels []string
}

// WorkerServer is the worker's side of the protocol between the signer and the processes that hold its HSMs: JSON-RPC over
// a socket that both inherit. It is safe for concurrent use.
type WorkerServer struct {
	config WorkerServerConfig

	mu     sync.Mutex
	labels []string // guarded by mu
}

// NewWorkerServer checks its configuration.
func NewWorkerServer(c WorkerServerConfig) (*WorkerServer, error) {
	if c.Key == nil || c.Token == nil || c.SetLabels == nil {
		return nil, errors.New("configuring an HSM worker: Key, Token and SetLabels are required")
	}
	return &WorkerServer{config: c, labels: slices.Clone(c.Labels)}, nil
}

// Serve answers the parent until it is gone or ctx ends. It closes conn.
func (s *WorkerServer) Serve(ctx context.Context, conn net.Conn) error {
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	server := rpc.NewServer()
	if err := server.RegisterName(workerService, workerMethods{s}); err != nil {
		return fmt.Errorf("serving the parent: %w", err)
	}
	server.ServeCodec(jsonrpc.NewServerCodec(conn))
	return nil
}

const workerService = "Worker"

// workerMethods are the methods of the protocol, in the form that net/rpc wants.
type workerMethods struct{ server *WorkerServer }

// WorkerStatus is the state of a worker. It is exported, as are WorkerKey and WorkerSignRequest, because net/rpc demands it.
type WorkerStatus struct {
	Token TokenStatus
	// CallAge is for how long the oldest call into the module has lasted.
	CallAge time.Duration
	Keys    map[string]WorkerKey // of every label that the worker was told
}

// WorkerKey is the state of one key: its public half in PKIX form (RFC 5280, SubjectPublicKeyInfo), or why it cannot sign.
type WorkerKey struct {
	Public []byte
	Error  string
}

// WorkerSignRequest asks for a signature over Message, which is hashed with Hash; 0 where the algorithm does that itself.
type WorkerSignRequest struct {
	Label   string
	Public  []byte // the key that the parent means, in PKIX form
	Message []byte
	Hash    crypto.Hash
}

// Status answers at once, also while the module hangs.
func (m workerMethods) Status(_ int, answer *WorkerStatus) error {
	s := m.server
	state, since := s.config.Token()
	*answer = WorkerStatus{Token: state, Keys: map[string]WorkerKey{}}
	if !since.IsZero() {
		answer.CallAge = time.Since(since)
	}
	s.mu.Lock()
	labels := s.labels
	s.mu.Unlock()
	for _, label := range labels {
		_, public, err := s.key(label)
		if err != nil {
			answer.Keys[label] = WorkerKey{Error: err.Error()}
			continue
		}
		answer.Keys[label] = WorkerKey{Public: public}
	}
	return nil
}

// Sign makes one signature.
func (m workerMethods) Sign(request WorkerSignRequest, signature *[]byte) error {
	key, public, err := m.server.key(request.Label)
	if err != nil {
		return err
	}
	if !slices.Equal(public, request.Public) {
		return fmt.Errorf("another key has come under the label %q", request.Label)
	}
	*signature, err = key.SignMessage(nil, request.Message, request.Hash)
	return err
}

// SetLabels replaces the keys to keep usable.
func (m workerMethods) SetLabels(labels []string, _ *int) error {
	m.server.mu.Lock()
	m.server.labels = labels
	m.server.mu.Unlock()
	m.server.config.SetLabels(labels)
	return nil
}

func (s *WorkerServer) key(label string) (crypto.MessageSigner, []byte, error) {
	key, err := s.config.Key(label)
	if err != nil {
		return nil, nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, nil, fmt.Errorf("encoding the public half of key %q: %w", label, err)
	}
	return key, public, nil
}
