package doctor

import (
	"context"
	"encoding/json"
	"os"
	"regexp"
	"strings"
)

// unitNames are the units of the packages. Those that this version does not have are not found, which is no fault.
var unitNames = []string{
	target, daemonService, "octo-stsd.socket", "octo-stsd-http.socket", signerService, "octo-sts-signer.socket", "octo-sts-probe.service", "octo-sts-probe.timer",
}

// unitProperties are what is asked of each (org.freedesktop.systemd1(5)).
const unitProperties = "Id,LoadState,ActiveState,SubState,UnitFileState,Result,ExecMainStatus,MainPID,NRestarts,NeedDaemonReload,DropInPaths,StatusText,InvocationID,User,Environment,Listen"

// unit is a unit's properties.
type unit map[string]string

func (u unit) property(name string) string { return u[name] }

func (u unit) exists() bool { return u["LoadState"] != "" && u["LoadState"] != "not-found" }

func (u unit) is(state string) bool { return u["ActiveState"] == state }

// readUnits asks systemd. nil: there is none to ask.
func (m *machine) readUnits(ctx context.Context) map[string]unit {
	if _, err := os.Stat(m.path("/run/systemd/system")); err != nil || m.Root != "" {
		return nil
	}
	said := m.run(ctx, "", "systemctl", append([]string{"show", "--no-pager", "--property=" + unitProperties}, unitNames...)...)
	if said.err != nil {
		return nil
	}
	return parseUnits(said.stdout)
}

// parseUnits reads what `systemctl show` prints: NAME=VALUE in lines, and a blank line between units. What a unit has several
// of has several lines.
func parseUnits(text string) map[string]unit {
	units := map[string]unit{}
	for block := range strings.SplitSeq(text, "\n\n") {
		u := unit{}
		for line := range strings.Lines(block) {
			name, value, found := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
			if !found {
				continue
			}
			if before := u[name]; before != "" {
				value = before + "\n" + value
			}
			u[name] = value
		}
		if id := u["Id"]; id != "" {
			units[id] = u
		}
	}
	return units
}

// lastError is the last thing in the journal that a unit's last run said to be wrong; "" where there is none, or it is not
// for us to read.
func (m *machine) lastError(ctx context.Context, u unit) string {
	if u["InvocationID"] == "" {
		return ""
	}
	said := m.run(ctx, "", "journalctl", "--no-pager", "--quiet", "--output=json", "--lines=50", "_SYSTEMD_INVOCATION_ID="+u["InvocationID"], "+", "INVOCATION_ID="+u["InvocationID"])
	return lastErrorOf(said.stdout)
}

// lastErrorOf picks it from the journal's lines: one of priority error or worse, or of ours with a level that says so;
// without any, the last line.
func lastErrorOf(journal string) string {
	lastLine, lastError := "", ""
	for text := range strings.Lines(journal) {
		var line struct {
			Message  string `json:"MESSAGE"`
			Priority string `json:"PRIORITY"`
			Unit     string `json:"_SYSTEMD_UNIT"`
		}
		if json.Unmarshal([]byte(text), &line) != nil || line.Message == "" {
			continue // a message with other bytes than text is an array
		}
		message, isError := readMessage(line.Message)
		if line.Unit != "init.scope" {
			lastLine = message
		}
		if isError || line.Unit != "init.scope" && line.Priority != "" && line.Priority < "4" {
			lastError = message
		}
	}
	if lastError == "" {
		lastError = lastLine
	}
	return shorten(lastError)
}

var startOfError = regexp.MustCompile(`^octo-sts[a-z-]*: `)

// readMessage takes the words out of a line of ours, which is JSON, or an error that ended a program.
func readMessage(message string) (words string, isError bool) {
	var line struct{ Level, Msg, Error string }
	if json.Unmarshal([]byte(message), &line) == nil && line.Msg != "" {
		words = line.Msg
		if line.Error != "" {
			words += ": " + line.Error
		}
		return words, line.Level == "error" || line.Level == "fatal" || line.Level == "panic"
	}
	return message, startOfError.MatchString(message)
}

// shorten makes one line of a text, of some hundred letters.
func shorten(text string) string {
	const most = 300
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
