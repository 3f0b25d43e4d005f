package webhook

import (
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/octo-sts/appliance/sts/span"
)

// readTimeout bounds how long a body may take: GitHub itself gives up after 10
// seconds.
const readTimeout = 10 * time.Second

// Outcomes of a request, as Observation and metrics have them.
const (
	OutcomeQueued      = "queued"      // taken; Run does the rest
	OutcomeApplied     = "applied"     // taken, and nothing was left to do
	OutcomeDuplicate   = "duplicate"   // waiting or done already
	OutcomeIgnored     = "ignored"     // not of interest
	OutcomeNotServed   = "not_served"  // the App does not serve that owner
	OutcomeMethod      = "method"      // not a POST
	OutcomeSignature   = "signature"   // none, or a bad one
	OutcomeMediaType   = "media_type"  // not application/json
	OutcomeTooLarge    = "too_large"   // over 25 MiB
	OutcomeBusy        = "busy"        // too many deliveries, or bytes of them, at once
	OutcomeUnreadable  = "unreadable"  // the body broke off or took too long
	OutcomeHeaders     = "headers"     // not GitHub's headers
	OutcomeUnknownApp  = "unknown_app" // another App's, or no App's
	OutcomePayload     = "payload"     // not what the event's name promises
	OutcomeUnavailable = "unavailable" // the queue is full or the disk does not take it
)

// answer is how one request ends.
type answer struct {
	status  int
	outcome string
	event   string // GitHub's name, once the delivery is authenticated
	message string // for whoever asked; it holds nothing of ours
}

// ServeHTTP takes one delivery: 202 where it was queued, 200 where there is
// nothing to do, or nothing left. An answer of 5xx means that GitHub should send
// it again, which Run asks for.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	a := r.serve(w, req)
	event := a.event
	if !isUsed(event) {
		event = "other"
	}
	r.observe(Observation{Event: event, Outcome: a.outcome})
	header := w.Header()
	switch a.status {
	case http.StatusMethodNotAllowed:
		header.Set("Allow", http.MethodPost)
	case http.StatusServiceUnavailable:
		header.Set("Retry-After", "5")
	}
	member := "status"
	if a.status >= 400 {
		member = "error"
		r.logRefusal(req, a)
	}
	body, _ := json.Marshal(map[string]string{member: a.message}) // strings marshal
	header.Set("Content-Type", "application/json")
	header.Set("Content-Length", strconv.Itoa(len(body)+1))
	w.WriteHeader(a.status)
	_, _ = w.Write(append(body, '\n')) // GitHub hung up: it will ask again
}

// logRefusal says why a delivery was refused, at most 20 times a second: anybody
// can send what is refused.
func (r *Receiver) logRefusal(req *http.Request, a answer) {
	if r.noise.Allow() {
		delivery := zap.Skip()
		if id, err := parseDeliveryID(req.Header.Get("X-GitHub-Delivery")); err == nil {
			delivery = zap.Stringer("delivery", id)
		}
		r.log.Warn("webhook: a delivery was refused", span.Field(req.Context()), delivery, zap.Int("status", a.status), zap.String("outcome", a.outcome),
			zap.String("why", a.message), zap.String("event", a.event), zap.String("client_address", req.RemoteAddr))
	}
}

// serve goes from what costs nothing to what does: nothing is read of a body
// whose headers could not be GitHub's, nothing parsed that is not signed.
func (r *Receiver) serve(w http.ResponseWriter, req *http.Request) answer {
	if req.Method != http.MethodPost {
		return answer{http.StatusMethodNotAllowed, OutcomeMethod, "", "deliveries are sent with POST"}
	}
	signature, err := signatureOf(req.Header)
	if err != nil {
		return answer{http.StatusUnauthorized, OutcomeSignature, "", err.Error()}
	}
	if refusal := mediaType(req.Header.Get("Content-Type")); refusal != "" {
		return answer{http.StatusUnsupportedMediaType, OutcomeMediaType, "", refusal}
	}
	if req.ContentLength > maxBody {
		return answer{http.StatusRequestEntityTooLarge, OutcomeTooLarge, "", errTooLarge.Error()}
	}
	received := time.Now()
	body, done, refusal := r.readBody(w, req)
	defer done()
	if refusal != nil {
		return *refusal
	}
	if !isSigned(r.settings.Load().secrets, body, signature) {
		return answer{http.StatusUnauthorized, OutcomeSignature, "",
			"the signature does not fit the body: the App's webhook secret is not one of those that are configured here"}
	}
	d, refusal := r.headers(req.Header)
	if refusal != nil {
		return *refusal
	}
	d.received = received
	return r.take(d, body)
}

// mediaType returns why a Content-Type is refused, or nothing.
func mediaType(contentType string) string {
	media, _, err := mime.ParseMediaType(contentType)
	switch {
	case err == nil && media == "application/json":
		return ""
	case media == "application/x-www-form-urlencoded":
		return "deliveries must be JSON: set Content type to application/json in the App's webhook settings"
	}
	return "deliveries must be of type application/json"
}

