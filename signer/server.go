package signer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/octo-sts/appliance/sts/audit/checkpoint"
	"github.com/octo-sts/appliance/sts/span"
)

const (
	pathAppJWT     = "/v1/app-jwt"
	pathCheckpoint = "/v1/checkpoint"
	pathProbe      = "/v1/probe-id-token"
	pathStatus     = "/v1/status"

	// maxRequest bounds a request's body, and its header as far as net/http allows.
	maxRequest = 1 << 10
	// grace is how long a stopping server lets requests finish: one signature, with time to spare.
	grace = 5 * time.Second
)

// ServerConfig configures a Server.
type ServerConfig struct {
	Service     *Service
	Checkpoints *Countersigner
	Probe       *ProbeIssuer // nil: no ID tokens are made
	// AllowUIDs may connect, and nobody else may: see ResolveUsers.
	AllowUIDs []uint32
	Logger    *zap.Logger
}

// Server is the HTTP face of a Service on a unix socket.
type Server struct {
	service     *Service
	checkpoints *Countersigner
	probe       *ProbeIssuer
	allow       atomic.Pointer[[]uint32] // replaced as a whole, never changed
	log         *zap.Logger
	// refusals bounds how often the log tells of peers that are not allowed, and failures how often of JWTs that were not
	// signed: either could fill the disk, or make journald drop the lines about those that were.
	refusals, failures *rate.Limiter
}

// NewServer checks its configuration.
func NewServer(c ServerConfig) (*Server, error) {
	if c.Service == nil || c.Checkpoints == nil || c.Logger == nil {
		return nil, errors.New("configuring the signer's server: Service, Checkpoints and Logger are required")
	}
	s := &Server{service: c.Service, checkpoints: c.Checkpoints, probe: c.Probe, log: c.Logger, refusals: rate.NewLimiter(1, 10), failures: rate.NewLimiter(1, 10)}
	if err := s.SetAllowed(c.AllowUIDs); err != nil {
		return nil, err
	}
	return s, nil
}

// SetAllowed replaces who may connect. Requests under way are finished; the next one on an open connection is judged anew.
func (s *Server) SetAllowed(uids []uint32) error {
	if len(uids) == 0 {
		return errors.New("configuring the signer's server: nobody is allowed to connect")
	}
	uids = slices.Clone(uids)
	s.allow.Store(&uids)
	return nil
}

// allowed is where a peer is admitted or not. A refusal is logged.
func (s *Server) allowed(p peer) bool {
	if p.err == nil && slices.Contains(*s.allow.Load(), p.uid) {
		return true
	}
	if s.refusals.Allow() {
		s.log.Warn("peer refused", zap.Uint32("uid", p.uid), zap.Int32("pid", p.pid), zap.Error(p.err))
	}
	return false
}

func notAllowed(p peer) string {
	return fmt.Sprintf("user ID %d is not among allow_users of this signer", p.uid)
}

// Serve answers on listener until ctx ends, then lets requests under way finish for a few seconds. It closes listener.
// It returns nil where it stopped because of ctx.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{
		Handler:           s.Handler(),
		ConnContext:       withPeer,
		ReadHeaderTimeout: 2 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxRequest,
		ErrorLog:          log.New(io.Discard, "", 0), // its lines hold bytes that peers chose
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(newGate(listener, s.allowed)) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serving the signer's socket: %w", err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if err := server.Shutdown(stop); err != nil {
		s.log.Warn("requests were cut off at the end", zap.Error(err))
		_ = server.Close()
	}
	return nil
}

// Handler returns the HTTP handler. Its requests must come through Serve, or every peer is refused for being unknown.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST "+pathAppJWT, s.guard(maxRequest, s.appJWT))
	mux.Handle("POST "+pathCheckpoint, s.guard(maxCheckpointRequest, s.checkpoint))
	mux.Handle("POST "+pathProbe, s.guard(maxRequest, s.probeIDToken))
	mux.Handle("GET "+pathStatus, s.guard(maxRequest, s.status))
	return mux
}

// httpError is an error that knows its HTTP status. Handlers return it, or an error that statusOf maps.
type httpError struct {
	status  int
	message string
}

func (e *httpError) Error() string { return e.message }

