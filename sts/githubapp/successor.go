package githubapp

import (
	"context"
	"fmt"
	"reflect"
	"strings"
)

// Successor returns a Client for other Apps, with other needs and another age of
// policies, that knows what c knows: JWTs of the Apps that stay, installations,
// files, limits that GitHub set. It starts nothing, and c goes on as it is, until
// Begin and Retire are called. Of config, Apps, PolicyMaxAge and Needs count.
func (c *Client) Successor(config Config) (*Client, error) {
	config.AppJWT = c.sign
	if err := checkApps(config); err != nil {
		return nil, fmt.Errorf("setting up the GitHub client: %w", err)
	}
	next := *c // each part that changes after New is behind a pointer
	next.policyMaxAge = config.PolicyMaxAge
	next.serve(config.Apps, config.Needs, c.apps)
	return &next, nil
}

// serve makes the pool of Apps, of those that are known and of new ones.
func (c *Client) serve(apps []App, needs Needs, known map[int64]*app) {
	c.apps, c.pool, c.needs = map[int64]*app{}, map[string][]*app{}, needs
	for _, a := range apps {
		served := known[a.ID]
		if served == nil {
			served = &app{
				id:    a.ID,
				jwt:   appJWTCache{appID: a.ID, sign: c.sign, now: c.now, log: c.log},
				quota: c.newQuota(fmt.Sprintf("App %d", a.ID)),
			}
		}
		c.apps[a.ID] = served
		for _, owner := range a.Organizations {
			owner = strings.ToLower(owner)
			c.pool[owner] = append(c.pool[owner], served)
		}
	}
}

// Begin starts what c does in the background and before, whose Successor it is,
// did not: until ctx ends, or c is retired.
func (c *Client) Begin(ctx context.Context, before *Client) {
	for id, a := range c.apps {
		isNew := before == nil || before.apps[id] != a
		if isNew {
			var working context.Context
			working, a.stop = context.WithCancel(ctx)
			go a.jwt.keepFresh(working)
		}
		if isNew || !reflect.DeepEqual(before.needs, c.needs) {
			if a.stopProving != nil {
				a.stopProving()
			}
			var proving context.Context
			proving, a.stopProving = context.WithCancel(ctx)
			go c.prove(proving, a, c.needs)
		}
	}
}

// Retire ends what c does in the background for Apps that next, its Successor, does
// not serve. It is for when nobody uses c any more.
func (c *Client) Retire(next *Client) {
	for id, a := range c.apps {
		if next.apps[id] != a {
			a.stop()
			a.stopProving()
		}
	}
}
