package idsource

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"
)

// testAWS are the credentials of every endpoint here.
var testAWS = awsCredentials{accessKeyID: "ASIATEST", secretKey: "the-secret", session: "the-session", region: "eu-west-1"}

// sts is AWS's: it checks the signature over what arrived, and its age, and reads the
// form strictly.
func sts(t *testing.T) string {
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		refuse := func(status int, code, message string) {
			w.WriteHeader(status)
			fmt.Fprintf(w, `<ErrorResponse><Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error></ErrorResponse>`, code, message)
		}
		body, _ := io.ReadAll(r.Body)
		at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
		signed := r.Clone(t.Context())
		signed.URL.Host = r.Host
		signed.Header = http.Header{"Content-Type": r.Header["Content-Type"]}
		c := testAWS
		c.session = r.Header.Get("X-Amz-Security-Token")
		if err == nil {
			err = c.sign(t.Context(), signed, string(body), at)
		}
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		switch {
		case err != nil || time.Since(at).Abs() > 5*time.Minute || signed.Header.Get("Authorization") != r.Header.Get("Authorization"):
			refuse(http.StatusForbidden, "SignatureDoesNotMatch", "The request signature we calculated does not match the signature you provided.")
		case r.Method != http.MethodPost || r.URL.Path != "/" || r.FormValue("Action") != "GetWebIdentityToken" || r.FormValue("Version") != "2011-06-15" || r.FormValue("SigningAlgorithm") != "RS256":
			refuse(http.StatusBadRequest, "InvalidAction", "Could not find operation")
		case r.FormValue("Audience.member.1") == "disabled":
			refuse(http.StatusForbidden, "OutboundWebIdentityFederationDisabled", "not enabled for this account")
		default:
			fmt.Fprintf(w, `<GetWebIdentityTokenResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetWebIdentityTokenResult>`+
				`<Expiration>2026-11-23T00:00:00Z</Expiration><WebIdentityToken>%s</WebIdentityToken></GetWebIdentityTokenResult>`+
				`<ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></GetWebIdentityTokenResponse>`, testJWT(r.FormValue("Audience.member.1")))
		}
	})
}

const credentialsJSON = `{"Code":"Success","AccessKeyId":"ASIATEST","SecretAccessKey":"the-secret","Token":"the-session","Expiration":"2026-11-23T20:00:00Z"}`

// instance is EC2's metadata service with IMDSv2 alone: a session first, by PUT.
func instance(t *testing.T) string {
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPut && r.URL.Path == "/latest/api/token" && r.Header.Get("X-aws-ec2-metadata-token-ttl-seconds") == "60":
			fmt.Fprint(w, "imds-session")
		case r.Method != http.MethodGet || r.Header.Get("X-aws-ec2-metadata-token") != "imds-session":
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
		case r.URL.Path == "/latest/meta-data/iam/security-credentials/":
			fmt.Fprint(w, "deploy-role")
		case r.URL.Path == "/latest/meta-data/iam/security-credentials/deploy-role":
			fmt.Fprint(w, credentialsJSON)
		case r.URL.Path == "/latest/meta-data/placement/region":
			fmt.Fprint(w, "eu-west-1")
		default:
			http.NotFound(w, r)
		}
	})
}

func TestAWS(t *testing.T) {
	endpoint := sts(t)
	container := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "container-secret" {
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, credentialsJSON)
	})
	keys := map[string]string{"AWS_ACCESS_KEY_ID": "ASIATEST", "AWS_SECRET_ACCESS_KEY": "the-secret", "AWS_SESSION_TOKEN": "the-session", "AWS_REGION": "eu-west-1"}
	with := func(base map[string]string, pairs ...string) map[string]string {
		env := maps.Clone(base)
		env["AWS_ENDPOINT_URL_STS"] = endpoint
		for i := 0; i < len(pairs); i += 2 {
			env[pairs[i]] = pairs[i+1]
		}
		return env
	}
	none := map[string]string{}
	for what, test := range map[string]struct {
		env      map[string]string
		audience string
		says     string // "": a token
	}{
		"keys in the environment": {env: with(keys)},
		"a user's own keys":       {env: with(keys, "AWS_SESSION_TOKEN", "")},
		"an instance":             {env: with(none, "AWS_EC2_METADATA_SERVICE_ENDPOINT", instance(t))},
		"EKS Pod Identity": {env: with(none, "AWS_REGION", "eu-west-1", "AWS_CONTAINER_CREDENTIALS_FULL_URI", container+"/v1/credentials",
			"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", write(t, "authorization", "container-secret\n"))},

		"a wrong key":        {env: with(keys, "AWS_SECRET_ACCESS_KEY", "wrong"), says: "SignatureDoesNotMatch"},
		"half a key":         {env: with(keys, "AWS_SECRET_ACCESS_KEY", ""), says: "an access key ID without"},
		"no region":          {env: with(keys, "AWS_REGION", ""), says: "set AWS_REGION"},
		"no such region":     {env: with(keys, "AWS_REGION", "x.example.com/"), says: "which is no region"},
		"not enabled":        {env: with(keys), audience: "disabled", says: "aws iam enable-outbound-web-identity-federation"},
		"a strange endpoint": {env: with(none, "AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://203.0.113.1/"), says: "neither https nor an address that containers get credentials from"},
		"not allowed in":     {env: with(none, "AWS_CONTAINER_CREDENTIALS_FULL_URI", container), says: "the container's credentials endpoint answered HTTP status 401"},
		"nobody there":       {env: with(none, "AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1"), says: "hop limit of 2"},
	} {
		t.Run(what, func(t *testing.T) {
			got, err := get(t, newTest(t, Config{Audience: test.audience}, test.env))
			if test.says != "" {
				mustSay(t, err, "token source aws", test.says)
			} else if got != testJWT(wanted) {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}
