package hsm

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/miekg/pkcs11"
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

// loadModule loads the shared library. The caller owns the result and calls Destroy. It does not initialize Cryptoki.
func loadModule(path string) (*pkcs11.Ctx, error) {
	module := pkcs11.New(path)
	if module == nil {
		return nil, fmt.Errorf("loading PKCS#11 module %s: it is no PKCS#11 library, or it cannot be loaded; "+
			"is it for this machine's architecture, and does `ldd %[1]s` find all that it needs?", path)
	}
	return module, nil
}

// initialize calls C_Initialize. Cryptoki can be left initialized where an earlier C_Finalize failed; nothing else in
// the process uses the module, so it is then torn down and begun afresh.
func initialize(module *pkcs11.Ctx) error {
	err := module.Initialize()
	if rv, ok := returnValue(err); ok && rv == pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED {
		if err := module.Finalize(); err != nil {
			return fmt.Errorf("finalizing a module that was left initialized: %w", err)
		}
		err = module.Initialize()
	}
	if err != nil {
		return fmt.Errorf("initializing the PKCS#11 module: %w", err)
	}
	return nil
}

// locate finds the one token that c names, before any PIN is sent anywhere. It leaves Cryptoki finalized, because
// crypto11 insists on initializing it itself.
//
// crypto11 would take the first match; here two matches are an error, since the PIN of one token tried on another
// counts there as a wrong one.
func locate(module *pkcs11.Ctx, c TokenConfig) (Info, error) {
	if err := initialize(module); err != nil {
		return Info{}, err
	}
	defer func() { _ = module.Finalize() }()

	slots, err := module.GetSlotList(true)
	if err != nil {
		return Info{}, fmt.Errorf("listing the module's slots: %w", err)
	}
	var found []Info
	var flags uint
	var present []string
	for _, slot := range slots {
		token, err := module.GetTokenInfo(slot)
		if err != nil {
			// Another slot's broken token must not keep this one from being found.
			present = append(present, fmt.Sprintf("slot %d (%v)", slot, err))
			continue
		}
		present = append(present, fmt.Sprintf("%q (serial %s, slot %d)", token.Label, token.SerialNumber, slot))
		if token.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 || !c.matches(slot, token) {
			continue
		}
		found = append(found, Info{Module: c.Module, Model: token.Model, TokenLabel: token.Label, TokenSerial: token.SerialNumber, Slot: slot})
		flags = token.Flags
	}
	switch {
	case len(found) == 0:
		return Info{}, fmt.Errorf("no initialized token with %s; present: %s", c.selector(), orNone(present))
	case len(found) > 1:
		return Info{}, fmt.Errorf("%d tokens with %s, and the PIN must not be tried on the wrong one: name it by token_serial; present: %s", len(found), c.selector(), orNone(present))
	}
	if err := safeToLogIn(flags); err != nil {
		return Info{}, fmt.Errorf("%s: %w", found[0], err)
	}

	library, err := module.GetInfo()
	if err != nil {
		return Info{}, fmt.Errorf("asking the module what it is: %w", err)
	}
	found[0].Manufacturer = library.ManufacturerID
	found[0].Library = fmt.Sprintf("%s %d.%d", library.LibraryDescription, library.LibraryVersion.Major, library.LibraryVersion.Minor)
	return found[0], nil
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

func (c TokenConfig) matches(slot uint, token pkcs11.TokenInfo) bool {
	switch {
	case c.Slot != nil:
		return slot == *c.Slot
	case c.TokenSerial != "":
		return token.SerialNumber == c.TokenSerial
	default:
		return token.Label == c.TokenLabel
	}
}

func (c TokenConfig) selector() string {
	switch {
	case c.Slot != nil:
		return "slot " + strconv.FormatUint(uint64(*c.Slot), 10)
	case c.TokenSerial != "":
		return "token_serial " + strconv.Quote(c.TokenSerial)
	default:
		return "token_label " + strconv.Quote(c.TokenLabel)
	}
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
