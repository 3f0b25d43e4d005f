package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/octo-sts/appliance/sts/stspb"
	"github.com/octo-sts/appliance/sts/ststest"
)

// handoverRate is how many exchanges begin a second, whatever becomes of those
// before.
const handoverRate = 200

// traffic is callers of four kinds, who never try anything again.
type traffic struct {
	r *rig
	*load
	address string // as it is between two daemons, too
	kinds   []kind
	lost    map[string][]error // guarded by load.mu
	begun   map[string]int     // guarded by load.mu
	slowest time.Duration      // guarded by load.mu

	// sentAgain are requests that HTTP/2 said had not been looked at (GOAWAY: RFC
	// 9113, section 6.8), which net/http then sends on another connection.
	sentAgain atomic.Int64
	// said is how many answers announced the end of their connection.
	said atomic.Int64
}

type kind struct {
	name string
	ask  func(ctx context.Context, idToken string) (ststest.Exchanged, error)
}

// startTraffic begins exchanges at handoverRate until stopped, of each kind a
// quarter.
func (r *rig) startTraffic() *traffic {
	r.t.Helper()
	t := &traffic{r: r, address: r.Address(), load: &load{stop: make(chan struct{}), status: map[int]int{}, refused: map[string]int{}},
		lost: map[string][]error{}, begun: map[string]int{}}
	secure := &tls.Config{RootCAs: r.Roots()}
	fresh := &http.Client{Transport: &http.Transport{TLSClientConfig: secure.Clone(), DisableKeepAlives: true}}
	http2 := &http.Client{Transport: &http.Transport{TLSClientConfig: secure.Clone(), ForceAttemptHTTP2: true}}
	kept := make(chan *keptConnection, 64)
	conn, err := r.newGRPC()
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close(); http2.CloseIdleConnections() })
	url := r.URL() + "/sts/exchange?scope=acme/app&identity=issues"
	t.kinds = []kind{
		{"HTTP/1.1, kept alive", func(ctx context.Context, idToken string) (ststest.Exchanged, error) {
			return t.askKept(ctx, kept, secure, url, idToken)
		}},
		{"HTTP/1.1, a connection each", func(ctx context.Context, idToken string) (ststest.Exchanged, error) {
			return t.askHTTP(ctx, fresh, url, idToken)
		}},
		{"HTTP/2", func(ctx context.Context, idToken string) (ststest.Exchanged, error) {
			return t.askHTTP(ctx, http2, url, idToken)
		}},
		{"gRPC", func(ctx context.Context, idToken string) (ststest.Exchanged, error) {
			return askStockGRPC(ctx, conn, idToken)
		}},
	}
	t.callers.Go(t.run)
	r.t.Cleanup(t.end)
	return t
}

// run begins one exchange after another, in time.
func (t *traffic) run() {
	ticker := time.NewTicker(time.Second / handoverRate)
	defer ticker.Stop()
	for i := 0; ; i++ {
		select {
		case <-t.stop:
			return
		case <-ticker.C:
		}
		k := t.kinds[i%len(t.kinds)]
		t.callers.Go(func() { t.one(k) })
	}
}

func (t *traffic) one(k kind) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	idToken, err := t.r.signJob(nil)
	if err != nil {
		t.r.t.Error(err)
		return
	}
	began := time.Now()
	x, err := k.ask(ctx, idToken)
	t.note(x, err)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begun[k.name]++
	t.slowest = max(t.slowest, time.Since(began))
	if err != nil {
		t.lost[k.name] = append(t.lost[k.name], err)
	}
}

// keptConnection is HTTP/1.1 without anything that would hide an error. As every
// client does, it notices where a connection is closed that it does not use; a close
// that crosses a request is an error.
type keptConnection struct {
	net.Conn
	reader *bufio.Reader
	first  chan error // of the next answer's first byte
}

func (t *traffic) dialKept(ctx context.Context, secure *tls.Config) (*keptConnection, error) {
	conn, err := (&tls.Dialer{Config: secure}).DialContext(ctx, "tcp", t.address)
	if err != nil {
		return nil, err
	}
	c := &keptConnection{conn, bufio.NewReader(conn), make(chan error, 1)}
	c.listen()
	return c, nil
}

func (c *keptConnection) listen() {
	go func() {
		_, err := c.reader.Peek(1)
		c.first <- err
	}()
}

