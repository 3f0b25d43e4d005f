package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"
)

// MaxLine is the longest line in bytes, without its newline.
const MaxLine = 32 << 10

// Kind says what an entry is about. It is a lower-case word; readers must expect kinds that they do not know.
type Kind string

const (
	// Intent is written before an installation token is minted: what is about to be asked of GitHub, and for whom.
	Intent Kind = "intent"
	// Outcome follows an Intent with the same request ID: the token's hash and expiry, or why there is none.
	Outcome Kind = "outcome"
	// Denied is a request with a verified ID token that was refused.
	Denied Kind = "denied"
	// Revocation is the end of an installation token, before its hour was over, at the wish of somebody who has it. The Outcome
	// with the same token hash says whose it was.
	Revocation Kind = "revocation"
	// PolicyCheck is a check of the trust policies of one commit, made because of a webhook delivery, and its conclusion.
	PolicyCheck Kind = "policy_check"
	// TrustChange is something that exchanges rest on, of which a webhook delivery said that it changed: a policy on a
	// default branch, an organization's list of issuers, an installation, a repository's name.
	TrustChange Kind = "trust_change"
	// Admin is an act of the operator's, such as a change of keys. This version writes none; readers have to take it.
	Admin Kind = "admin"
)

// The values of Entry.Decision. Others may come.
const (
	// DecisionGranted: the policy and the operator's ceiling allow it; in an Outcome, a token left.
	DecisionGranted = "granted"
	// DecisionDenied: the policy, the ceiling, or the lack of either refuses it.
	DecisionDenied = "denied"
	// DecisionFailed: allowed, but GitHub, the signer or the disk did not play along; no token left.
	DecisionFailed = "failed"
)

// Entry is one line of the log. A field that has its zero value is left out of the line. Strings and collections are
// bounded as the comment says, in bytes of JSON text (escapes counted); what is longer is cut, never refused, and the
// field is then named in Truncated. All bounds together keep a line within MaxLine.
type Entry struct {
	// Time is when it happened. Append takes the time of its call where it is zero. Kept to the microsecond.
	Time time.Time `json:"time"`
	// Kind is required: 1 to 32 characters of a-z, 0-9 and underscore.
	Kind Kind `json:"kind"`
	// RequestID is what the caller was told to quote (128).
	RequestID string `json:"request_id,omitempty"`
	// Scope is "owner/repo" or "owner" as requested (256).
	Scope string `json:"scope,omitempty"`
	// Identity names the trust policy (256).
	Identity string `json:"identity,omitempty"`
	// Issuer and Subject are the verified ID token's iss (512) and sub (2048).
	Issuer  string `json:"issuer,omitempty"`
	Subject string `json:"subject,omitempty"`
	// Claims are those that the policy named, as they were in the ID token, numbers as json.Number. At most 8192 bytes
	// together and 2048 each: a string is cut to fit, any other claim is left out whole.
	Claims map[string]any `json:"claims,omitempty"`
	// JTI is the ID token's jti (1024: 512 bytes of anything printable, whatever has to be escaped).
	JTI string `json:"jti,omitempty"`
	// IDTokenExpiry is the ID token's exp: until then its JTI matters.
	IDTokenExpiry time.Time `json:"id_token_expiry,omitzero"`
	// Sender is the GitHub login whose act a webhook delivery reports (128).
	Sender string `json:"sender,omitempty"`
	// ClientAddress is the peer's IP address (128), UserAgent what it called itself (512).
	ClientAddress string `json:"client_address,omitempty"`
	UserAgent     string `json:"user_agent,omitempty"`
	// PolicyRepository is "owner/repo" (256), PolicyPath the file in it (512), PolicySHA its Git blob SHA in hex (128).
	PolicyRepository string `json:"policy_repository,omitempty"`
	PolicyPath       string `json:"policy_path,omitempty"`
	PolicySHA        string `json:"policy_sha,omitempty"`
	// PolicyAge is for how many seconds GitHub had not been asked whether the policy is still the same.
	PolicyAge int64 `json:"policy_age_seconds,omitempty"`
	// AppID and InstallationID are GitHub's numbers.
	AppID          int64 `json:"app_id,omitempty"`
	InstallationID int64 `json:"installation_id,omitempty"`
	// Permissions are GitHub's permission names and levels (4096 bytes together; pairs beyond that are left out).
	Permissions map[string]string `json:"permissions,omitempty"`
	// Repositories are names without their owner (10240 bytes together; names beyond that are left out).
	Repositories []string `json:"repositories,omitempty"`
	// AllRepositories: the token reaches every repository of the installation.
	AllRepositories bool `json:"all_repositories,omitempty"`
	// TokenSHA256 is the SHA-256 of the installation token in lower-case hex, TokenSHA256Base64 the same in padded
	// standard base64, which is how GitHub's own audit log has it (hashed_token). Never the token.
	TokenSHA256       string `json:"token_sha256,omitempty"`
	TokenSHA256Base64 string `json:"token_sha256_base64,omitempty"`
	// TokenExpiry is when the installation token expires.
	TokenExpiry time.Time `json:"token_expiry,omitzero"`
	// Decision is granted, denied or failed (32), Reason the operator's explanation in a sentence (1024).
	Decision string `json:"decision,omitempty"`
	Reason   string `json:"reason,omitempty"`
	// DurationMS is how long the request had taken so far, in milliseconds.
	DurationMS int64 `json:"duration_ms,omitempty"`
	// Truncated names the fields that were cut to their bounds, by their JSON names. Append sets it; what a caller
	// puts here is not written.
	Truncated []string `json:"truncated,omitempty"`
}

// check refuses what would make a line that no reader could place.
func (e *Entry) check() error {
	if len(e.Kind) == 0 || len(e.Kind) > 32 {
		return errors.New("audit entry: kind must have 1 to 32 characters")
	}
	for _, c := range []byte(e.Kind) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return fmt.Errorf("audit entry: kind %q: only a-z, 0-9 and underscore", e.Kind)
		}
	}
	return nil
}

// ParseEntry reads one line, without its newline. A line is well-formed when it is exactly one JSON object in UTF-8
// of at most MaxLine bytes, with a time, a kind, and known fields of the right type; unknown fields are passed
// over, so that an older program can read what a newer one wrote.
func ParseEntry(line []byte) (Entry, error) {
	switch {
	case len(line) > MaxLine:
		return Entry{}, fmt.Errorf("longer than %d bytes", MaxLine)
	case len(line) == 0:
		return Entry{}, errors.New("empty line")
	case line[0] != '{' || line[len(line)-1] != '}':
		return Entry{}, errors.New("not a JSON object")
	case !utf8.Valid(line):
		return Entry{}, errors.New("not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber()
	var e Entry
	if err := d.Decode(&e); err != nil {
		return Entry{}, err
	}
	if _, err := d.Token(); err != io.EOF {
		return Entry{}, errors.New("more than one JSON object")
	}
	if e.Time.IsZero() {
		return Entry{}, errors.New("no time")
	}
	if err := e.check(); err != nil {
		return Entry{}, err
	}
	return e, nil
}
