package appliance

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/protobuf/proto"
)

func TestTracesURL(t *testing.T) {
	for endpoint, want := range map[string]string{
		"https://otel.example:4318":    "https://otel.example:4318/v1/traces",
		"https://otel.example/base/":   "https://otel.example/base/v1/traces",
		"http://127.0.0.1:4318":        "http://127.0.0.1:4318/v1/traces",
		"http://otel.example:4318":     "",
		"otel.example:4318":            "",
		"https://user:hush@otel.test/": "",
		"https://otel.test/?key=hush":  "",
		"https://otel.test/v1/traces":  "",
		"ftp://otel.test/":             "",
	} {
		got, err := tracesURL(endpoint)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v; want %q", endpoint, got, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: the error repeats the secret: %v", endpoint, err)
		}
	}
}

// A batch is tried again where that may help, with the credential, and never elsewhere.
func TestUploads(t *testing.T) {
	directory := t.TempDir()
	t.Setenv(credentialsDirectory, directory)
	if err := os.WriteFile(filepath.Join(directory, "traces"), []byte("s3cr3t\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		answers []int
		lost    bool
	}{
		{"taken", []int{200}, false},
		{"taken in the end", []int{503, 200}, false},
		{"overloaded", []int{429, 502, 504}, true},
		{"refused", []int{400}, true},
		{"unauthorized", []int{401}, true},
		{"sent elsewhere", []int{307}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var asked []int
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil || proto.Unmarshal(body, &tracepb.TracesData{}) != nil || r.URL.Path != "/v1/traces" ||
					r.Header.Get("Authorization") != "Bearer s3cr3t" || r.Header.Get("Content-Type") != "application/x-protobuf" {
					t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
				}
				status := c.answers[min(len(asked), len(c.answers)-1)]
				asked = append(asked, status)
				w.Header().Set("Location", "/v1/elsewhere")
				w.WriteHeader(status)
			}))
			defer server.Close()
			core, logs := observer.New(zapcore.InfoLevel)
			e, err := newExporter(Tracing{OTLPEndpoint: server.URL, OTLPCredential: "traces"}, zap.New(core))
			if err != nil {
				t.Fatal(err)
			}
			batch := []*tracepb.ResourceSpans{{SchemaUrl: "some"}}
			if err := e.UploadTraces(context.Background(), batch); err != nil {
				t.Errorf("the SDK gets an error, which it would print: %v", err)
			}
			if !slices.Equal(asked, c.answers) {
				t.Errorf("the collector answered %v, want %v", asked, c.answers)
			}
			state := (&tracing{export: e}).checks()[0].State
			if lost := logs.Len() > 0; lost != c.lost || (state == stateDegraded) != c.lost {
				t.Errorf("lost: %v, readiness: %s; want %v", lost, state, c.lost)
			}
		})
	}
}
