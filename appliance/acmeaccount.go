package appliance

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
	"go.uber.org/zap"
)

// storedAccount is the file of an ACME account: what the CA said of it, and its
// key, in one file, so that no crash leaves the one without the other.
type storedAccount struct {
	Account    acme.Account `json:"account"`
	EABKeyID   string       `json:"eab_key_id,omitempty"` // what it was bound to
	PrivateKey string       `json:"private_key"`          // PEM
}

func (i *acmeIssuer) accountKey() string { return "accounts/" + i.IssuerKey() + ".json" }

// account is the account to order with. The CA is asked whether it still is: it
// may have been deactivated, or the CA been set up afresh. Then there is a new one.
func (i *acmeIssuer) account(ctx context.Context, client *acmez.Client) (acme.Account, error) {
	stored, err := i.loadAccount(ctx)
	if err != nil {
		return acme.Account{}, fmt.Errorf("reading the ACME account: %w", err)
	}
	if stored == nil {
		return i.register(ctx, client)
	}
	account, err := client.GetAccount(ctx, *stored)
	problem := acme.Problem{}
	switch {
	case err == nil && account.Status == acme.StatusValid:
	case err == nil:
		i.owner.logger.Warn("the CA does not take the ACME account any more, so there will be a new one", zap.String("status", account.Status))
		return i.register(ctx, client)
	case errors.As(err, &problem) && (problem.Type == acme.ProblemTypeAccountDoesNotExist || problem.Type == acme.ProblemTypeUnauthorized):
		i.owner.logger.Warn("the CA does not take the ACME account any more, so there will be a new one", zap.Error(problem))
		return i.register(ctx, client)
	default:
		return acme.Account{}, fmt.Errorf("asking %s for the ACME account: %w", i.config.Directory, err)
	}
	if contact := i.contact(); !slices.Equal(account.Contact, contact) && contact != nil {
		account.Contact = contact
		if account, err = client.UpdateAccount(ctx, account); err != nil {
			return acme.Account{}, fmt.Errorf("telling %s the account's new address: %w", i.config.Directory, err)
		}
		account.Location = stored.Location // an update's answer has none
	}
	account.PrivateKey = stored.PrivateKey
	return account, nil
}

func (i *acmeIssuer) contact() []string {
	if i.config.Email == "" {
		return nil
	}
	return []string{"mailto:" + i.config.Email}
}

// register makes an account and keeps it.
func (i *acmeIssuer) register(ctx context.Context, client *acmez.Client) (acme.Account, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return acme.Account{}, err
	}
	account := acme.Account{Contact: i.contact(), TermsOfServiceAgreed: true, PrivateKey: key}
	if i.eab != nil {
		if err := account.SetExternalAccountBinding(ctx, client.Client, *i.eab); err != nil {
			return acme.Account{}, fmt.Errorf("binding the ACME account: %w", err)
		}
	}
	if account, err = client.NewAccount(ctx, account); err != nil {
		return acme.Account{}, fmt.Errorf("making an ACME account at %s: %w", i.config.Directory, err)
	}
	account.ExternalAccountBinding = nil
	text, err := certmagic.PEMEncodePrivateKey(key)
	if err != nil {
		return acme.Account{}, err
	}
	file, err := json.MarshalIndent(storedAccount{Account: account, EABKeyID: i.config.EAB.KeyID, PrivateKey: string(text)}, "", "\t")
	if err != nil {
		return acme.Account{}, err
	}
	if err := i.owner.store.Store(ctx, i.accountKey(), file); err != nil {
		return acme.Account{}, fmt.Errorf("keeping the ACME account: %w", err)
	}
	i.owner.logger.Info("made an ACME account", zap.String("account", account.Location), zap.Strings("contact", account.Contact))
	return account, nil
}

// loadAccount is nil where there is no account, where its file is damaged, and
// where it is bound to something else than is configured now.
func (i *acmeIssuer) loadAccount(ctx context.Context) (*acme.Account, error) {
	i.owner.store.makeWay(i.accountKey())
	text, err := i.owner.store.Load(ctx, i.accountKey())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, i.owner.store.explain(err)
	}
	var stored storedAccount
	if err = json.Unmarshal(text, &stored); err == nil {
		stored.Account.PrivateKey, err = certmagic.PEMDecodePrivateKey([]byte(stored.PrivateKey))
	}
	if err != nil {
		i.owner.logger.Error("the ACME account's file is damaged, so there will be a new account")
		return nil, nil
	}
	if stored.EABKeyID != i.config.EAB.KeyID {
		i.owner.logger.Info("the ACME account is bound to another key, so there will be a new account")
		return nil, nil
	}
	return &stored.Account, nil
}
