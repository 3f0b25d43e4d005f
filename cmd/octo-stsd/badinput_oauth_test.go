package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
)

// onlyInForms are ID tokens that no header can carry, and a form can.
func onlyInForms(t *testing.T, w *world) []row {
	good := func() string { return w.sign(t, w.Issuer, nil) }
	return []row{
		refused("a trailing newline", good()+"\n", "line break"),
		refused("a trailing NUL", good()+"\x00", "not unpadded base64url"),
		refused("a leading space", " "+good(), "not unpadded base64url"),
		refused("a second token on a second line", good()+"\n"+good(), "malformed"),
		refused("Bearer before it", "Bearer "+good(), "not unpadded base64url"),
		refused("no ASCII", "ä.b.c", "not unpadded base64url"),
		refused("no UTF-8", "\xff.b.c", "not unpadded base64url"),
		refused("60 KiB", strings.Repeat("a.b.c", 12<<10), "longer than 16384 bytes"),
		{"a megabyte of dots", ask(strings.Repeat(".", 1<<20)), codes.InvalidArgument, "malformed_request: "},
	}
}

// overOAuth asks at /sts/token, and reads the answer as one of the other wires'.
func (w *world) overOAuth(t *testing.T, r request) answer {
	t.Helper()
	form := tokenForm(strings.TrimPrefix(r.authorization[0], "Bearer "))
	form["scope"], form["audience"] = []string{r.scope}, []string{r.identity}
	resp, err := w.Client().PostForm(w.URL()+"/sts/token", form)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	read := formAnswer{}
	if err := json.Unmarshal(body, &read); err != nil {
		t.Fatalf("%s with the body %.200q: %v", resp.Status, body, err)
	}
	a := answer{wire: "OAuth", requestID: resp.Header.Get("X-Request-Id"), message: read.Description, token: read.AccessToken}
	if resp.StatusCode == http.StatusOK {
		return a
	}
	a.code = codes.Unknown
	for code, text := range texts {
		if strings.HasPrefix(a.message, text) {
			a.code = code
		}
	}
	want := map[codes.Code]string{codes.InvalidArgument: "invalid_request", codes.Unauthenticated: "invalid_request", codes.PermissionDenied: "invalid_target"}[a.code]
	if resp.StatusCode != http.StatusBadRequest || read.Error != want {
		a.odd = fmt.Sprintf("%s with %s", resp.Status, body)
	}
	return a
}
