package githubapp

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Every call says which it is, and Operations lists just those: they are labels of
// metrics.
func TestOperations(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), f.Name(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CompositeLit:
				if kind, ok := n.Type.(*ast.Ident); ok && kind.Name == "call" {
					noteOperation(t, f.Name(), n, found)
				}
			case *ast.CallExpr: // a check run's calls
				if method, ok := n.Fun.(*ast.SelectorExpr); ok && method.Sel.Name == "call" {
					found[literal(n.Args[1])] = true
				}
			}
			return true
		})
	}
	delete(found, "") // handed on
	for name := range found {
		if !slices.Contains(Operations(), name) {
			t.Errorf("operation %q is not among Operations", name)
		}
	}
	for _, name := range Operations() {
		if !found[name] {
			t.Errorf("no call is of operation %q", name)
		}
	}
}

func noteOperation(t *testing.T, file string, of *ast.CompositeLit, found map[string]bool) {
	for _, element := range of.Elts {
		field, ok := element.(*ast.KeyValueExpr)
		if ok && field.Key.(*ast.Ident).Name == "operation" {
			found[literal(field.Value)] = true
			return
		}
	}
	t.Errorf("%s: a call without an operation", file)
}

func literal(e ast.Expr) string {
	if l, ok := e.(*ast.BasicLit); ok {
		text, _ := strconv.Unquote(l.Value)
		return text
	}
	return ""
}
