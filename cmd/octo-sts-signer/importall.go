package main

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/signer/hsm"
)

// keyImport is a key on its way into every configured HSM, under one label.
type keyImport struct {
	key *rsa.PrivateKey
	// label chooses the label in the first HSM, where labels maps those of its keys to the keys. The others follow.
	label func(labels map[string]hsm.KeyInfo) (string, error)
	// prove says whether the key is what it should be, before the next HSM gets it. nil: its own test signature is enough.
	prove func(key *hsm.Key) error
}

// placedKey is a key's place in one HSM.
type placedKey struct {
	token   hsm.Info
	info    hsm.KeyInfo
	already bool // it was there before
}

// importAll does it. Where an HSM has this very key under the label already, that is as good as an import, so that what was
// cut short can be done again; another key there is an error. A new key that prove refuses is destroyed again. The HSMs
// before that one keep theirs, and what is returned says which.
func importAll(ctx context.Context, config *signer.Config, pins []string, in keyImport) ([]placedKey, error) {
	var placed []placedKey
	label := ""
	err := eachToken(ctx, config, pins, func(token *hsm.Token) error {
		if label == "" {
			var err error
			if label, err = chooseLabel(token, in); err != nil {
				return err
			}
		}
		key, already, err := importOne(token, label, in.key)
		if err != nil {
			return err
		}
		if in.prove != nil {
			if err := in.prove(key); err != nil {
				return errors.Join(err, withdraw(token, label, already))
			}
		}
		placed = append(placed, placedKey{token.Info(), key.Info(), already})
		return nil
	})
	return placed, err
}

func chooseLabel(token *hsm.Token, in keyImport) (string, error) {
	keys, err := token.Keys()
	if err != nil {
		return "", err
	}
	labels := map[string]hsm.KeyInfo{}
	for _, key := range keys {
		labels[key.Label] = key
	}
	return in.label(labels)
}

// labelOfKey is the label that a key has already, "" where it is not there.
func labelOfKey(labels map[string]hsm.KeyInfo, key *rsa.PrivateKey) string {
	for label, info := range labels {
		if info.Public != nil && key.PublicKey.Equal(info.Public) {
			return label
		}
	}
	return ""
}

func importOne(token *hsm.Token, label string, key *rsa.PrivateKey) (placed *hsm.Key, already bool, err error) {
	there, err := token.Key(label)
	switch {
	case errors.Is(err, hsm.ErrKeyNotFound):
		placed, err = token.Import(label, key)
		return placed, false, err
	case err != nil:
		return nil, false, err
	}
	if !key.PublicKey.Equal(there.Public()) {
		return nil, false, fmt.Errorf("label %q is %w, with another key: %s", label, hsm.ErrLabelInUse, token.Info())
	}
	return there, true, nil
}

// withdraw destroys a key that this run imported.
func withdraw(token *hsm.Token, label string, already bool) error {
	if already {
		return nil
	}
	if err := token.Destroy(label); err != nil {
		return fmt.Errorf("and the key could not be removed from %s again, do so with the vendor's tool: %w", token.Info(), err)
	}
	return nil
}
