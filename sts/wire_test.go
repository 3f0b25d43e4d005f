package sts

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/octo-sts/appliance/sts/stspb"
)

func TestBearer(t *testing.T) {
	for _, c := range []struct {
		name   string
		values []string
		want   string
	}{
		{"one", []string{"Bearer a.b.c"}, "a.b.c"},
		{"the scheme's case does not count", []string{"bEARER a.b.c"}, "a.b.c"},
		{"a trailing space is the token's, and its verification's to refuse", []string{"Bearer a.b.c "}, "a.b.c "},
		{"none", nil, ""},
		{"two", []string{"Bearer a.b.c", "Bearer a.b.c"}, ""},
		{"empty", []string{""}, ""},
		{"no token", []string{"Bearer"}, ""},
		{"an empty token", []string{"Bearer "}, ""},
		{"another scheme", []string{"Basic a.b.c"}, ""},
		{"no scheme", []string{"a.b.c"}, ""},
	} {
		got, err := bearer(http.Header{"Authorization": c.values})
		if got != c.want || (c.want == "") != errors.Is(err, ErrUnauthenticated) {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
	}
}

// A query that we accept is read as grpc-gateway reads it.
func TestQueryIsReadAsGRPCGatewayReadsIt(t *testing.T) {
	for _, query := range []string{
		"",
		"scope=org/repo&identity=x",
		"scope=org%2Frepo&scopes=org%2Frepo&identity=x",
		"scopes=a&scopes=b&identity=x",
		"scope=org&identity=x&aud=sts.example.com&aud=other&cap=y",
	} {
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		want := &stspb.ExchangeRequest{}
		if err := runtime.PopulateQueryParameters(want, values, &utilities.DoubleArray{}); err != nil {
			t.Fatal(err)
		}
		want.Aud, want.Cap = nil, nil // accepted and ignored
		got, err := messageFromQuery(values)
		if err != nil {
			t.Errorf("%s: %v", query, err)
			continue
		}
		if d := cmp.Diff(proto.Message(want), proto.Message(got), protocmp.Transform()); d != "" {
			t.Errorf("%s (-grpc-gateway +ours):\n%s", query, d)
		}
	}
}

func TestQueriesRefused(t *testing.T) {
	for _, query := range []string{
		"scope=a&scope=b&identity=x",
		"scope=a&identity=x&identity=y",
		"access_token=secret",
		"Scope=a",
		"token=secret&scope=a&identity=x",
		"include_upstream_token=true",
	} {
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := messageFromQuery(values); !errors.Is(err, ErrInvalidRequest) {
			t.Errorf("%s: %v", query, err)
		} else if message := answerFor(err).message; message == "" || strings.Contains(message, "secret") {
			t.Errorf("%s: the caller reads %q", query, message)
		}
	}
}

func TestOneScope(t *testing.T) {
	for _, c := range []struct {
		scope  string
		scopes []string
		want   string
		ok     bool
	}{
		{"a", nil, "a", true},
		{"", []string{"a"}, "a", true},
		{"a", []string{"a"}, "a", true},
		{"a", []string{"a", "a"}, "a", true},
		{"", nil, "", true}, // missing, which ParseScope says better
		{"a", []string{"b"}, "", false},
		{"", []string{"a", "b"}, "", false},
		{"a", []string{"A"}, "", false},
	} {
		//lint:ignore SA1019 the wire's deprecated field, which every octo-sts client sends
		got, err := oneScope(&stspb.ExchangeRequest{Scope: c.scope, Scopes: c.scopes})
		if got != c.want || c.ok != (err == nil) {
			t.Errorf("scope %q, scopes %q: %q, %v", c.scope, c.scopes, got, err)
		}
	}
}

func FuzzMessageFromQuery(f *testing.F) {
	f.Add("scope=a&identity=b")
	f.Add("scopes=a&scopes=b&%zz")
	f.Fuzz(func(t *testing.T, query string) {
		values, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		if m, err := messageFromQuery(values); err == nil {
			if scope, err := oneScope(m); err == nil && scope != "" && scope != values.Get("scope") && scope != values.Get("scopes") {
				t.Errorf("%q gives scope %q", query, scope)
			}
		}
	})
}
