package main

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A log's files may claim any size, so the bar takes any numbers.
func TestProgressBarTakesAnyNumbers(t *testing.T) {
	tests := []struct {
		done, total int64
		want        string
	}{
		{5e6, 10e6, " 50%  5 of 10 MB"},
		{10e6, 10e6, "100%"},
		{11e6, 10e6, "100%"},
		{math.MaxInt64 / 2, math.MaxInt64, " 50%"},
		{math.MaxInt64, math.MaxInt64, "100%"},
		{1, math.MinInt64, ""},
		{1, 0, ""},
		{-1, 10, "  0%"},
	}
	for _, test := range tests {
		out, err := os.Create(filepath.Join(t.TempDir(), "terminal"))
		if err != nil {
			t.Fatal(err)
		}
		(&progressBar{out: out}).show(test.done, test.total)
		got, err := os.ReadFile(out.Name())
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(got), test.want) || test.want == "" && len(got) > 0 {
			t.Errorf("%d of %d: %q, want %q", test.done, test.total, got, test.want)
		}
	}
}
