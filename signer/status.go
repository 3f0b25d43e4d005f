package signer

// Status is the signer's answer to GET /v1/status. Ready is the sum of it: every App can get a JWT at this moment.
type Status struct {
	Version    string      `json:"version"`    // of the signer program
	Ready      bool        `json:"ready"`      // every App is ready
	Signatures uint64      `json:"signatures"` // App JWTs handed out since the process started
	HSMs       []HSMStatus `json:"hsms"`
	Apps       []AppStatus `json:"apps"`
}

// HSMStatus is the state of one PKCS#11 token. The descriptions come from the module and are empty until it was open once.
type HSMStatus struct {
	Module       string `json:"module"` // path
	Manufacturer string `json:"manufacturer"`
	Model        string `json:"model"`
	TokenLabel   string `json:"token_label"`
	TokenSerial  string `json:"token_serial"`
	Open         bool   `json:"open"`
	Error        string `json:"error,omitempty"` // why it is not open
}

// AppStatus is the state of one App's signing key.
type AppStatus struct {
	AppID       int64  `json:"app_id"`
	Ready       bool   `json:"ready"`
	Key         string `json:"key"`                   // CKA_LABEL
	Fingerprint string `json:"fingerprint,omitempty"` // as Fingerprint has it; "" while the key is not ready
	Error       string `json:"error,omitempty"`       // why it is not ready, or how the last signature failed
}
