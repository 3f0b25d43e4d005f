// Command openapigen writes openapi.json beside the fake GitHub: the few facts of
// GitHub's own OpenAPI description that the fake is held to.
//
// It is not part of any build. To refresh the facts:
//
//	npm pack @octokit/openapi && tar xzf octokit-openapi-*.tgz
//	go run ./sts/ststest/openapigen package > sts/ststest/openapi.json
//
// The description is published by GitHub under the MIT licence
// (https://github.com/github/rest-api-description); the file that is written
// names it, its version and its licence.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// operations are those that the fake serves, as GitHub's description names them.
var operations = []string{
	"GET /app",
	"GET /app/installations",
	"GET /app/installations/{installation_id}",
	"POST /app/installations/{installation_id}/access_tokens",
	"DELETE /installation/token",
	"GET /installation/repositories",
	"GET /orgs/{org}/installation",
	"GET /users/{username}/installation",
	"GET /repos/{owner}/{repo}",
	"GET /repos/{owner}/{repo}/installation",
	"GET /repos/{owner}/{repo}/contents/{path}",
	"PUT /repos/{owner}/{repo}/contents/{path}",
	"POST /repos/{owner}/{repo}/issues",
	"POST /repos/{owner}/{repo}/git/blobs",
	"GET /repos/{owner}/{repo}/compare/{basehead}",
	"GET /repos/{owner}/{repo}/git/trees/{tree_sha}",
	"GET /repos/{owner}/{repo}/commits/{ref}",
	"POST /repos/{owner}/{repo}/check-runs",
	"PATCH /repos/{owner}/{repo}/check-runs/{check_run_id}",
	"GET /repos/{owner}/{repo}/commits/{ref}/check-runs",
	"GET /app/hook/deliveries",
	"GET /app/hook/deliveries/{delivery_id}",
	"POST /app/hook/deliveries/{delivery_id}/attempts",
	"POST /app-manifests/{code}/conversions",
}

// webhooks are those that the fake delivers, as GitHub's description names them.
var webhooks = []string{
	"push", "check-suite-requested", "check-suite-rerequested", "check-run-created", "check-run-completed", "check-run-rerequested",
	"pull-request-opened", "pull-request-synchronize", "merge-group-checks-requested",
	"installation-created", "installation-deleted", "installation-suspend", "installation-unsuspend", "installation-new-permissions-accepted",
	"installation-repositories-added", "installation-repositories-removed", "installation-target-renamed",
	"repository-renamed", "repository-transferred", "repository-archived", "repository-edited",
}

// Extract is the file that is written.
type Extract struct {
	Source      string                                 `json:"source"`
	Version     string                                 `json:"version"`
	License     string                                 `json:"license"`
	Generated   string                                 `json:"generated"`
	Operations  map[string]map[string]map[string]Shape `json:"operations"` // operation → status → media type
	Webhooks    map[string]Shape                       `json:"webhooks"`   // payload of each
	Schemas     map[string]Shape                       `json:"schemas"`
	Permissions map[string][]string                    `json:"permissions"` // of a GitHub App: name → levels
}

// Shape is what is kept of a JSON schema: types, and required properties.
type Shape struct {
	Ref        string           `json:"ref,omitempty"` // a name in Extract.Schemas
	Types      []string         `json:"types,omitempty"`
	Properties map[string]Shape `json:"properties,omitempty"` // the required ones only
	Items      *Shape           `json:"items,omitempty"`
	OneOf      []Shape          `json:"one_of,omitempty"`
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: openapigen DIRECTORY (the unpacked npm package @octokit/openapi)")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "openapigen:", err)
		os.Exit(1)
	}
}

func run(dir string, out io.Writer) error {
	var pkg struct{ Name, Version, License string }
	if err := readJSON(filepath.Join(dir, "package.json"), &pkg); err != nil {
		return err
	}
	g := generator{out: map[string]Shape{}}
	if err := readJSON(filepath.Join(dir, "generated", "api.github.com.json"), &g.description); err != nil {
		return err
	}
	x := Extract{
		Source: pkg.Name + " (npm), generated/api.github.com.json: GitHub's OpenAPI description", Version: pkg.Version, License: pkg.License,
		Generated:  "by openapigen; do not edit",
		Operations: map[string]map[string]map[string]Shape{},
		Webhooks:   map[string]Shape{},
		Schemas:    g.out,
	}
	for _, name := range webhooks {
		w, ok := g.description.Webhooks[name]
		if !ok {
			return fmt.Errorf("webhook %s: not in the description", name)
		}
		x.Webhooks[name] = g.shape(w.Post.RequestBody.Content["application/json"].Schema, 0)
	}
	for _, name := range operations {
		op, err := g.operation(name)
		if err != nil {
			return fmt.Errorf("operation %s: %w", name, err)
		}
		x.Operations[name] = op
	}
	x.Permissions = map[string][]string{}
	for name, p := range g.description.Components.Schemas["app-permissions"].Properties {
		x.Permissions[name] = p.Enum
	}
	if len(x.Permissions) == 0 {
		return errors.New("no schema app-permissions")
	}
	enc := json.NewEncoder(out)
	enc.SetIndent("", " ")
	return enc.Encode(x)
}

