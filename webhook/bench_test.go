package webhook

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// What one delivery of 10 KiB costs. queued: it goes to the disk, and waits for
// the commit that it shares; so callers are many.
func BenchmarkServeHTTP(b *testing.B) {
	filler := strings.Repeat("https://api.github.com/repos/acme/app/some_url{/sha} ", 180)
	for name, payload := range map[string]object{
		"applied": having(pushTo("main", "main.go"), object{"filler": filler}),
		"queued":  having(pushTo("main", policy), object{"filler": filler}),
	} {
		b.Run(name, func(b *testing.B) {
			r := newRig(b)
			body := must(json.Marshal(payload))(b)
			proto := r.request("push", 1, body)
			b.SetBytes(int64(len(body)))
			var n atomic.Int64
			b.SetParallelism(64)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					id := n.Add(1)
					if id%(maxQueued/2) == 0 {
						r.receiver.schedule = newSchedule() // nobody works on it
					}
					req := httptest.NewRequest(http.MethodPost, "/webhook", bytes.NewReader(body))
					req.Header = proto.Header.Clone()
					req.Header.Set("X-GitHub-Delivery", guid(int(id)))
					w := httptest.NewRecorder()
					r.receiver.ServeHTTP(w, req)
					if w.Code >= 300 {
						b.Error(fmt.Sprint(w.Code, w.Body))
					}
				}
			})
		})
	}
}
