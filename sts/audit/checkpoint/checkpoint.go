package checkpoint

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	// MaxSize is the largest tree size accepted. It is far beyond any log, and below 1<<62, above which tlog's proofs do
	// not come to an end.
	MaxSize = 1 << 60
	// MaxOrigin bounds an origin, in bytes.
	MaxOrigin = 256
	// MaxNote bounds a signed note, in bytes. Sixteen signatures of post-quantum size fit, as signed-note demands.
	MaxNote = 128 << 10
)

// Checkpoint names one state of one log.
type Checkpoint struct {
	Origin string    // the log's name, and the name of the keys that sign for it
	Size   uint64    // number of entries, at most MaxSize
	Root   tlog.Hash // RFC 6962 root hash of the first Size entries
}

// Empty is the checkpoint of a log without entries. Its root is the SHA-256 of nothing (RFC 6962, section 2.1).
func Empty(origin string) Checkpoint {
	return Checkpoint{Origin: origin, Root: sha256.Sum256(nil)}
}

// Text is what is signed: origin, size and base64 root, a line each (c2sp.org/tlog-checkpoint, "Note text").
func (c Checkpoint) Text() string {
	return c.Origin + "\n" + strconv.FormatUint(c.Size, 10) + "\n" + c.Root.String() + "\n"
}

// Check says why c cannot be a checkpoint, nil where it can: whatever it accepts, ParseText reads back from Text.
func (c Checkpoint) Check() error {
	if err := CheckOrigin(c.Origin); err != nil {
		return err
	}
	if c.Size > MaxSize {
		return fmt.Errorf("tree size %d is larger than %d", c.Size, uint64(MaxSize))
	}
	if c.Size == 0 && c != Empty(c.Origin) {
		return fmt.Errorf("the root of an empty tree is %s, not %s", Empty("").Root, c.Root)
	}
	return nil
}

// CheckOrigin says why a text cannot name a log, nil where it can. The rules are those for key names (signed-note,
// "Format"), since the origin is one, and a bound.
func CheckOrigin(origin string) error {
	switch {
	case origin == "":
		return errors.New("the origin is empty")
	case len(origin) > MaxOrigin:
		return fmt.Errorf("the origin has %d bytes, more than %d", len(origin), MaxOrigin)
	case !utf8.ValidString(origin):
		return errors.New("the origin is not UTF-8")
	case strings.ContainsFunc(origin, func(r rune) bool { return r == '+' || unicode.IsSpace(r) || unicode.IsControl(r) }):
		return fmt.Errorf("the origin %q has a space, a plus sign or a control character", origin)
	}
	return nil
}

// ParseText reads the text of a checkpoint, which is exactly what Text gives.
func ParseText(text string) (Checkpoint, error) {
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[3] != "" {
		return Checkpoint{}, errors.New("a checkpoint has three lines, origin, tree size and root hash, and no extension lines")
	}
	size, err := strconv.ParseUint(lines[1], 10, 64)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("the tree size %.40q is not a number", lines[1])
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil {
		return Checkpoint{}, fmt.Errorf("the root hash %.60q is not the base64 of 32 bytes", lines[2])
	}
	c := Checkpoint{Origin: lines[0], Size: size, Root: root}
	if err := c.Check(); err != nil {
		return Checkpoint{}, err
	}
	if c.Text() != text {
		return Checkpoint{}, errors.New("the tree size or the root hash is not written in its one canonical form")
	}
	return c, nil
}

// Parse reads a signed checkpoint strictly, without looking at its signatures: whoever relies on what it says calls Open.
func Parse(signed []byte) (Checkpoint, error) {
	c, _, err := open(signed)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("reading a checkpoint: %w", err)
	}
	return c, nil
}

// Open reads a signed checkpoint and verifies it: at least one of the keys has signed, none of the keys' signatures is
// wrong, and each of those keys bears the name of the checkpoint's origin. Signatures of other keys are ignored
// (signed-note, "Signatures").
func Open(signed []byte, keys ...note.Verifier) (Checkpoint, error) {
	c, signatures, err := open(signed, keys...)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("verifying a checkpoint: %w", err)
	}
	if len(signatures) == 0 {
		return Checkpoint{}, fmt.Errorf("verifying a checkpoint: %s at size %d is signed by none of the %d keys given", c.Origin, c.Size, len(keys))
	}
	for _, s := range signatures {
		if s.Name != c.Origin {
			return Checkpoint{}, fmt.Errorf("verifying a checkpoint: it is for the origin %s, and signed by a key of %s", c.Origin, s.Name)
		}
	}
	return c, nil
}

// open returns the checkpoint and the signatures that verified.
func open(signed []byte, keys ...note.Verifier) (Checkpoint, []note.Signature, error) {
	if len(signed) > MaxNote {
		return Checkpoint{}, nil, fmt.Errorf("it has %d bytes, more than %d", len(signed), MaxNote)
	}
	n, err := note.Open(signed, note.VerifierList(keys...))
	var unverified *note.UnverifiedNoteError
	if errors.As(err, &unverified) {
		n = unverified.Note
	} else if err != nil {
		return Checkpoint{}, nil, err
	}
	all := slices.Concat(n.Sigs, n.UnverifiedSigs)
	for _, s := range all {
		if _, err := base64.StdEncoding.Strict().DecodeString(s.Base64); err != nil {
			return Checkpoint{}, nil, fmt.Errorf("the signature of %s is not in canonical base64", s.Name)
		}
	}
	// note.Open passes over a signature that stands twice, unverified.
	if lines := strings.Count(string(signed[len(n.Text)+1:]), "\n"); lines != len(all) {
		return Checkpoint{}, nil, errors.New("one key's signature stands there twice")
	}
	c, err := ParseText(n.Text)
	return c, n.Sigs, err
}
