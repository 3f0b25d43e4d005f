package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/stspb"
	"github.com/octo-sts/appliance/sts/ststest"
)

// TestRealProxies puts HAProxy and nginx in front of the daemon, as docs/limits.md
// has them configured but for addresses and files. OCTO_STS_PROXIES=1 runs it; both have to be
// installed.
func TestRealProxies(t *testing.T) {
	if os.Getenv("OCTO_STS_PROXIES") == "" {
		t.Skip("it needs haproxy and nginx: OCTO_STS_PROXIES=1")
	}
	const caller = "127.7.0.9"
	t.Run("HAProxy", func(t *testing.T) {
		r := newRig(t, ststest.ServiceConfig{TLS: true, Edit: func(c map[string]any) {
			c["listen"].(map[string]any)["proxies"] = []string{"127.0.0.1/32"}
			c["listen"].(map[string]any)["proxy_protocol"] = true
		}})
		front := freeAddress(t)
		runProxy(t, front, "haproxy", "defaults\n    timeout connect 5s\n"+fromGuide(t, "haproxy", map[string]string{
			"bind :443": "bind " + front, "127.0.0.1:8443": r.Address(),
		}), "haproxy", "-db", "-f")
		if got := r.askAt(daemonAt{front, r.Roots()}, caller, "", "X-Forwarded-For: 192.0.2.7"); got != caller {
			t.Errorf("the caller is %s, want %s", got, caller)
		}
	})
	t.Run("nginx", func(t *testing.T) {
		files := map[string]any{}
		r := newRig(t, ststest.ServiceConfig{TLS: true, Edit: func(c map[string]any) {
			files = c["tls"].(map[string]any)["files"].(map[string]any)
			c["tls"] = map[string]any{"mode": "off"}
			c["listen"].(map[string]any)["proxies"] = []string{"127.0.0.1/32"}
		}})
		front := freeAddress(t)
		server := fromGuide(t, "nginx", map[string]string{
			"listen 443": "listen " + front, "127.0.0.1:8443": r.Address(),
			"/etc/nginx/sts.example.com.pem": files["certificate"].(string), "/etc/nginx/sts.example.com.key": files["key"].(string),
		})
		dir := t.TempDir()
		runProxy(t, front, "nginx", "daemon off; master_process off; pid "+dir+"/pid; error_log "+dir+"/errors; events {}\n"+
			"http { access_log off; client_body_temp_path "+dir+"/b; proxy_temp_path "+dir+"/p; fastcgi_temp_path "+dir+"/f; uwsgi_temp_path "+dir+"/u; scgi_temp_path "+dir+"/s;\n"+server+"}\n",
			"nginx", "-e", dir+"/errors", "-c")
		at := daemonAt{front, r.Roots()}
		for _, lines := range [][]string{nil, {"X-Forwarded-For: 192.0.2.7"}, {"Forwarded: for=192.0.2.7"}} {
			if got := r.askAt(at, caller, "", lines...); got != caller {
				t.Errorf("with %v the caller is %s, want %s", lines, got, caller)
			}
		}
		if got := r.callerOverGRPC(at, caller); got != caller {
			t.Errorf("over gRPC the caller is %s, want %s", got, caller)
		}
	})
}

// fromGuide is the configuration in docs/limits.md, with other words for some.
func fromGuide(t *testing.T, language string, words map[string]string) string {
	t.Helper()
	guide, err := os.ReadFile("../../docs/limits.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllSubmatch(guide, -1)
	if len(blocks) != 1 {
		t.Fatalf("%d configurations for %s", len(blocks), language)
	}
	config := string(blocks[0][1])
	for from, to := range words {
		if !strings.Contains(config, from) {
			t.Fatalf("no %q for %s", from, language)
		}
		config = strings.ReplaceAll(config, from, to)
	}
	return config
}

// runProxy runs a command with a file that holds config until the test ends.
func runProxy(t *testing.T, front, name, config string, command ...string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	proxy := exec.CommandContext(t.Context(), command[0], append(command[1:], file)...)
	var said bytes.Buffer
	proxy.Stdout, proxy.Stderr = &said, &said
	if err := proxy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = proxy.Process.Kill()
		_ = proxy.Wait()
		if t.Failed() {
			t.Logf("%s: %s\n%s", name, &said, config)
		}
	})
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("tcp", front); err == nil {
			c.Close()
			return
		}
	}
	t.Fatalf("%s does not listen", name)
}

// callerOverGRPC is askAt over gRPC.
func (r *rig) callerOverGRPC(d daemonAt, from string) string {
	r.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+d.address, grpc.WithTransportCredentials(credentials.NewClientTLSFromCert(d.roots, "127.0.0.1")),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return d.dial(from) }))
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close()
	var header metadata.MD
	ctx := metadata.AppendToOutgoingContext(r.t.Context(), "authorization", "Bearer "+r.job(nil), "x-forwarded-for", "192.0.2.7")
	if err := conn.Invoke(ctx, exchangeMethod, &stspb.ExchangeRequest{Scopes: []string{"acme/app"}, Identity: "reader"}, new(stspb.RawToken), grpc.Header(&header)); err != nil {
		return err.Error()
	}
	entries := r.audited(audit.Filter{RequestID: header.Get("x-request-id")[0]})
	if len(entries) != 2 {
		r.t.Fatalf("audit log: %+v", entries)
	}
	return entries[0].ClientAddress
}
