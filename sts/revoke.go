package sts

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/octo-sts/appliance/sts/audit"
)

// RevocationOutcome is what became of a revocation that somebody asked for.
type RevocationOutcome string

const (
	RevocationDone    RevocationOutcome = "revoked"
	RevocationUnknown RevocationOutcome = "unknown" // no token that this appliance handed out within the hour
	RevocationFailed  RevocationOutcome = "failed"  // GitHub did not answer, or it is too early to tell
	RevocationInvalid RevocationOutcome = "invalid" // the request was no such form
)

// errRecalling is why a token that is not known cannot be called unknown yet.
var errRecalling = errors.New("the audit log is still being read")

// Revoke ends the life of an installation token that this appliance handed out within
// the hour, at the wish of somebody who has it. It reports false for any other, of
// which GitHub is told nothing. Errors are always a *Refusal; the token may still live.
//
// Whoever has a token can revoke it at GitHub as well, so nothing else is asked of
// the caller; and what makes a token worthless is done even where it cannot be
// recorded.
func (s *Service) Revoke(ctx context.Context, by Caller, installationToken string) (bool, error) {
	began, hash := time.Now(), sha256.Sum256([]byte(installationToken))
	known, err := s.revokeKnown(ctx, by, installationToken, hash, began)
	outcome := RevocationUnknown
	switch {
	case err != nil:
		outcome = RevocationFailed
	case known:
		outcome = RevocationDone
	}
	s.observeRevocation(by, outcome, hash, began, err)
	return known, err
}

func (s *Service) revokeKnown(ctx context.Context, by Caller, installationToken string, hash [sha256.Size]byte, began time.Time) (bool, error) {
	switch fate, _ := s.handedOut.ask(hash); fate {
	case fateUnknown:
		return false, nil
	case fateUncertain:
		return false, &Refusal{Kind: ErrUnavailable, Reason: "recalling", Detail: errRecalling, RetryAfter: time.Second}
	}
	// Whoever asks for the same meanwhile gets the same answer, and none of them stops
	// it by going away.
	_, err, _ := s.handedOut.flights.Do(string(hash[:]), func() (any, error) {
		fate, expiry := s.handedOut.ask(hash)
		if fate != fateAlive {
			return nil, nil // it was revoked, or its hour ended, a moment ago
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeTimeout)
		defer cancel()
		if err := s.GitHub.Revoke(ctx, installationToken); err != nil {
			return nil, githubRefusal(err)
		}
		s.handedOut.revoked(hash)
		s.recordRevocation(ctx, by, installationToken, expiry, began)
		return nil, nil
	})
	return err == nil, err
}

// recordRevocation writes the audit entry. The grant with the same hash, which is in the
// log before it, says whose token it was.
func (s *Service) recordRevocation(ctx context.Context, by Caller, installationToken string, expiry, began time.Time) {
	entry := audit.Entry{
		Time: time.Now(), Kind: audit.Revocation, RequestID: by.RequestID, ClientAddress: by.Address, UserAgent: by.UserAgent,
		TokenExpiry: expiry, DurationMS: time.Since(began).Milliseconds(),
	}
	entry.TokenSHA256, entry.TokenSHA256Base64 = tokenHashes(installationToken)
	if _, err := s.Audit.Append(ctx, entry); err != nil {
		s.Logger.Error("a token was revoked, which could not be recorded",
			zap.String("request_id", by.RequestID), zap.String("token_sha256", entry.TokenSHA256), zap.Error(err))
	}
}

// observeRevocation writes the one log line of a revocation and counts it. Anybody can
// ask for one, so that lines come at a bounded rate; the hash of what was no
// token of ours is nobody's business.
func (s *Service) observeRevocation(by Caller, outcome RevocationOutcome, hash [sha256.Size]byte, began time.Time, err error) {
	if s.ObserveRevocation != nil {
		s.ObserveRevocation(outcome)
	}
	logger, message := s.unverified, "revocation refused"
	fields := []zap.Field{zap.String("request_id", by.RequestID), zap.String("client_address", by.Address), zap.String("outcome", string(outcome))}
	if outcome == RevocationDone {
		logger, message = s.Logger, "revocation"
		fields = append(fields, zap.String("token_sha256", hex.EncodeToString(hash[:])))
	}
	logger.Info(message, append(fields, zap.String("detail", brief(err)), zap.Duration("duration", time.Since(began)))...)
}

// revokeAdapter answers POST /sts/revoke: OAuth 2.0 Token Revocation (RFC 7009), for
// jobs that cannot reach GitHub. The hint is of no use, since there is one kind of token.
type revokeAdapter struct{ service *Service }

// revocation is the answer, of which section 2.2 asks nothing. That a token was unknown is
// worth knowing: one of another appliance's may still live.
type revocation struct {
	Revoked bool `json:"revoked"`
}

func (a revokeAdapter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	by, began := callerFrom(r.Context()), time.Now()
	form, err := readForm(w, r, []string{"token", "token_type_hint"})
	switch token := form.Get("token"); {
	case err != nil:
	case token == "":
		err = invalid("malformed_request", errors.New("token is missing: it is the token to revoke"))
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		// To call it unknown would hide a line break that came along with a token that lives.
		err = invalid("malformed_request", errors.New("token has a blank, a line break or another character that no token has"))
	}
	if err != nil {
		a.service.observeRevocation(by, RevocationInvalid, [sha256.Size]byte{}, began, err)
		WriteError(w, r, err)
		return
	}
	revoked, err := a.service.Revoke(r.Context(), by, form.Get("token"))
	if err != nil {
		WriteError(w, r, err)
		return
	}
	writeOAuth(w, http.StatusOK, revocation{revoked})
}
