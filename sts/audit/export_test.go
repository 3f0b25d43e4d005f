package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func exported(t testing.TB, dirs []string, filter Filter) (all []Exported, result ExportResult) {
	t.Helper()
	var out bytes.Buffer
	result, err := Export(t.Context(), &out, dirs, filter)
	if err != nil {
		t.Fatal(err)
	}
	for d := json.NewDecoder(&out); d.More(); {
		var e Exported
		if err := d.Decode(&e); err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all, result
}

// Each exported line is the log's, byte for byte, and proves itself. What is missing is counted.
func TestExport(t *testing.T) {
	s := newRetainedLog(t, t.TempDir(), 4, 300)
	lines := linesOf(t, s.dir)
	all, result := exported(t, []string{s.dir}, Filter{})
	if diff := cmp.Diff(ExportResult{Exported: 300, Uncovered: 4}, result); diff != "" || len(all) != 300 {
		t.Errorf("%d entries: %s", len(all), diff)
	}
	for i, e := range all {
		if e.Index != uint64(i) || e.Entry != string(lines[i]) {
			t.Fatalf("entry %d is exported as %+v", i, e)
		}
		if _, _, err := CheckProof([]byte(e.Proof), []byte(e.Entry), s.signer.verify); err != nil {
			t.Fatal(err)
		}
	}
	one, result := exported(t, []string{s.dir}, Filter{RequestID: "request 7"})
	if len(one) != 1 || one[0].Index != 7 || result.Exported != 1 || result.Uncovered != 0 {
		t.Errorf("%+v, %+v", one, result)
	}

	away := t.TempDir()
	moveSegments(t, s.dir, away, segmentNames(t, s.dir)[:2]...)
	first := firstOf(segmentNames(t, s.dir)[0])
	if rest, result := exported(t, []string{s.dir}, Filter{}); uint64(len(rest)) != 300-first || result.Absent != first {
		t.Errorf("%d entries of segments that are there: %+v", len(rest), result)
	}
	if again, result := exported(t, []string{s.dir, away}, Filter{}); len(again) != 300 || result.Absent != 0 {
		t.Errorf("%d entries with the archive: %+v", len(again), result)
	}
}

// A line that is not what was signed is not exported.
func TestExportRefusesAnAlteredLine(t *testing.T) {
	s := newRetainedLog(t, t.TempDir(), 0, 300)
	name := segmentNames(t, s.dir)[1]
	edit(t, s.dir, name, swapText(fmt.Sprint("request ", firstOf(name)), "request x"))
	var out bytes.Buffer
	_, err := Export(t.Context(), &out, []string{s.dir}, Filter{})
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("entry %d: the log does not agree", firstOf(name))) {
		t.Errorf("%v", err)
	}
	if n := bytes.Count(out.Bytes(), []byte{'\n'}); n != int(firstOf(name)) {
		t.Errorf("%d lines were exported before entry %d", n, firstOf(name))
	}
	if _, err := Export(t.Context(), &out, []string{filepath.Join(s.dir, "nowhere")}, Filter{}); err == nil {
		t.Error("a directory that is not there was exported")
	}
}
