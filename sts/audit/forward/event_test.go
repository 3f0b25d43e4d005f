package forward

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/audit"
)

// What a collector is to rely on.
func TestEvent(t *testing.T) {
	m, c := newMachine(t), newCollector(t)
	at := time.Date(2026, 11, 23, 7, 30, 0, 123456000, time.UTC)
	m.append(t, audit.Entry{Time: at, Kind: audit.Denied, Scope: "my-org/my-repo", Reason: "<a> & b"})
	m.append(t, audit.Entry{Time: at, Kind: audit.Admin, Subject: hostile})
	running(t, newTestEvents(t, m, EventsConfig{URL: c.URL}).Run)
	c.await(m, 0) // compares the data with the lines, byte for byte
	e := c.events[0]
	got := []string{e.SpecVersion(), e.ID(), e.Source(), e.Type(), e.Subject(), e.Time().Format(time.RFC3339Nano), e.DataContentType()}
	want := []string{"1.0", "0", "sts.example.com/audit", "dev.octo-sts.audit.denied", "my-org/my-repo", "2026-11-23T07:30:00.123456Z", "application/json"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%q\nwant %q", got, want)
	}
	if e = c.events[1]; e.Subject() != "" || e.Type() != "dev.octo-sts.audit.admin" || e.ID() != "1" {
		t.Errorf("%v", e)
	}
}

func TestSource(t *testing.T) {
	for origin, want := range map[string]string{
		"sts.example.com/audit":      "sts.example.com/audit",
		"sts.example.com:8443/audit": "./sts.example.com:8443/audit", // RFC 3986, section 4.2: no colon in a first segment
		"größe/audit?x#y":            "gr%C3%B6%C3%9Fe/audit%3Fx%23y",
	} {
		if got := source(origin); got != want {
			t.Errorf("%s: %s, want %s", origin, got, want)
		}
	}
}

// An entry that cannot be read holds what comes after it, and nothing that comes before.
func TestDamagedEntry(t *testing.T) {
	m, c := newMachine(t), newCollector(t)
	m.fill(t, 10)
	path := filepath.Join(m.logDirectory(), "00000000000000000000.jsonl")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(data, []byte{'\n'})
	lines[4] = append([]byte{'['}, lines[4][1:]...)
	if err := os.WriteFile(path, bytes.Join(lines, nil), 0o640); err != nil {
		t.Fatal(err)
	}
	e := newTestEvents(t, m, EventsConfig{URL: c.URL})
	running(t, e.Run)
	eventually(t, "the entries before it", func() bool { return e.Status().Next == 4 })
	eventually(t, "the error", func() bool {
		err := e.Status().Err
		return err != nil && strings.Contains(err.Error(), "entry 4 of the audit log is damaged")
	})
}
