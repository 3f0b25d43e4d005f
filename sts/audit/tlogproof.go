package audit

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/octo-sts/appliance/sts/audit/checkpoint"
)

const (
	// proofHeader is the first line of a proof (c2sp.org/tlog-proof, "Format").
	proofHeader = "c2sp.org/tlog-proof@v1"
	// maxProofText bounds a proof that is read: the largest checkpoint, and as much again for what comes before it.
	// The proofs of Prove have less than 5 KiB.
	maxProofText = 2 * checkpoint.MaxNote
)

// inclusionProof is a c2sp.org/tlog-proof: that a line is entry index of the log whose signed checkpoint it carries.
type inclusionProof struct {
	index  uint64
	hashes tlog.RecordProof // from the leaf's sibling up (RFC 6962, section 2.1.1)
	signed []byte           // the checkpoint, verbatim
}

// encode writes the proof.
func (p inclusionProof) encode() []byte {
	text := fmt.Appendf(nil, "%s\nindex %d\n", proofHeader, p.index)
	for _, h := range p.hashes {
		text = append(text, h.String()...)
		text = append(text, '\n')
	}
	text = append(text, '\n')
	return append(text, p.signed...)
}

// parseProof reads a proof, by whatever tool it was made. Extra data is passed over: nothing authenticates it.
func parseProof(text []byte) (inclusionProof, error) {
	var p inclusionProof
	if len(text) > maxProofText {
		return p, fmt.Errorf("it has %d bytes, more than %d", len(text), maxProofText)
	}
	head, signed, found := bytes.Cut(text, []byte("\n\n"))
	if !found {
		return p, errors.New("no empty line comes before a checkpoint")
	}
	p.signed = signed
	lines := strings.Split(string(head), "\n")
	if lines[0] != proofHeader {
		return p, fmt.Errorf("the first line is not %s", proofHeader)
	}
	lines = lines[1:]
	if len(lines) > 0 && strings.HasPrefix(lines[0], "extra ") {
		if _, err := base64.StdEncoding.Strict().DecodeString(strings.TrimPrefix(lines[0], "extra ")); err != nil {
			return p, errors.New("the extra data is not base64")
		}
		lines = lines[1:]
	}
	if len(lines) == 0 {
		return p, errors.New(`no line says "index N"`)
	}
	digits, isIndex := strings.CutPrefix(lines[0], "index ")
	index, err := strconv.ParseUint(digits, 10, 64)
	if !isIndex || err != nil || strconv.FormatUint(index, 10) != digits || index >= checkpoint.MaxSize {
		return p, fmt.Errorf(`the line %.40q is not "index N"`, lines[0])
	}
	p.index = index
	if lines = lines[1:]; len(lines) > checkpoint.MaxProof {
		return p, fmt.Errorf("it has %d hashes, more than %d", len(lines), checkpoint.MaxProof)
	}
	for _, line := range lines {
		h, err := tlog.ParseHash(line)
		if err != nil || h.String() != line {
			return p, fmt.Errorf("%.60q is not the base64 of 32 bytes", line)
		}
		p.hashes = append(p.hashes, h)
	}
	return p, nil
}

// CheckProof tells whether proof, a c2sp.org/tlog-proof, shows that line is an entry of the log whose keys are given: that
// one of them signed the proof's checkpoint, and that the checkpoint covers the line at the index that it returns. The
// line may end with its newline. No key at all is an error.
func CheckProof(proof, line []byte, keys ...note.Verifier) (index uint64, c checkpoint.Checkpoint, err error) {
	p, err := parseProof(proof)
	if err != nil {
		return 0, c, fmt.Errorf("reading the proof: %w", err)
	}
	if c, err = checkpoint.Open(p.signed, keys...); err != nil {
		return 0, c, fmt.Errorf("checking the proof: %w", err)
	}
	leaf := tlog.RecordHash(bytes.TrimSuffix(line, []byte{'\n'}))
	if err := tlog.CheckRecord(p.hashes, int64(c.Size), c.Root, int64(p.index), leaf); err != nil {
		return 0, c, fmt.Errorf("checking the proof: it does not show that this line is entry %d of %s: the line, the index or the proof was changed", p.index, c.Origin)
	}
	return p.index, c, nil
}
