package appliance

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/zap"
	"golang.org/x/net/http/httpproxy"
	"google.golang.org/protobuf/proto"

	"github.com/octo-sts/appliance/signer"
)

const (
	// spanQueue is how many spans wait for the collector, some 2 KiB each. What is over
	// that is dropped.
	spanQueue = 2048
	// spanBatch is how many are sent at once, and spanPause how long they gather.
	spanBatch = 512
	spanPause = time.Second
	// uploadTries and uploadPause bound what is done for one batch.
	uploadTries   = 3
	uploadPause   = time.Second
	uploadTimeout = 5 * time.Second // of one try
)

// newTracing returns nil where tracing is off. What it starts ends with close.
func newTracing(ctx context.Context, c *Config, version string, logger *zap.Logger) (*tracing, error) {
	if c.Tracing.OTLPEndpoint == "" {
		return nil, nil
	}
	client, err := newExporter(c.Tracing, logger)
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	export, err := otlptrace.New(ctx, client)
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	// One queue, which never waits, for the spans of both programs.
	queue := sdktrace.NewBatchSpanProcessor(export, sdktrace.WithMaxQueueSize(spanQueue), sdktrace.WithMaxExportBatchSize(spanBatch),
		sdktrace.WithBatchTimeout(spanPause), sdktrace.WithExportTimeout(uploadTries*(uploadTimeout+2*uploadPause)))
	provider := func(service string) *sdktrace.TracerProvider {
		return sdktrace.NewTracerProvider(
			sdktrace.WithResource(resource.NewSchemaless(
				attribute.String("service.name", service), attribute.String("service.version", version), attribute.String("service.namespace", c.Domain))),
			sdktrace.WithSampler(dice{*c.Tracing.Sample}),
			sdktrace.WithSpanProcessor(queue))
	}
	daemon := provider("octo-stsd")
	return &tracing{
		daemon: daemon.Tracer("octo-stsd"),
		signer: provider("octo-sts-signer").Tracer("octo-sts-signer"),
		export: client,
		flush:  daemon.Shutdown, // and with it the queue
	}, nil
}

// exporter speaks OTLP over HTTP: ExportTraceServiceRequest, in protobuf (OTLP
// specification, "OTLP/HTTP"). It is not OpenTelemetry's own, which brings gRPC into
// the program, 2 MiB of memory for those who trace nothing.
type exporter struct {
	url        string
	credential string
	client     *http.Client
	logger     *zap.Logger

	mu      sync.Mutex
	problem error // of the last batch; guarded by mu
}

func newExporter(t Tracing, logger *zap.Logger) (*exporter, error) {
	to, err := tracesURL(t.OTLPEndpoint)
	if err != nil {
		return nil, fmt.Errorf("otlp_endpoint: %w", err)
	}
	e := &exporter{url: to, logger: logger}
	if t.OTLPCredential != "" {
		if e.credential, err = signer.ReadCredential(os.Getenv(credentialsDirectory), t.OTLPCredential); err != nil {
			return nil, fmt.Errorf("otlp_credential: %w", err)
		}
	}
	var roots *x509.CertPool // nil: the system's
	if t.OTLPCAFile != "" {
		pem, err := os.ReadFile(t.OTLPCAFile)
		if err != nil {
			return nil, fmt.Errorf("otlp_ca_file: %w", err)
		}
		if roots = x509.NewCertPool(); !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("otlp_ca_file: %s holds no PEM certificate", t.OTLPCAFile)
		}
	}
	proxy := httpproxy.FromEnvironment().ProxyFunc()
	e.client = &http.Client{
		Timeout: uploadTimeout,
		Transport: &http.Transport{
			Proxy:                  func(r *http.Request) (*url.URL, error) { return proxy(r.URL) },
			TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			ForceAttemptHTTP2:      true,
			IdleConnTimeout:        90 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
		},
		// The credential goes to the host that the operator named, and to no other.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return e, nil
}

// Start implements otlptrace.Client.
func (e *exporter) Start(context.Context) error { return nil }

// Stop implements otlptrace.Client.
func (e *exporter) Stop(context.Context) error {
	e.client.CloseIdleConnections()
	return nil
}

// UploadTraces implements otlptrace.Client. A batch that the collector does not take
// is lost, and nothing else is: so that is logged here, once, and no error.
func (e *exporter) UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	// TracesData is on the wire what ExportTraceServiceRequest is.
	body, err := proto.Marshal(&tracepb.TracesData{ResourceSpans: spans})
	for try := 1; err == nil; try++ {
		var again bool
		if again, err = e.post(ctx, body); err == nil || !again || try == uploadTries {
			break
		}
		select {
		case <-time.After(uploadPause):
			err = nil
		case <-ctx.Done():
		}
	}
	e.note(err)
	return nil
}

// post reports whether it may help to try again (OTLP specification, "Retryable
// Response Codes").
func (e *exporter) post(ctx context.Context, body []byte) (again bool, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	request.Header.Set("Content-Type", "application/x-protobuf")
	if e.credential != "" {
		request.Header.Set("Authorization", "Bearer "+e.credential)
	}
	response, err := e.client.Do(request)
	if err != nil {
		return true, err
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10)) // it may repeat the credential, and says nothing that is needed
	switch status := response.StatusCode; status {
	case http.StatusOK, http.StatusAccepted:
		return false, nil
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true, fmt.Errorf("the collector answered %d %s", status, http.StatusText(status))
	default:
		return false, fmt.Errorf("the collector answered %d %s", status, http.StatusText(status))
	}
}

// note logs where the state of things changes.
func (e *exporter) note(err error) {
	if u := (*url.Error)(nil); errors.As(err, &u) {
		err = u.Err // without the URL
	}
	e.mu.Lock()
	before := e.problem
	e.problem = err
	e.mu.Unlock()
	switch {
	case err != nil && before == nil:
		e.logger.Warn("traces do not reach the collector, and are dropped until they do", zap.Error(err))
	case err == nil && before != nil:
		e.logger.Info("traces reach the collector again")
	}
}

// checks never fail: no exchange needs a trace.
func (t *tracing) checks() []check {
	if t == nil {
		return nil
	}
	t.export.mu.Lock()
	defer t.export.mu.Unlock()
	if err := t.export.problem; err != nil {
		return []check{{"tracing", stateDegraded, "traces do not reach the collector: " + err.Error()}}
	}
	return []check{{"tracing", stateReady, "the collector takes traces"}}
}
