package forward

import (
	"fmt"
	"net/url"
	"strconv"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/octo-sts/appliance/sts/audit"
)

// eventTypePrefix comes before an entry's kind.
const eventTypePrefix = "dev.octo-sts.audit."

// encoded is one CloudEvent in the JSON format (CloudEvents JSON Event Format 1.0, section 3).
type encoded []byte

// source makes the log's origin a URI reference, which a CloudEvent's source is. What a path may hold stays as it is.
func source(origin string) string {
	return (&url.URL{Path: origin}).String()
}

// encode makes the event of one entry. Its data is the line, byte for byte, so that whoever keeps an event's data as it
// came can compute the entry's leaf hash. So it goes past SetData, which encodes bytes as base64, and past encoding/json,
// which escapes "<", ">" and "&", and to which the SDK's own requests leave a batch.
func encode(source string, line audit.Line) (encoded, error) {
	entry, err := audit.ParseEntry(line.Bytes)
	if err != nil {
		return nil, fmt.Errorf("entry %d of the audit log is damaged (octo-sts audit verify tells more): %w", line.Index, err)
	}
	e := event.New(event.CloudEventsVersionV1)
	e.SetID(strconv.FormatUint(line.Index, 10))
	e.SetSource(source)
	e.SetType(eventTypePrefix + string(entry.Kind))
	e.SetTime(entry.Time)
	if entry.Scope != "" {
		e.SetSubject(entry.Scope)
	}
	e.SetDataContentType(event.ApplicationJSON)
	e.DataEncoded = line.Bytes
	if err := e.Validate(); err != nil {
		return nil, fmt.Errorf("making an event of entry %d: %w", line.Index, err)
	}
	return e.MarshalJSON()
}

// batch puts the first n events into one body in the JSON Batch Format (section 4 there): as many as limit, in bytes,
// allows, and at least one.
func batch(events []encoded, limit int) (body []byte, n int) {
	body = append(body, '[')
	for _, e := range events {
		if n > 0 && len(body)+len(e)+1 > limit {
			break
		}
		if n > 0 {
			body = append(body, ',')
		}
		body = append(body, e...)
		n++
	}
	return append(body, ']'), n
}
