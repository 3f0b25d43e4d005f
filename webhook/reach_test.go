package webhook

import (
	"strings"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/githubapp"
)

// Deliveries that fail are a reason to look once one has failed that GitHub was asked
// for, and until one arrives.
func TestUnreached(t *testing.T) {
	now := time.Now()
	of := func(status int, again bool, ago time.Duration) githubapp.Delivery {
		return githubapp.Delivery{StatusCode: status, Redelivery: again, DeliveredAt: now.Add(-ago)}
	}
	for name, c := range map[string]struct {
		attempts []githubapp.Delivery // newest first
		since    time.Duration        // ago; 0: nothing is wrong
	}{
		"none":                                  {nil, 0},
		"one arrived":                           {[]githubapp.Delivery{of(202, false, time.Hour)}, 0},
		"one failed, perhaps at a restart":      {[]githubapp.Delivery{of(502, false, time.Hour)}, 0},
		"several did":                           {[]githubapp.Delivery{of(502, false, time.Minute), of(502, false, time.Hour)}, 0},
		"one that was asked for failed":         {[]githubapp.Delivery{of(502, true, time.Minute), of(502, false, time.Hour)}, time.Hour},
		"it timed out":                          {[]githubapp.Delivery{of(504, true, time.Minute), of(202, false, time.Hour)}, time.Minute},
		"it was refused":                        {[]githubapp.Delivery{of(401, true, time.Minute), of(202, false, time.Hour)}, time.Minute},
		"it got no answer, long ago":            {[]githubapp.Delivery{of(0, true, time.Minute)}, time.Minute},
		"it is under way":                       {[]githubapp.Delivery{of(0, true, time.Second), of(202, false, time.Hour)}, 0},
		"the one before failed":                 {[]githubapp.Delivery{of(0, true, time.Second), of(502, true, time.Minute)}, time.Minute},
		"one arrived since":                     {[]githubapp.Delivery{of(202, false, time.Second), of(502, true, time.Minute), of(502, false, time.Hour)}, 0},
		"one failed of itself since":            {[]githubapp.Delivery{of(502, false, time.Second), of(502, true, time.Minute)}, time.Minute},
		"one failed, and before it one did not": {[]githubapp.Delivery{of(502, false, time.Second), of(202, true, time.Minute), of(502, true, time.Hour)}, 0},
	} {
		got := unreached(c.attempts, now)
		want := ""
		if c.since != 0 {
			want = "since " + now.Add(-c.since).UTC().Format(time.RFC3339)
		}
		if (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
