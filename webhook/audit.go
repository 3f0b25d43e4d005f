package webhook

import (
	"fmt"
	"strings"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/trustpolicy"
)

// maxAuditedPaths bounds the entries that one delivery makes.
const maxAuditedPaths = 100

// about is what all entries because of one delivery have in common.
func (i *item) about(kind audit.Kind) audit.Entry {
	e := audit.Entry{
		Kind:           kind,
		RequestID:      i.Delivery.String(),
		Scope:          i.Owner,
		AppID:          i.AppID,
		InstallationID: i.InstallationID,
		Sender:         i.Sender,
	}
	if i.Repository != "" {
		e.Scope += "/" + i.Repository
	}
	return e
}

// changeEntries are the entries about what the delivery says that changed: one a
// policy and one for those that it does not name. Their order is part of what
// makes them be written once: after a crash, as many as are there are left out.
func (i *item) changeEntries() []audit.Entry {
	change := i.Change
	if change == nil {
		return nil
	}
	var entries []audit.Entry
	for _, path := range change.Paths {
		e := i.about(audit.TrustChange)
		e.PolicyRepository, e.PolicyPath = e.Scope, path
		e.Reason = change.Reason + " changed it"
		entries = append(entries, e)
	}
	e := i.about(audit.TrustChange)
	e.Repositories = change.Repositories
	switch {
	case change.Incomplete:
		e.PolicyRepository = e.Scope
		e.Reason = fmt.Sprintf("%s may have changed any file in %s: GitHub does not list all that it changed",
			change.Reason, trustpolicy.Directory)
	case change.More > 0:
		e.PolicyRepository = e.Scope
		e.Reason = fmt.Sprintf("%s changed %d others", change.Reason, change.More)
	case len(change.Paths) > 0:
		return entries
	default:
		e.Reason = change.Reason
	}
	return append(entries, e)
}

// checkEntry is the entry about a check that was reported because of the
// delivery.
func (i *item) checkEntry(inst int64, v *verdict) audit.Entry {
	e := i.about(audit.PolicyCheck)
	e.InstallationID = inst
	e.PolicyRepository = e.Scope
	if len(v.files) == 1 {
		e.PolicyPath = v.files[0]
	}
	e.Reason = fmt.Sprintf("the check of commit %s: %s: %s", abbreviated(i.Check.Head), v.conclusion, clip(v.title, 300))
	if len(v.files) > 1 {
		e.Reason += fmt.Sprintf(": %d files: %s", len(v.files), clip(strings.Join(v.files, ", "), 600))
	}
	return e
}
