package signer

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxURI bounds a PKCS#11 URI, in bytes. All attributes that name a token, each of full length and percent-encoded
// throughout, have some 900.
const maxURI = 2048

// URI describes the tokens that it matches, as RFC 7512 has it. The zero URI matches every token.
type URI struct {
	attributes map[string]string // name to value, decoded, without padding
}

// TokenDescription is what a module says of a token, of its slot and of itself (CK_TOKEN_INFO, CK_SLOT_INFO and CK_INFO
// of PKCS #11), each string without the padding that its field has there.
type TokenDescription struct {
	Label, Manufacturer, Model, Serial      string // CK_TOKEN_INFO
	SlotID                                  uint
	SlotDescription, SlotManufacturer       string // CK_SLOT_INFO
	LibraryDescription, LibraryManufacturer string // CK_INFO
	LibraryVersion                          string // CK_INFO.libraryVersion, for example "2.6"
}

// uriFields lists the path attributes that say something of a token, and the length in bytes of the field that each is
// compared with: a longer value can match nothing. 0: the attribute has a form of its own.
var uriFields = map[string]int{
	"token": 32, "manufacturer": 32, "model": 16, "serial": 16,
	"slot-id": 0, "slot-description": 64, "slot-manufacturer": 32,
	"library-description": 32, "library-manufacturer": 32, "library-version": 0,
}

// uriRefused lists the other attributes of RFC 7512, section 2.3, and why they have no place here.
var uriRefused = map[string]string{
	"object":      "it names a key, and keys are named by their labels under apps and checkpoint",
	"type":        "it names a key, and keys are named by their labels under apps and checkpoint",
	"id":          "it names a key, and keys are named by their labels under apps and checkpoint",
	"pin-value":   "a PIN does not belong into a configuration; pin_credential names it (and this one should be changed now)",
	"pin-source":  "pin_credential names the PIN",
	"module-name": "module says which library is loaded",
}

// ParseURI reads a PKCS#11 URI (RFC 7512) that describes a token of the library at the path module. Attributes that describe
// something else than a token are refused, so is module-path where it is not module, and so is what the RFC does not
// name: a consumer that ignored it would take a wider choice of tokens than was meant. Errors contain no value of a query
// attribute, since one of those is the PIN.
func ParseURI(text, module string) (URI, error) {
	if len(text) > maxURI {
		return URI{}, fmt.Errorf("a PKCS#11 URI has at most %d bytes here, this one has %d", maxURI, len(text))
	}
	// RFC 3986, section 3.1: a scheme is the same in any case. The names of attributes are not.
	const scheme = "pkcs11:"
	if len(text) < len(scheme) || !strings.EqualFold(text[:len(scheme)], scheme) {
		return URI{}, errors.New("a PKCS#11 URI begins with " + scheme)
	}
	path, query, hasQuery := strings.Cut(text[len(scheme):], "?")
	if path == "" {
		return URI{}, errors.New("the PKCS#11 URI names nothing, so it would match every token")
	}
	u := URI{attributes: map[string]string{}}
	for attribute := range strings.SplitSeq(path, ";") {
		name, value, err := u.pathAttribute(attribute)
		if err != nil {
			return URI{}, err
		}
		u.attributes[name] = value
	}
	if hasQuery {
		if err := checkURIQuery(query, module); err != nil {
			return URI{}, err
		}
	}
	return u, nil
}

func (u URI) pathAttribute(attribute string) (name, value string, err error) {
	name, encoded, found := strings.Cut(attribute, "=")
	if !found {
		return "", "", errors.New("an attribute of the PKCS#11 URI has no value: it is made of name=value pairs with ; between them")
	}
	size, known := uriFields[name]
	_, twice := u.attributes[name]
	switch {
	case uriRefused[name] != "":
		return "", "", fmt.Errorf("the PKCS#11 URI must not have the attribute %s: %s", name, uriRefused[name])
	case name == "module-path":
		return "", "", errors.New("module-path comes after a ? in a PKCS#11 URI")
	case !known:
		return "", "", fmt.Errorf("the PKCS#11 URI has an attribute %q, which RFC 7512 does not name (names are in lower case)", name)
	case twice: // section 2.3 forbids it
		return "", "", fmt.Errorf("the PKCS#11 URI has the attribute %s twice", name)
	}
	value, err = decodeURIValue(encoded, "&")
	if err != nil {
		return "", "", fmt.Errorf("attribute %s of the PKCS#11 URI: %w", name, err)
	}
	switch name {
	case "slot-id":
		value, err = canonicalSlotID(value)
	case "library-version":
		value, err = canonicalVersion(value)
	default:
		// The field is padded with blanks, so that those at the end of a value say nothing (PKCS #11 v2.40, section 3).
		value = strings.TrimRight(value, " ")
		if len(value) > size {
			err = fmt.Errorf("it has %d bytes, and the field of PKCS #11 that it is compared with has %d", len(value), size)
		}
	}
	if err != nil {
		return "", "", fmt.Errorf("attribute %s of the PKCS#11 URI: %w", name, err)
	}
	return name, value, nil
}

