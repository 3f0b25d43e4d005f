package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// attempt is an exchange that must be refused.
type attempt struct {
	name, what string
	identity   string
	idToken    func() (string, error)
	status     int // that the wire promises: DENIED and UNAUTHENTICATED of grpc-gateway
}

// Negative tries four exchanges that must be refused: with an ID token that somebody
// else signed, for an identity that does not exist, with a wrong audience and a wrong
// subject. The latter three must not be told from each other.
func (p *Prober) Negative(ctx context.Context) Report {
	began := time.Now()
	r := &run{Prober: p, ctx: ctx}
	of := func(kind Kind) func() (string, error) {
		return func() (string, error) { return p.config.IDToken(ctx, kind) }
	}
	forged := func() (string, error) {
		good, err := p.config.IDToken(ctx, Good)
		if err != nil {
			return "", err
		}
		return Forge(good)
	}
	bodies := map[string][]byte{}
	var order []string
	for _, a := range []attempt{
		{"stranger", "an ID token with the right claims and a stranger's signature", p.config.Identity, forged, http.StatusUnauthorized},
		{"missing-identity", "an identity that does not exist", p.config.Identity + "-that-does-not-exist", of(Good), http.StatusForbidden},
		{"wrong-audience", "an ID token for another audience", p.config.Identity, of(WrongAudience), http.StatusForbidden},
		{"wrong-subject", "an ID token of another subject", p.config.Identity, of(WrongSubject), http.StatusForbidden},
	} {
		var body []byte
		if r.check(a.name, fmt.Sprintf("%s to be refused with HTTP status %d", a.what, a.status), func() (came string, err error) {
			body, came, err = r.mustBeRefused(a)
			return came, err
		}) && a.status == http.StatusForbidden {
			bodies[a.name] = body
			order = append(order, a.name)
		}
	}
	if len(order) < 2 {
		r.skip("there are no two refusals to compare", "alike")
	} else {
		r.check("alike", "the refusals to tell nothing of the policy", func() (string, error) {
			for _, name := range order[1:] {
				if !bytes.Equal(bodies[order[0]], bodies[name]) {
					return "", failed("The answer tells strangers what is in a policy, or that there is one: report it.", "%s refused with %.200q, and %s with %.200q", order[0], bodies[order[0]], name, bodies[name])
				}
			}
			return "all alike", nil
		})
	}
	return NewReport(TargetNegative, began, r.checks)
}

// mustBeRefused makes the attempt, once. body is the answer's without what is
// different in every answer.
func (r *run) mustBeRefused(a attempt) (body []byte, came string, err error) {
	idToken, err := a.idToken()
	if err != nil {
		if errors.Is(err, ErrNoSuchIDToken) {
			return nil, "", err
		}
		return nil, "", failed("Look at what makes the probe's ID tokens: the signer and its section probe, or --token-source.", "no ID token: %v", err)
	}
	target := r.base.JoinPath("/sts/exchange")
	target.RawQuery = url.Values{"scope": {r.config.Scope}, "identity": {a.identity}}.Encode()
	request, err := http.NewRequestWithContext(r.ctx, http.MethodPost, target.String(), nil)
	if err != nil {
		return nil, "", err
	}
	request.Header.Set("Authorization", "Bearer "+idToken)
	request.Header.Set("User-Agent", r.config.UserAgent)
	got, err := send(r.client, request)
	if err != nil {
		return nil, "", failed("See whether octo-stsd runs, and whether its name, port and firewall lead to it.", "%v", err)
	}
	switch got.status {
	case a.status:
		id := got.header.Get("X-Request-Id")
		return withoutID(got.body, id), fmt.Sprintf("refused with HTTP status %d", got.status), nil
	case http.StatusOK:
		return nil, "", r.letIn(a, got)
	case http.StatusTooManyRequests:
		return nil, "", failed("Probe less often, or raise limits.denied_per_subject.", "%s: too many were refused lately", got.said())
	}
	return nil, "", failed("See what /readyz of the admin listener says; where a proxy answers, let it pass refusals on.", "%s", got.said())
}

// letIn revokes the token that should not be.
func (r *run) letIn(a attempt, got *answer) error {
	var granted struct {
		Token string `json:"token"`
	}
	if json.Unmarshal(got.body, &granted) == nil && granted.Token != "" {
		r.discard(granted.Token)
	}
	do := map[string]string{
		"stranger":         "ANYBODY IS LET IN: stop octo-stsd, and report it.",
		"missing-identity": "See what " + a.identity + ".sts.yaml is doing in " + r.config.Scope + ": remove it.",
		"wrong-audience":   "The policy's audience or audience_pattern takes ID tokens that are meant for others: leave both out.",
		"wrong-subject":    "The policy's subject_pattern lets strangers in: name the probe's subject exactly.",
	}[a.name]
	return failed(do, "an installation token")
}

// withoutID takes the request ID out of an answer.
func withoutID(body []byte, id string) []byte {
	if id == "" {
		return body
	}
	return []byte(strings.ReplaceAll(string(body), id, "ID"))
}
