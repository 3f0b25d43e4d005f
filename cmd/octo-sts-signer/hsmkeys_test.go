package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/signer/signertest"
)

// workshop is what an operator does to a token with OpenSC's tool while the signer has it open, for better or worse.
type workshop struct {
	t      *testing.T
	signer *signertest.Signer
	key    *rsa.PrivateKey // App 1's
	other  *rsa.PrivateKey
	dir    string
}

func newWorkshop(t *testing.T) *workshop {
	t.Helper()
	w := &workshop{t: t, dir: t.TempDir()}
	for _, key := range []**rsa.PrivateKey{&w.key, &w.other} {
		var err error
		if *key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			t.Fatal(err)
		}
	}
	w.signer = start(t, signertest.Config{Keys: map[int64]*rsa.PrivateKey{1: w.key}})
	return w
}

func (w *workshop) tool(args ...string) string {
	w.t.Helper()
	soft := w.signer.SoftHSM()
	cmd := exec.Command("pkcs11-tool", append([]string{"--module", soft.Module, "--token-label", soft.TokenLabel, "--login", "--pin", soft.PIN}, args...)...)
	cmd.Env = append(os.Environ(), w.signer.Env()...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("pkcs11-tool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// id is the CKA_ID under which App 1's key was imported.
func (w *workshop) id() string {
	w.t.Helper()
	_, rest, found := strings.Cut(w.tool("--list-objects", "--type", "privkey"), signertest.KeyLabel(1))
	_, rest, found2 := strings.Cut(rest, "ID:")
	id, _, _ := strings.Cut(strings.TrimSpace(rest), "\n")
	if _, err := hex.DecodeString(id); !found || !found2 || err != nil {
		w.t.Fatalf("no ID in %q", rest)
	}
	return id
}

func (w *workshop) delete(id string, kinds ...string) {
	w.t.Helper()
	for _, kind := range kinds {
		w.tool("--delete-object", "--type", kind, "--id", id)
	}
}

func (w *workshop) write(kind, label, id string, key *rsa.PrivateKey, more ...string) {
	w.t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if kind == "pubkey" {
		der, err = x509.MarshalPKIXPublicKey(&key.PublicKey)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	file := filepath.Join(w.dir, kind+".der")
	if err := os.WriteFile(file, der, 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.tool(append([]string{"--write-object", file, "--type", kind, "--label", label, "--id", id}, more...)...)
}

// importAgain is what puts App 1's key back.
func (w *workshop) importAgain() {
	w.t.Helper()
	file := filepath.Join(w.dir, "app.pem")
	block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(w.key)}
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.Command(binary, "key", "import", "--app", "1", "--pem", file, "--config", w.signer.ConfigFile())
	cmd.Env = append(os.Environ(), w.signer.Env()...)
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatalf("key import: %v\n%s", err, out)
	}
}

// A signer that finds its key in disorder serves, is not ready, and says why; and once the operator has put that in order it
// is ready, without a restart.
func TestKeysInDisorder(t *testing.T) {
	t.Parallel()
	ctx, w := t.Context(), newWorkshop(t) // the signer outlives each step
	label, extra := signertest.KeyLabel(1), "beef"
	for _, c := range []struct {
		name           string
		disorder, mend func(id string)
		want           string
	}{
		{"missing",
			func(id string) { w.delete(id, "privkey", "pubkey") },
			func(string) { w.importAgain() },
			`no private key is labelled "app-1"`},
		{"two under one label",
			func(string) { w.write("privkey", label, extra, w.other, "--sensitive") },
			func(string) { w.delete(extra, "privkey") },
			`2 private keys are labelled "app-1"`},
		{"extractable",
			func(id string) {
				w.delete(id, "privkey", "pubkey")
				w.write("privkey", label, extra, w.key, "--extractable", "--sensitive")
				w.write("pubkey", label, extra, w.key)
			},
			func(string) { w.delete(extra, "privkey", "pubkey"); w.importAgain() },
			"CKA_EXTRACTABLE is true"},
		{"another's public half",
			func(id string) { w.delete(id, "pubkey"); w.write("pubkey", label, id, w.other) },
			func(id string) { w.delete(id, "pubkey"); w.write("pubkey", label, id, w.key) },
			"a signature that does not verify"},
		{"of another type",
			func(id string) {
				w.delete(id, "privkey", "pubkey")
				w.tool("--keypairgen", "--key-type", "EC:prime256v1", "--label", label, "--id", extra, "--usage-sign")
			},
			func(string) { w.delete(extra, "privkey", "pubkey"); w.importAgain() },
			"an App's key is RSA, and it is not"},
	} {
		t.Run(c.name, func(t *testing.T) {
			id := w.id()
			if err := w.signer.Stop(); err != nil {
				t.Fatal(err)
			}
			c.disorder(id)
			if err := w.signer.RestartUnready(ctx); err != nil {
				t.Fatal(err)
			}
			var app signer.AppStatus
			eventually(t, "why it is not ready", func() bool {
				status, err := w.signer.Status(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				app = status.Apps[0]
				return !status.Ready && strings.Contains(app.Error, c.want)
			})
			t.Logf("not ready: %s", app.Error)
			if _, err := w.signer.Client().AppJWT(t.Context(), 1); err == nil {
				t.Error("it signs all the same")
			}
			pid, worker := w.signer.PID(), w.signer.WorkerPID(0)
			c.mend(id)
			end := time.Now()
			awaitApp(t, w.signer.Client(), 1)
			took := fmt.Sprintf("%.2f s", time.Since(end).Seconds())
			t.Logf("signing %s after the repair", took)
			if time.Since(end) > recoveryLimit {
				t.Errorf("signing took %s", took)
			}
			if w.signer.PID() != pid || w.signer.WorkerPID(0) != worker {
				t.Error("a process was restarted")
			}
		})
	}
}
