package main

import (
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/octo-sts/appliance/packaging/manual"
)

// Maintainer is who the packages name. The packages' configurations in packaging/nfpm have the same.
const maintainer = "octo-sts appliance maintainers <octo-sts@users.noreply.github.com>"

// maxChanges bounds an entry: whoever wants all of the history has git.
const maxChanges = 60

// release is an entry of a changelog as nfpm reads it, for deb and rpm.
type release struct {
	Semver   string    `json:"semver"`
	Date     time.Time `json:"date"`
	Packager string    `json:"packager"`
	Deb      debFields `json:"deb"`
	Changes  []change  `json:"changes"`
}

type debFields struct {
	Urgency       string   `json:"urgency"`
	Distributions []string `json:"distributions"`
}

type change struct {
	Note string `json:"note"`
}

// writeChangelog writes an entry for the version that is being built and one for each tag before it, newest first, each with
// the subjects of its commits.
func writeChangelog(out io.Writer, version string) error {
	date, err := manual.SourceDate()
	if err != nil {
		return err
	}
	tags, err := git("tag", "--list", "v[0-9]*", "--merged", "HEAD", "--no-contains", "HEAD", "--sort=-creatordate")
	if err != nil {
		return err
	}
	var releases []release
	newer, name := "HEAD", version
	for _, tag := range append(tags, "") {
		r := release{Semver: name + "-1", Date: date, Packager: maintainer, Deb: debFields{"medium", []string{"unstable"}}}
		if r.Changes, err = changes(tag, newer); err != nil {
			return err
		}
		releases = append(releases, r)
		if tag == "" {
			break
		}
		newer, name = tag, strings.ReplaceAll(strings.TrimPrefix(tag, "v"), "-", "~")
		stamp, err := git("log", "-1", "--format=%cI", tag)
		if err != nil {
			return err
		}
		if date, err = time.Parse(time.RFC3339, stamp[0]); err != nil {
			return fmt.Errorf("reading the date of %s: %w", tag, err)
		}
	}
	text, err := yaml.Marshal(releases)
	if err != nil {
		return fmt.Errorf("writing the changelog: %w", err)
	}
	_, err = out.Write(text)
	return err
}

// changes lists the subjects of the commits of newer that older, which may be empty, lacks.
func changes(older, newer string) ([]change, error) {
	commits := newer
	if older != "" {
		commits = older + ".." + newer
	}
	subjects, err := git("log", "--no-merges", "--format=%s", commits)
	if err != nil {
		return nil, err
	}
	var list []change
	for i, subject := range subjects {
		if i == maxChanges {
			list = append(list, change{fmt.Sprintf("and %d more, see the history in git", len(subjects)-i)})
			break
		}
		list = append(list, change{wrap(subject, 74)})
	}
	if list == nil {
		list = []change{{"no changes"}}
	}
	return list, nil
}

// wrap breaks a subject into lines of at most width bytes, where it has blanks.
func wrap(text string, width int) string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		line = strings.TrimSpace(line + " " + word)
	}
	return strings.Join(append(lines, line), "\n")
}

// git runs git and returns its lines.
func git(args ...string) ([]string, error) {
	out, err := exec.Command("git", args...).Output()
	if err != nil {
		return nil, fmt.Errorf("git %s: %w", strings.Join(args, " "), err)
	}
	text := strings.TrimSpace(string(out))
	if text == "" {
		return nil, nil
	}
	return strings.Split(text, "\n"), nil
}