// statusOf is the one place that maps errors to HTTP.
func statusOf(err error) int {
	var h *httpError
	var conflict *checkpoint.Conflict
	switch {
	case errors.As(err, &h):
		return h.status
	case errors.As(err, &conflict):
		return http.StatusConflict
	case errors.Is(err, ErrUnknownApp), errors.Is(err, ErrNoProbeIssuer):
		return http.StatusNotFound
	case errors.Is(err, ErrCheckpointRefused):
		return http.StatusBadRequest
	case errors.Is(err, ErrNotReady), errors.Is(err, ErrCheckpointNotReady), errors.Is(err, ErrNoCheckpointState), errors.Is(err, ErrCheckpointStateLocked), errors.Is(err, ErrCheckpointRate), errors.Is(err, ErrProbeRate):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// guard refuses peers that are not allowed before anything of their request is read but its header, bounds the request's
// body to limit bytes, and writes what the handler returns. Reasons go out in full: an allowed peer is the daemon, whose operator needs them, and they hold no secret.
func (s *Server) guard(limit int64, handle func(peer, *http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		p := peerFrom(r.Context())
		// Once more after the gate: allow_users may have changed since the connection was made.
		if !s.allowed(p) {
			w.Header().Set("Connection", "close")
			writeError(w, &httpError{http.StatusForbidden, notAllowed(p)})
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, limit)
		began := time.Now()
		ctx, steps := withCaller(r)
		answer, err := handle(p, r.WithContext(ctx))
		if steps != nil {
			w.Header().Set(headerSteps, steps.header(began, err))
		}
		if err != nil {
			writeError(w, err)
			return
		}
		_ = json.NewEncoder(w).Encode(answer) // the peer going away is no error of ours
	})
}

func writeError(w http.ResponseWriter, err error) {
	body := errorBody{Error: err.Error()}
	var conflict *checkpoint.Conflict
	if errors.As(err, &conflict) {
		body = conflictBody(conflict)
	}
	w.WriteHeader(statusOf(err))
	_ = json.NewEncoder(w).Encode(body)
}

// errorBody is the answer to whatever is refused or failed.
type errorBody struct {
	Error string `json:"error"`
	// Last is what was signed last, in a checkpoint.Conflict alone.
	Last *checkpointBody `json:"last,omitempty"`
}

type appJWTRequest struct {
	AppID int64 `json:"app_id"`
}

func (s *Server) appJWT(p peer, r *http.Request) (any, error) {
	request, err := decodeAppJWTRequest(r.Body)
	if err != nil {
		return nil, &httpError{http.StatusBadRequest, "reading the request: " + err.Error()}
	}
	fields := []zap.Field{zap.Int64("app_id", request.AppID), zap.Uint32("uid", p.uid), zap.Int32("pid", p.pid)}
	if id := span.Field(r.Context()); id.Key != "" {
		fields = append(fields, id)
	}
	jwt, err := s.service.AppJWT(r.Context(), request.AppID)
	if err != nil {
		if s.failures.Allow() {
			s.log.Warn("App JWT not signed", append(fields, zap.Error(err))...)
		}
		return nil, err
	}
	s.log.Info("App JWT signed", append(fields, zap.Time("expiry", jwt.Expiry))...)
	return jwt, nil
}

func (s *Server) status(peer, *http.Request) (any, error) {
	status := s.service.Status()
	status.Checkpoint = s.checkpoints.Status()
	status.Probe = s.probe.Status()
	return status, nil
}

// decodeAppJWTRequest takes exactly one JSON object with exactly the key app_id.
func decodeAppJWTRequest(body io.Reader) (appJWTRequest, error) {
	var request appJWTRequest
	if err := decodeRequest(body, &request); err != nil {
		return appJWTRequest{}, fmt.Errorf("expected {\"app_id\": NUMBER}: %w", err)
	}
	if request.AppID <= 0 {
		return appJWTRequest{}, errors.New("app_id must be a positive number")
	}
	return request, nil
}

// decodeRequest takes exactly one JSON object without unknown keys.
func decodeRequest(body io.Reader, request any) error {
	decoder := json.NewDecoder(body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(request); err != nil {
		return err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON object")
	}
	return nil
}
