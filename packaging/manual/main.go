package manual

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

// Main is the main of a program that is built with the tag manual. Into the directory that its one argument names it writes
// the program's page, man/NAME.SECTION.gz, one for each command that has much to say, man/NAME-COMMAND.SECTION.gz, and its completions, bash/NAME, zsh/_NAME and fish/NAME.fish. Then it exits.
func Main(root *cobra.Command, section int, p Page, description string) {
	if err := write(root, section, p, description); err != nil {
		fmt.Fprintf(os.Stderr, "writing the manual of %s: %v\n", root.Name(), err)
		os.Exit(1)
	}
	os.Exit(0)
}

func write(root *cobra.Command, section int, p Page, description string) error {
	if len(os.Args) != 2 {
		return fmt.Errorf("usage: %s DIRECTORY", os.Args[0])
	}
	dir := os.Args[1]
	date, err := SourceDate()
	if err != nil {
		return err
	}
	p.Date, p.Section = date, section
	if err := WriteGzip(filepath.Join(dir, "man", root.Name()+"."+strconv.Itoa(section)+".gz"), Program(p, description, root)); err != nil {
		return err
	}
	for _, c := range commandsWithPages(root) {
		if err := WriteGzip(filepath.Join(dir, "man", fmt.Sprintf("%s-%s.%d.gz", root.Name(), c.Name(), section)), Command(p, c)); err != nil {
			return err
		}
	}
	var bash, zsh, fish bytes.Buffer
	for path, write := range map[string]func() error{
		"bash": func() error { return root.GenBashCompletionV2(&bash, true) },
		"zsh":  func() error { return root.GenZshCompletion(&zsh) },
		"fish": func() error { return root.GenFishCompletion(&fish, true) },
	} {
		if err := write(); err != nil {
			return fmt.Errorf("making the completion of %s: %w", path, err)
		}
	}
	for path, content := range map[string][]byte{
		"bash/" + root.Name():           bash.Bytes(),
		"zsh/_" + root.Name():           zsh.Bytes(),
		"fish/" + root.Name() + ".fish": fish.Bytes(),
	} {
		if err := writeFile(filepath.Join(dir, path), content); err != nil {
			return err
		}
	}
	return nil
}

// SourceDate is $SOURCE_DATE_EPOCH (reproducible-builds.org/specs/source-date-epoch): what is made at all times from the
// same source says that time, and not the time of day.
func SourceDate() (time.Time, error) {
	seconds, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading $SOURCE_DATE_EPOCH: %w", err)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// WriteGzip writes a compressed file with neither a name nor a time in it, as `gzip -9n` would.
func WriteGzip(path string, content []byte) error {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := z.Write(content); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return writeFile(path, b.Bytes())
}

func writeFile(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o644)
}
