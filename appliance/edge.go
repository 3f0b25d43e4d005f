package appliance

import (
	"crypto/rand"
	"errors"
	"net/http"

	"github.com/octo-sts/appliance/sts"
)

// edge is the outermost handler of the public listener. It names each request,
// refuses what a proxy may have understood otherwise, and tells deliveries of
// GitHub's from the rest. Each of the two has limits of its own.
type edge struct {
	webhook  http.Handler // nil: there is none
	exchange http.Handler
	shed     func(reason string)
}

func (e *edge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	caller := sts.Caller{RequestID: rand.Text(), Address: clientAddress(r), UserAgent: r.UserAgent()}
	r = r.WithContext(sts.WithCaller(r.Context(), caller))
	w.Header().Set(sts.RequestIDHeader, caller.RequestID)

	if r.ProtoMajor == 1 && mayHideAnother(r) {
		w.Header().Set("Connection", "close")
	}
	switch {
	case len(r.TransferEncoding) > 0:
		e.shed("transfer_encoding")
		sts.WriteError(w, r, &sts.Refusal{Kind: sts.ErrInvalidRequest, Reason: "transfer_encoding",
			Detail: errors.New("a body without a Content-Length is not accepted")})
	case e.webhook != nil && r.URL.Path == "/webhook":
		e.webhook.ServeHTTP(w, r)
	default:
		e.exchange.ServeHTTP(w, r)
	}
}

// mayHideAnother tells whether a proxy in front of us may have seen this request
// end elsewhere than net/http does, so that what we would read as the next one
// is a stranger's (RFC 9112, section 11.2). Where Content-Length stands beside
// Transfer-Encoding, net/http drops it, and in HTTP/1.0 it drops the latter:
// nobody can tell any more. RFC 9112, sections 6.1 and 6.3, has the connection
// closed then. No client of ours needs a chunked body, so they are refused, too.
func mayHideAnother(r *http.Request) bool {
	return len(r.TransferEncoding) > 0 || !r.ProtoAtLeast(1, 1)
}
