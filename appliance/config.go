// Package appliance is what only the daemon octo-stsd needs: its configuration,
// the wiring of the exchange's parts, listeners, TLS, load limits, health and
// metrics. What an exchange is, package sts knows; nothing of that is here.
package appliance

import "time"

// Config is octo-stsd.yaml. It is read strictly: an unknown key, a missing
// required one or a wrong value is fatal, and all problems are reported at once,
// with file and line. Time spans are written as 90s, 15m or 24h. Secrets never
// stand in it.
type Config struct {
	// Domain is the appliance's public name, sts.example.com: the audience that
	// an ID token must have where a trust policy names none. Required.
	Domain string `json:"domain"`

	Listen Listen `json:"listen"`
	TLS    TLS    `json:"tls"`
	Limits Limits `json:"limits"`
	GitHub GitHub `json:"github"`

	// Issuers are the only OIDC issuers whose ID tokens can be exchanged, and
	// the only ones that are ever contacted. Empty: nobody can exchange anything.
	Issuers []Issuer `json:"issuers"`

	Ceiling Ceiling `json:"ceiling"`
	Webhook Webhook `json:"webhook"`

	// Permissions adds names, each with its levels, to GitHub's list of App
	// permissions that this version ships, so that a policy can ask for one that
	// GitHub added since: {new_permission: [read, write]}.
	Permissions map[string][]string `json:"permissions"`

	Audit  Audit  `json:"audit"`
	Signer Signer `json:"signer"`

	// StateDirectory is the daemon's own directory for what must outlive it: the
	// queue of webhook deliveries, and which App an owner's checks stick to. Default
	// /var/lib/octo-sts. It must exist and be writable.
	StateDirectory string `json:"state_directory"`
}

// Listen says where to listen: host:port, or unix:/path for a unix socket.
type Listen struct {
	// HTTPS serves the exchange over HTTP and gRPC. Default ":443".
	HTTPS string `json:"https"`

	// HTTP answers every request with a redirect to https://{domain}. Left out,
	// the port stays closed.
	HTTP string `json:"http"`

	// Admin serves /healthz, /readyz and /metrics, in the clear: keep it on
	// loopback. Default "127.0.0.1:9464".
	Admin string `json:"admin"`
}

// TLS says how listen.https is protected.
type TLS struct {
	// Mode is `files` (a certificate and key on disk) or `off` (no TLS: HTTP/1.1
	// and h2c, allowed only on a loopback address or a unix socket, for a proxy
	// on the same machine). Required.
	Mode string `json:"mode"`

	Files TLSFiles `json:"files"`
}

// TLSFiles names PEM files. They are looked at every two seconds and on SIGHUP,
// and taken up when they changed; a pair that does not fit together is logged and
// the old one stays in use.
type TLSFiles struct {
	Certificate string `json:"certificate"` // the server's certificate, then its intermediates
	Key         string `json:"key"`
}

// Limits is the load that the daemon takes on. What is over a limit is refused
// before anything in it is parsed.
type Limits struct {
	// Concurrent is how many requests may be under way. Default 512. Over it:
	// 503, Retry-After.
	Concurrent int `json:"concurrent"`

	// PerAddress is how many requests a second one client address may make, and
	// Burst how many at once. Default 200 and 1000: a company's CI often comes
	// from one address. Over it: 429, Retry-After.
	PerAddress float64 `json:"per_address"`
	Burst      int     `json:"burst"`

	// DeniedPerSubject is how many denials an hour one subject of an issuer may
	// have, and DeniedPerOwner how many all subjects together may have at one owner
	// who has never granted them anything. Default 60 and 600. Over it: 429, no
	// call to GitHub and no line in the audit log, unless the policy is known and
	// grants. Higher: strangers can use up more of an owner's rate limit at GitHub,
	// and more disk.
	DeniedPerSubject int `json:"denied_per_subject"`
	DeniedPerOwner   int `json:"denied_per_owner"`
}

