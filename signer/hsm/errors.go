package hsm

import (
	"errors"

	"github.com/miekg/pkcs11"
)

var (
	// ErrPINRefused means that the token did not take the PIN, or that trying it is not safe any more. It must not be
	// tried again: tokens lock for good after a few wrong PINs.
	ErrPINRefused = errors.New("the PIN was refused")
	// ErrKeyNotFound means that no private key in the token carries the label.
	ErrKeyNotFound = errors.New("no such key in the token")
	// ErrKeyUnfit means that the key is there and must not sign: it is weak, or it cannot be told from another.
	ErrKeyUnfit = errors.New("refusing the key")
	// ErrLabelInUse means that an import would have put a second key under a label, or a second label on a key.
	ErrLabelInUse = errors.New("already in the token")
	// ErrBadSignature means that the module reported success and gave a signature that the key's public half does not
	// verify. Such a signature is never handed on.
	ErrBadSignature = errors.New("the module returned a signature that does not verify")
	// ErrNotOpen means that there is no usable connection to the token at the moment.
	ErrNotOpen = errors.New("the token is not open")
)

// returnValue digs the PKCS#11 return value out of an error. crypto11 wraps errors with a release of pkg/errors that has
// Cause but not yet Unwrap, so errors.As alone would not find it.
func returnValue(err error) (pkcs11.Error, bool) {
	if rv, ok := err.(pkcs11.Error); ok {
		return rv, true
	}
	switch wrapper := err.(type) {
	case interface{ Cause() error }:
		return returnValue(wrapper.Cause())
	case interface{ Unwrap() error }:
		return returnValue(wrapper.Unwrap())
	case interface{ Unwrap() []error }:
		for _, wrapped := range wrapper.Unwrap() {
			if rv, ok := returnValue(wrapped); ok {
				return rv, true
			}
		}
	}
	return 0, false
}

// pinRefused reports whether err is a token's verdict about the PIN itself (PKCS #11 v2.40, section 5.1.6), as opposed
// to a fault that says nothing of it.
func pinRefused(err error) bool {
	rv, ok := returnValue(err)
	if !ok {
		return false
	}
	switch rv {
	case pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE, pkcs11.CKR_PIN_EXPIRED, pkcs11.CKR_PIN_LOCKED:
		return true
	}
	return false
}

// refusesWay reports whether err is the token's word that it does not do a thing in this way, so that another may be tried,
// as opposed to a fault. Codes that a vendor defines are taken for such a word: Luna and CloudHSM have their own.
func refusesWay(err error) bool {
	rv, ok := returnValue(err)
	if !ok {
		return false
	}
	switch rv {
	case pkcs11.CKR_FUNCTION_NOT_SUPPORTED, pkcs11.CKR_ACTION_PROHIBITED,
		pkcs11.CKR_TEMPLATE_INCONSISTENT, pkcs11.CKR_TEMPLATE_INCOMPLETE,
		pkcs11.CKR_ATTRIBUTE_READ_ONLY, pkcs11.CKR_ATTRIBUTE_SENSITIVE, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, pkcs11.CKR_ATTRIBUTE_VALUE_INVALID,
		pkcs11.CKR_MECHANISM_INVALID, pkcs11.CKR_MECHANISM_PARAM_INVALID,
		pkcs11.CKR_CURVE_NOT_SUPPORTED, pkcs11.CKR_DOMAIN_PARAMS_INVALID,
		pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED, pkcs11.CKR_KEY_SIZE_RANGE, pkcs11.CKR_KEY_TYPE_INCONSISTENT,
		pkcs11.CKR_UNWRAPPING_KEY_HANDLE_INVALID, pkcs11.CKR_UNWRAPPING_KEY_SIZE_RANGE, pkcs11.CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT,
		pkcs11.CKR_WRAPPED_KEY_INVALID, pkcs11.CKR_WRAPPED_KEY_LEN_RANGE,
		pkcs11.CKR_DATA_LEN_RANGE:
		return true
	}
	return rv >= pkcs11.CKR_VENDOR_DEFINED
}
