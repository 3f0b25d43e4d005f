// Package appliance is what only the daemon octo-stsd needs: its configuration,
// the wiring of the exchange's parts, listeners, TLS, load limits, health and
// metrics. What an exchange is, package sts knows; nothing of that is here.
package appliance

import "time"

// Config is octo-stsd.yaml. It is read strictly: an unknown key, a missing
// required one or a wrong value is fatal, and all problems are reported at once,
// with file and line. Time spans are written as 90s, 15m or 24h. Secrets never
// stand in it. On SIGHUP it is read again; needRestart lists the keys that then
// wait for a restart.
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

	// Probe is the exchange that the daemon tries when it is asked to. Left out:
	// none, and no ID token of a probe is accepted.
	Probe Probe `json:"probe"`

	Audit   Audit   `json:"audit"`
	Signer  Signer  `json:"signer"`
	Tracing Tracing `json:"tracing"`

	// StateDirectory is the daemon's own directory for what must outlive it: the
	// queue of webhook deliveries, which App an owner's checks stick to, and with
	// tls.mode: acme the certificate. Default /var/lib/octo-sts. It must exist and be
	// writable.
	StateDirectory string `json:"state_directory"`

	file string // where it was read
}

// Listen says where to listen: host:port, or unix:/path for a unix socket. Where the
// service manager passes sockets, named https and http, those are served in the
// place of HTTPS and HTTP, which are then not looked at.
type Listen struct {
	// HTTPS serves the exchange over HTTP and gRPC. Default ":443".
	HTTPS string `json:"https"`

	// HTTP answers every request with a redirect to https://{domain}, and with
	// tls.mode: acme what the CA asks there. Left out, the port stays closed.
	HTTP string `json:"http"`

	// Admin serves /healthz, /readyz, /metrics and /probe, in the clear: keep it on
	// loopback. Of more than 256 connections the oldest give way. Default
	// "127.0.0.1:9464".
	Admin string `json:"admin"`

	// Proxies are the networks (CIDR) of the proxies in front of us, and `unix` for
	// one that comes over a unix socket. From them alone X-Forwarded-For counts: the
	// rightmost address in it that is none of theirs is the caller's, in the limits,
	// the audit log and the logs. Their connections count in limits.connections alone,
	// and requests that they send for nobody as their own. Forwarded (RFC 7239) is not read. Default: none.
	Proxies []string `json:"proxies"`

	// ProxyProtocol has each connection from one of Proxies, to https and to http,
	// begin with a header of the PROXY protocol, version 1 or 2, and takes the
	// caller's address from there. Whoever else sends one breaks the protocol.
	// Default false.
	ProxyProtocol bool `json:"proxy_protocol"`
}

// TLS says how listen.https is protected. TLS 1.2 and 1.3 are spoken.
type TLS struct {
	// Mode is `acme` (a CA issues the certificate of domain, and renews it), `files`
	// (a certificate and key on disk) or `off` (no TLS: HTTP/1.1 and h2c, allowed only
	// on a loopback address or a unix socket, for a proxy on the same machine).
	// Required.
	Mode string `json:"mode"`

	ACME  TLSACME  `json:"acme"`
	Files TLSFiles `json:"files"`
}

// TLSACME names the CA that issues the certificate, over ACME (RFC 8555). It has to
// reach domain's port 443 (the challenge TLS-ALPN-01) or, where listen.http is set,
// port 80 (HTTP-01). Using a CA means to agree to its terms of service. The
// certificate, its key and the account are kept in state_directory/acme.
type TLSACME struct {
	// Directory is the CA's ACME directory. Default Let's Encrypt's,
	// https://acme-v02.api.letsencrypt.org/directory.
	Directory string `json:"directory"`

	// Email is where the CA writes to, if it does. Left out: the account has none.
	Email string `json:"email"`

	// Roots is a file of PEM roots to trust for Directory instead of the system's.
	Roots string `json:"roots"`

	// EAB binds the ACME account to one that the CA knows already. Left out: the CA
	// asks for none.
	EAB EAB `json:"eab"`
}

