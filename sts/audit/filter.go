package audit

import (
	"strings"
	"time"
)

// Filter picks entries. A field that has its zero value matches everything; an entry must match all the others.
type Filter struct {
	// Scope is compared without regard to case, as GitHub compares owners and repositories; the other strings exactly.
	Scope     string
	Identity  string
	Issuer    string
	Subject   string
	RequestID string
	Decision  string
	Kind      Kind
	// Since is the first instant that counts, Until the first that no longer does.
	Since, Until time.Time
}

// Match says whether e is among what the filter picks.
func (f Filter) Match(e Entry) bool {
	switch {
	case f.Scope != "" && !strings.EqualFold(f.Scope, e.Scope),
		f.Identity != "" && f.Identity != e.Identity,
		f.Issuer != "" && f.Issuer != e.Issuer,
		f.Subject != "" && f.Subject != e.Subject,
		f.RequestID != "" && f.RequestID != e.RequestID,
		f.Decision != "" && f.Decision != e.Decision,
		f.Kind != "" && f.Kind != e.Kind,
		!f.Since.IsZero() && e.Time.Before(f.Since),
		!f.Until.IsZero() && !e.Time.Before(f.Until):
		return false
	}
	return true
}
