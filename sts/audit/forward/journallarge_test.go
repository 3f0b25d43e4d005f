package forward

import (
	"strings"
	"testing"

	"github.com/octo-sts/appliance/sts/journald"
)

// What is too large for a datagram goes to a real journald as a file.
func TestSendLarge(t *testing.T) {
	d := newJournald(t)
	d.tell(t, "listen")
	d.tell(t, "start")
	c := &journald.Conn{Path: d.socket(), Limit: limit}
	defer c.Close()
	value := strings.Repeat("0123456789abcde\n", 1<<16)
	for _, value := range []string{"small", value} {
		if err := c.Send(t.Context(), journald.Fields{{Name: "MESSAGE", Value: "large"}, {Name: "SYSLOG_IDENTIFIER", Value: identifier}, {Name: "OCTO_STS_ENTRY", Value: value}}.Datagram()); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "both entries", func() bool { return len(d.entries(t)) == 2 })
	if got := d.entries(t)[1]["OCTO_STS_ENTRY"]; got != value {
		t.Errorf("%d bytes came back, %d were sent", len(got), len(value))
	}
}
