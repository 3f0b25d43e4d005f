package idsource

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// serve is a metadata service; it returns its base URL.
func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// TestGoogle: the metadata server wants its header and no X-Forwarded-For, and
// answers with the token alone.
func TestGoogle(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1") // which a metadata service is never asked through
	base := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Metadata-Flavor", "Google")
		switch {
		case r.Header.Get("Metadata-Flavor") != "Google" || r.Header.Get("X-Forwarded-For") != "":
			http.Error(w, "Missing Metadata-Flavor:Google header.", http.StatusForbidden)
		case r.URL.Path != "/computeMetadata/v1/instance/service-accounts/default/identity" || r.FormValue("format") != "full":
			http.NotFound(w, r)
		case r.FormValue("audience") == "nobody":
			http.Error(w, "service account does not exist", http.StatusNotFound)
		default:
			fmt.Fprint(w, testJWT(r.FormValue("audience")))
		}
	})
	env := map[string]string{"GCE_METADATA_HOST": strings.TrimPrefix(base, "http://")}
	if got, err := get(t, newTest(t, Config{}, env)); got != testJWT(wanted) {
		t.Errorf("%q, %v", got, err)
	}
	_, err := get(t, newTest(t, Config{Audience: "nobody"}, env))
	mustSay(t, err, "HTTP status 404", "service account does not exist", "where a service account is attached")
	env["GCE_METADATA_HOST"] = "127.0.0.1:1"
	_, err = get(t, newTest(t, Config{}, env))
	mustSay(t, err, "asking Google's metadata server at 127.0.0.1:1")
}

// TestAzure: the instance metadata service wants its header, the version and a
// resource that the tenant knows, and answers with JSON.
func TestAzure(t *testing.T) {
	base := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Metadata") != "true" || r.URL.Path != "/metadata/identity/oauth2/token" || r.FormValue("api-version") != "2018-02-01":
			http.Error(w, `{"error":"invalid_request","error_description":"Required metadata header not specified"}`, http.StatusBadRequest)
		case !strings.HasPrefix(r.FormValue("resource"), "api://"):
			http.Error(w, `{"error":"invalid_resource","error_description":"AADSTS500011: The resource principal was not found in the tenant"}`, http.StatusBadRequest)
		default:
			fmt.Fprintf(w, `{"access_token":%q,"expires_in":"86399","token_type":"Bearer","client_id":%q}`, testJWT(r.FormValue("resource")+r.FormValue("client_id")), r.FormValue("client_id"))
		}
	})
	env := map[string]string{"AZURE_POD_IDENTITY_AUTHORITY_HOST": base}
	if got, err := get(t, newTest(t, Config{Name: "azure", Audience: "api://octo-sts"}, env)); got != testJWT("api://octo-sts") {
		t.Errorf("%q, %v", got, err)
	}
	_, err := get(t, newTest(t, Config{Name: "azure"}, env))
	mustSay(t, err, "HTTP status 400", "AADSTS500011", "--audience the application ID URI")
	env["AZURE_CLIENT_ID"] = "-of-a-user-assigned-identity"
	if got, err := get(t, newTest(t, Config{Name: "azure", Audience: "api://octo-sts"}, env)); got != testJWT("api://octo-sts-of-a-user-assigned-identity") {
		t.Errorf("%q, %v", got, err)
	}
}
