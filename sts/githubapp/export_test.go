package githubapp

import "time"

// SetCallTimeout is for a test that waits for calls to hang for as long as they
// can. It must come before any call but those of New.
func (c *Client) SetCallTimeout(d time.Duration) { c.callTimeout = d }
