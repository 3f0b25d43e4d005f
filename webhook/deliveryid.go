package webhook

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
)

// deliveryID is the GUID that GitHub gives an event, and keeps when it delivers
// that again.
type deliveryID [16]byte

var errDeliveryID = errors.New("X-GitHub-Delivery is not a GUID")

// parseDeliveryID reads a GUID in its canonical form, in either case.
func parseDeliveryID(s string) (id deliveryID, err error) {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return id, errDeliveryID
	}
	digits := s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:]
	if _, err := hex.Decode(id[:], []byte(digits)); err != nil {
		return deliveryID{}, errDeliveryID
	}
	return id, nil
}

// String gives the canonical form, in lower case.
func (id deliveryID) String() string {
	x := hex.EncodeToString(id[:])
	return x[:8] + "-" + x[8:12] + "-" + x[12:16] + "-" + x[16:20] + "-" + x[20:]
}

// MarshalText makes it a string in JSON.
func (id deliveryID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (id *deliveryID) UnmarshalText(text []byte) (err error) {
	*id, err = parseDeliveryID(string(text))
	return err
}

// deliveryKey is what is done once: GitHub gives an event the same GUID for each
// of the Apps that it delivers it to.
type deliveryKey struct {
	appID int64
	id    deliveryID
}

// bytes is the key on disk: the App's ID, 8 bytes big-endian, and the GUID's 16.
func (k deliveryKey) bytes() []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(k.appID)), k.id[:]...)
}
