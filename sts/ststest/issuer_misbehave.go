package ststest

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Misbehaviour is how an issuer answers for one of its documents where it does
// not answer as it should. The first that is set of those below Delay is done.
type Misbehaviour struct {
	// Delay before the answer; a caller that gives up ends it.
	Delay time.Duration
	// Discovery changes members of the discovery document: "issuer",
	// "jwks_uri". Omit leaves one out.
	Discovery map[string]any

	// Status without a document.
	Status int
	// RedirectTo another URL, with 302. To the document's own URL: a loop.
	RedirectTo string
	// Body in the document's place.
	Body []byte
	// Padding makes the document so many bytes longer, with white space: still
	// valid, too big.
	Padding int64
	// GzipBomb sends the document and so many bytes of white space, compressed.
	GzipBomb int64
	// Drip is the pause between one byte of the document and the next.
	Drip time.Duration
	// Truncate announces the whole document and sends half of it.
	Truncate bool
	// ContentType of the document. Default: application/json.
	ContentType string
}

// Misbehave makes the document at url (DiscoveryURL, JWKSURL) be answered so,
// until Behave.
func (i *Issuer) Misbehave(url string, m Misbehaviour) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.misbehaviour[pathOf(url)] = m
}

// Behave ends every Misbehave. Keys, key set and certificate stay as they are.
func (i *Issuer) Behave() {
	i.mu.Lock()
	defer i.mu.Unlock()
	clear(i.misbehaviour)
}

// misbehave answers in the document's place; false where the document itself
// is to be sent.
func (m Misbehaviour) misbehave(w http.ResponseWriter, r *http.Request, document []byte) bool {
	if !sleep(r.Context(), m.Delay) {
		return true
	}
	kind := m.ContentType
	if kind == "" {
		kind = "application/json"
	}
	w.Header().Set("Content-Type", kind)
	switch {
	case m.Status != 0:
		http.Error(w, http.StatusText(m.Status), m.Status)
	case m.RedirectTo != "":
		http.Redirect(w, r, m.RedirectTo, http.StatusFound)
	case m.Body != nil:
		w.Write(m.Body)
	case m.Padding > 0:
		w.Write(document)
		pad(w, m.Padding)
	case m.GzipBomb > 0:
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		z.Write(document)
		pad(z, m.GzipBomb)
		z.Close()
	case m.Drip > 0:
		for _, b := range document {
			w.Write([]byte{b})
			w.(http.Flusher).Flush()
			if !sleep(r.Context(), m.Drip) {
				break
			}
		}
	case m.Truncate:
		w.Header().Set("Content-Length", fmt.Sprint(len(document)))
		w.Write(document[:len(document)/2])
	case m.ContentType != "":
		w.Write(document)
	default:
		return false
	}
	return true
}

// pad writes n bytes of white space, as long as somebody reads them.
func pad(w io.Writer, n int64) {
	chunk := bytes.Repeat([]byte(" "), 64<<10)
	for n > 0 {
		if _, err := w.Write(chunk[:min(n, int64(len(chunk)))]); err != nil {
			return
		}
		n -= int64(len(chunk))
	}
}

// UseExpiredCertificate makes every request from now on meet a certificate that
// expired yesterday.
func (i *Issuer) UseExpiredCertificate() error {
	now := time.Now()
	return i.use(now.AddDate(0, 0, -30), now.AddDate(0, 0, -1), "localhost", "127.0.0.1")
}

// UseCertificateFor makes every request meet a certificate for another host.
func (i *Issuer) UseCertificateFor(host string) error {
	now := time.Now()
	return i.use(now.Add(-time.Hour), now.AddDate(0, 0, 1), host)
}

// UseGoodCertificate undoes UseExpiredCertificate and UseCertificateFor.
func (i *Issuer) UseGoodCertificate() error {
	now := time.Now()
	return i.use(now.Add(-time.Hour), now.AddDate(1, 0, 0), "localhost", "127.0.0.1", "::1")
}

func (i *Issuer) use(notBefore, notAfter time.Time, hosts ...string) error {
	if i.ca == nil {
		return fmt.Errorf("test issuer: it was made without TLS")
	}
	cert, err := i.ca.issue(notBefore, notAfter, hosts...)
	if err != nil {
		return err
	}
	i.cert.Store(&cert)
	return nil
}
