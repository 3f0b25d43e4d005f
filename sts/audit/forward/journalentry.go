package forward

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/journald"
)

// The MESSAGE_IDs of the journal's copy, one for each kind of entry. They never change: filters and the catalogue
// (packaging/octo-sts.catalog) know them.
const (
	MessageIntent      = "09229f08ce104f0b8fc74b48d54f21f0"
	MessageOutcome     = "f7434b89d63648c1bbb5b87a323380d7"
	MessageDenied      = "91b24b0afb0c441b9dc326b01b730adc"
	MessageRevocation  = "00ef62a67f67d3695c3af1205dd7786a"
	MessagePolicyCheck = "02a32214e2414652a7863ea5761e7082"
	MessageTrustChange = "19303993145e4a7da2405f2e35931475"
	MessageAdmin       = "5688626ce4d94503b3edfb3f75e2a90d"
	// MessageOther is a kind that this version does not know, or a line of the log that cannot be read.
	MessageOther = "70338d9836f54c44b070cdb34cf5ba9f"
	// MessageCheckpoint is a signed checkpoint of the log.
	MessageCheckpoint = "8b8722c85fc94eb09588e14ca5edab12"
)

// identifier is the SYSLOG_IDENTIFIER: journalctl --identifier=octo-stsd.
const identifier = "octo-stsd"

func messageID(kind audit.Kind) string {
	switch kind {
	case audit.Intent:
		return MessageIntent
	case audit.Outcome:
		return MessageOutcome
	case audit.Denied:
		return MessageDenied
	case audit.Revocation:
		return MessageRevocation
	case audit.PolicyCheck:
		return MessagePolicyCheck
	case audit.TrustChange:
		return MessageTrustChange
	case audit.Admin:
		return MessageAdmin
	}
	return MessageOther
}

// entryFields are the journal's fields of one entry. Values are as they are in the entry, whatever characters those have;
// MESSAGE alone is made for the eye. OCTO_STS_ENTRY is the line itself, byte for byte: the leaf of the tree. A field
// without a value is left out.
func entryFields(line audit.Line) journald.Fields {
	entry, err := audit.ParseEntry(line.Bytes)
	message, priority := describe(entry), priorityOf(entry.Decision)
	if err != nil {
		message = fmt.Sprintf("entry %d of the audit log is damaged (octo-sts audit verify tells more): %s", line.Index, journald.Word(err.Error()))
		priority = journal.PriErr
	}
	fields := journald.Fields{
		{Name: "MESSAGE", Value: message},
		{Name: "MESSAGE_ID", Value: messageID(entry.Kind)},
		{Name: "PRIORITY", Value: strconv.Itoa(int(priority))},
		{Name: "SYSLOG_IDENTIFIER", Value: identifier},
		{Name: "OCTO_STS_INDEX", Value: strconv.FormatUint(line.Index, 10)},
	}
	for _, f := range []journald.Field{
		{Name: "OCTO_STS_KIND", Value: string(entry.Kind)},
		{Name: "OCTO_STS_SCOPE", Value: entry.Scope},
		{Name: "OCTO_STS_IDENTITY", Value: entry.Identity},
		{Name: "OCTO_STS_ISSUER", Value: entry.Issuer},
		{Name: "OCTO_STS_SUBJECT", Value: entry.Subject},
		{Name: "OCTO_STS_DECISION", Value: entry.Decision},
		{Name: "OCTO_STS_REQUEST_ID", Value: entry.RequestID},
		{Name: "OCTO_STS_REASON", Value: entry.Reason},
	} {
		if f.Value != "" {
			fields = append(fields, f)
		}
	}
	return append(fields, journald.Field{Name: "OCTO_STS_ENTRY", Value: string(line.Bytes)})
}

// checkpointFields are those of a signed checkpoint. OCTO_STS_CHECKPOINT is the note without its last newline, which
// journalctl puts there when it prints the field.
func checkpointFields(signed []byte) journald.Fields {
	note := strings.TrimSuffix(string(signed), "\n")
	origin, rest, _ := strings.Cut(note, "\n")
	size, _, _ := strings.Cut(rest, "\n")
	return journald.Fields{
		{Name: "MESSAGE", Value: fmt.Sprintf("audit log %s: checkpoint of %s entries", journald.Word(origin), journald.Word(size))},
		{Name: "MESSAGE_ID", Value: MessageCheckpoint},
		{Name: "PRIORITY", Value: strconv.Itoa(int(journal.PriInfo))},
		{Name: "SYSLOG_IDENTIFIER", Value: identifier},
		{Name: "OCTO_STS_CHECKPOINT", Value: note},
	}
}

func priorityOf(decision string) journal.Priority {
	switch decision {
	case audit.DecisionDenied:
		return journal.PriNotice
	case audit.DecisionFailed:
		return journal.PriWarning
	}
	return journal.PriInfo
}

// describe is the one line that journalctl shows of an entry, such as
//
//	outcome granted: my-org/my-repo deploy, for repo:my-org/my-repo:ref:refs/heads/main of https://token.actions.githubusercontent.com
func describe(e audit.Entry) string {
	var b strings.Builder
	b.WriteString(journald.Word(string(e.Kind)))
	if e.Decision != string(e.Kind) && e.Decision != "" {
		b.WriteString(" " + journald.Word(e.Decision))
	}
	separator := ": "
	for _, part := range []struct{ before, text string }{
		{" ", journald.Word(e.Scope)}, {" ", journald.Word(e.Identity)}, {", for ", journald.Word(e.Subject)}, {" of ", journald.Word(e.Issuer)}, {": ", visible(e.Reason)},
	} {
		if part.text != "" {
			b.WriteString(cmp.Or(separator, part.before) + part.text)
			separator = ""
		}
	}
	return b.String()
}

// visible is s with everything escaped that is not a visible character or a space: what a terminal would obey, what
// turns the direction of writing, newlines. (Of a MESSAGE with such characters journalctl prints nothing but its length.)
func visible(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r == '"' {
			b.WriteRune(r)
			continue
		}
		quoted := strconv.Quote(string(r))
		b.WriteString(quoted[1 : len(quoted)-1])
	}
	return b.String()
}
