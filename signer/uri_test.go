package signer

import (
	"strings"
	"testing"
)

const uriModule = "/usr/lib/softhsm/libsofthsm2.so"

func described() TokenDescription {
	return TokenDescription{
		Label: "The Software PKCS#11 token", Manufacturer: "Snake Oil, Inc.", Model: "1.0", Serial: "4f2a",
		SlotID: 327, SlotDescription: "Slot/1", SlotManufacturer: "Snake", LibraryDescription: "Soft Token Library",
		LibraryManufacturer: "Snake Oil", LibraryVersion: "2.0",
	}
}

func TestURIMatches(t *testing.T) {
	for uri, want := range map[string]bool{
		"pkcs11:token=The%20Software%20PKCS%2311%20token": true,
		"PKCS11:token=The%20Software%20PKCS%2311%20token": true,  // a scheme in any case
		"pkcs11:token=the%20software%20pkcs%2311%20token": false, // a value in its own case
		"pkcs11:token=The%20Software%20PKCS%2311%20tok":   false,
		"pkcs11:token=": false,
		"pkcs11:token=The%20Software%20PKCS%2311%20token%20%20":    true, // padding
		"pkcs11:serial=4%66%32a":                                   true,
		"pkcs11:serial=4F2A":                                       false,
		"pkcs11:slot-id=327":                                       true,
		"pkcs11:slot-id=0327":                                      true,
		"pkcs11:slot-id=326":                                       false,
		"pkcs11:manufacturer=Snake%20Oil,%20Inc.;model=1.0":        true,
		"pkcs11:manufacturer=Snake%20Oil,%20Inc.;model=1.1":        false,
		"pkcs11:slot-description=Slot%2f1;slot-manufacturer=Snake": true,
		"pkcs11:library-description=Soft%20Token%20Library;library-manufacturer=Snake%20Oil": true,
		"pkcs11:library-version=2":                                           true, // a minor version of 0 may be left out
		"pkcs11:library-version=2.0":                                         true,
		"pkcs11:library-version=2.1":                                         false,
		"pkcs11:model=1.0?module-path=/usr/lib/softhsm/libsofthsm2.so":       true,
		"pkcs11:model=1.0?module-path=%2Fusr%2Flib%2fsofthsm/libsofthsm2.so": true,
		"pkcs11:token=The%20Software%20PKCS%2311%20token;serial=4f2a;model=1.0;library-version=2.0;slot-id=327": true,
	} {
		u, err := ParseURI(uri, uriModule)
		if err != nil {
			t.Errorf("%s: %v", uri, err)
			continue
		}
		if got := u.Matches(described()); got != want {
			t.Errorf("%s matches: %t, want %t", uri, got, want)
		}
	}
}

func TestURIRefusesWithTheReason(t *testing.T) {
	for uri, want := range map[string]string{
		"":                                          "begins with pkcs11:",
		"token=x":                                   "begins with pkcs11:",
		"pkcs12:token=x":                            "begins with pkcs11:",
		"pkcs11:":                                   "would match every token",
		"pkcs11:?module-path=" + uriModule:          "would match every token",
		"pkcs11:token":                              "no value",
		"pkcs11:token=x;":                           "no value",
		"pkcs11:token=x;token=y":                    "token twice",
		"pkcs11:Token=x":                            "names are in lower case",
		"pkcs11:x-vendor=1":                         "RFC 7512 does not name",
		"pkcs11:token=x;object=app-1":               "apps and checkpoint",
		"pkcs11:token=x;type=private":               "apps and checkpoint",
		"pkcs11:token=x;id=%01":                     "apps and checkpoint",
		"pkcs11:token=x?pin-value=123456":           "pin_credential",
		"pkcs11:token=x;pin-value=123456":           "pin_credential",
		"pkcs11:token=x?pin-source=file:/123456":    "pin_credential",
		"pkcs11:token=x?module-name=softhsm2":       "module says",
		"pkcs11:token=x?module-path=/usr/lib/x.so":  "not the same as module",
		"pkcs11:token=x;module-path=/x.so":          "after a ?",
		"pkcs11:token=x?x-vendor=123456":            "other than module-path",
		"pkcs11:token=x?":                           "no value",
		"pkcs11:token=%2":                           "two hexadecimal digits",
		"pkcs11:token=%zz":                          "two hexadecimal digits",
		"pkcs11:token=%+1":                          "two hexadecimal digits",
		"pkcs11:token=a b":                          "percent-encoded",
		"pkcs11:token=a/b":                          "percent-encoded",
		"pkcs11:token=x#fragment":                   "percent-encoded",
		"pkcs11:token=%FF":                          "not UTF-8",
		"pkcs11:token=a%00":                         "control character",
		"pkcs11:token=" + strings.Repeat("x", 33):   "33 bytes",
		"pkcs11:serial=" + strings.Repeat("x", 17):  "17 bytes",
		"pkcs11:slot-id=0x1":                        "decimal",
		"pkcs11:slot-id=":                           "decimal",
		"pkcs11:slot-id=+1":                         "decimal",
		"pkcs11:slot-id=99999999999999999999":       "decimal",
		"pkcs11:library-version=2.6.1":              "MAJOR",
		"pkcs11:library-version=256":                "MAJOR",
		"pkcs11:token=" + strings.Repeat("x", 3000): "at most",
	} {
		_, err := ParseURI(uri, uriModule)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", uri, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "123456") {
			t.Errorf("%s: the error gives the PIN away: %v", uri, err)
		}
	}
}

// Whatever is accepted can be written down again and means the same.
func FuzzParseURI(f *testing.F) {
	for _, seed := range []string{"pkcs11:token=a%20b;slot-id=1", "pkcs11:library-version=2?module-path=" + uriModule, "pkcs11:serial=", "x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := ParseURI(text, uriModule)
		if err != nil {
			return
		}
		again, err := ParseURI(u.String(), uriModule)
		if err != nil || again.String() != u.String() {
			t.Fatalf("%q became %q, and that %q (%v)", text, u, again, err)
		}
		if again.Matches(described()) != u.Matches(described()) {
			t.Fatalf("%q and %q do not match the same", text, u)
		}
	})
}
