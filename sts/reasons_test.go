package sts

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A refusal's reason is a label of metrics: each is a literal or a constant, but for
// that of an ID token, which is a constant of package idtoken, and what hands one on.
func TestReasonsAreBounded(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	makers := []string{"invalid", "unauthenticated", "denied", "unavailable"}
	reasons := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, declaration := range file.Decls {
			function, _ := declaration.(*ast.FuncDecl)
			if function != nil && (slices.Contains(makers, function.Name.Name) || function.Name.Name == "verify") {
				continue
			}
			ast.Inspect(declaration, func(n ast.Node) bool {
				var reason ast.Expr
				switch n := n.(type) {
				case *ast.CallExpr:
					if maker, ok := n.Fun.(*ast.Ident); ok && slices.Contains(makers, maker.Name) {
						reason = n.Args[0]
					}
				case *ast.CompositeLit:
					if kind, ok := n.Type.(*ast.Ident); ok && kind.Name == "Refusal" {
						reason = fieldOf(n, "Reason")
					}
				}
				if reason == nil {
					return true
				}
				reasons++
				switch reason := reason.(type) {
				case *ast.BasicLit:
				case *ast.Ident:
					if reason.Obj != nil && reason.Obj.Kind != ast.Con {
						t.Errorf("%s: the reason %s is a variable", name, reason.Name)
					}
				default:
					t.Errorf("%s: a reason is an expression", name)
				}
				return true
			})
		}
	}
	if reasons < 20 {
		t.Errorf("only %d reasons were found", reasons)
	}
}

func fieldOf(of *ast.CompositeLit, name string) ast.Expr {
	for _, element := range of.Elts {
		if field, ok := element.(*ast.KeyValueExpr); ok && field.Key.(*ast.Ident).Name == name {
			return field.Value
		}
	}
	return nil
}
