package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/ststest"
)

// attack is a way to flood the daemon: run is called by so many attackers at once,
// again and again, each time from another address of theirs.
type attack struct {
	name      string
	attackers int
	addresses int
	run       func(d daemonAt, ctx context.Context, from string)
}

// floods hold connections, or send as fast as they can.
func floods() []attack {
	return []attack{
		{"nothing is said, from one address", 600, 1, says("")},
		{"nothing is said, from 200 addresses", 5000, 200, says("")},
		{"nothing is said, from an address for each connection", 5000, 10_000, says("")},
		{"handshakes left hanging", 5000, 200, says("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")},
		{"headers that come slowly", 1000, 200, saysSlowly("GET /sts/exchange HTTP/1.1\r\nHost: x\r\n")},
		{"bodies that come slowly", 1500, 200, saysSlowly("POST /sts/exchange HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n")},
		{"deliveries that come slowly", 1000, 200, saysSlowly("POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nX-Hub-Signature-256: sha256=" +
			strings.Repeat("0", 64) + "\r\nContent-Length: 60000\r\n\r\n")},
		{"connections that are kept", 1500, 200, saysSlowly("GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")},
		{"connections, from one address", 4, 1, connects},
		{"connections, from 200 addresses", 4, 200, connects},
		{"handshakes, from one address", 4, 1, shakesHands},
		{"bad requests, from one address", 8, 1, asksBadly},
		{"bad requests, from 200 addresses", 8, 200, asksBadly},
		{"streams that are taken back", 8, 200, resetsRapidly},
		{"headers without an end", 8, 200, continues(false)},
		{"headers without an end, and nothing in them", 8, 200, continues(true)},
		{"pings", 8, 200, pings},
		{"settings", 8, 200, sets},
	}
}

// The good callers' requests a second, and how often a flood is measured beside quiet:
// a disk that stalls once is not the flood's doing, and medians do not see it.
const (
	goodRate    = 100
	floodRounds = 5
)

// TestFloods attacks a daemon that has the limits that it has by default, while a
// few good callers ask. OCTO_STS_FLOODS is for how long each, floodRounds times, and has
// the daemon run on the first core alone; this process should then run on another one
// (taskset -c 1). Without, limits and attackers are a quarter of that, and nothing is
// measured.
func TestFloods(t *testing.T) {
	span, config := time.Second, ststest.ServiceConfig{Webhook: true, Issuer: ststest.IssuerConfig{Alg: "ES256"}}
	connections, perAddress := 1024, 64
	measured := os.Getenv("OCTO_STS_FLOODS")
	if measured != "" {
		var err error
		if span, err = time.ParseDuration(measured); err != nil {
			t.Fatal(err)
		}
		config.Wrap = []string{"taskset", "-c", "0"}
		connections, perAddress = 4096, 1024
	}
	r := tlsRig(t, map[string]any{"connections": connections, "connections_per_address": perAddress}, config)
	good := &barrage{rig: r, requests: r.exchangeRequests(100), connections: 16, from: func(n int) string { return fmt.Sprintf("127.9.0.%d", max(8, n)) }} // half of them share one address
	good.run(goodRate, span)                                                                                                                               // the first ones of all
	s := siege{good, span, connections}
	check := r.leavesNothing(t)
	for _, f := range floods() {
		t.Run(f.name, func(t *testing.T) {
			good.requests = r.exchangeRequests(100) // an ID token wears out
			before := r.gauges()
			if measured != "" {
				s.measure(t, f)
			} else {
				if f.attackers > 8 {
					f.attackers /= 4
				}
				s.beside(t, f.start(r.daemonAt()))
			}
			after := r.gauges()
			for name, value := range after {
				if strings.Contains(name, "shed_total") && value > before[name] {
					t.Logf("%s %.0f", name, value-before[name])
				}
			}
			t.Logf("%.0f MiB; CPU %.1f s", r.residentMiB(), after["process_cpu_seconds_total"]-before["process_cpu_seconds_total"])
			check()
		})
	}
	if lines := strings.Count(r.Logs(), "\n"); lines > 20_000 {
		t.Errorf("%d lines of log", lines)
	}
}

// siege is what floods are seen beside.
type siege struct {
	good        *barrage
	span        time.Duration
	connections int // at most
}

// measure compares the good callers' latencies with those in quiet.
func (s siege) measure(t *testing.T, f attack) {
	var quiet, flooded, half []time.Duration
	for range floodRounds {
		s.good.run(goodRate, s.span)
		quiet = append(quiet, percentile(s.good.granted, 0.99))
		s.beside(t, f.startApart(t, s.good.rig))
		flooded = append(flooded, percentile(s.good.granted, 0.99))
		half = append(half, percentile(s.good.granted, 0.5))
	}
	middle := func(all []time.Duration) time.Duration { return percentile(all, 0.5).Round(10 * time.Microsecond) }
	t.Logf("p99 of good callers %s, quiet %s: × %.2f; p50 %s; medians of p99s %s, quiet %s", middle(flooded), middle(quiet),
		float64(middle(flooded))/float64(middle(quiet)), middle(half), flooded, quiet)
}

