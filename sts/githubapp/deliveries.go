package githubapp

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

const (
	deliveriesPage = 100 // GitHub's most

	// maxDeliveryPages bounds one list: 20,000 deliveries.
	maxDeliveryPages = 200
)

// Delivery is one attempt of GitHub's to deliver a webhook event to an App.
type Delivery struct {
	ID          int64  // of the attempt
	GUID        string // of the event, X-GitHub-Delivery; attempts for one event share it
	Event       string // such as "push"
	DeliveredAt time.Time
	StatusCode  int  // that the receiver answered with; 0 where it did not
	Redelivery  bool // asked for; GitHub did not send it of itself
}

// Deliveries lists what GitHub delivered to an App since then, newest first:
// GET /app/hook/deliveries, one call for each hundred. GitHub keeps deliveries
// for some days.
//
// Where there are more than 20,000 it returns the newest of them together with
// ErrTooLarge. Other errors come alone: ErrRefused, ErrRateLimited,
// ErrUnavailable, ErrNoAppJWT.
func (c *Client) Deliveries(ctx context.Context, appID int64, since time.Time) ([]Delivery, error) {
	doing := fmt.Sprintf("listing the webhook deliveries of App %d", appID)
	a := c.apps[appID]
	if a == nil {
		return nil, &apiError{kind: ErrRefused, doing: doing, detail: "that App is not configured"}
	}
	var all []Delivery
	cursor := ""
	for range maxDeliveryPages {
		page, next, err := c.deliveriesPage(ctx, a, doing, cursor)
		if err != nil {
			return nil, err
		}
		for _, delivery := range page {
			if delivery.DeliveredAt.Before(since) {
				return all, nil
			}
			all = append(all, delivery)
		}
		if next == "" {
			return all, nil
		}
		cursor = next
	}
	return all, &apiError{kind: ErrTooLarge, doing: doing, status: http.StatusOK,
		detail: fmt.Sprintf("there were more than %d since %s", maxDeliveryPages*deliveriesPage, since.UTC().Format(time.RFC3339))}
}

// deliveriesPage returns one page, and the cursor of the next; "" after the last.
func (c *Client) deliveriesPage(ctx context.Context, a *app, doing, cursor string) ([]Delivery, string, error) {
	path := fmt.Sprintf("app/hook/deliveries?per_page=%d", deliveriesPage)
	if cursor != "" {
		path += "&cursor=" + url.QueryEscape(cursor)
	}
	var got []struct {
		ID          int64     `json:"id"`
		GUID        string    `json:"guid"`
		Event       string    `json:"event"`
		DeliveredAt time.Time `json:"delivered_at"`
		StatusCode  int       `json:"status_code"`
		Redelivery  bool      `json:"redelivery"`
	}
	answered, err := c.doAsApp(ctx, a, a.quota, call{operation: "list_deliveries", doing: doing, method: http.MethodGet, path: path, missing: ErrRefused, background: true}, &got)
	if err != nil {
		return nil, "", err
	}
	page := make([]Delivery, 0, len(got))
	for _, d := range got {
		if d.ID <= 0 || d.GUID == "" || d.DeliveredAt.IsZero() {
			return nil, "", &apiError{kind: ErrUnavailable, doing: doing, status: http.StatusOK, detail: "GitHub's answer has a delivery without ID or time"}
		}
		page = append(page, Delivery(d))
	}
	return page, answered.cursor, nil
}

// Redeliver asks GitHub to deliver an event once more, by the ID of one of its
// deliveries: POST /app/hook/deliveries/{delivery_id}/attempts. It returns when
// GitHub has taken the wish, not when the event has come.
//
// Errors: ErrNotFound (GitHub does not keep that delivery any more), ErrRefused,
// ErrRateLimited, ErrUnavailable, ErrNoAppJWT.
func (c *Client) Redeliver(ctx context.Context, appID, deliveryID int64) error {
	doing := fmt.Sprintf("asking for webhook delivery %d of App %d again", deliveryID, appID)
	a := c.apps[appID]
	if a == nil || deliveryID <= 0 {
		return &apiError{kind: ErrRefused, doing: doing, detail: "there is no such App or delivery"}
	}
	_, err := c.doAsApp(ctx, a, a.quota, call{
		operation:  "redeliver",
		doing:      doing,
		method:     http.MethodPost,
		path:       fmt.Sprintf("app/hook/deliveries/%d/attempts", deliveryID),
		missing:    ErrNotFound,
		background: true,
	}, nil)
	if statusOf(err) == http.StatusAccepted {
		return nil // what GitHub answers here, and what no other call may take for an answer
	}
	return err
}
