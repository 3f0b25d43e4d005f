package appliance

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// keysFor is for how long the signer is not asked again for what strangers ask.
const keysFor = 30 * time.Second

// probeKeys serves the public keys of the probe's issuer. Anybody may ask, and the
// signer is asked once in a while.
type probeKeys struct {
	parts  *parts
	config *Config

	mu    sync.Mutex // guards the rest; held while the signer is asked
	set   []byte
	err   error
	asked time.Time
}

func (k *probeKeys) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	set, err := k.get(r.Context())
	if err != nil { // what is wrong is in /readyz
		w.Header().Set("Retry-After", "30")
		http.Error(w, "the keys cannot be had at the moment", http.StatusServiceUnavailable)
		return
	}
	writeDocument(w, "application/jwk-set+json", set)
}

func (k *probeKeys) get(ctx context.Context) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.asked.IsZero() || time.Since(k.asked) > keysFor {
		// Whoever asks first may leave, and the others want the answer, too.
		k.set, k.err = k.parts.probeJWKS(context.WithoutCancel(ctx), k.config)
		k.asked = time.Now()
	}
	return k.set, k.err
}