// takeKept takes a connection that is free and was not closed, or a new one.
func (t *traffic) takeKept(ctx context.Context, free chan *keptConnection, secure *tls.Config) (*keptConnection, error) {
	for {
		select {
		case c := <-free:
			select {
			case <-c.first:
				_ = c.Close()
			default:
				return c, nil
			}
		default:
			return t.dialKept(ctx, secure)
		}
	}
}

// askKept asks, and frees the connection unless the answer says that it was the last.
func (t *traffic) askKept(ctx context.Context, free chan *keptConnection, secure *tls.Config, url, idToken string) (x ststest.Exchanged, err error) {
	c, err := t.takeKept(ctx, free, secure)
	if err != nil {
		return x, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return x, err
	}
	request.Header.Set("Authorization", "Bearer "+idToken)
	cut := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer cut()
	if err := request.Write(c); err != nil {
		_ = c.Close()
		return x, fmt.Errorf("sending: %w", err)
	}
	if err := <-c.first; err != nil {
		_ = c.Close()
		return x, fmt.Errorf("waiting for the answer: %w", err)
	}
	response, err := http.ReadResponse(c.reader, request)
	if err != nil {
		_ = c.Close()
		return x, fmt.Errorf("reading the answer: %w", err)
	}
	x, err = t.read(response)
	if response.Close || err != nil {
		_ = c.Close()
		return x, err
	}
	c.listen()
	select {
	case free <- c:
	default:
		_ = c.Close()
	}
	return x, nil
}

func (t *traffic) askHTTP(ctx context.Context, client *http.Client, url, idToken string) (x ststest.Exchanged, err error) {
	connections := 0
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connections++ }})
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return x, err
	}
	request.Header.Set("Authorization", "Bearer "+idToken)
	response, err := client.Do(request)
	if err != nil {
		return x, err
	}
	if connections > 1 {
		t.sentAgain.Add(1)
	}
	return t.read(response)
}

func (t *traffic) read(response *http.Response) (x ststest.Exchanged, err error) {
	defer response.Body.Close()
	if response.Close {
		t.said.Add(1)
	}
	x = ststest.Exchanged{Status: response.StatusCode, RequestID: response.Header.Get("X-Request-Id")}
	if x.Body, err = io.ReadAll(response.Body); err != nil {
		return x, fmt.Errorf("reading the answer's body: %w", err)
	}
	var answer struct{ Token string }
	if response.StatusCode == http.StatusOK {
		err = json.Unmarshal(x.Body, &answer)
	}
	x.Token = answer.Token
	return x, err
}

// askStockGRPC asks over one connection of grpc-go's, which fails at once where
// there is none.
func askStockGRPC(ctx context.Context, conn *grpc.ClientConn, idToken string) (x ststest.Exchanged, err error) {
	var header metadata.MD
	out := &stspb.RawToken{}
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+idToken)
	in := &stspb.ExchangeRequest{Identity: "issues", Scopes: []string{"acme/app"}}
	if err := conn.Invoke(ctx, exchangeMethod, in, out, grpc.Header(&header)); err != nil {
		return x, err
	}
	x = ststest.Exchanged{Status: http.StatusOK, Token: out.GetToken()}
	if ids := header.Get("x-request-id"); len(ids) > 0 {
		x.RequestID = ids[0]
	}
	return x, nil
}

// handedOver is what every campaign must find: nobody was refused or cut off, and
// the log has all of it.
func (t *traffic) handedOver(what string, a *auditor) {
	t.r.t.Helper()
	t.end()
	for _, k := range t.kinds {
		if lost := t.lost[k.name]; len(lost) > 0 {
			t.r.t.Errorf("%s: %s: %d of %d exchanges had no answer, such as %v", what, k.name, len(lost), t.begun[k.name], lost[0])
		}
	}
	if len(t.refused) > 0 {
		t.r.t.Errorf("%s: refused: %v", what, t.refused)
	}
	if err := t.r.Stop(); err != nil {
		t.r.t.Error(err)
	}
	accounted := t.r.account()
	accounted.checkHeld(t.r.t, t.load)
	accounted.checkMinted(t.r.t, t.r.GitHub.Mints())
	if accounted.open != 0 || len(accounted.byToken) != t.granted() {
		t.r.t.Errorf("%s: %d intents without an outcome, %d tokens granted and %d received", what, accounted.open, len(accounted.byToken), t.granted())
	}
	a.keep()
	kept := a.verifyAll(what)
	t.r.t.Logf("%s: %d exchanges granted, of %v begun by kind; the slowest took %s; %d answers said that they were their connection's last; %d requests were sent again after GOAWAY; audit verify agrees with %d kept checkpoints",
		what, t.granted(), t.begun, t.slowest.Round(time.Millisecond), t.said.Load(), t.sentAgain.Load(), kept)
}