func checkURIQuery(query, module string) error {
	for attribute := range strings.SplitSeq(query, "&") {
		name, encoded, found := strings.Cut(attribute, "=")
		switch {
		case !found:
			return errors.New("an attribute after the ? of the PKCS#11 URI has no value")
		case uriRefused[name] != "":
			return fmt.Errorf("the PKCS#11 URI must not have the attribute %s: %s", name, uriRefused[name])
		case name != "module-path":
			return errors.New("after its ? the PKCS#11 URI has an attribute other than module-path")
		}
		path, err := decodeURIValue(encoded, "/?|")
		if err != nil {
			return fmt.Errorf("attribute module-path of the PKCS#11 URI: %w", err)
		}
		if path != module {
			return errors.New("module-path of the PKCS#11 URI is not the same as module; leave it out")
		}
	}
	return nil
}

// decodeURIValue undoes the percent-encoding of a value that may hold, beside what every value may, the characters also
// (RFC 7512, section 2.3, pk11-pchar and pk11-qchar).
func decodeURIValue(encoded, also string) (string, error) {
	var value strings.Builder
	for i := 0; i < len(encoded); i++ {
		c := encoded[i]
		switch {
		case c == '%':
			if i+2 >= len(encoded) {
				return "", errors.New("% is not followed by two hexadecimal digits")
			}
			octet, err := strconv.ParseUint(encoded[i+1:i+3], 16, 8)
			if err != nil {
				return "", errors.New("% is not followed by two hexadecimal digits")
			}
			value.WriteByte(byte(octet))
			i += 2
		case unreserved(c), strings.IndexByte(":[]@!$'()*+,="+also, c) >= 0:
			value.WriteByte(c)
		default:
			return "", fmt.Errorf("byte %#02x must be percent-encoded", c)
		}
	}
	if !utf8.ValidString(value.String()) || strings.ContainsFunc(value.String(), unicode.IsControl) {
		return "", errors.New("the value is not UTF-8, or holds a control character")
	}
	return value.String(), nil
}

// unreserved reports RFC 3986's unreserved characters (section 2.3).
func unreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0
}

// canonicalSlotID is the decimal number without leading zeros. Slot IDs are compared as numbers.
func canonicalSlotID(value string) (string, error) {
	n, err := strconv.ParseUint(value, 10, strconv.IntSize)
	if err != nil {
		return "", errors.New("a slot ID is a decimal number")
	}
	return strconv.FormatUint(n, 10), nil
}

// canonicalVersion is MAJOR.MINOR; RFC 7512, section 2.3, lets a minor version of 0 be left out.
func canonicalVersion(value string) (string, error) {
	major, minor, found := strings.Cut(value, ".")
	if !found {
		minor = "0"
	}
	a, errA := strconv.ParseUint(major, 10, 8)
	b, errB := strconv.ParseUint(minor, 10, 8)
	if errA != nil || errB != nil {
		return "", errors.New("a library version is MAJOR or MAJOR.MINOR, each 0 to 255")
	}
	return fmt.Sprintf("%d.%d", a, b), nil
}

// Matches reports whether every attribute of the URI has the value that the token has. Case counts (RFC 7512, section
// 2.3: the values are PKCS #11's own strings).
func (u URI) Matches(d TokenDescription) bool {
	has := map[string]string{
		"token": d.Label, "manufacturer": d.Manufacturer, "model": d.Model, "serial": d.Serial,
		"slot-id": strconv.FormatUint(uint64(d.SlotID), 10), "slot-description": d.SlotDescription, "slot-manufacturer": d.SlotManufacturer,
		"library-description": d.LibraryDescription, "library-manufacturer": d.LibraryManufacturer, "library-version": d.LibraryVersion,
	}
	for name, value := range u.attributes {
		if has[name] != value {
			return false
		}
	}
	return true
}

// String is the URI in one form for all that are equal: attributes in the order of their names, nothing encoded that need
// not be. It holds no secret.
func (u URI) String() string {
	var b strings.Builder
	b.WriteString("pkcs11:")
	for i, name := range slices.Sorted(maps.Keys(u.attributes)) {
		if i > 0 {
			b.WriteByte(';')
		}
		b.WriteString(name + "=")
		for _, c := range []byte(u.attributes[name]) {
			if unreserved(c) {
				b.WriteByte(c)
			} else {
				fmt.Fprintf(&b, "%%%02X", c)
			}
		}
	}
	return b.String()
}
