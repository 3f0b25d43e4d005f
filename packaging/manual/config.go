package manual

import (
	"fmt"
	"go/ast"
	"go/doc/comment"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
)

// Config is the page of the file that is read into the struct named Config of the package in a directory. Each key has
// what the field's comment says; a struct within it gets a section of its own.
func Config(p Page, dir string) ([]byte, error) {
	return format(p, dir, "Config", "KEYS", "", func(doc string) string { return strings.TrimPrefix(doc, "Config is "+p.Name+". ") })
}

// Lines is the page of a file of JSON objects in lines, each of which is read into the struct of a name. Of the struct's
// own comment nothing is told, but what introduction says.
func Lines(p Page, dir, name, introduction string) ([]byte, error) {
	return format(p, dir, name, "FIELDS", introduction, func(string) string { return "" })
}

func format(p Page, dir, name, heading, introduction string, description func(doc string) string) ([]byte, error) {
	structs, err := parseStructs(dir)
	if err != nil {
		return nil, err
	}
	root, ok := structs[name]
	if !ok {
		return nil, fmt.Errorf("%s has no struct %s", dir, name)
	}
	r := newPage(p)
	r.section("DESCRIPTION")
	r.paragraphs(introduction+description(root.doc), ".PP")
	r.section(heading)
	r.keys(structs, root, "")
	return r.end(p), nil
}

// configStruct is a struct that a part of a file is read into.
type configStruct struct {
	doc    string
	fields []configField
}

type configField struct {
	goName, key, doc string
	kind             string // "string", "list of string", …; of structs, the struct's name
	list             bool
}

// parseStructs reads every struct whose fields have json tags, of the package in dir, tests excepted.
func parseStructs(dir string) (map[string]*configStruct, error) {
	sources, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	structs := map[string]*configStruct{}
	for _, source := range sources {
		if strings.HasSuffix(source, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), source, nil, parser.ParseComments)
		if err != nil {
			return nil, fmt.Errorf("reading the Go source: %w", err)
		}
		for _, decl := range file.Decls {
			if general, ok := decl.(*ast.GenDecl); ok && general.Tok == token.TYPE {
				addStructs(structs, general)
			}
		}
	}
	return structs, nil
}

func addStructs(structs map[string]*configStruct, decl *ast.GenDecl) {
	for _, spec := range decl.Specs {
		named := spec.(*ast.TypeSpec)
		shape, ok := named.Type.(*ast.StructType)
		if !ok {
			continue
		}
		s := &configStruct{doc: text(decl.Doc)}
		for _, field := range shape.Fields.List {
			if field.Tag == nil || len(field.Names) != 1 {
				continue
			}
			key, _, _ := strings.Cut(reflect.StructTag(strings.Trim(field.Tag.Value, "`")).Get("json"), ",")
			f := configField{goName: field.Names[0].Name, key: key, doc: text(field.Doc)}
			if f.doc == "" {
				f.doc = strings.TrimSpace(text(field.Comment))
			}
			f.kind, f.list = kind(field.Type)
			s.fields = append(s.fields, f)
		}
		structs[named.Name.Name] = s
	}
}

// text is a comment as plain text, without links and with code still indented.
func text(group *ast.CommentGroup) string {
	if group == nil {
		return ""
	}
	var p comment.Parser
	printer := comment.Printer{TextWidth: -1, TextCodePrefix: "    "}
	return string(printer.Text(p.Parse(group.Text())))
}

func kind(e ast.Expr) (name string, list bool) {
	switch t := e.(type) {
	case *ast.Ident:
		return t.Name, false
	case *ast.StarExpr:
		return kind(t.X)
	case *ast.ArrayType:
		name, _ = kind(t.Elt)
		return name, true
	case *ast.MapType:
		return "map", false
	case *ast.SelectorExpr:
		return t.Sel.Name, false
	}
	return "", false
}

// keys writes the keys of a struct under prefix, "tls." for one, and then those of the structs within it.
func (r *roff) keys(structs map[string]*configStruct, s *configStruct, prefix string) {
	for _, f := range s.fields {
		if structs[f.kind] == nil {
			doc := inKeys(f.doc, f.goName, f.key, s.fields)
			if doc == "" {
				doc = "See the key before it."
			}
			r.item(prefix+f.key+" ("+describe(f)+")", doc)
		}
	}
	for _, f := range s.fields {
		within := structs[f.kind]
		if within == nil {
			continue
		}
		name := prefix + f.key
		if f.list {
			name += "[]"
		}
		r.subsection(name)
		if f.doc != "" {
			r.paragraphs(inKeys(f.doc, f.goName, f.key, s.fields), ".PP")
		}
		if within.doc != "" {
			subject := f.key
			if f.list {
				subject = "Each"
			}
			if f.doc != "" {
				r.line(".PP")
			}
			r.paragraphs(inKeys(within.doc, f.kind, subject, within.fields), ".PP")
		}
		r.keys(structs, within, name+".")
	}
}

func describe(f configField) string {
	names := map[string]string{"int": "number", "int64": "number", "uint": "number", "uint64": "number", "float64": "number", "bool": "true or false", "Duration": "time span", "string": "text", "Time": "time", "Kind": "text"}
	name := f.kind
	if plain, ok := names[f.kind]; ok {
		name = plain
	}
	if f.list {
		name = "list of " + name
	}
	return name
}

var word = regexp.MustCompile(`[A-Z][A-Za-z]+`)

// inKeys says the names of Go fields in a comment as the keys of the file. A comment begins with the field's name; further
// on, a word counts as a field's where it could be nothing else: it stands in the middle of a sentence or has a capital
// inside, and is no abbreviation and nothing of GitHub's.
func inKeys(doc, goName, key string, siblings []configField) string {
	doc = strings.TrimSpace(doc)
	if rest, ok := strings.CutPrefix(doc, goName+" "); ok {
		doc = key + " " + rest
	}
	keys := map[string]string{}
	for _, f := range siblings {
		abbreviation := f.goName == strings.ToUpper(f.goName) && !strings.Contains(f.key, "_")
		if !abbreviation && f.goName != "GitHub" && f.goName != "Apps" {
			keys[f.goName] = f.key
		}
	}
	var b strings.Builder
	last := 0
	for _, at := range word.FindAllStringIndex(doc, -1) {
		name := doc[at[0]:at[1]]
		before := strings.TrimRight(doc[:at[0]], " \n")
		begins := before == "" || strings.ContainsAny(before[len(before)-1:], ".:")
		if replacement, ok := keys[name]; ok && (!begins || strings.ToLower(name[1:]) != name[1:]) {
			b.WriteString(doc[last:at[0]] + replacement)
			last = at[1]
		}
	}
	return b.String() + doc[last:]
}
