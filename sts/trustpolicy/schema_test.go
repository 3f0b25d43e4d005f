package trustpolicy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"sigs.k8s.io/yaml"

	"github.com/octo-sts/appliance/sts/trustpolicy"
)

func compileSchema(t *testing.T, schema []byte) *jsonschema.Schema {
	t.Helper()
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("schema.json", document); err != nil {
		t.Fatal(err)
	}
	compiled, err := c.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

// TestSchemasAgreeWithParsers holds that an editor and the exchange say the same of a
// file, but for the cases marked beyond, which a schema cannot express: there the schema
// may accept what the parser refuses, never the other way round.
func TestSchemasAgreeWithParsers(t *testing.T) {
	const repo, org, issuers = "repository", "organization", "trusted-issuers"
	schemas := make(map[string]*jsonschema.Schema)
	for name, schema := range trustpolicy.Schemas() {
		schemas[name] = compileSchema(t, schema)
	}
	if len(schemas) != 3 {
		t.Fatalf("%d schemas", len(schemas))
	}
	many := func(n int, format string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, format, i)
		}
		return b.String()
	}
	for _, tc := range []struct {
		kinds  string
		yaml   string
		ok     bool
		beyond bool
	}{
		{repo + org, head + tail, true, false},
		{repo + org, head + "audience: x\nclaim_pattern: {a: b, c: true, d: 12}\n" + tail, true, false},
		{repo + org, "issuer_pattern: a\nsubject_pattern: b\naudience_pattern: c\n" + tail, true, false},
		{repo + org, "issuer: https://a.example/b%20c\nsubject: 12345\n" + tail, true, false},
		{repo + org, "issuer: http://127.0.0.1:80\nsubject: x\n" + tail, true, false},
		{org, head + tail + "repositories: [a, 12, .github]\n", true, false},
		{org, head + tail + "repositories:\n" + many(500, "  - r%d\n"), true, false},

		{repo + org + issuers, "{}", false, false},
		{repo + org + issuers, "[]", false, false},
		{repo + org, "subject: a\n" + tail, false, false},
		{repo + org, "issuer: " + actions + "\n" + tail, false, false},
		{repo + org, head + "issuer_pattern: a\n" + tail, false, false},
		{repo + org, head + "subject_pattern: a\n" + tail, false, false},
		{repo + org, head + "audience: a\naudience_pattern: a\n" + tail, false, false},
		{repo + org, head + "unknown: a\n" + tail, false, false},
		{repo + org, "issuer: ftp://a.example\nsubject: a\n" + tail, false, false},
		{repo + org, "issuer: https://a@b.example\nsubject: a\n" + tail, false, false},
		{repo + org, "issuer: https://b.example?c\nsubject: a\n" + tail, false, false},
		{repo + org, "issuer: HTTPS://b.example\nsubject: a\n" + tail, false, false},
		{repo + org, "issuer: " + actions + "\nsubject: ''\n" + tail, false, false},
		{repo + org, "issuer: " + actions + "\nsubject: \"a\\n\"\n" + tail, false, false},
		{repo + org, "issuer: " + actions + "\nsubject: [a]\n" + tail, false, false},
		{repo + org, "issuer: " + actions + "\nsubject:\n" + tail, false, false},
		{repo + org, "issuer: " + actions + "\nsubject_pattern: " + strings.Repeat("a", 4097) + "\n" + tail, false, false},
		{repo + org, head + "claim_pattern: {a: ''}\n" + tail, false, false},
		{repo + org, head + "claim_pattern: {a: [b]}\n" + tail, false, false},
		{repo + org, head + "claim_pattern:\n" + many(65, "  c%d: a\n") + tail, false, false},
		{repo + org, head, false, false},
		{repo + org, head + "permissions: {}\n", false, false},
		{repo + org, head + "permissions: write-all\n", false, false},
		{repo + org, head + "permissions: {content: read}\n", false, false},
		{repo + org, head + "permissions: {contents: admin}\n", false, false},
		{repo + org, head + "permissions: {workflows: read}\n", false, false},
		{repo, head + tail + "repositories: [a]\n", false, false},
		{org, head + "permissions: {members: read, organization_secrets: write, custom_properties_for_organizations: read}\n", true, false},
		{repo, head + "permissions: {members: read}\n", false, false},
		{repo, head + "permissions: {contents: read, organization_secrets: write}\n", false, false},
		{repo, head + "permissions: {custom_properties_for_organizations: read}\n", false, false},
		{repo, head + "permissions: {enterprise_custom_properties_for_organizations: read}\n", false, false},
		{org, head + tail + "repositories: [git, wiki, a.github]\n", true, false},
		{org, head + tail + "repositories: [app.git]\n", false, false},
		{org, head + tail + "repositories: [app.Wiki]\n", false, false},
		{org, head + tail + "repositories: []\n", false, false},
		{org, head + tail + "repositories: [a/b]\n", false, false},
		{org, head + tail + "repositories: ['..']\n", false, false},
		{org, head + tail + "repositories: [a, a]\n", false, false},
		{org, head + tail + "repositories:\n" + many(501, "  - r%d\n"), false, false},
		{repo + org, "issuer: http://a.example\nsubject: a\n" + tail, false, true},
		{repo + org, "issuer: " + actions + "\nsubject_pattern: '['\n" + tail, false, true},
		{repo + org, "issuer: " + actions + "\nsubject: ' a'\n" + tail, false, true},
		{org, head + tail + "repositories: [a, A]\n", false, true},

		{issuers, "issuers: [" + actions + "]\n", true, false},
		{issuers, "mode: audit\nissuer_patterns: [a]\n", true, false},
		{issuers, "mode: enforce\nissuers: []\nissuer_patterns: [a]\n", true, false},
		{issuers, "mode: enforce\n", false, false},
		{issuers, "issuers: []\n", false, false},
		{issuers, "mode: on\nissuers: [" + actions + "]\n", false, false},
		{issuers, "issuers: " + actions + "\n", false, false},
		{issuers, "issuers: [a.example]\n", false, false},
		{issuers, "issuers: [" + actions + "]\nother: 1\n", false, false},
		{issuers, "issuers:\n" + many(64, "  - https://i%d.example\n"), true, false},
		{issuers, "issuers:\n" + many(65, "  - https://i%d.example\n"), false, false},
		{issuers, "issuer_patterns:\n" + many(17, "  - p%d\n"), false, false},
		{issuers, "issuer_patterns: ['']\n", false, false},
		{issuers, "issuer_patterns: ['[']\n", false, true},
	} {
		for kind, schema := range schemas {
			if !strings.Contains(tc.kinds, kind) {
				continue
			}
			asJSON, err := yaml.YAMLToJSON([]byte(tc.yaml))
			if err != nil {
				t.Fatal(err)
			}
			value, err := jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
			if err != nil {
				t.Fatal(err)
			}
			schemaErr := schema.Validate(value)
			if accepts := schemaErr == nil; accepts != (tc.ok || tc.beyond) {
				t.Errorf("%s: schema: %v\n%.200s", kind, schemaErr, tc.yaml)
			}
			if err := parseKind(kind, tc.yaml); (err == nil) != tc.ok {
				t.Errorf("%s: parser: %v\n%.200s", kind, err, tc.yaml)
			}
		}
	}
}