// GitHub says where GitHub is and which Apps act there.
type GitHub struct {
	// APIURL is https://api.github.com (the default), or for GitHub Enterprise
	// Server https://HOST/api/v3.
	APIURL string `json:"api_url"`

	// CAFile holds PEM roots to trust for APIURL instead of the system's.
	CAFile string `json:"ca_file"`

	// Apps are the GitHub Apps to act as. At least one.
	Apps []App `json:"apps"`

	// PolicyRepository is the repository of an organization that holds its own
	// policies and its trusted-token-issuers.yaml. Default ".github".
	PolicyRepository string `json:"policy_repository"`

	// PolicyMaxAge is how long a policy file is used before GitHub is asked
	// whether it changed. Default 60s; 0s asks at every exchange.
	PolicyMaxAge *time.Duration `json:"policy_max_age"`

	// MaxConcurrent is how many calls to GitHub may be under way at once. Default
	// 64, at most 99: GitHub allows 100 and then refuses everything for a while.
	MaxConcurrent int `json:"max_concurrent"`
}

// App is one GitHub App, whose private key the signer holds.
type App struct {
	ID int64 `json:"id"` // the App ID of the App's settings page. Required

	// Organizations are the accounts that this App serves, or "*" for those that
	// no other App names. Default ["*"].
	Organizations []string `json:"organizations"`
}

// Issuer is one OIDC issuer.
type Issuer struct {
	// URL is exactly what ID tokens have as `iss`. https, or http on a loopback
	// address that Networks lists. Required.
	URL string `json:"url"`

	// JWKSURL says where the issuer's keys are, where that is another host than
	// the issuer's own (Google's). Left out: OpenID Connect Discovery.
	JWKSURL string `json:"jwks_url"`

	// JWKSFile holds the issuer's keys for air-gapped machines; nothing is
	// fetched. It is read again every five minutes.
	JWKSFile string `json:"jwks_file"`

	// CAFile holds PEM roots to trust for this issuer instead of the system's.
	CAFile string `json:"ca_file"`

	// Networks are the private, loopback or link-local networks (CIDR) in which
	// this issuer's address may lie. Public addresses need no entry.
	Networks []string `json:"networks"`

	// MaxLifetime refuses ID tokens that live longer (exp - iat). Default 24h.
	MaxLifetime time.Duration `json:"max_lifetime"`

	// SingleUse refuses an ID token that was shown before, going by its `jti`,
	// and tokens without one. Default false: one ID token may be shown 1,000 times.
	SingleUse bool `json:"single_use"`
}

// Ceiling is the operator's last word over every policy.
type Ceiling struct {
	// Policies is `repository` (the default: a repository's own policies count)
	// or `organization` (only those in an organization's policy repository do).
	Policies string `json:"policies"`

	// Permissions is the most that any policy may grant. A policy that asks for
	// more, or for a permission that is not named here, grants nothing. Left
	// out: no ceiling.
	Permissions map[string]string `json:"permissions"`
}

// Webhook is what GitHub's deliveries to https://{domain}/webhook are held
// against. Left out, that address does not exist, and policies are up to
// github.policy_max_age old.
type Webhook struct {
	// Secrets are the names of credentials, files in $CREDENTIALS_DIRECTORY. A
	// delivery is accepted if it is signed with any one of them, so that a secret
	// can be replaced: add the new one, change it at GitHub, remove the old one.
	Secrets []string `json:"secrets"`
}

// Audit says where the audit log is, and where it is copied to. A copy also goes to
// journald, where there is one.
type Audit struct {
	// Directory holds the log's segments. One daemon writes it. Required.
	Directory string `json:"directory"`

	// Origin names the log in its checkpoints. The signer signs those of one log
	// alone: its checkpoint.origin has to be the same. Default {domain}/audit.
	Origin string `json:"origin"`

	// CloudEventsSink gets each entry as a CloudEvent, in batches by POST:
	// https://collector.corp.example/, or http on a loopback address. A new sink gets
	// the log from its oldest entry on. Left out: none does.
	CloudEventsSink string `json:"cloudevents_sink"`

	// CloudEventsCAFile holds PEM roots to trust for the sink instead of the
	// system's.
	CloudEventsCAFile string `json:"cloudevents_ca_file"`

	// CloudEventsCredential is the name of a credential, a file in
	// $CREDENTIALS_DIRECTORY, whose secret is sent to the sink as a bearer token. Left
	// out: nothing is sent.
	CloudEventsCredential string `json:"cloudevents_credential"`

	// CloudEventsFrom leaves out the entries before this index, where they were not
	// sent yet: for a new sink that shall not have them, or past one that the sink
	// refuses for ever. Default 0.
	CloudEventsFrom uint64 `json:"cloudevents_from"`
}

// Signer says how to reach octo-sts-signer.
type Signer struct {
	Socket string `json:"socket"` // default /run/octo-sts-signer/signer.sock
}
