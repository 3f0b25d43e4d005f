package idtoken

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"strings"
	"testing"
)

// githubClaims are as many claims as GitHub Actions puts into a token.
func githubClaims() object {
	return claims(issuerURL, object{
		"sub": "repo:octo-org/octo-repo:environment:prod", "ref": "refs/heads/main", "sha": strings.Repeat("0", 40),
		"repository": "octo-org/octo-repo", "repository_owner": "octo-org", "actor_id": "12", "repository_visibility": "private",
		"repository_id": "74", "repository_owner_id": "65", "run_id": "1234567890", "run_number": "10", "run_attempt": "2",
		"runner_environment": "github-hosted", "actor": "octocat", "workflow": "release", "head_ref": "", "base_ref": "",
		"event_name": "workflow_dispatch", "ref_type": "branch", "ref_protected": "true", "environment": "prod",
		"workflow_ref":     "octo-org/octo-repo/.github/workflows/release.yml@refs/heads/main",
		"job_workflow_ref": "octo-org/octo-automation/.github/workflows/oidc.yml@refs/heads/main",
		"job_workflow_sha": strings.Repeat("1", 40), "workflow_sha": strings.Repeat("2", 40),
	})
}

func BenchmarkVerifyRS256(b *testing.B) {
	k := newKey(b, "RS256", "k")
	v := fileVerifier(b, k)
	v.issuers[issuerURL].guard.most = 1 << 30
	raw := k.sign(b, githubClaims())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(b.Context(), raw); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFloorRS256 is the least that verifying can cost: the one RSA operation.
func BenchmarkFloorRS256(b *testing.B) {
	k := newKey(b, "RS256", "k")
	raw := k.sign(b, githubClaims())
	signed := raw[:strings.LastIndexByte(raw, '.')]
	signature := k.signature(b, "RS256", signed)
	public := k.private.Public().(*rsa.PublicKey)
	b.ReportAllocs()
	for b.Loop() {
		digest := sha256.Sum256([]byte(signed))
		if err := rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], signature); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	raw := newKey(b, "RS256", "k").sign(b, githubClaims())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parseCompact(raw); err != nil {
			b.Fatal(err)
		}
	}
}
