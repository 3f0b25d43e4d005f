package ststest

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Webhook is where an App's events are delivered.
type Webhook struct {
	URL    string       // "": nowhere
	Secret string       // "": deliveries are not signed
	Client *http.Client // nil: one that follows no redirect
}

// Event is something for a webhook to receive, also what GitHub never sends.
type Event struct {
	Name string // the event, as in X-GitHub-Event
	GUID string // the delivery, as in X-GitHub-Delivery; "": a new one
	// Payload is sent as it is where it is a []byte, otherwise as JSON.
	Payload any
	// Header replaces headers of the delivery; an empty value removes one.
	Header map[string]string
	// Secret to sign with instead of the webhook's.
	Secret string
}

// deliveryTimeout is how long GitHub waits for an answer.
const deliveryTimeout = 10 * time.Second

// maxDeliveries is how many deliveries of an App are kept; GitHub keeps them
// for three days.
const maxDeliveries = 20_000

// hook is an App's webhook and what was delivered to it.
type hook struct {
	id int64 // immutable

	mu      sync.Mutex // guards the rest
	webhook Webhook
	events  []string // subscribed to; nil: all that the App's permissions allow
	lose    bool
	sent    []*delivery // newest last
}

// subscriptions are the events that the fake sends, and the permission that an
// App needs to subscribe to each, from GitHub's "Webhook events and payloads".
var subscriptions = []struct{ event, permission string }{
	{"check_run", "checks"}, {"check_suite", "checks"}, {"merge_group", "merge_queues"},
	{"pull_request", "pull_requests"}, {"push", "contents"}, {"repository", "metadata"},
}

// subscribed are the events that the App is subscribed to. Those about its own
// installations are not among them: every App gets them. The caller holds
// world.mu.
func (h *hook) subscribed(a *app) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.events != nil {
		return slices.Clone(h.events)
	}
	all := []string{}
	for _, s := range subscriptions {
		if permits(a.permissions[s.permission], "read") {
			all = append(all, s.event)
		}
	}
	return all
}

// SetWebhook sets where an App's events are delivered from now on; the zero
// Webhook ends it. Without one no event is recorded.
func (g *GitHub) SetWebhook(appID int64, w Webhook) {
	if w.Client == nil {
		w.Client = newClient(nil)
	}
	h := g.hookOf(appID)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.webhook = w
}

// SetAppEvents sets the events that an App is subscribed to. By default it is
// to all that its permissions allow. Those about its installations, and with
// checks: write those about checks, are delivered in any case.
func (g *GitHub) SetAppEvents(appID int64, events ...string) {
	h := g.hookOf(appID)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append([]string{}, events...)
}

// LoseDeliveries makes an App's deliveries fail without being sent, as where
// the receiver is down.
func (g *GitHub) LoseDeliveries(appID int64, lose bool) {
	h := g.hookOf(appID)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lose = lose
}

func (g *GitHub) hookOf(appID int64) *hook {
	g.world.mu.RLock()
	defer g.world.mu.RUnlock()
	return &g.mustApp(appID).hook
}

// Deliver sends an event to an App's webhook, whatever the App is subscribed
// to, and waits for the answer.
func (g *GitHub) Deliver(appID int64, e Event) DeliveryRecord {
	payload, ok := e.Payload.([]byte)
	if !ok {
		payload = mustMarshal(e.Payload)
	}
	d := &delivery{app: appID, event: e.Name, guid: e.GUID, payload: payload, header: e.Header, secret: e.Secret}
	if d.guid == "" {
		d.guid = newGUID()
	}
	d.readPayload()
	h := g.hookOf(appID)
	if !h.active() {
		panic(fmt.Sprintf("fake GitHub: App %d has no webhook: call SetWebhook first", appID))
	}
	return g.send(h, d)
}

func (h *hook) active() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.webhook.URL != ""
}

// send delivers d and records it. The caller holds no lock.
func (g *GitHub) send(h *hook, d *delivery) DeliveryRecord {
	g.world.mu.Lock()
	d.id = g.world.nextID()
	g.world.mu.Unlock()
	h.mu.Lock()
	webhook, lose := h.webhook, h.lose
	h.mu.Unlock()

	d.url, d.deliveredAt = webhook.URL, g.now()
	started := time.Now()
	if lose || webhook.URL == "" {
		d.statusCode, d.status, d.err = http.StatusBadGateway, "failed to connect to host", errors.New("the delivery was lost")
	} else {
		d.send(g.ctx, webhook, h.id)
	}
	d.took = time.Since(started)

	h.mu.Lock()
	defer h.mu.Unlock()
	h.sent = append(h.sent, d)
	if len(h.sent) > maxDeliveries {
		h.sent = slices.Delete(h.sent, 0, len(h.sent)-maxDeliveries)
	}
	return d.record()
}

// send posts d and fills in what was answered.
func (d *delivery) send(ctx context.Context, w Webhook, hookID int64) {
	ctx, cancel := context.WithTimeout(ctx, deliveryTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(d.payload))
	if err != nil {
		panic(fmt.Sprintf("fake GitHub: the webhook of App %d: %v", d.app, err))
	}
	d.sign(req.Header, w.Secret, hookID)
	d.requestHeader = req.Header.Clone()
	resp, err := w.Client.Do(req)
	if err == nil {
		defer resp.Body.Close()
		d.statusCode, d.status, d.responseHeader = resp.StatusCode, http.StatusText(resp.StatusCode), resp.Header
		d.body, err = io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	}
	if err == nil {
		return
	}
	d.err = err
	d.statusCode, d.status = http.StatusBadGateway, "failed to connect to host"
	if errors.Is(err, context.DeadlineExceeded) {
		d.statusCode, d.status = http.StatusGatewayTimeout, "timed out"
	}
}

// sign fills in the headers of a delivery.
func (d *delivery) sign(h http.Header, secret string, hookID int64) {
	for name, value := range map[string]string{
		"Accept": "*/*", "Content-Type": "application/json", "User-Agent": "GitHub-Hookshot/fa4e000",
		"X-GitHub-Delivery": d.guid, "X-GitHub-Event": d.event, "X-GitHub-Hook-ID": strconv.FormatInt(hookID, 10),
		"X-GitHub-Hook-Installation-Target-ID": strconv.FormatInt(d.app, 10), "X-GitHub-Hook-Installation-Target-Type": "integration",
	} {
		h.Set(name, value)
	}
	if d.secret != "" {
		secret = d.secret
	}
	if secret != "" {
		h.Set("X-Hub-Signature", "sha1="+mac(sha1.New, secret, d.payload))
		h.Set("X-Hub-Signature-256", "sha256="+mac(sha256.New, secret, d.payload))
	}
	for name, value := range d.header {
		h.Del(name)
		if value != "" {
			h.Set(name, value)
		}
	}
}

func mac(algorithm func() hash.Hash, secret string, payload []byte) string {
	m := hmac.New(algorithm, []byte(secret))
	m.Write(payload)
	return hex.EncodeToString(m.Sum(nil))
}

// newGUID is a random UUID.
func newGUID() string {
	b := make([]byte, 16)
	rand.Read(b)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
