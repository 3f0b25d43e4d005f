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
	"time"

	"go.uber.org/zap"
)

const (
	pathAppJWT = "/v1/app-jwt"
	pathStatus = "/v1/status"

	// maxRequest bounds a request's body, and its header as far as net/http allows.
	maxRequest = 1 << 10
	// grace is how long a stopping server lets requests finish: one signature, with time to spare.
	grace = 5 * time.Second
)

// ServerConfig configures a Server.
type ServerConfig struct {
	Service *Service
	// AllowUIDs may connect, and nobody else may: see ResolveUsers.
	AllowUIDs []uint32
	Logger    *zap.Logger
}

// Server is the HTTP face of a Service on a unix socket.
type Server struct {
	service *Service
	allow   []uint32
	log     *zap.Logger
}

// NewServer checks its configuration.
func NewServer(c ServerConfig) (*Server, error) {
	if c.Service == nil || c.Logger == nil {
		return nil, errors.New("configuring the signer's server: Service and Logger are required")
	}
	if len(c.AllowUIDs) == 0 {
		return nil, errors.New("configuring the signer's server: nobody is allowed to connect")
	}
	return &Server{service: c.Service, allow: slices.Clone(c.AllowUIDs), log: c.Logger}, nil
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
	go func() { failed <- server.Serve(listener) }()
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
	mux.Handle("POST "+pathAppJWT, s.guard(s.appJWT))
	mux.Handle("GET "+pathStatus, s.guard(s.status))
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
	switch {
	case errors.As(err, &h):
		return h.status
	case errors.Is(err, ErrUnknownApp):
		return http.StatusNotFound
	case errors.Is(err, ErrNotReady):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// guard refuses peers that are not allowed before anything of their request is read but its header, and writes what the
// handler returns. Reasons go out in full: an allowed peer is the daemon, whose operator needs them, and they hold no secret.
func (s *Server) guard(handle func(peer, *http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		p := peerFrom(r.Context())
		if p.err != nil || !slices.Contains(s.allow, p.uid) {
			s.log.Warn("peer refused", zap.Uint32("uid", p.uid), zap.Int32("pid", p.pid), zap.Error(p.err))
			w.Header().Set("Connection", "close")
			writeError(w, http.StatusForbidden, fmt.Sprintf("user ID %d is not among allow_users of this signer", p.uid))
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
		answer, err := handle(p, r)
		if err != nil {
			writeError(w, statusOf(err), err.Error())
			return
		}
		_ = json.NewEncoder(w).Encode(answer) // the peer going away is no error of ours
	})
}

func writeError(w http.ResponseWriter, status int, message string) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(errorBody{Error: message})
}

type appJWTRequest struct {
	AppID int64 `json:"app_id"`
}

type errorBody struct {
	Error string `json:"error"`
}

func (s *Server) appJWT(p peer, r *http.Request) (any, error) {
	request, err := decodeAppJWTRequest(r.Body)
	if err != nil {
		return nil, &httpError{http.StatusBadRequest, "reading the request: " + err.Error()}
	}
	fields := []zap.Field{zap.Int64("app_id", request.AppID), zap.Uint32("uid", p.uid), zap.Int32("pid", p.pid)}
	jwt, err := s.service.AppJWT(r.Context(), request.AppID)
	if err != nil {
		s.log.Warn("App JWT not signed", append(fields, zap.Error(err))...)
		return nil, err
	}
	s.log.Info("App JWT signed", append(fields, zap.Time("expiry", jwt.Expiry))...)
	return jwt, nil
}

func (s *Server) status(peer, *http.Request) (any, error) { return s.service.Status(), nil }

// decodeAppJWTRequest takes exactly one JSON object with exactly the key app_id.
func decodeAppJWTRequest(body io.Reader) (appJWTRequest, error) {
	var request appJWTRequest
	decoder := json.NewDecoder(body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&request); err != nil {
		return appJWTRequest{}, fmt.Errorf("expected {\"app_id\": NUMBER}: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return appJWTRequest{}, errors.New("something follows the JSON object")
	}
	if request.AppID <= 0 {
		return appJWTRequest{}, errors.New("app_id must be a positive number")
	}
	return request, nil
}
