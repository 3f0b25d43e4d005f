package signer

import "time"

// Status is the signer's answer to GET /v1/status. Ready is the sum of it: every App can get a JWT at this moment.
type Status struct {
	Version    string      `json:"version"`    // of the signer program
	Ready      bool        `json:"ready"`      // every App is ready
	Signatures uint64      `json:"signatures"` // App JWTs handed out since the process started
	HSMs       []HSMStatus `json:"hsms"`
	Apps       []AppStatus `json:"apps"`

	Checkpoint CheckpointStatus `json:"checkpoint"`
	Probe      *ProbeStatus     `json:"probe,omitempty"` // nil: signer.yaml has no section probe
}

// ProbeStatus is the state of the issuer of the probe's ID tokens. HSMStatus.Keys has its keys, of which each HSM has its own.
type ProbeStatus struct {
	Issuer string `json:"issuer"`
	Key    string `json:"key"`             // CKA_LABEL
	Ready  bool   `json:"ready"`           // an HSM could sign at this moment
	Error  string `json:"error,omitempty"` // why none could, or how the last signature failed
}

// CheckpointStatus is what the signer knows of the log that it countersigns.
type CheckpointStatus struct {
	Origin string `json:"origin"`
	Ready  bool   `json:"ready"`           // the signer knows which checkpoint it signed last
	Size   uint64 `json:"size"`            // of that one
	Key    string `json:"key"`             // verifier key of the HSM that signed that one
	Error  string `json:"error,omitempty"` // why the last request was refused, "" where it was not
}

// TokenStatus is the state of one PKCS#11 token. The descriptions come from the module and are empty until it was open once.
type TokenStatus struct {
	Module       string `json:"module"` // path
	Manufacturer string `json:"manufacturer"`
	Model        string `json:"model"`
	TokenLabel   string `json:"token_label"`
	TokenSerial  string `json:"token_serial"`
	Open         bool   `json:"open"`
	Sessions     int    `json:"sessions"`        // that are open
	MaxSessions  int    `json:"max_sessions"`    // that may be open at once
	Error        string `json:"error,omitempty"` // why it is not open
}

// HSMStatus is the state of one configured HSM, in the order of the configuration.
type HSMStatus struct {
	TokenStatus
	Active       bool        `json:"active"`                 // it is asked first at this moment
	Restarts     uint64      `json:"restarts"`               // of its worker process, since the signer started
	LastFailover time.Time   `json:"last_failover,omitzero"` // when another HSM last took over because this one failed
	Failovers    uint64      `json:"failovers"`              // how often one did, since the signer started
	Signatures   uint64      `json:"signatures"`             // that it made and that verified, since then
	Failures     uint64      `json:"failures"`               // signatures that it did not make, or that did not verify, since then
	Keys         []KeyStatus `json:"keys"`                   // every configured key
}

// KeyStatus is the state of one key in one HSM.
type KeyStatus struct {
	Key         string `json:"key"` // CKA_LABEL
	Ready       bool   `json:"ready"`
	Fingerprint string `json:"fingerprint,omitempty"` // as Fingerprint has it; "" while the key is not ready
	// Public is the public half of the checkpoint key or the probe's in PKIX form (SubjectPublicKeyInfo of RFC 5280), which
	// a verifier key or a JWK is made of; nil for Apps' keys, and while it is not ready.
	Public []byte `json:"public,omitempty"`
	Error  string `json:"error,omitempty"` // why it is not ready
}

// AppStatus is the state of one App's signing key.
type AppStatus struct {
	AppID       int64  `json:"app_id"`
	Ready       bool   `json:"ready"`
	Key         string `json:"key"`                   // CKA_LABEL
	Fingerprint string `json:"fingerprint,omitempty"` // as Fingerprint has it; "" while the key is not ready
	Error       string `json:"error,omitempty"`       // why it is not ready, or how the last signature failed
}