// beside has good callers ask while an attack goes on, which stop then ends.
func (s siege) beside(t *testing.T, stop func()) {
	defer stop()
	time.Sleep(s.span / 5) // until it has begun in earnest
	s.good.run(goodRate, s.span)
	if len(s.good.failed) > 0 || len(s.good.shed) > 0 {
		t.Errorf("of the good callers %d were granted, %d shed, and failed: %v", len(s.good.granted), len(s.good.shed), s.good.failed)
	}
	if resident := s.good.rig.residentMiB(); resident > 512 && !raceDetector() {
		t.Errorf("%.0f MiB resident", resident)
	}
	if open := s.good.rig.gauges()["octo_sts_connections_open"]; open > float64(s.connections) {
		t.Errorf("%.0f connections were open", open)
	}
}

// raceDetector tells whether the programs are those with the race detector, which
// take several times the memory.
func raceDetector() bool { return strings.HasSuffix(os.Getenv("OCTO_STS_BIN"), "/race") }

// start has the attackers begin, and returns what ends them.
func (f attack) start(d daemonAt) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for n := range f.attackers {
		all.Go(func() {
			for i := n; ctx.Err() == nil; i++ {
				from := fmt.Sprintf("127.20.%d.%d", i%f.addresses/100, 1+i%f.addresses%100)
				f.run(d, ctx, from)
				select {
				case <-ctx.Done():
				case <-time.After(time.Duration(f.attackers) * time.Millisecond): // this machine is to do something else, too
				}
			}
		})
	}
	return func() {
		cancel()
		all.Wait()
	}
}

// startApart has the attackers run as a process of their own, which leaves the
// processor to the good callers of this one whenever they want it.
func (f attack) startApart(t *testing.T, r *rig) (stop func()) {
	t.Helper()
	attackers := exec.Command("chrt", "--idle", "0", os.Args[0], "-test.run=^TestAttackers$")
	attackers.Env = append(os.Environ(), "OCTO_STS_ATTACK="+f.name, "OCTO_STS_ATTACK_ADDRESS="+r.Address())
	attackers.Stdin = bytes.NewReader(r.CAPEM())
	if err := attackers.Start(); err != nil {
		t.Fatal(err)
	}
	return func() {
		_ = attackers.Process.Kill()
		_ = attackers.Wait() // it says that it was killed
	}
}

// TestAttackers is startApart's process.
func TestAttackers(t *testing.T) {
	name := os.Getenv("OCTO_STS_ATTACK")
	if name == "" {
		t.Skip("TestFloods runs it")
	}
	pem, err := io.ReadAll(os.Stdin)
	if err != nil {
		t.Fatal(err)
	}
	d := daemonAt{os.Getenv("OCTO_STS_ATTACK_ADDRESS"), x509.NewCertPool()}
	d.roots.AppendCertsFromPEM(pem)
	for _, f := range floods() {
		if f.name == name {
			defer f.start(d)()
		}
	}
	time.Sleep(time.Hour) // until it is killed
}

// hold keeps a connection until the daemon closes it, or the attack ends.
func hold(ctx context.Context, c net.Conn) {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	_, _ = io.Copy(io.Discard, c) // whatever it says
}

func says(text string) func(daemonAt, context.Context, string) {
	return func(d daemonAt, ctx context.Context, from string) {
		if c, err := d.dial(from); err == nil {
			_, _ = io.WriteString(c, text)
			hold(ctx, c)
		}
	}
}

func saysSlowly(text string) func(daemonAt, context.Context, string) {
	return func(d daemonAt, ctx context.Context, from string) {
		c, err := d.dialTLS(from, "http/1.1")
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, text)
		go func() {
			for ctx.Err() == nil {
				time.Sleep(time.Second)
				if _, err := io.WriteString(c, "X"); err != nil {
					return
				}
			}
		}()
		hold(ctx, c)
	}
}

func connects(d daemonAt, ctx context.Context, from string) {
	for range 200 {
		if c, err := d.dial(from); err == nil {
			c.Close()
		}
	}
}

func shakesHands(d daemonAt, ctx context.Context, from string) {
	for range 20 {
		if c, err := d.dialTLS(from, "h2"); err == nil {
			c.Close()
		}
	}
}

func asksBadly(d daemonAt, ctx context.Context, from string) {
	c, err := d.dialTLS(from, "http/1.1")
	if err != nil {
		return
	}
	go hold(ctx, c)
	defer c.Close()
	for range 300 {
		if _, err := io.WriteString(c, "GET /sts/exchange?scope=acme/app&identity=reader HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a.b.c\r\n\r\n"); err != nil {
			return
		}
	}
}