func parseKind(kind, file string) error {
	var err error
	switch kind {
	case "trusted-issuers":
		_, err = trustpolicy.ParseTrustedIssuers("", []byte(file))
	case "organization":
		_, err = trustpolicy.Parse(trustpolicy.Organization, "", []byte(file), trustpolicy.GitHubPermissions())
	default:
		_, err = trustpolicy.Parse(trustpolicy.Repository, "", []byte(file), trustpolicy.GitHubPermissions())
	}
	return err
}

// TestSchemaPermissions holds the lists in the schemas against the built-in catalog.
func TestSchemaPermissions(t *testing.T) {
	catalog := trustpolicy.GitHubPermissions()
	for _, kind := range []trustpolicy.Kind{trustpolicy.Repository, trustpolicy.Organization} {
		var schema struct {
			Properties struct {
				Permissions struct {
					Properties map[string]struct {
						Enum []string `json:"enum"`
					} `json:"properties"`
				} `json:"permissions"`
			} `json:"properties"`
		}
		if err := json.Unmarshal(trustpolicy.Schemas()[kind.String()], &schema); err != nil {
			t.Fatal(err)
		}
		inSchema := schema.Properties.Permissions.Properties
		want := slices.DeleteFunc(catalog.Names(), func(name string) bool {
			return kind == trustpolicy.Repository && catalog.OfOrganization(name)
		})
		if diff := cmp.Diff(want, slices.Sorted(maps.Keys(inSchema))); diff != "" {
			t.Errorf("%s: names (-catalog +schema):\n%s", kind, diff)
		}
		for name, p := range inSchema {
			if diff := cmp.Diff(catalog.Levels(name), p.Enum); diff != "" {
				t.Errorf("%s: levels of %s (-catalog +schema):\n%s", kind, name, diff)
			}
		}
	}
}
