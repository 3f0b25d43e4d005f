package journald

import (
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"go.uber.org/zap/zapcore"
)

// LogCore is where a program's log goes: to the journal, in the native protocol, where
// standard error is the journal's, as under systemd; else to standard error, as lines
// makes it. Lines is also for what journald does not take. Nothing waits for journald:
// a log that is lost costs less than exchanges that stand still.
func LogCore(identifier string, lines func(zapcore.WriteSyncer) zapcore.Core) zapcore.Core {
	if isJournal, err := journal.StderrIsJournalStream(); err != nil || !isJournal {
		return lines(zapcore.Lock(os.Stderr))
	}
	return newLogCore(identifier, Socket, int(os.Stderr.Fd()), lines)
}

func newLogCore(identifier, socket string, stderr int, lines func(zapcore.WriteSyncer) zapcore.Core) zapcore.Core {
	lost := &atomic.Uint64{}
	core := &logCore{identifier: identifier, to: &now{path: socket}, lost: lost}
	core.Core = lines(zapcore.Lock(&stderrNow{fd: stderr, lost: lost}))
	return core
}

// logCore writes an entry of the log as one of the journal's. The Core in it is for
// what journald does not take, and says which levels there are.
type logCore struct {
	zapcore.Core
	identifier string
	with       []zapcore.Field
	to         *now
	lost       *atomic.Uint64 // lines that neither way has taken
}

func (c *logCore) With(fields []zapcore.Field) zapcore.Core {
	all := append(c.with[:len(c.with):len(c.with)], fields...)
	return &logCore{c.Core.With(fields), c.identifier, all, c.to, c.lost}
}

func (c *logCore) Check(e zapcore.Entry, to *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return to.AddCore(e, c)
	}
	return to
}

func (c *logCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	if n := c.lost.Swap(0); n > 0 {
		gap := zapcore.Entry{Level: zapcore.WarnLevel, Message: "lines of the log are lost: journald took nothing"}
		if c.to.send(c.fields(gap, []zapcore.Field{{Key: "lines", Type: zapcore.Uint64Type, Integer: int64(n)}}).Datagram()) != nil {
			c.lost.Add(n)
		}
	}
	if c.to.send(c.fields(e, fields).Datagram()) == nil {
		return nil
	}
	return c.Core.Write(e, fields)
}

// fields are those of an entry: each of zap's under a name of ours, the same that the
// audit log's copies have where they mean the same, and all of them in MESSAGE as well,
// which is what journalctl shows.
func (c *logCore) fields(e zapcore.Entry, fields []zapcore.Field) Fields {
	all := make(Fields, 3, 3+len(c.with)+len(fields))
	var message strings.Builder
	message.WriteString(e.Message)
	add := func(key, value string) {
		if value == "" {
			return
		}
		message.WriteString(" " + key + "=" + Word(value))
		all = append(all, Field{fieldName(key), value})
	}
	add("logger", e.LoggerName)
	for _, part := range [][]zapcore.Field{c.with, fields} {
		for _, f := range part {
			add(f.Key, textOf(f))
		}
	}
	all[0] = Field{"MESSAGE", message.String()}
	all[1] = Field{"PRIORITY", strconv.Itoa(int(priorityOf(e.Level)))}
	all[2] = Field{"SYSLOG_IDENTIFIER", c.identifier}
	return all
}

func priorityOf(level zapcore.Level) journal.Priority {
	switch {
	case level > zapcore.ErrorLevel:
		return journal.PriCrit
	case level == zapcore.ErrorLevel:
		return journal.PriErr
	case level == zapcore.WarnLevel:
		return journal.PriWarning
	case level == zapcore.InfoLevel:
		return journal.PriInfo
	}
	return journal.PriDebug
}

// fieldName makes OCTO_STS_REQUEST_ID of request_id. journald takes 64 characters.
func fieldName(key string) string {
	name := "OCTO_STS_" + strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, key)
	return name[:min(len(name), 64)]
}

// textOf is a field's value; "" for one that has none.
func textOf(f zapcore.Field) string {
	switch f.Type {
	case zapcore.SkipType:
		return ""
	case zapcore.StringType:
		return f.String
	case zapcore.Int64Type, zapcore.Int32Type:
		return strconv.FormatInt(f.Integer, 10)
	case zapcore.Uint64Type, zapcore.Uint32Type:
		return strconv.FormatUint(uint64(f.Integer), 10)
	case zapcore.DurationType:
		return time.Duration(f.Integer).String()
	}
	values := zapcore.NewMapObjectEncoder()
	f.AddTo(values)
	switch value := values.Fields[f.Key].(type) {
	case nil:
		return ""
	case string:
		return value
	case time.Time:
		return value.UTC().Format(time.RFC3339Nano)
	default:
		text, err := json.Marshal(value)
		if err != nil {
			return "" // no field of ours is of such a kind
		}
		return string(text)
	}
}
