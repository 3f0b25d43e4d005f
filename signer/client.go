package signer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"

	"github.com/octo-sts/appliance/sts/audit/checkpoint"
	"github.com/octo-sts/appliance/sts/span"
)

var (
	// ErrUnavailable means that no answer of use came: nobody listens, the time was up, the HSM cannot sign, the answer
	// makes no sense. Trying again later may help.
	ErrUnavailable = errors.New("the signer is not available")
	// ErrRefused means that the signer answered no: this process's user is not allowed, the App is not configured there,
	// or the request is wrong. Trying again does not help.
	ErrRefused = errors.New("the signer refused")
)

const (
	// clientTimeout bounds one call from dialling to the last byte.
	clientTimeout = 2 * time.Second
	// maxAnswer bounds an answer's body. A status with some hundred Apps and several HSMs fits.
	maxAnswer = 1 << 20
)

// dialPause is how long a client waits where the socket's queue of connections is full.
const dialPause = 5 * time.Millisecond

// dialSigner connects to the socket. A queue that is full, as somebody else who may connect can make it, is waited for: a unix
// socket that does not block gives up at once with EAGAIN (connect(2)).
func dialSigner(ctx context.Context, socket string) (net.Conn, error) {
	var full error
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
		if full != nil && errors.Is(err, context.DeadlineExceeded) {
			return nil, full // which says more than that the time is up
		}
		if !errors.Is(err, syscall.EAGAIN) || !sleep(ctx, dialPause) {
			return conn, err
		}
		full = err
	}
}

// Client calls a signer through its unix socket. It is safe for concurrent use and keeps connections open between calls.
type Client struct {
	http *http.Client
}

// NewClient returns a client of the signer at socket, a path. It connects at the first call, and anew after the signer
// was restarted.
func NewClient(socket string) *Client {
	return &Client{http: &http.Client{
		Timeout: clientTimeout,
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return dialSigner(ctx, socket)
			},
			MaxIdleConnsPerHost: 4,
			IdleConnTimeout:     time.Minute, // shorter than the server's, so that no call meets a connection being closed
			DisableCompression:  true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// AppJWT asks for an App JWT. The error matches ErrUnavailable or ErrRefused.
func (c *Client) AppJWT(ctx context.Context, appID int64) (jwt AppJWT, err error) {
	ctx, end := span.Begin(ctx, span.Step{Name: "signer App JWT", Elsewhere: true})
	defer func() {
		var e span.End
		if err != nil {
			e.Reason = "failed"
		}
		end(e)
	}()
	body, err := json.Marshal(appJWTRequest{AppID: appID})
	if err != nil {
		return AppJWT{}, fmt.Errorf("encoding a request to the signer: %w", err)
	}
	if err := c.call(ctx, http.MethodPost, pathAppJWT, body, &jwt); err != nil {
		return AppJWT{}, fmt.Errorf("getting a JWT for App %d: %w", appID, err)
	}
	if jwt.JWT == "" || jwt.Expiry.IsZero() {
		return AppJWT{}, fmt.Errorf("getting a JWT for App %d: %w: its answer has no JWT", appID, ErrUnavailable)
	}
	return jwt, nil
}

// Status asks for the signer's state. The error matches ErrUnavailable or ErrRefused.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var status Status
	if err := c.call(ctx, http.MethodGet, pathStatus, nil, &status); err != nil {
		return Status{}, fmt.Errorf("getting the signer's status: %w", err)
	}
	return status, nil
}

// Close closes idle connections. The client stays usable.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func (c *Client) call(ctx context.Context, method, path string, body []byte, answer any) error {
	request, err := http.NewRequestWithContext(ctx, method, "http://signer"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	// Not sent: it tells net/http that asking twice does no harm, so a connection that a restarted signer left dead is
	// replaced without the caller noticing.
	request.Header["Idempotency-Key"] = nil
	if id := span.RequestID(ctx); id != "" {
		request.Header.Set(headerRequestID, id)
	}
	if parent := span.Traceparent(ctx); parent != "" {
		request.Header.Set(headerTraceparent, parent)
	}
	response, err := c.http.Do(request)
	if err != nil {
		var asked *url.Error // it says once more what was asked, at an address that is none
		if errors.As(err, &asked) {
			err = asked.Err
		}
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer response.Body.Close()
	noteSteps(ctx, response.Header.Get(headerSteps))
	data, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err != nil {
		return fmt.Errorf("%w: reading its answer: %w", ErrUnavailable, err)
	}
	if len(data) > maxAnswer {
		return fmt.Errorf("%w: its answer has more than %d bytes", ErrUnavailable, maxAnswer)
	}
	if response.StatusCode != http.StatusOK {
		return answerError(response.StatusCode, data)
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return fmt.Errorf("%w: its answer is not what was asked for: %w", ErrUnavailable, err)
	}
	return nil
}

func answerError(status int, data []byte) error {
	var body errorBody
	if err := json.Unmarshal(data, &body); err != nil || body.Error == "" {
		body.Error = "no reason given"
	}
	if last := body.Last; status == http.StatusConflict && last != nil {
		return &checkpoint.Conflict{Last: checkpoint.Checkpoint(*last), Reason: body.Error}
	}
	kind := ErrUnavailable
	if status >= 400 && status < 500 {
		kind = ErrRefused
	}
	return fmt.Errorf("%w: %s (HTTP %d)", kind, body.Error, status)
}
