package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/octo-sts/appliance/cmd/octo-sts/doctor"
)

func addDoctorCommand(root *cobra.Command) {
	var output string
	config := doctor.Config{Version: version}
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Tell everything that is wrong with the appliance on this machine, and what mends it",
		Long: `Tell everything that is wrong with the appliance on this machine, and what mends it.

It looks at the configuration files, what the daemons say of them, and whether they
agree; users, directories, credentials, units, sockets and drop-ins; the PIN that a
token refused; certificate, name, clock, disk and proxy; the newest segment of the
audit log; and takes from the daemon that runs what that says of itself, GitHub, the
HSM and the App. It changes nothing. On a machine where nothing is configured yet it
tells the next step.

Each finding is a line: how bad it is, what is wrong, why that matters, after
"run:" a command for root's shell that mends it, and after "do:" what only a person
can do. A problem stops exchanges or lets somebody do what nobody should; with a
warning they go on, but not for everyone, or not for ever. Things that cannot be
looked at without root are told as unseen, and are nothing wrong by themselves. Mend
what is told first, and ask again.

Exit status: 0 nothing is wrong, 1 something is, 2 wrong usage.`,
		Example: `  sudo octo-sts doctor
  sudo octo-sts doctor --output json | jq -r '.findings[].command // empty'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("--output %q: want text or json", output)
			}
			report := doctor.Examine(cmd.Context(), config)
			var err error
			if output == "json" {
				encoder := json.NewEncoder(cmd.OutOrStdout())
				encoder.SetEscapeHTML(false)
				err = encoder.Encode(report)
			} else {
				err = writeFindings(cmd.OutOrStdout(), report, os.Getuid() == 0)
			}
			if err == nil && !report.OK {
				err = errNo
			}
			return err
		},
	}
	c.Flags().StringVar(&output, "output", "text", "text or json")
	c.Flags().StringVar(&config.Root, "root", "", "look at the machine below this `DIRECTORY`, and at nothing that runs")
	c.Flags().StringVar(&config.Programs, "programs", "/usr/bin", "`DIRECTORY` of octo-stsd and octo-sts-signer")
	_ = c.Flags().MarkHidden("root") // the flag is there: it was defined above
	_ = c.Flags().MarkHidden("programs")
	root.AddCommand(c)
}

// writeFindings writes a line for each finding, and one that sums them up.
func writeFindings(out io.Writer, r *doctor.Report, isRoot bool) error {
	var b strings.Builder
	counts := map[doctor.Severity]int{}
	for _, f := range r.Findings {
		counts[f.Severity]++
		fmt.Fprintf(&b, "%s: %s: %s", f.Severity, f.Check, onOneLine(f.What))
		for _, part := range []struct{ before, text string }{{"; ", f.Why}, {" | run: ", f.Command}, {" | do: ", f.Advice}} {
			if part.text != "" {
				b.WriteString(part.before + onOneLine(part.text))
			}
		}
		b.WriteString("\n")
	}
	switch {
	case !r.OK:
		fmt.Fprintf(&b, "problems: %d, warnings: %d", counts[doctor.Problem], counts[doctor.Warning])
	case counts[doctor.Unseen] > 0:
		b.WriteString("nothing is wrong, as far as could be seen")
	default:
		b.WriteString("nothing is wrong")
	}
	if n := counts[doctor.Unseen]; n > 0 {
		fmt.Fprintf(&b, ", not looked at: %d", n)
	}
	if !isRoot {
		b.WriteString(" (not run as root)")
	}
	_, err := fmt.Fprintln(out, b.String())
	return err
}

// onOneLine is printableLines for what must not begin a line of its own: names of files and of processes can have line
// breaks in them, and the next line would be taken for a finding.
func onOneLine(s string) string {
	return strings.ReplaceAll(printableLines(s), "\n", `\n`)
}
