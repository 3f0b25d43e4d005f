package hsm

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/miekg/pkcs11"

	"github.com/octo-sts/appliance/signer"
)

// Info describes an open module and token, as they describe themselves.
type Info struct {
	Module       string // path of the shared library
	Manufacturer string // CK_INFO.manufacturerID, for example "SoftHSM"
	Library      string // CK_INFO.libraryDescription and libraryVersion
	Model        string // CK_TOKEN_INFO.model
	TokenLabel   string // CK_TOKEN_INFO.label
	TokenSerial  string // CK_TOKEN_INFO.serialNumber
	Slot         uint   // slot ID; some modules change it at every start
}

// String names the token for an operator.
func (i Info) String() string {
	return fmt.Sprintf("token %q (serial %s, %s %s)", i.TokenLabel, i.TokenSerial, i.Manufacturer, i.Model)
}

// begin calls C_Initialize. Cryptoki can be left initialized where an earlier C_Finalize failed; nothing else in the
// process uses the module, so it is then torn down and begun afresh.
func begin(m *module) error {
	err := m.initialize()
	if rv, ok := returnValue(err); ok && rv == pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED {
		if err := m.finalize(); err != nil {
			return fmt.Errorf("finalizing a module that was left initialized: %w", err)
		}
		err = m.initialize()
	}
	if err != nil {
		return fmt.Errorf("initializing the PKCS#11 module: %w", err)
	}
	return nil
}

// found is the token that a configuration names.
type found struct {
	Info
	flags       uint // CK_TOKEN_INFO.flags
	maxSessions uint // the least of what CK_TOKEN_INFO allows, 0 where it sets no bound
}

// locate finds the one token that c names, before any PIN is sent anywhere. It leaves Cryptoki finalized, because
// crypto11 insists on initializing it itself.
//
// crypto11 would take the first match; here two matches are an error, since the PIN of one token tried on another
// counts there as a wrong one.
func locate(m *module, c TokenConfig) (found, error) {
	if err := begin(m); err != nil {
		return found{}, err
	}
	defer func() { _ = m.finalize() }()

	matches, err := c.matcher()
	if err != nil {
		return found{}, err
	}
	library, err := m.libraryInfo()
	if err != nil {
		return found{}, fmt.Errorf("asking the module what it is: %w", err)
	}
	slots, err := m.slotsWithToken()
	if err != nil {
		return found{}, fmt.Errorf("listing the module's slots: %w", err)
	}
	var candidates []found
	var present []string
	for _, slot := range slots {
		token, description, err := describeToken(m, library, slot)
		if err != nil {
			// Another slot's broken token must not keep this one from being found.
			present = append(present, fmt.Sprintf("slot %d (%v)", slot, err))
			continue
		}
		present = append(present, fmt.Sprintf("%q (serial %s, slot %d)", description.Label, description.Serial, slot))
		if token.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 || !matches(description) {
			continue
		}
		candidates = append(candidates, found{
			Info: Info{
				Module:       c.Module,
				Manufacturer: description.LibraryManufacturer,
				Library:      description.LibraryDescription + " " + description.LibraryVersion,
				Model:        description.Model,
				TokenLabel:   description.Label,
				TokenSerial:  description.Serial,
				Slot:         slot,
			},
			flags:       token.Flags,
			maxSessions: sessionLimit(token),
		})
	}
	switch {
	case len(candidates) == 0:
		return found{}, fmt.Errorf("no initialized token with %s; present: %s", c.selector(), orNone(present))
	case len(candidates) > 1:
		return found{}, fmt.Errorf("%d tokens with %s, and the PIN must not be tried on the wrong one: name it by token_serial; present: %s", len(candidates), c.selector(), orNone(present))
	}
	return candidates[0], nil
}

func describeToken(m *module, library pkcs11.Info, slot uint) (pkcs11.TokenInfo, signer.TokenDescription, error) {
	token, err := m.tokenInfo(slot)
	if err != nil {
		return token, signer.TokenDescription{}, err
	}
	place, err := m.slotInfo(slot)
	if err != nil {
		return token, signer.TokenDescription{}, err
	}
	return token, signer.TokenDescription{
		Label:               trim(token.Label),
		Manufacturer:        trim(token.ManufacturerID),
		Model:               trim(token.Model),
		Serial:              trim(token.SerialNumber),
		SlotID:              slot,
		SlotDescription:     trim(place.SlotDescription),
		SlotManufacturer:    trim(place.ManufacturerID),
		LibraryDescription:  trim(library.LibraryDescription),
		LibraryManufacturer: trim(library.ManufacturerID),
		LibraryVersion:      fmt.Sprintf("%d.%d", library.LibraryVersion.Major, library.LibraryVersion.Minor),
	}, nil
}

// trim removes a field's padding: blanks, as PKCS #11 says, or the NULs that some modules write.
func trim(field string) string { return strings.TrimRight(field, " \x00") }

// sessionLimit is the token's own bound on the sessions of one program. The read-write sessions are what counts: only in
// those can keys be imported.
func sessionLimit(token pkcs11.TokenInfo) uint {
	limit := uint(0)
	for _, bound := range []uint{token.MaxSessionCount, token.MaxRwSessionCount} {
		if bound != pkcs11.CK_EFFECTIVELY_INFINITE && bound != pkcs11.CK_UNAVAILABLE_INFORMATION && (limit == 0 || bound < limit) {
			limit = bound
		}
	}
	return limit
}

// errPINAtRisk is not ErrPINRefused: nothing was tried, and once the operator has unlocked the token the PIN may be.
var errPINAtRisk = errors.New("the PIN was not tried")

// safeToLogIn reads the token's own word on its PIN (CK_TOKEN_INFO flags, PKCS #11 v2.40 section 3.2).
func safeToLogIn(flags uint) error {
	switch {
	case flags&pkcs11.CKF_USER_PIN_LOCKED != 0:
		return fmt.Errorf("%w: the user PIN is locked; unlock it with the vendor's tool", errPINAtRisk)
	case flags&pkcs11.CKF_USER_PIN_FINAL_TRY != 0:
		return fmt.Errorf("%w: one more wrong PIN would lock the token for good; log in once with the vendor's tool to clear the count", errPINAtRisk)
	}
	return nil
}

// matcher returns what tells c's token from others.
func (c TokenConfig) matcher() (func(signer.TokenDescription) bool, error) {
	switch {
	case c.Slot != nil:
		return func(d signer.TokenDescription) bool { return d.SlotID == *c.Slot }, nil
	case c.TokenSerial != "":
		return func(d signer.TokenDescription) bool { return d.Serial == c.TokenSerial }, nil
	case c.TokenLabel != "":
		return func(d signer.TokenDescription) bool { return d.Label == c.TokenLabel }, nil
	}
	uri, err := signer.ParseURI(c.URI, c.Module)
	if err != nil {
		return nil, err
	}
	return uri.Matches, nil
}

// selector says for an operator how c names its token.
func (c TokenConfig) selector() string {
	switch {
	case c.Slot != nil:
		return "slot " + strconv.FormatUint(uint64(*c.Slot), 10)
	case c.TokenSerial != "":
		return "token_serial " + strconv.Quote(c.TokenSerial)
	case c.TokenLabel != "":
		return "token_label " + strconv.Quote(c.TokenLabel)
	}
	return "uri " + strconv.Quote(c.URI)
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
