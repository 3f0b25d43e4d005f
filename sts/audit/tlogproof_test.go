package audit

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/octo-sts/appliance/sts/audit/checkpoint"
)

// linesOf returns all lines of a log, without their newlines.
func linesOf(t testing.TB, dir string) [][]byte {
	t.Helper()
	var lines [][]byte
	for r, err := range Read(dir) {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, r.Line)
	}
	return lines
}

// Every entry that is covered has a proof, of its line alone, and the proof is small.
func TestProve(t *testing.T) {
	s := newRetainedLog(t, t.TempDir(), 3, 600)
	lines := linesOf(t, s.dir)
	for i := range uint64(600) {
		proof, err := Prove(t.Context(), []string{s.dir}, i)
		if err != nil {
			t.Fatal(err)
		}
		if len(proof) > 5<<10 {
			t.Errorf("the proof of entry %d has %d bytes", i, len(proof))
		}
		index, c, err := CheckProof(proof, lines[i], s.signer.verify)
		if err != nil || index != i || c.Size != 600 {
			t.Fatalf("entry %d: %d, %+v, %v", i, index, c, err)
		}
		if _, _, err := CheckProof(proof, lines[i^1], s.signer.verify); err == nil {
			t.Errorf("the proof of entry %d proves another line", i)
		}
		if _, _, err := CheckProof(proof, append(lines[i], '\n'), s.signer.verify); err != nil {
			t.Errorf("with a newline: %v", err)
		}
	}
	var uncovered *UncoveredError
	if _, err := Prove(t.Context(), []string{s.dir}, 600); !errors.As(err, &uncovered) || uncovered.Covered != 600 {
		t.Errorf("an entry that is not covered: %v", err)
	}
	if err := os.Remove(filepath.Join(s.dir, checkpointName)); err != nil {
		t.Fatal(err)
	}
	if _, err := Prove(t.Context(), []string{s.dir}, 0); !errors.As(err, &uncovered) || uncovered.Covered != 0 {
		t.Errorf("no checkpoint: %v", err)
	}
}

// A proof comes from the tiles where segments were moved away, and is none where the log is not what was signed.
func TestProveFromTiles(t *testing.T) {
	s := newRetainedLog(t, t.TempDir(), 3, 600)
	lines := linesOf(t, s.dir)
	away := t.TempDir()
	moveSegments(t, s.dir, away, segmentNames(t, s.dir)[:5]...)
	for _, dirs := range [][]string{{s.dir}, {s.dir, away}} {
		proof, err := Prove(t.Context(), dirs, 7)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := CheckProof(proof, lines[7], s.signer.verify); err != nil {
			t.Error(err)
		}
	}
	path := (&tileStore{dir: s.dir}).path(0, 0, tileWidth)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[0] ^= 1
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Prove(t.Context(), []string{s.dir}, 7); err == nil || !strings.Contains(err.Error(), "octo-sts audit verify says where") {
		t.Errorf("a damaged tile: %v", err)
	}
}

// What tlog proves and x/mod signs, as other C2SP tools do, is checked likewise, with extra data and cosignatures.
func TestCheckForeignProof(t *testing.T) {
	reference := new(referenceTree)
	for _, line := range []string{"one", "two", "three", "four", "five"} {
		reference.add(t, tlog.RecordHash([]byte(line)))
	}
	var signers []note.Signer
	var keys []string
	for _, name := range []string{"example.com/log", "witness.example"} {
		skey, vkey, err := note.GenerateKey(rand.Reader, name)
		if err != nil {
			t.Fatal(err)
		}
		signer, err := note.NewSigner(skey)
		if err != nil {
			t.Fatal(err)
		}
		signers, keys = append(signers, signer), append(keys, vkey)
	}
	c := checkpoint.Checkpoint{Origin: "example.com/log", Size: 5, Root: rootOf(t, 5, reference)}
	signed, err := note.Sign(&note.Note{Text: c.Text()}, signers...)
	if err != nil {
		t.Fatal(err)
	}
	hashes, err := tlog.ProveRecord(5, 2, reference)
	if err != nil {
		t.Fatal(err)
	}
	text := "c2sp.org/tlog-proof@v1\nextra ZXh0cmE=\nindex 2\n"
	for _, h := range hashes {
		text += h.String() + "\n"
	}
	text += "\n" + string(signed)
	key, err := checkpoint.ParseKey(keys[0])
	if err != nil {
		t.Fatal(err)
	}
	if index, got, err := CheckProof([]byte(text), []byte("three"), key); err != nil || index != 2 || got != c {
		t.Errorf("%d, %+v, %v", index, got, err)
	}
	if _, _, err := CheckProof([]byte(text), []byte("three")); err == nil {
		t.Error("checked without a key")
	}
	witness, err := checkpoint.ParseKey(keys[1])
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := CheckProof([]byte(text), []byte("three"), witness); err == nil {
		t.Error("a witness's key passed for the log's")
	}
}

