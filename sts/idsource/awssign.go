package idsource

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
	"time"
)

// signAWS signs a POST whose path is / and whose URL has no query, as AWS Signature
// Version 4 says ("Create a signed AWS API request" in the IAM user guide). The
// signed headers are the host and all that r has.
func signAWS(r *http.Request, body string, c awsCredentials, service string, now time.Time) {
	stamp := now.UTC().Format("20060102T150405Z")
	r.Header.Set("X-Amz-Date", stamp)
	if c.session != "" {
		r.Header.Set("X-Amz-Security-Token", c.session)
	}
	scope := strings.Join([]string{stamp[:8], c.region, service, "aws4_request"}, "/")
	names, canonical := canonicalRequest(r, body)

	key := []byte("AWS4" + c.secretKey)
	for _, part := range strings.Split(scope, "/") {
		key = hmacSHA256(key, part)
	}
	signature := hmacSHA256(key, "AWS4-HMAC-SHA256\n"+stamp+"\n"+scope+"\n"+hexSHA256(canonical))
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+c.accessKeyID+"/"+scope+", SignedHeaders="+names+", Signature="+hex.EncodeToString(signature))
}

// canonicalRequest is what is signed, and the names of the headers in it.
func canonicalRequest(r *http.Request, body string) (names, canonical string) {
	headers := map[string]string{"host": r.URL.Host}
	sorted := []string{"host"}
	for name, values := range r.Header {
		name = strings.ToLower(name)
		headers[name] = strings.Join(strings.Fields(values[0]), " ")
		sorted = append(sorted, name)
	}
	slices.Sort(sorted)
	var lines strings.Builder
	for _, name := range sorted {
		lines.WriteString(name + ":" + headers[name] + "\n")
	}
	names = strings.Join(sorted, ";")
	return names, strings.Join([]string{r.Method, "/", "", lines.String(), names, hexSHA256(body)}, "\n")
}

func hmacSHA256(key []byte, message string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(message))
	return mac.Sum(nil)
}

func hexSHA256(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