// readBody reads the body, which is held until done is called.
func (r *Receiver) readBody(w http.ResponseWriter, req *http.Request) (body []byte, done func(), refusal *answer) {
	// A writer that knows no deadlines has none to enforce, as in a test.
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(readTimeout))
	reading, ok := r.room.open(clientOf(req.RemoteAddr), func() { _ = control.SetReadDeadline(time.Now()) })
	if !ok {
		return nil, func() {}, &answer{http.StatusServiceUnavailable, OutcomeBusy, "", errNoRoom.Error()}
	}
	body, err := reading.read(req.Body)
	switch {
	case errors.Is(err, errTooLarge):
		return body, reading.close, &answer{http.StatusRequestEntityTooLarge, OutcomeTooLarge, "", errTooLarge.Error()}
	case errors.Is(err, errNoRoom):
		return body, reading.close, &answer{http.StatusServiceUnavailable, OutcomeBusy, "", errNoRoom.Error()}
	case err != nil:
		return body, reading.close, &answer{http.StatusBadRequest, OutcomeUnreadable, "", errShortBody.Error()}
	}
	return body, reading.close, nil
}

// headers reads what GitHub says of the delivery beside its payload. None of it
// is signed, so that it may say what to do and never what is allowed.
func (r *Receiver) headers(h http.Header) (delivery, *answer) {
	event := h.Get("X-GitHub-Event")
	if event == "" || len(event) > 64 || strings.Trim(event, "abcdefghijklmnopqrstuvwxyz_") != "" {
		return delivery{}, &answer{http.StatusBadRequest, OutcomeHeaders, "", "X-GitHub-Event is not the name of an event"}
	}
	id, err := parseDeliveryID(h.Get("X-GitHub-Delivery"))
	if err != nil {
		return delivery{}, &answer{http.StatusBadRequest, OutcomeHeaders, event, err.Error()}
	}
	d := delivery{id: id, event: event}
	kind, target := h.Get("X-GitHub-Hook-Installation-Target-Type"), h.Get("X-GitHub-Hook-Installation-Target-ID")
	appIDs := r.settings.Load().appIDs
	switch {
	case kind == "" && target == "" && len(appIDs) == 1: // a proxy dropped them, perhaps
		d.appID = appIDs[0]
		return d, nil
	case kind != "integration":
		return delivery{}, &answer{http.StatusBadRequest, OutcomeUnknownApp, event,
			"this is not the webhook of a GitHub App: X-GitHub-Hook-Installation-Target-Type must be integration"}
	}
	d.appID, err = strconv.ParseInt(target, 10, 64)
	if err != nil || strconv.FormatInt(d.appID, 10) != target || !slices.Contains(appIDs, d.appID) {
		return delivery{}, &answer{http.StatusNotFound, OutcomeUnknownApp, event, "no such App is configured here"}
	}
	return d, nil
}

// take does with an authenticated delivery what cannot wait, and queues the
// rest. The caches come first: from here on nothing that it took back is granted
// any more, whatever becomes of the rest.
func (r *Receiver) take(d delivery, body []byte) answer {
	e, err := interpret(d, body)
	switch {
	case err != nil:
		return answer{http.StatusBadRequest, OutcomePayload, d.event, clip(err.Error(), 300)}
	case e == nil:
		return answer{http.StatusOK, OutcomeIgnored, d.event, "ignored"}
	case !slices.ContainsFunc(e.owners, func(owner string) bool { return r.settings.Load().github.Serves(d.appID, owner) }):
		return answer{http.StatusOK, OutcomeNotServed, d.event, "ignored: the App does not serve this owner here"}
	}
	r.forget(e.forget)
	if e.settled != "" {
		r.heads.Add(e.settled, struct{}{})
	}
	if e.item.isEmpty() {
		return answer{http.StatusOK, OutcomeApplied, d.event, "done"}
	}
	added, err := r.enqueue(e.item)
	switch {
	case err != nil:
		r.log.Error("webhook: a delivery could not be queued; GitHub is asked for it again later",
			zap.Stringer("delivery", d.id), zap.String("event", d.event), zap.Error(err))
		return answer{http.StatusServiceUnavailable, OutcomeUnavailable, d.event,
			"the delivery cannot be kept now: send it again later"}
	case !added:
		return answer{http.StatusOK, OutcomeDuplicate, d.event, "this delivery was taken before"}
	}
	return answer{http.StatusAccepted, OutcomeQueued, d.event, "queued"}
}

// forgetAgainAfter is long enough for GitHub's own replicas to have what it
// delivers: a read right after a delivery is now and then answered from before it.
const forgetAgainAfter = 5 * time.Second

// forget drops from the caches what may be wrong in them, and what was read of it
// in the moment after.
func (r *Receiver) forget(all []forgetting) {
	if len(all) == 0 {
		return
	}
	r.drop(all)
	time.AfterFunc(forgetAgainAfter, func() { r.drop(all) })
}

func (r *Receiver) drop(all []forgetting) {
	for _, f := range all {
		switch {
		case f.files:
			r.settings.Load().github.ForgetFiles(f.owner, f.repository, f.paths...)
		case f.repository != "":
			r.settings.Load().github.ForgetRepository(f.owner, f.repository)
		default:
			r.settings.Load().github.ForgetInstallation(f.installation, f.owner)
		}
	}
}

// enqueue makes i durable and hands it to Run. added is false where the delivery
// waits or is done already.
func (r *Receiver) enqueue(i item) (added bool, err error) {
	if err := r.schedule.hasRoom(); err != nil {
		return false, err
	}
	seq, size, err := r.store.enqueue(&i)
	if err != nil || seq == 0 {
		return false, err
	}
	r.schedule.add(newEntry(seq, i, size))
	return true, nil
}
