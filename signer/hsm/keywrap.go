package hsm

import (
	"crypto/aes"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
)

// wrapWithPadding is AES Key Wrap with Padding (RFC 5649, which is KWP of NIST SP 800-38F) of plain under kek, a key of 16,
// 24 or 32 bytes.
func wrapWithPadding(kek, plain []byte) ([]byte, error) {
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, fmt.Errorf("wrapping a key: %w", err)
	}
	// Section 3: the alternative initial value holds the length, and zeros fill up the last 64 bits.
	padded := (len(plain) + 7) / 8 * 8
	out := make([]byte, 8+padded)
	binary.BigEndian.PutUint32(out, 0xA65959A6)
	binary.BigEndian.PutUint32(out[4:], uint32(len(plain)))
	copy(out[8:], plain)
	if padded == 8 {
		block.Encrypt(out, out)
		return out, nil
	}
	// RFC 3394, section 2.2.1, with that value in the place of A.
	var buffer [aes.BlockSize]byte
	a := buffer[:8]
	copy(a, out)
	blocks := padded / 8
	for j := range 6 {
		for i := 1; i <= blocks; i++ {
			r := out[8*i : 8*i+8]
			copy(buffer[8:], r)
			block.Encrypt(buffer[:], buffer[:])
			copy(r, buffer[8:])
			var step [8]byte
			binary.BigEndian.PutUint64(step[:], uint64(blocks*j+i))
			subtle.XORBytes(a, a, step[:])
		}
	}
	copy(out, a)
	return out, nil
}
