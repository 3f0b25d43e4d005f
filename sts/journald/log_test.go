package journald

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"
)

// logs is a logger with a journald, and a standard error, that the test reads.
type logs struct {
	*zap.Logger
	path   string
	stderr *net.UnixConn
}

func newLogs(t *testing.T, path string) *logs {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(pair[0]), "journald's end of standard error")
	conn, err := net.FileConn(file)
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); unix.Close(pair[1]) })
	lines := func(to zapcore.WriteSyncer) zapcore.Core {
		return zapcore.NewCore(zapcore.NewJSONEncoder(zapcore.EncoderConfig{MessageKey: "msg"}), to, zap.InfoLevel)
	}
	return &logs{zap.New(newLogCore("octo-stsd", path, pair[1], lines)), path, conn.(*net.UnixConn)}
}

func read(t *testing.T, from io.Reader) string {
	t.Helper()
	buffer := make([]byte, 1<<20)
	n, err := from.Read(buffer)
	if err != nil {
		t.Fatal(err)
	}
	return string(buffer[:n])
}

// A line of the log is an entry of the journal: each of its fields by a name of ours,
// and all of it in the message, in which nobody else's text can pass for ours.
func TestLogEntry(t *testing.T) {
	l, path := listenDatagrams(t)
	log := newLogs(t, path)
	log.Debug("not wanted")
	log.Named("https").With(zap.Int("hsm", 1)).Warn("exchange", zap.String("request_id", "R1"), zap.String("subject", hostile), zap.String("reason", ""),
		zap.Duration("duration", 1500*time.Microsecond), zap.Error(errors.New("no room")), zap.Strings("keys", []string{"a", "b"}),
		zap.Time("expiry", time.Unix(0, 0)), zap.Bool("passed", true), zap.Skip(), zap.Error(nil), zap.Uint32("uid", 7))
	got, ok := readDatagram([]byte(read(t, l)))
	if !ok {
		t.Fatal("journald cannot read it")
	}
	quoted := strings.SplitAfter(got[0].Value, " subject=")[1]
	want := Fields{
		{"MESSAGE", "exchange logger=https hsm=1 request_id=R1 subject=" + quoted}, {"PRIORITY", "4"}, {"SYSLOG_IDENTIFIER", "octo-stsd"},
		{"OCTO_STS_LOGGER", "https"}, {"OCTO_STS_HSM", "1"}, {"OCTO_STS_REQUEST_ID", "R1"}, {"OCTO_STS_SUBJECT", hostile}, {"OCTO_STS_DURATION", "1.5ms"},
		{"OCTO_STS_ERROR", "no room"}, {"OCTO_STS_KEYS", `["a","b"]`}, {"OCTO_STS_EXPIRY", "1970-01-01T00:00:00Z"}, {"OCTO_STS_PASSED", "true"}, {"OCTO_STS_UID", "7"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !strings.HasPrefix(quoted, `"a\x1b[2J`) || !strings.HasSuffix(quoted, ` duration=1.5ms error="no room" keys="[\"a\",\"b\"]" expiry=1970-01-01T00:00:00Z passed=true uid=7`) ||
		strings.ContainsAny(got[0].Value, "\x1b\n\u202e") {
		t.Errorf("the message is %q", got[0].Value)
	}
}

// Each level has its priority.
func TestPriorities(t *testing.T) {
	for level, want := range map[zapcore.Level]int{
		zap.DebugLevel: 7, zap.InfoLevel: 6, zap.WarnLevel: 4, zap.ErrorLevel: 3, zap.DPanicLevel: 2, zap.FatalLevel: 2,
	} {
		if got := int(priorityOf(level)); got != want {
			t.Errorf("%s has priority %d, want %d", level, got, want)
		}
	}
}

// Where journald is not there, lines go to standard error; once it is back, to it.
func TestLogWithoutJournald(t *testing.T) {
	log := newLogs(t, filepath.Join(t.TempDir(), "socket"))
	log.Info("to standard error")
	if got := read(t, log.stderr); got != "{\"msg\":\"to standard error\"}\n" {
		t.Errorf("standard error has %q", got)
	}
	for range 2 {
		l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: log.path, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		log.Info("back")
		if got := read(t, l); !strings.HasPrefix(got, "MESSAGE=back\n") {
			t.Errorf("the journal has %q", got)
		}
		l.Close()
		if err := os.Remove(log.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

// A journald that hangs holds nothing up: lines go to standard error until that is full, too,
// and what neither took is told of when journald goes on.
func TestLogNeverWaits(t *testing.T) {
	l, path := listenDatagrams(t)
	log := newLogs(t, path)
	long := strings.Repeat("x", 1000)
	const lines = 20_000
	written := make(chan struct{})
	go func() {
		defer close(written)
		for range lines {
			log.Info(long)
		}
	}()
	select {
	case <-written:
	case <-time.After(time.Minute): // a safety limit
		t.Fatal("a line of the log waits")
	}
	taken := 0
	for {
		if err := l.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Read(make([]byte, 1<<16)); err != nil {
			break
		}
		taken++
	}
	if taken == 0 || taken == lines {
		t.Fatalf("journald took %d of %d", taken, lines)
	}
	log.Info("goes on")
	if err := l.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if got := read(t, l); !strings.HasPrefix(got, "MESSAGE=lines of the log are lost: journald took nothing lines=") {
		t.Errorf("the journal has %q", got)
	}
	if got := read(t, l); !strings.HasPrefix(got, "MESSAGE=goes on\n") {
		t.Errorf("the journal has %q", got)
	}
}

func BenchmarkLogLine(b *testing.B) {
	path := filepath.Join(b.TempDir(), "socket")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() {
		for buffer := make([]byte, 1<<16); ; {
			if _, err := l.Read(buffer); err != nil {
				return
			}
		}
	}()
	log := zap.New(newLogCore("octo-stsd", path, -1, func(zapcore.WriteSyncer) zapcore.Core {
		return zapcore.NewCore(zapcore.NewJSONEncoder(zapcore.EncoderConfig{}), zapcore.AddSync(io.Discard), zap.InfoLevel)
	}))
	b.ReportAllocs()
	for b.Loop() {
		log.Info("exchange", zap.String("request_id", "R1"), zap.String("scope", "acme/app"), zap.String("identity", "reader"),
			zap.String("issuer", "https://token.actions.githubusercontent.com"), zap.String("subject", "repo:acme/app:ref:refs/heads/main"),
			zap.String("decision", "granted"), zap.Duration("duration", time.Millisecond))
	}
}
