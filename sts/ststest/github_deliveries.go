package ststest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// DeliveryRecord is one attempt to deliver an event.
type DeliveryRecord struct {
	ID   int64  // of the attempt
	GUID string // of the event: that of the attempt that it repeats
	// Event and Action, as "pull_request" and "opened". Action is empty where
	// the payload has none.
	Event, Action string
	// StatusCode of the answer. Without one it is 502, after a time-out 504, as
	// GitHub has it, and Error says more.
	StatusCode  int
	Body        string // of the answer
	Took        time.Duration
	Redelivery  bool
	DeliveredAt time.Time // by the fake's clock
	Error       string
}

// delivery is an attempt. It is not changed after it is in hook.sent.
type delivery struct {
	id, app       int64
	event, action string
	guid          string
	payload       []byte
	header        map[string]string // overrides
	secret        string            // overrides
	redelivery    bool

	installation, repository int64 // that the payload names; 0: none

	url                           string
	deliveredAt                   time.Time
	took                          time.Duration
	statusCode                    int
	status                        string
	requestHeader, responseHeader http.Header
	body                          []byte
	err                           error
}

// readPayload takes from the payload what GitHub lists with a delivery.
func (d *delivery) readPayload() {
	type object struct {
		ID int64 `json:"id"`
	}
	var p struct {
		Action       string `json:"action"`
		Installation object `json:"installation"`
		Repository   object `json:"repository"`
	}
	_ = json.Unmarshal(d.payload, &p) // a test may send what is no JSON
	d.action, d.installation, d.repository = p.Action, p.Installation.ID, p.Repository.ID
}

func (d *delivery) record() DeliveryRecord {
	r := DeliveryRecord{
		ID: d.id, GUID: d.guid, Event: d.event, Action: d.action, StatusCode: d.statusCode, Body: string(d.body),
		Took: d.took, Redelivery: d.redelivery, DeliveredAt: d.deliveredAt,
	}
	if d.err != nil {
		r.Error = d.err.Error()
	}
	return r
}

// again is another attempt at what d delivered.
func (d *delivery) again() *delivery {
	return &delivery{
		app: d.app, event: d.event, action: d.action, guid: d.guid, payload: d.payload, header: d.header, secret: d.secret,
		redelivery: true, installation: d.installation, repository: d.repository,
	}
}

// Deliveries are the attempts to deliver events to an App, in order.
func (g *GitHub) Deliveries(appID int64) []DeliveryRecord {
	h := g.hookOf(appID)
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]DeliveryRecord, len(h.sent))
	for i, d := range h.sent {
		all[i] = d.record()
	}
	return all
}

// Redeliver delivers again what an attempt delivered, and waits for the
// answer.
func (g *GitHub) Redeliver(appID, id int64) DeliveryRecord {
	h := g.hookOf(appID)
	d := h.find(id)
	if d == nil {
		panic(fmt.Sprintf("fake GitHub: App %d has no delivery %d", appID, id))
	}
	return g.send(h, d.again())
}

// find is the attempt of that ID, or nil.
func (h *hook) find(id int64) *delivery {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range slices.Backward(h.sent) {
		if d.id == id {
			return d
		}
	}
	return nil
}

// listDeliveries answers newest first; the cursor of the next page is the ID
// of the last delivery of this one.
func (r *request) listDeliveries() answer {
	query := r.URL.Query()
	size, err := strconv.Atoi(query.Get("per_page"))
	if err != nil || size < 1 {
		size = 30
	}
	size = min(size, 100)
	var before int64
	if cursor := query.Get("cursor"); cursor != "" {
		if before, err = strconv.ParseInt(cursor, 10, 64); err != nil {
			return refusal(http.StatusBadRequest, "Invalid cursor", "/apps/webhooks#list-deliveries-for-an-app-webhook")
		}
	}
	status := query.Get("status")
	if status != "" && status != "success" && status != "failure" {
		return unprocessable("Invalid request.\n\n" + status + " is not a member of [\"success\", \"failure\"].")
	}
	h := &r.app.hook
	h.mu.Lock()
	sent := slices.Clone(h.sent)
	h.mu.Unlock()
	slices.SortFunc(sent, func(a, b *delivery) int { return int(b.id - a.id) })
	part, more := []any{}, false
	var last int64
	for _, d := range sent {
		if before != 0 && d.id >= before || status != "" && (status == "success") != d.succeeded() {
			continue
		}
		if len(part) == size {
			more = true
			break
		}
		part, last = append(part, d.describe()), d.id
	}
	a := answer{status: http.StatusOK, body: part}
	if !more {
		return a
	}
	query.Set("cursor", strconv.FormatInt(last, 10))
	return withLink(a, fmt.Sprintf(`<%s%s?%s>; rel="next"`, r.g.url, r.URL.Path, query.Encode()))
}

func (d *delivery) succeeded() bool { return d.statusCode >= 200 && d.statusCode < 400 }

// describe is GitHub's hook-delivery-item schema.
func (d *delivery) describe() map[string]any {
	orNull := func(id int64) any {
		if id == 0 {
			return nil
		}
		return id
	}
	v := map[string]any{
		"id": d.id, "guid": d.guid, "delivered_at": d.deliveredAt.UTC().Format(time.RFC3339Nano), "redelivery": d.redelivery,
		"duration": d.took.Seconds(), "status": d.status, "status_code": d.statusCode, "event": d.event, "action": nil,
		"installation_id": orNull(d.installation), "repository_id": orNull(d.repository), "throttled_at": nil,
	}
	if d.action != "" {
		v["action"] = d.action
	}
	return v
}

// delivery is the attempt that the path names.
func (r *request) delivery() (*delivery, answer, bool) {
	id, err := strconv.ParseInt(r.PathValue("delivery_id"), 10, 64)
	if err != nil {
		return nil, refusal(http.StatusBadRequest, "Invalid delivery ID", ""), false
	}
	d := r.app.hook.find(id)
	if d == nil {
		return nil, notFound(), false
	}
	return d, answer{}, true
}

func (r *request) getDelivery() answer {
	d, a, ok := r.delivery()
	if !ok {
		return a
	}
	v := d.describe()
	v["url"] = d.url
	v["request"] = map[string]any{"headers": flat(d.requestHeader), "payload": orText(d.payload)}
	v["response"] = map[string]any{"headers": flat(d.responseHeader), "payload": string(d.body)}
	return answer{status: http.StatusOK, body: v}
}

// flat is a header as GitHub shows it; nil where there was none.
func flat(h http.Header) any {
	if h == nil {
		return nil
	}
	v := map[string]string{}
	for name := range h {
		v[name] = h.Get(name)
	}
	return v
}

// orText is payload, as a JSON string where it is no JSON.
func orText(payload []byte) any {
	if json.Valid(payload) {
		return json.RawMessage(payload)
	}
	return string(payload)
}

func (r *request) redeliver() answer {
	d, a, ok := r.delivery()
	if !ok {
		return a
	}
	go r.g.send(&r.app.hook, d.again())
	return answer{status: http.StatusAccepted, body: map[string]any{}}
}
