package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	cloudhttp "github.com/cloudevents/sdk-go/v2/protocol/http"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/ststest"
)

// sink takes CloudEvents, or answers with another status.
type sink struct {
	mu     sync.Mutex
	status int               // guarded by mu; 0: hang
	data   map[uint64]string // guarded by mu: by index
	order  []uint64          // guarded by mu: first occurrences
	header string            // guarded by mu: the last Authorization
}

func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	events, err := cloudhttp.NewEventsFromHTTPRequest(r)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	s.header = r.Header.Get("Authorization")
	status := s.status
	if status == http.StatusAccepted {
		for _, e := range events {
			index, err := strconv.ParseUint(e.ID(), 10, 64)
			if _, known := s.data[index]; err == nil && !known {
				s.data[index], s.order = string(e.Data()), append(s.order, index)
			}
		}
	}
	s.mu.Unlock()
	if status == 0 {
		<-r.Context().Done()
		return
	}
	w.WriteHeader(status)
}

func (s *sink) answer(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
}

// The sink has every entry in the end, in order and byte for byte, with the credential that it wants, whatever happened
// to it and to the daemon; and no exchange waits for it.
func TestCloudEventsSink(t *testing.T) {
	collector := &sink{data: map[uint64]string{}}
	server := httptest.NewServer(collector)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	credentials := t.TempDir()
	if err := os.WriteFile(filepath.Join(credentials, "collector"), []byte("s3cr3t\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, ststest.ServiceConfig{
		Env: []string{"CREDENTIALS_DIRECTORY=" + credentials},
		Edit: func(config map[string]any) {
			log := config["audit"].(map[string]any)
			log["cloudevents_sink"], log["cloudevents_credential"] = server.URL+"/events", "collector"
		},
	})
	await := func(what string, condition func() bool) {
		t.Helper()
		for deadline := time.Now().Add(patience); !condition(); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: not within %s", what, patience)
			}
		}
	}

	for range 5 { // the sink hangs
		r.granted("acme/app", "reader")
	}
	collector.answer(http.StatusServiceUnavailable)
	if err := r.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	await("readiness says that the sink fails", func() bool {
		status, _, checks := r.readiness()
		return status == http.StatusOK && strings.HasPrefix(checks["audit cloudevents"], "degraded: ") &&
			strings.Contains(checks["audit cloudevents"], "the sink answered 503") && checks["audit journal"] == "" // its log is a pipe
	})
	r.granted("acme/app", "reader")
	if err := r.Kill(); err != nil {
		t.Fatal(err)
	}
	collector.answer(http.StatusAccepted)
	if err := r.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.granted("acme/app", "reader")
	await("every entry arrives", func() bool {
		collector.mu.Lock()
		defer collector.mu.Unlock()
		return len(collector.order) >= 14 && len(collector.order) == len(r.audited(audit.Filter{}))
	})
	await("readiness says that all is well", func() bool {
		_, _, checks := r.readiness()
		return checks["audit cloudevents"] == "ready: 0 entries to copy"
	})
	collector.mu.Lock()
	defer collector.mu.Unlock()
	if collector.header != "Bearer s3cr3t" {
		t.Errorf("Authorization: %q", collector.header)
	}
	if strings.Contains(string(r.Logs()), "s3cr3t") {
		t.Error("the credential is in the log")
	}
	for record, err := range audit.Read(r.AuditDir) {
		if err != nil {
			t.Fatal(err)
		}
		if collector.order[record.Index] != record.Index || collector.data[record.Index] != string(record.Line) {
			t.Errorf("entry %d: came as number %d, as %s", record.Index, collector.order[record.Index], collector.data[record.Index])
		}
	}
}
