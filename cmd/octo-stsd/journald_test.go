package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// journalSocket stands where journald's is, and takes what is sent there.
type journalSocket struct {
	path string

	mu  sync.Mutex
	all [][]byte // guarded by mu
}

func (c *canary) listenAsJournald() *journalSocket {
	c.t.Helper()
	s := &journalSocket{path: filepath.Join(c.Dir, "journald")}
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: s.path, Net: "unixgram"})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { l.Close() })
	go func() {
		for buffer := make([]byte, 1<<20); ; {
			n, err := l.Read(buffer)
			if err != nil {
				return
			}
			s.mu.Lock()
			s.all = append(s.all, bytes.Clone(buffer[:n]))
			s.mu.Unlock()
		}
	}()
	return s
}

// entries are the fields of what came.
func (s *journalSocket) entries() (all []map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, datagram := range s.all {
		fields := map[string]string{}
		for rest := datagram; len(rest) > 0; {
			line, after, _ := bytes.Cut(rest, []byte{'\n'})
			if name, value, isText := bytes.Cut(line, []byte{'='}); isText {
				fields[string(name)], rest = string(value), after
				continue
			}
			n := binary.LittleEndian.Uint64(after)
			fields[string(line)], rest = string(after[8:8+n]), after[8+n+1:]
		}
		all = append(all, fields)
	}
	return all
}

// freePort is free for a moment.
func (c *canary) freePort() string {
	c.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// underJournald runs the daemon once as systemd does, with its standard error and
// journald's socket being the test's: in a mount namespace of its own, since the place
// of that socket is nobody's to choose. What the daemon writes there is kept.
func (c *canary) underJournald() {
	c.t.Helper()
	if err := c.Stop(); err != nil {
		c.t.Fatal(err)
	}
	before, err := os.ReadFile(c.ConfigFile)
	if err != nil {
		c.t.Fatal(err)
	}
	public, admin := c.freePort(), c.freePort()
	c.rewriteConfig(func(config map[string]any) { config["listen"] = map[string]any{"https": public, "admin": admin} })
	defer func() {
		if err := os.WriteFile(c.ConfigFile, before, 0o600); err != nil {
			c.t.Fatal(err)
		}
	}()
	s := c.listenAsJournald()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	defer syscall.Close(pair[0])
	var stat syscall.Stat_t
	if err := syscall.Fstat(pair[1], &stat); err != nil {
		c.t.Fatal(err)
	}
	programs, err := rigPrograms()
	if err != nil {
		c.t.Fatal(err)
	}
	namespace := []string{"unshare", "--mount", "--propagation=private"}
	if os.Getuid() != 0 {
		namespace = append(namespace, "--map-root-user")
	}
	args := append(namespace, "sh", "-c", `mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal && : >/run/systemd/journal/socket &&
		mount --bind "$0" /run/systemd/journal/socket && exec "$@"`, s.path, filepath.Join(programs, "octo-stsd"), "serve", "--config", c.ConfigFile)
	cmd := exec.CommandContext(c.t.Context(), args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "CREDENTIALS_DIRECTORY="+filepath.Join(c.Dir, "credentials"), fmt.Sprintf("JOURNAL_STREAM=%d:%d", stat.Dev, stat.Ino))
	stderr := os.NewFile(uintptr(pair[1]), "standard error")
	cmd.Stderr = stderr
	err = cmd.Start()
	_ = stderr.Close()
	if err != nil {
		c.t.Fatal(err)
	}
	c.eventually("the daemon that logs to the journal is ready", func() bool {
		resp, err := http.Get("http://" + admin + "/readyz")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	var ids []string
	for identity, idToken := range map[string]string{"reader": c.idToken(nil), "nosuch": c.idToken(map[string]any{"sub": "stranger"}), "admin": "garbage"} {
		req, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, "http://"+public+"/sts/exchange?scope=acme/app&identity="+identity, nil)
		if err != nil {
			c.t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+idToken)
		x, err := c.Do(req)
		if err != nil {
			c.t.Fatal(err)
		}
		if x.Token != "" {
			c.mark("a token that was handed out", x.Token)
		}
		ids = append(ids, x.RequestID)
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		c.t.Error(err)
	}
	c.checkJournal(s, ids)
	_ = syscall.SetNonblock(pair[0], true)
	rest := make([]byte, 1<<16)
	if n, _ := syscall.Read(pair[0], rest); n > 0 {
		c.t.Errorf("lines went past the journal: %s", rest[:n])
	}
}

// checkJournal wants one line of each exchange, and its fields, by which it is found.
func (c *canary) checkJournal(s *journalSocket, ids []string) {
	c.t.Helper()
	time.Sleep(50 * time.Millisecond) // the reader has the last datagrams, perhaps
	lines := map[string]int{}
	for _, e := range s.entries() {
		for name, value := range e {
			c.keep("the journal", fmt.Appendf(nil, "%s=%s", name, value))
		}
		if e["SYSLOG_IDENTIFIER"] != "octo-stsd" || len(e["PRIORITY"]) != 1 {
			c.t.Errorf("an entry of the journal is %v", e)
		}
		if e["OCTO_STS_KIND"] == "" && strings.HasPrefix(e["MESSAGE"], "exchange") { // and no copy of the audit log's
			if e["PRIORITY"] != "6" || e["OCTO_STS_DECISION"] == "" || e["OCTO_STS_SCOPE"] != "acme/app" || e["OCTO_STS_IDENTITY"] == "" || e["OCTO_STS_DURATION"] == "" {
				c.t.Errorf("the line of an exchange is %v", e)
			}
			lines[e["OCTO_STS_REQUEST_ID"]]++
		}
	}
	for _, id := range ids {
		if lines[id] != 1 {
			c.t.Errorf("the journal has %d lines about exchange %s, want 1", lines[id], id)
		}
	}
}