// restarts is how many a campaign makes: OCTO_STS_RESTARTS, or few.
func restarts(t *testing.T, few int) int {
	t.Helper()
	text := os.Getenv("OCTO_STS_RESTARTS")
	if text == "" {
		return few
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("OCTO_STS_RESTARTS=%q is not a number above 0", text)
	}
	return n
}

// newHandoverRig serves over TLS on sockets that a service manager passes.
func newHandoverRig(t *testing.T) (*rig, *serviceManager) {
	t.Helper()
	m := newServiceManager(t)
	m.listen("https", "tcp", "127.0.0.1:0")
	m.listen("https", "tcp", "127.0.0.1:0")
	m.listen("http", "tcp", "127.0.0.1:0")
	c := ststest.ServiceConfig{TLS: true, Issuer: ststest.IssuerConfig{Alg: "ES256"}, Edit: func(c map[string]any) {
		limits := c["limits"].(map[string]any)
		limits["connections_per_address"] = 4096
	}}
	m.manages(&c)
	return newRig(t, c), m
}

// Restarts under load refuse nobody and lose nothing, where the service manager has
// the sockets.
func TestRestartsUnderLoad(t *testing.T) {
	r, m := newHandoverRig(t)
	a := r.newAuditor()
	traffic := r.startTraffic()
	n := restarts(t, 5)
	var took []time.Duration
	for range n {
		enough := traffic.granted() + handoverRate
		r.eventually("load", func() bool { return traffic.granted() >= enough })
		a.keep()
		began := time.Now()
		if err := r.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	enough := traffic.granted() + handoverRate
	r.eventually("load", func() bool { return traffic.granted() >= enough })
	slices.Sort(took)
	t.Logf("a restart took %s at the median, %s at most", took[n/2].Round(time.Millisecond), took[n-1].Round(time.Millisecond))
	traffic.handedOver(fmt.Sprintf("%d restarts", n), a)
	if started := m.count(0, "READY=1"); started != n+1 {
		t.Errorf("READY=1 came %d times, want %d", started, n+1)
	}
}

// Restarts of the signer meanwhile fail no exchange: the App JWT at hand is good for
// minutes, and it is asked for another one in good time.
func TestSignerRestartsUnderLoad(t *testing.T) {
	r, _ := newHandoverRig(t)
	a := r.newAuditor()
	traffic := r.startTraffic()
	for range restarts(t, 3) {
		enough := traffic.granted() + handoverRate/2
		r.eventually("load", func() bool { return traffic.granted() >= enough })
		if err := r.Signer.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	traffic.handedOver("restarts of the signer", a)
}

// A daemon that is killed cuts off whom it was serving, and nobody else: who comes
// meanwhile waits for the next one.
func TestKilledWithPassedSockets(t *testing.T) {
	r, _ := newHandoverRig(t)
	traffic := r.startTraffic()
	var waiting sync.WaitGroup
	n := restarts(t, 2)
	for range n {
		enough := traffic.granted() + handoverRate/2
		r.eventually("load", func() bool { return traffic.granted() >= enough })
		if err := r.Kill(); err != nil {
			t.Fatal(err)
		}
		for range 20 { // whoever comes now
			waiting.Go(func() {
				traffic.one(kind{"nobody", traffic.kinds[1].ask})
			})
		}
		time.Sleep(50 * time.Millisecond)
		if err := r.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		waiting.Wait()
	}
	traffic.end()
	for _, k := range traffic.kinds {
		t.Logf("%d kills: %s: %d of %d exchanges were cut off", n, k.name, len(traffic.lost[k.name]), traffic.begun[k.name])
	}
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	if lost := traffic.lost["nobody"]; len(lost) > 0 {
		t.Errorf("of those who came while there was no daemon, %d had no answer, such as %v", len(lost), lost[0])
	}
	accounted := r.account()
	accounted.checkHeld(t, traffic.load)
}
