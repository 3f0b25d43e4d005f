package webhook

import (
	"fmt"
	"net/http"
	"time"

	"github.com/octo-sts/appliance/sts/githubapp"
)

// unreached says why it looks as if GitHub's deliveries did not get here, going by
// the newest attempts, newest first; empty where they do. One that GitHub made of
// itself may have met a daemon that was being restarted. One that was asked for did
// not: a daemon was there to ask.
func unreached(attempts []githubapp.Delivery, now time.Time) string {
	for i, a := range attempts {
		if a.StatusCode < http.StatusBadRequest && (a.StatusCode != 0 || now.Sub(a.DeliveredAt) < recoverSettle) {
			if a.StatusCode == 0 {
				continue // it may be under way
			}
			return ""
		}
		if !a.Redelivery {
			continue
		}
		since := a.DeliveredAt
		for _, before := range attempts[i:] {
			if before.StatusCode != 0 && before.StatusCode < http.StatusBadRequest {
				break
			}
			since = before.DeliveredAt
		}
		return fmt.Sprintf("GitHub's deliveries have failed since %s, the last with status %d (502: no connection, 504: no answer in time)",
			since.UTC().Format(time.RFC3339), a.StatusCode)
	}
	return ""
}
