package main

import (
	"bufio"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/sts/ststest"
)

const (
	benchTime   = 4 * time.Second // a measurement
	benchTokens = 200             // distinct ID tokens, used in turn
)

var (
	benchCallers   = []int{1, 16, 64}
	benchLatencies = []time.Duration{0, 50 * time.Millisecond}
)

// bench is one benchmark under way.
type bench struct {
	service      *ststest.Service
	signer       *signer.Client
	installation int64 // acme's
	idTokens     []string
	ours         *target
	floor        *target

	repositories int // made to record deliveries
}

// runBench prints our server beside the floor, from one run on one machine. The
// load generator and the stand-in for GitHub share the machine with both.
func runBench(ctx context.Context, bin string) error {
	service, err := ststest.Start(ctx, ststest.ServiceConfig{BinDir: bin, Webhook: true, Edit: func(config map[string]any) {
		config["limits"] = map[string]any{"per_address": 1e6, "burst": 1000000, "per_issuer": 1e6, "burst_per_issuer": 1000000, "connections_per_address": 4096}
	}})
	if err != nil {
		return err
	}
	defer func() { _ = service.Close() }() // it is all throw-away
	b := &bench{service: service, signer: signer.NewClient(service.Signer.Socket())}
	if err := b.prepare(); err != nil {
		return err
	}
	stop, err := b.startFloor(ctx)
	if err != nil {
		return err
	}
	defer stop()
	if err := b.coldExchange(ctx); err != nil {
		return err
	}
	if err := b.measureAll(ctx); err != nil {
		return err
	}
	if err := measureAuditLog(ctx, bin); err != nil {
		return err
	}
	return b.measureDeliveries(ctx)
}

func (b *bench) prepare() error {
	github := b.service.GitHub
	github.AddRepository("acme", "app")
	b.installation = github.Install(ststest.DefaultApp, "acme", ststest.InstallOptions{})
	job := ststest.GitHubActions{Owner: "acme", Repo: "app", Ref: "refs/heads/main"}
	github.PutPolicy("acme", "app", "ci", fmt.Sprintf("issuer: %s\nsubject: %s\npermissions:\n  contents: read\n", b.service.Issuer.URL(), job.Subject()))
	for range benchTokens {
		claims := job.Claims()
		claims["aud"] = "sts.example.com"
		claims["exp"] = time.Now().Add(time.Hour).Unix()
		token, err := b.service.Issuer.Sign(claims)
		if err != nil {
			return err
		}
		b.idTokens = append(b.idTokens, token)
	}
	b.ours = newTarget(b.service.URL()+"/sts/exchange?scope=acme/app&identity=ci", b.service.PID(), b.idTokens)
	return nil
}

// startFloor runs the floor as a process of its own, so that what it costs can
// be told.
func (b *bench) startFloor(ctx context.Context) (stop func(), err error) {
	jwt, err := b.signer.AppJWT(ctx, ststest.DefaultApp)
	if err != nil {
		return nil, err
	}
	public, ok := b.service.Issuer.SigningKey().Private.Public().(*rsa.PublicKey)
	if !ok {
		return nil, errors.New("the issuer's key is no RSA key")
	}
	config, err := json.Marshal(floorConfig{
		PublicKey: x509.MarshalPKCS1PublicKey(public),
		MintURL:   fmt.Sprintf("%s/app/installations/%d/access_tokens", b.service.GitHub.URL(), b.installation),
		AppJWT:    jwt.JWT,
		CAPEM:     b.service.GitHub.CAPEM(),
		Mint:      []byte(`{"repositories":["app"],"permissions":{"contents":"read"}}`),
	})
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	floor := exec.CommandContext(ctx, self, "floor")
	floor.Stderr = os.Stderr
	stdin, err := floor.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := floor.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := floor.Start(); err != nil {
		return nil, fmt.Errorf("starting the floor: %w", err)
	}
	stop = func() {
		_ = stdin.Close()
		_ = floor.Wait() // it has served its purpose
	}
	if _, err := stdin.Write(config); err != nil {
		stop()
		return nil, err
	}
	address, err := bufio.NewReader(io.LimitReader(stdout, 1000)).ReadString('\n')
	if err != nil {
		stop()
		return nil, fmt.Errorf("starting the floor: %w", err)
	}
	b.floor = newTarget("http://"+strings.TrimSpace(address)+"/", floor.Process.Pid, b.idTokens)
	return stop, nil
}

// coldExchange counts what GitHub is asked at the very first exchange of an
// organization, at the first of another policy there, and at a repeated one.
func (b *bench) coldExchange(ctx context.Context) error {
	github := b.service.GitHub
	github.AddRepository("acme", "second")
	policy := fmt.Sprintf("issuer: %s\nsubject_pattern: .+\npermissions:\n  contents: read\n", b.service.Issuer.URL())
	github.PutPolicy("acme", "second", "ci", policy)
	fmt.Println("GitHub calls of one exchange")
	for _, c := range []struct{ what, scope string }{
		{"cold: the first of an organization", "acme/app"},
		{"the first of another repository there", "acme/second"},
		{"warm", "acme/app"},
	} {
		before := github.TotalCalls()
		x, err := b.service.Exchange(ctx, c.scope, "ci", b.idTokens[0])
		if err != nil {
			return err
		}
		if x.Token == "" {
			return fmt.Errorf("%s: refused: %s", c.what, x.Message)
		}
		fmt.Printf("  %-38s %d\n", c.what, github.TotalCalls()-before)
	}
	return nil
}

func (b *bench) measureAll(ctx context.Context) error {
	before, err := b.signer.Status(ctx)
	if err != nil {
		return err
	}
	exchanges := 0
	for _, latency := range benchLatencies {
		b.service.GitHub.SetLatency(latency)
		fmt.Printf("\nGitHub answers after %v\n", latency)
		fmt.Printf("  %7s  %-5s %10s %9s %9s %14s %9s %10s\n", "callers", "", "a second", "p50", "p99", "CPU/exchange", "× floor", "GH calls")
		for _, callers := range benchCallers {
			floor, err := b.measure(ctx, b.floor, callers)
			if err != nil {
				return fmt.Errorf("the floor: %w", err)
			}
			floor.print("floor", floor)
			ours, err := b.measure(ctx, b.ours, callers)
			if err != nil {
				return fmt.Errorf("octo-stsd: %w", err)
			}
			ours.print("ours", floor)
			exchanges += ours.count
		}
	}
	after, err := b.signer.Status(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("\nApp JWT signatures in %d exchanges: %d\n", exchanges, after.Signatures-before.Signatures)
	fmt.Printf("Resident memory at its highest: octo-stsd %.1f MiB, floor %.1f MiB\n", b.ours.peakMemory(), b.floor.peakMemory())
	return nil
}

// measure runs a target warm, and then counts.
func (b *bench) measure(ctx context.Context, t *target, callers int) (*measurement, error) {
	if _, err := t.load(ctx, callers, benchTime/8); err != nil {
		return nil, err
	}
	calls := b.service.GitHub.TotalCalls()
	m, err := t.load(ctx, callers, benchTime)
	if err != nil {
		return nil, err
	}
	m.githubCalls = b.service.GitHub.TotalCalls() - calls
	b.service.GitHub.ForgetMints()
	return m, nil
}
