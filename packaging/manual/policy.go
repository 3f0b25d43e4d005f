package manual

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// schema is as much of a JSON Schema as the pages of policy files tell.
type schema struct {
	Title       string            `json:"title"`
	Description string            `json:"description"`
	Ref         string            `json:"$ref"`
	Enum        []string          `json:"enum"`
	Properties  map[string]schema `json:"properties"`
	Defs        map[string]schema `json:"$defs"`
}

// Policy is the page of the files that are kept in repositories, from their JSON Schemas.
func Policy(p Page, introduction string, schemas ...[]byte) ([]byte, error) {
	r := newPage(p)
	r.section("DESCRIPTION")
	r.paragraphs(introduction, ".PP")
	permissions := map[string]string{}
	for _, text := range schemas {
		var s schema
		if err := json.Unmarshal(text, &s); err != nil {
			return nil, fmt.Errorf("reading a schema: %w", err)
		}
		r.section(strings.ToUpper(s.Title))
		r.paragraphs(s.Description, ".PP")
		for _, key := range slices.Sorted(maps.Keys(s.Properties)) {
			property := s.Properties[key]
			description := property.Description
			if name, ok := strings.CutPrefix(property.Ref, "#/$defs/"); ok {
				description = s.Defs[name].Description
			}
			r.item(key, description)
			for name, levels := range property.Properties {
				permissions[name] = strings.Join(levels.Enum, " or ")
			}
		}
	}
	r.section("PERMISSIONS")
	r.paragraphs("GitHub's names, and the levels that each has. The appliance's operator can add to them.", ".PP")
	for _, name := range slices.Sorted(maps.Keys(permissions)) {
		r.item(name, permissions[name])
	}
	return r.end(p), nil
}