const proofSample = `c2sp.org/tlog-proof@v1
extra ZXh0cmE=
index 2
gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=

example.com/log
3
sFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08=

— example.com/log AAAAAAAA
`

func TestParseProof(t *testing.T) {
	p, err := parseProof([]byte(proofSample))
	if err != nil || p.index != 2 || len(p.hashes) != 1 || !bytes.HasPrefix(p.signed, []byte("example.com/log\n3\n")) {
		t.Errorf("%+v, %v", p, err)
	}
	replace := func(old, new string) string { return strings.Replace(proofSample, old, new, 1) }
	for name, text := range map[string]string{
		"no extra data": replace("extra ZXh0cmE=\n", ""),
		"no hashes":     replace("gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=\n", ""),
		"empty extra":   replace("ZXh0cmE=", ""), // some tools write it
		"index 0":       replace("index 2", "index 0"),
		"sixty-four hashes": replace("gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=\n",
			strings.Repeat("gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=\n", 64)),
	} {
		if _, err := parseProof([]byte(text)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, text := range map[string]string{
		"nothing":             "",
		"another version":     replace("@v1", "@v2"),
		"CRLF":                strings.ReplaceAll(proofSample, "\n", "\r\n"),
		"an empty line first": "\n" + proofSample,
		"extra after index":   replace("extra ZXh0cmE=\nindex 2\n", "index 2\nextra ZXh0cmE=\n"),
		"extra twice":         replace("extra ZXh0cmE=\n", "extra ZXh0cmE=\nextra ZXh0cmE=\n"),
		"extra, not base64":   replace("ZXh0cmE=", "ZXh0cmF="),
		"no index":            replace("index 2\n", ""),
		"a leading zero":      replace("index 2", "index 02"),
		"a sign":              replace("index 2", "index +2"),
		"negative":            replace("index 2", "index -2"),
		"too large":           replace("index 2", "index 9223372036854775808"),
		"two spaces":          replace("index 2", "index  2"),
		"a short hash":        replace("PlQ=", ""),
		"not canonical":       replace("PlQ=", "PlR="),
		"spaces about":        replace("PlQ=", "PlQ= "),
		"65 hashes": replace("gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=\n",
			strings.Repeat("gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=\n", 65)),
		"no checkpoint": proofSample[:strings.Index(proofSample, "\n\n")+1],
		"too long":      proofSample + strings.Repeat("x", maxProofText),
	} {
		if p, err := parseProof([]byte(text)); err == nil {
			t.Errorf("%s: parsed as %+v", name, p)
		}
	}
}

// What parses is written the same way again, but for extra data; and no proof is accepted that is not signed.
func FuzzParseProof(f *testing.F) {
	f.Add([]byte(proofSample))
	f.Add([]byte(strings.Replace(proofSample, "extra ZXh0cmE=\n", "", 1)))
	f.Add([]byte("c2sp.org/tlog-proof@v1\nindex 0\n\nlog\n1\nsFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08=\n\n— log AAAAAAAA\n"))
	stranger := newTestSigner(f).verify
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := parseProof(text)
		if _, _, err := CheckProof(text, []byte("line"), stranger); err == nil {
			t.Error("accepted without a signature")
		}
		if err != nil {
			return
		}
		if !bytes.Contains(text, []byte("\nextra ")) && !bytes.Equal(p.encode(), text) {
			t.Errorf("%q is written as %q", text, p.encode())
		}
		again, err := parseProof(p.encode())
		if err != nil || again.index != p.index || len(again.hashes) != len(p.hashes) {
			t.Errorf("%q: %v", p.encode(), err)
		}
	})
}
