package checkpoint

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const origin = "sts.example.com/audit"

// The example of c2sp.org/tlog-checkpoint.
const sofa = `example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
`

func newKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// bothKinds returns one key of each kind that a log can sign with.
func bothKinds(t testing.TB) map[string]crypto.Signer {
	t.Helper()
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]crypto.Signer{"Ed25519": newKey(t), "ECDSA": p256}
}

func verifierOf(t testing.TB, name string, key crypto.Signer) note.Verifier {
	t.Helper()
	vkey, err := EncodeKey(name, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	v, err := ParseKey(vkey)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func signed(t testing.TB, c Checkpoint, key crypto.Signer) string {
	t.Helper()
	data, err := Sign(c, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func some(size uint64) Checkpoint {
	return Checkpoint{Origin: origin, Size: size, Root: tlog.RecordHash(fmt.Append(nil, size))}
}

func TestParse(t *testing.T) {
	got, err := Parse([]byte(sofa))
	if err != nil || got.Origin != "example.com/behind-the-sofa" || got.Size != 20852163 || got.Root.String() != "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=" {
		t.Errorf("%+v, %v", got, err)
	}
	const (
		root  = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
		tail  = "\n— a NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n"
		other = "\n— b NnugSzTjtVAewIS+\n"
	)
	for name, text := range map[string]string{
		"a first state":         "a\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n" + tail,
		"a size of 2 to the 60": "a\n1152921504606846976\n" + root + tail,
		"a cosignature":         "a\n1\n" + root + tail + other[1:],
		"only another's name":   "a\n1\n" + root + other,
	} {
		if _, err := Parse([]byte(text)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, text := range map[string]string{
		"nothing":                   "",
		"no signature":              "a\n1\n" + root,
		"an empty signature block":  "a\n1\n" + root + "\n",
		"no blank line":             "a\n1\n" + root + tail[1:],
		"a cut-off end":             strings.TrimSuffix(sofa, "\n"),
		"something after it":        sofa + "x",
		"an empty origin":           "\n1\n" + root + tail,
		"an origin with a space":    "a b\n1\n" + root + tail,
		"an origin with a plus":     "a+b\n1\n" + root + tail,
		"an origin of 257 bytes":    strings.Repeat("a", 257) + "\n1\n" + root + tail,
		"an origin of bad UTF-8":    "a\xff\n1\n" + root + tail,
		"an origin with a NUL":      "a\x00\n1\n" + root + tail,
		"an origin with a DEL":      "a\x7f\n1\n" + root + tail,
		"CRLF":                      strings.ReplaceAll(sofa, "\n", "\r\n"),
		"two lines":                 "a\n1\n" + tail,
		"an extension line":         "a\n1\n" + root + "more\n" + tail,
		"an empty extension line":   "a\n1\n" + root + "\nmore\n" + tail,
		"a leading zero":            "a\n01\n" + root + tail,
		"a plus before the size":    "a\n+1\n" + root + tail,
		"a negative size":           "a\n-1\n" + root + tail,
		"a hexadecimal size":        "a\n0x1\n" + root + tail,
		"a size too large":          "a\n1152921504606846977\n" + root + tail,
		"a size beyond int64":       "a\n9223372036854775808\n" + root + tail,
		"a size beyond uint64":      "a\n18446744073709551616\n" + root + tail,
		"size 0 with a root":        "a\n0\n" + root + tail,
		"a short root":              "a\n1\nAAAA\n" + tail,
		"a root without padding":    "a\n1\n" + strings.ReplaceAll(root, "=", "") + tail,
		"a root, not canonical":     "a\n1\n" + strings.ReplaceAll(root, "I=", "J=") + tail,
		"a signature, not base64":   "a\n1\n" + root + "\n— a ????????\n",
		"a signature not canonical": "a\n1\n" + root + strings.ReplaceAll(tail, "c=", "d="),
		"a signature twice":         "a\n1\n" + root + tail + tail[1:],
		"too long":                  "a\n1\n" + root + tail + "— b " + strings.Repeat("AAAA", MaxNote/4) + "\n",
	} {
		if c, err := Parse([]byte(text)); err == nil {
			t.Errorf("%s: parsed as %+v", name, c)
		}
	}
}

func TestSignAndOpen(t *testing.T) {
	for kind, key := range bothKinds(t) {
		t.Run(kind, func(t *testing.T) {
			own, stranger := verifierOf(t, origin, key), verifierOf(t, origin, newKey(t))
			for _, c := range []Checkpoint{Empty(origin), some(1), some(MaxSize)} {
				text := signed(t, c, key)
				if got, err := Open([]byte(text), stranger, own); err != nil || got != c {
					t.Errorf("size %d: %+v, %v", c.Size, got, err)
				}
				if _, err := Open([]byte(text), stranger); err == nil || !strings.Contains(err.Error(), "signed by none of the 1 keys") {
					t.Errorf("a stranger's key: %v", err)
				}
				if _, err := Open([]byte(text)); err == nil {
					t.Error("opened without a key")
				}
			}
			elsewhere := Checkpoint{Origin: "elsewhere", Size: 1}
			n := &note.Note{Text: elsewhere.Text()}
			v := own.(*verifier)
			text, err := note.Sign(n, signing{v, key})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Open(text, own); err == nil || !strings.Contains(err.Error(), "for the origin elsewhere") {
				t.Errorf("another origin's checkpoint under our key: %v", err)
			}
		})
	}
}

// No byte of a signed checkpoint can change without notice.
func TestEveryFlipIsFound(t *testing.T) {
	for kind, key := range bothKinds(t) {
		own := verifierOf(t, origin, key)
		text := signed(t, some(77), key)
		for i := range text {
			for bit := range 8 {
				flipped := []byte(text)
				flipped[i] ^= 1 << bit
				if c, err := Open(flipped, own); err == nil {
					t.Errorf("%s: opened with bit %d of byte %d flipped: %+v\n%s", kind, bit, i, c, flipped)
				}
			}
		}
		line := text[strings.Index(text, "—"):]
		if _, err := Open([]byte(text+line), own); err == nil {
			t.Errorf("%s: opened with its signature twice", kind)
		}
	}
}

// What golang.org/x/mod signs we open, what we sign it opens, and verifier keys are the same.
func TestSameAsXMod(t *testing.T) {
	skey, vkey, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := note.Sign(&note.Note{Text: some(5).Text()}, signer)
	if err != nil {
		t.Fatal(err)
	}
	own, err := ParseKey(vkey)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Open(theirs, own); err != nil || got != some(5) {
		t.Errorf("%+v, %v", got, err)
	}

	key := newKey(t)
	ours, err := EncodeKey(origin, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	if want, err := note.NewEd25519VerifierKey(origin, key.Public().(ed25519.PublicKey)); ours != want {
		t.Errorf("verifier key %s, x/mod has %s (%v)", ours, want, err)
	}
	verifier, err := note.NewVerifier(ours)
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open([]byte(signed(t, some(6), key)), note.VerifierList(verifier))
	if err != nil || n.Text != some(6).Text() {
		t.Errorf("%+v, %v", n, err)
	}
}

// faulty is a key whose signatures are not what they should be.
type faulty struct {
	ed25519.PrivateKey
	err error
}

func (f faulty) Sign(random io.Reader, text []byte, options crypto.SignerOpts) ([]byte, error) {
	if f.err != nil {
		return nil, f.err
	}
	signature, err := f.PrivateKey.Sign(random, text, options)
	signature[3] ^= 1
	return signature, err
}

// messages is a key that insists on the text, as some HSMs do that hash it themselves.
type messages struct{ *ecdsa.PrivateKey }

func (messages) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("wants the message")
}

func (m messages) SignMessage(random io.Reader, text []byte, options crypto.SignerOpts) ([]byte, error) {
	h := options.HashFunc().New()
	h.Write(text)
	return m.PrivateKey.Sign(random, h.Sum(nil), options)
}

func TestSignRefuses(t *testing.T) {
	gone := errors.New("device removed")
	if _, err := Sign(some(1), faulty{newKey(t), gone}); !errors.Is(err, gone) {
		t.Errorf("a key that fails: %v", err)
	}
	if text, err := Sign(some(1), faulty{newKey(t), nil}); err == nil || !strings.Contains(err.Error(), "does not verify") {
		t.Errorf("a wrong signature left: %s, %v", text, err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Sign(some(1), p384); err == nil {
		t.Error("signed with a P-384 key")
	}
	for name, c := range map[string]Checkpoint{
		"a newline in the origin": {Origin: origin + "\n5", Size: 1},
		"no origin":               {Size: 1},
		"a size too large":        {Origin: origin, Size: MaxSize + 1},
		"size 0 with a root":      {Origin: origin, Root: tlog.RecordHash(nil)},
	} {
		if text, err := Sign(c, newKey(t)); err == nil {
			t.Errorf("%s: signed %q", name, text)
		}
	}
	ec := bothKinds(t)["ECDSA"].(*ecdsa.PrivateKey)
	if _, err := Open([]byte(signed(t, some(1), messages{ec})), verifierOf(t, origin, ec)); err != nil {
		t.Errorf("a key that hashes by itself: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(sofa))
	f.Add([]byte("a\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n— a NnugSzTj\n— b NnugSzTj\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(data)
		if err != nil {
			return
		}
		if !strings.HasPrefix(string(data), c.Text()+"\n— ") {
			t.Errorf("%q was parsed as %+v", data, c)
		}
		if _, err := note.Open(data, nil); !errors.As(err, new(*note.UnverifiedNoteError)) {
			t.Errorf("x/mod does not take %q: %v", data, err)
		}
	})
}
