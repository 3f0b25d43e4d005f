package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/signer/signertest"
)

// binary is the program under test, built once by TestMain.
var binary string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "octo-sts-signer-test")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "octo-sts-signer")
		args := []string{"build", "-buildvcs=false", "-o", binary}
		if raceDetector {
			args = append(args, "-race")
		}
		if out, err := exec.Command("go", append(args, ".")...).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building octo-sts-signer: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// TestScripts runs what an operator types, with the real program on real SoftHSM tokens. Each script begins with a fresh
// token, its PIN in a credentials directory, and in the environment the paths of SoftHSM's module and of OpenSC's spy.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		Setup:               setupScript,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"genkey":      genkey,
			"inittoken":   initToken,
			"expand":      expand,
			"count":       count,
			"awaitstatus": awaitStatus,
			"appjwt":      appJWT,
			"sleep":       sleepFor,
			"checkpoint":  requestCheckpoint,
			"copynote":    copyNote,
			"foreignnote": foreignNote,
		},
	})
}

func setupScript(env *testscript.Env) error {
	soft, err := signertest.InitSoftHSM(context.Background(), env.WorkDir, "script", "1234")
	if err != nil {
		return err
	}
	credentials := filepath.Join(env.WorkDir, "credentials")
	if err := errors.Join(os.Mkdir(credentials, 0o700), os.Mkdir(filepath.Join(env.WorkDir, "state"), 0o700)); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(credentials, "hsm-pin"), []byte("1234\n"), 0o600); err != nil {
		return err
	}
	env.Setenv("PATH", filepath.Dir(binary)+string(os.PathListSeparator)+env.Getenv("PATH"))
	env.Setenv("SOFTHSM2_CONF", soft.ConfigFile)
	env.Setenv("SOFTHSM_MODULE", soft.Module)
	env.Setenv("CREDENTIALS_DIRECTORY", credentials)
	spy, err := findSpy()
	if err != nil {
		return err
	}
	env.Setenv("SPY", spy)
	env.Setenv("UID", strconv.Itoa(os.Getuid()))
	return nil
}

// findSpy returns the path of OpenSC's pkcs11-spy, a module that logs every call and passes it on to another.
func findSpy() (string, error) {
	for _, pattern := range []string{"/usr/lib/*/pkcs11-spy.so", "/usr/lib64/pkcs11-spy.so", "/usr/lib/pkcs11-spy.so"} {
		if found, err := filepath.Glob(pattern); err == nil && len(found) > 0 {
			return found[0], nil
		}
	}
	return "", errors.New("pkcs11-spy.so is not installed: apt-get install opensc, or dnf install opensc")
}

// genkey BITS pkcs1|pkcs8 FILE makes an RSA private key, as GitHub would.
func genkey(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: genkey BITS pkcs1|pkcs8 FILE")
	}
	bits, err := strconv.Atoi(args[0])
	ts.Check(err)
	key, err := rsa.GenerateKey(rand.Reader, bits)
	ts.Check(err)
	block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}
	if args[1] == "pkcs8" {
		block.Type = "PRIVATE KEY"
		block.Bytes, err = x509.MarshalPKCS8PrivateKey(key)
		ts.Check(err)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), pem.EncodeToMemory(block), 0o600))
}

// inittoken LABEL adds a token to the script's SoftHSM.
func initToken(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: inittoken LABEL")
	}
	ts.Check(ts.Exec("softhsm2-util", "--init-token", "--free", "--label", args[0], "--pin", "1234", "--so-pin", "security-officer"))
}

// expand FILE… replaces $NAME by the environment's value.
func expand(ts *testscript.TestScript, neg bool, args []string) {
	for _, name := range args {
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(os.Expand(ts.ReadFile(name), ts.Getenv)), 0o600))
	}
}

// count N TEXT FILE insists that TEXT stands exactly N times in FILE.
func count(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: count N TEXT FILE")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	if got := strings.Count(ts.ReadFile(args[2]), args[1]); got != want {
		ts.Fatalf("%s has %q %d times, not %d", args[2], args[1], got, want)
	}
}

// awaitstatus TEXT SOCKET waits until the status of the signer at SOCKET, as Go prints it, contains TEXT.
func awaitStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: awaitstatus TEXT SOCKET")
	}
	client := signer.NewClient(ts.MkAbs(args[1]))
	defer client.Close()
	var last string
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		status, err := client.Status(context.Background())
		if last = fmt.Sprintf("%+v %v", status, err); strings.Contains(last, args[0]) {
			return
		}
	}
	ts.Fatalf("no %q in the status: %s", args[0], last)
}

// appjwt APP SOCKET asks for an App JWT; with !, it must be refused.
func appJWT(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: [!] appjwt APP SOCKET")
	}
	id, err := strconv.ParseInt(args[0], 10, 64)
	ts.Check(err)
	client := signer.NewClient(ts.MkAbs(args[1]))
	defer client.Close()
	_, err = client.AppJWT(context.Background(), id)
	if (err != nil) != neg {
		ts.Fatalf("App JWT for %d: %v", id, err)
	}
}

// sleep DURATION gives a background process the time to do what it must not do.
func sleepFor(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: sleep DURATION")
	}
	d, err := time.ParseDuration(args[0])
	ts.Check(err)
	time.Sleep(d)
}