func readJSON(file string, v any) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// schema is the part of OpenAPI 3.0's Schema Object that is read.
type schema struct {
	Ref        string             `json:"$ref"`
	Type       string             `json:"type"`
	Nullable   bool               `json:"nullable"`
	Required   []string           `json:"required"`
	Properties map[string]*schema `json:"properties"`
	Items      *schema            `json:"items"`
	OneOf      []*schema          `json:"oneOf"`
	AnyOf      []*schema          `json:"anyOf"`
	AllOf      []*schema          `json:"allOf"`
	Enum       []string           `json:"-"`
}

// UnmarshalJSON reads a schema; its enum is kept only where it is one of
// strings.
func (s *schema) UnmarshalJSON(data []byte) error {
	type plain schema
	if err := json.Unmarshal(data, (*plain)(s)); err != nil {
		return err
	}
	var e struct {
		Enum []any `json:"enum"`
	}
	if err := json.Unmarshal(data, &e); err != nil {
		return err
	}
	for _, v := range e.Enum {
		if t, ok := v.(string); ok {
			s.Enum = append(s.Enum, t)
		}
	}
	return nil
}

type generator struct {
	description struct {
		Paths map[string]map[string]struct {
			Responses map[string]struct {
				Ref     string `json:"$ref"`
				Content map[string]struct {
					Schema *schema `json:"schema"`
				} `json:"content"`
			} `json:"responses"`
		} `json:"paths"`
		Webhooks map[string]struct {
			Post struct {
				RequestBody struct {
					Content map[string]struct {
						Schema *schema `json:"schema"`
					} `json:"content"`
				} `json:"requestBody"`
			} `json:"post"`
		} `json:"x-webhooks"`
		Components struct {
			Schemas map[string]*schema `json:"schemas"`
		} `json:"components"`
	}
	out map[string]Shape
}

func (g *generator) operation(name string) (map[string]map[string]Shape, error) {
	method, path, _ := strings.Cut(name, " ")
	op, ok := g.description.Paths[path][strings.ToLower(method)]
	if !ok {
		return nil, errors.New("not in the description")
	}
	statuses := map[string]map[string]Shape{}
	for code, r := range op.Responses {
		statuses[code] = map[string]Shape{}
		if code[0] != '2' {
			continue // an error's body is basic-error, which requires nothing
		}
		for media, c := range r.Content {
			statuses[code][media] = g.shape(c.Schema, 0)
		}
	}
	return statuses, nil
}

// shape reduces s. Depth bounds what is followed below a response: deeper
// objects are held to their type alone.
func (g *generator) shape(s *schema, depth int) Shape {
	switch {
	case s == nil || depth > 4:
		return Shape{}
	case s.Ref != "":
		name := s.Ref[strings.LastIndexByte(s.Ref, '/')+1:]
		if _, done := g.out[name]; !done {
			g.out[name] = Shape{} // ends a cycle
			g.out[name] = g.shape(g.description.Components.Schemas[name], 0)
		}
		return Shape{Ref: name}
	case len(s.AllOf) == 1 && !s.Nullable:
		return g.shape(s.AllOf[0], depth)
	case len(s.AllOf) > 0:
		return g.shape(s.AllOf[0], depth).orNull(s.Nullable)
	}
	sh := Shape{}
	for _, o := range append(slices.Clone(s.OneOf), s.AnyOf...) {
		sh.OneOf = append(sh.OneOf, g.shape(o, depth+1))
	}
	if len(sh.OneOf) > 0 {
		return sh.orNull(s.Nullable)
	}
	if s.Type != "" {
		sh.Types = []string{s.Type}
	}
	for _, name := range s.Required {
		if sh.Properties == nil {
			sh.Properties = map[string]Shape{}
		}
		sh.Properties[name] = g.shape(s.Properties[name], depth+1)
	}
	if s.Items != nil {
		items := g.shape(s.Items, depth+1)
		sh.Items = &items
	}
	return sh.orNull(s.Nullable)
}

// orNull is sh, or null where nullable.
func (sh Shape) orNull(nullable bool) Shape {
	switch {
	case !nullable:
		return sh
	case len(sh.OneOf) > 0 || sh.Ref != "":
		return Shape{OneOf: []Shape{sh, {Types: []string{"null"}}}}
	default:
		sh.Types = append(sh.Types, "null")
		return sh
	}
}