// EAB is an external account binding (RFC 8555, section 7.3.4).
type EAB struct {
	// KeyID is the CA's name for the key.
	KeyID string `json:"key_id"`

	// HMACCredential is the name of a credential, a file in $CREDENTIALS_DIRECTORY,
	// that holds the key as the CA shows it, in base64url.
	HMACCredential string `json:"hmac_credential"`
}

// TLSFiles names PEM files. They are looked at every two seconds and on SIGHUP,
// and taken up when they changed. A pair that does not fit together or is not valid
// now is logged, and the old one stays in use.
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

	// Connections is how many connections may be open. Default 4096: with TLS, some
	// 50 KiB each. Over it, one gives way that has no exchange under way: one of the
	// address that has the most, where that is more than a quarter of
	// ConnectionsPerAddress.
	Connections int `json:"connections"`

	// ConnectionsPerAddress is how many of them one client address may have, for IPv6
	// one /64. Default 1024, as many as come at once from a company's CI after a
	// restart. Over it, its own gives way that was unused for longest.
	ConnectionsPerAddress int `json:"connections_per_address"`

	// PerAddress is how many requests a second one client address may make, and
	// Burst how many at once; for IPv6, one /64. Default 200 and 1000: a company's CI
	// often comes from one address. Over it: 429, Retry-After. Twice as
	// many connections may it open; over that, they are closed before TLS.
	PerAddress float64 `json:"per_address"`
	Burst      int     `json:"burst"`

	// PerIssuer is how many ID tokens of one issuer a second are exchanged, counted
	// once their signatures were verified, and BurstPerIssuer how many at once: those
	// of subjects whom the owner granted something lately, and as many of strangers.
	// Default 1000 and 5000. Over it: 429, Retry-After, and no line in the audit log.
	PerIssuer      float64 `json:"per_issuer"`
	BurstPerIssuer int     `json:"burst_per_issuer"`

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

// Tracing sends traces to a collector by OTLP over HTTP, with protobuf: each exchange
// is one, and its steps are the spans, the signer's among them. No span holds anything
// of an ID token, of a token of GitHub's, or of who asked for what.
type Tracing struct {
	// OTLPEndpoint is the collector's base URL, to which /v1/traces is added:
	// https://otel.corp.example:4318, or http on a loopback address. Left out: nothing
	// is traced.
	OTLPEndpoint string `json:"otlp_endpoint"`

	// OTLPCAFile holds PEM roots to trust for the collector instead of the system's.
	OTLPCAFile string `json:"otlp_ca_file"`

	// OTLPCredential is the name of a credential, a file in $CREDENTIALS_DIRECTORY,
	// whose secret is sent to the collector as a bearer token. Left out: nothing is sent.
	OTLPCredential string `json:"otlp_credential"`

	// Sample is which part of the exchanges is traced, from 0 to 1. No caller can raise
	// it. Default 1.
	Sample *float64 `json:"sample"`
}

// Probe is an exchange that the daemon tries over its own public URL whenever
// /probe of listen.admin is asked, as octo-sts-probe.timer does. Its ID tokens are the
// signer's own (section probe of signer.yaml): of the issuer
// https://{domain}/probe-issuer, whose keys the daemon serves there, with the subject
// `probe` and the audience {domain}.
type Probe struct {
	// Scope is the repository, owner/name, whose trust policy grants a probe
	// `contents: read`, and nothing else. Best one that is there for nothing else, and
	// private. Required where the section is there.
	Scope string `json:"scope"`

	// Identity names the policy. Default "probe".
	Identity string `json:"identity"`

	// URL is where the probe finds the appliance. Default https://{domain}.
	URL string `json:"url"`

	// CAFile holds PEM roots to trust for URL instead of the system's.
	CAFile string `json:"ca_file"`
}
