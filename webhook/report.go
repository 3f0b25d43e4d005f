package webhook

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/trustpolicy"
)

const (
	// maxListed bounds each list of the summary, in lines.
	maxListed = 100

	// The lists share what GitHub takes of a summary, 65,535 bytes, and leave some
	// for what stands around them.
	maxFailuresBytes = 30_000
	maxWarningsBytes = 18_000
	maxFilesBytes    = 12_000

	// maxCode bounds one foreign text, in bytes.
	maxCode = 800
)

// report says for a developer what was found. The same findings give the same
// report.
func (c *checker) report(job checkJob, found *findings) *verdict {
	v := &verdict{conclusion: found.conclusion(), title: title(found), summary: c.summary(job, found)}
	for _, file := range found.files {
		v.files = append(v.files, file.path)
	}
	for _, one := range slices.Concat(found.failures, found.warnings) {
		if len(v.annotations) == maxKept {
			break
		}
		if strings.IndexFunc(one.path, isUnprintable) >= 0 {
			continue // GitHub would show it as it is; the summary does not
		}
		v.annotations = append(v.annotations, githubapp.Annotation{
			Path: one.path, Line: one.line, Level: one.level, Title: one.title, Message: one.message,
		})
	}
	return v
}

// title is one line, and what a list of checks shows.
func title(found *findings) string {
	refused := 0
	for _, file := range found.files {
		if file.failed > 0 {
			refused++
		}
	}
	switch total := len(found.files); {
	case found.fault != "":
		return "The trust policies could not be checked"
	case refused > 0:
		return fmt.Sprintf("%d of %s would be refused", refused, count(total, "trust policy", "trust policies"))
	case found.warned > 0:
		return fmt.Sprintf("%s in %s", count(found.warned, "warning", "warnings"), count(total, "trust policy", "trust policies"))
	case total > 0:
		return count(total, "trust policy", "trust policies") + " would be accepted"
	case len(found.removed) > 0:
		return count(len(found.removed), "trust policy", "trust policies") + " removed"
	}
	return "No trust policy changed"
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// summary is the text of the check run, in GitHub's Markdown. Foreign text
// (names, and messages, which quote the files) stands in code spans alone.
func (c *checker) summary(job checkJob, found *findings) string {
	var b strings.Builder
	switch {
	case found.fault != "":
		return found.fault + "\n"
	case len(found.files) == 0:
		b.WriteString("This commit changes no file in `.github/chainguard/` that would have to be checked.\n")
	case found.failed > 0:
		b.WriteString("The token exchange would refuse what is listed here first. A trust policy that it refuses grants nothing to anybody.\n")
	case found.warned > 0:
		b.WriteString("The token exchange would refuse none of these files.\n")
	default:
		b.WriteString("The token exchange would accept these trust policies.\n")
	}
	if found.failed > 0 {
		b.WriteString("\n### Would be refused\n\n")
		list(&b, maxFailuresBytes, found.failed, found.failures, func(one finding) string { return remark(job, one) })
	}
	b.WriteString(remedies(job, found))
	if found.warned > 0 {
		b.WriteString("\n### Warnings\n\nNone of these makes the exchange refuse a file, and they are seldom meant.\n\n")
		list(&b, maxWarningsBytes, found.warned, found.warnings, func(one finding) string { return remark(job, one) })
	}
	if len(found.files) > 0 {
		b.WriteString("\n### Files\n\n")
		list(&b, maxFilesBytes, len(found.files), found.files, func(file fileResult) string { return state(job, file) })
	}
	if len(found.removed) > 0 {
		fmt.Fprintf(&b, "\n%s removed: nobody gets a token by a policy that is not there.\n", count(len(found.removed), "trust policy", "trust policies"))
	}
	if c.inPolicyRepository(job) && slices.Contains(found.removed, trustpolicy.TrustedIssuersPath) {
		b.WriteString("\n**The list of trusted issuers is removed.** Without it each issuer is trusted that the operator of the token exchange lists.\n")
	}
	if found.failed+found.warned > 0 {
		flag := ""
		if c.inPolicyRepository(job) {
			flag = "--organization "
		}
		fmt.Fprintf(&b, "\nThe files can be checked in the same way on your own machine, in a checkout of this commit:\n\n```\nocto-sts policy lint %s.github/chainguard/*.yaml\n```\n", flag)
	}
	return b.String()
}

// remedies says who can do what about failures that are more than a fault in one
// file.
func remedies(job checkJob, found *findings) string {
	var b strings.Builder
	if slices.ContainsFunc(found.failures, func(one finding) bool { return one.path == trustpolicy.TrustedIssuersPath }) {
		b.WriteString("\n**The list of trusted issuers cannot be understood.** As long as it stands so on the default branch, the exchange refuses everybody in the whole organization.\n")
	}
	if slices.ContainsFunc(found.failures, func(one finding) bool { return one.title == titleLacking }) {
		fmt.Fprintf(&b, "\n**A permission is lacking.** Either ask for less in the policy, or have it granted: who manages the GitHub App adds it under "+
			"*Permissions & events* in the App's settings, and then an owner of %s accepts it where the App is listed among the installed GitHub Apps in the settings of the account. "+
			"Then ask for this check again.\n", code(job.Owner))
	}
	if slices.ContainsFunc(found.failures, func(one finding) bool { return one.title == titleCeiling }) {
		b.WriteString("\n**The operator's ceiling is lower.** Either ask for less in the policy, or ask the operator of the token exchange to raise `ceiling` in its configuration. " +
			"Then ask for this check again.\n")
	}
	return b.String()
}

// list writes a line for each item, as many as there is room for, and how many
// more of total there are.
func list[T any](b *strings.Builder, room, total int, items []T, line func(T) string) {
	listed := 0
	for _, item := range items {
		text := "- " + line(item) + "\n"
		if room -= len(text); room < 0 || listed == maxListed {
			break
		}
		b.WriteString(text)
		listed++
	}
	if listed < total {
		fmt.Fprintf(b, "- and %d more\n", total-listed)
	}
}

// remark is one finding, with where it is.
func remark(job checkJob, one finding) string {
	where := one.path
	if one.line > 0 {
		where += ":" + strconv.Itoa(one.line)
	}
	return link(job, one.path, one.line, where) + ": " + code(one.message)
}

// state is how one file fares.
func state(job checkJob, file fileResult) string {
	var remarks []string
	if file.failed > 0 {
		remarks = append(remarks, "**refused**, "+count(file.failed, "problem", "problems"))
	}
	if file.warnings > 0 {
		remarks = append(remarks, count(file.warnings, "warning", "warnings"))
	}
	if len(remarks) == 0 {
		remarks = []string{"good"}
	}
	return link(job, file.path, 0, file.path) + ": " + strings.Join(remarks, ", ")
}

// link makes a link to a line of a file at the job's commit, or plain code where
// the repository has no address.
func link(job checkJob, path string, line int, text string) string {
	base, err := url.Parse(job.WebURL)
	if err != nil || base.Scheme != "https" && base.Scheme != "http" || base.Host == "" {
		return code(text)
	}
	segments := strings.Split(path, "/")
	for i, segment := range segments {
		segments[i] = url.PathEscape(segment)
	}
	address := strings.TrimSuffix(base.Scheme+"://"+base.Host+base.EscapedPath(), "/") + "/blob/" + url.PathEscape(job.Head) + "/" + strings.Join(segments, "/")
	if line > 0 {
		address += "#L" + strconv.Itoa(line)
	}
	if len(address) > maxCode || strings.ContainsAny(address, "()<>[]` \"") {
		return code(text) // nothing here has such an address
	}
	return "[" + code(text) + "](" + address + ")"
}

func isUnprintable(r rune) bool { return !unicode.IsPrint(r) }

// code makes a code span that shows text, which cannot end it: GitHub ends one at
// a run of as many backticks as began it (CommonMark, section 6.1). What is not
// printable, line breaks among it, is replaced.
func code(text string) string {
	text = strings.Map(func(r rune) rune {
		if isUnprintable(r) {
			return '\uFFFD'
		}
		return r
	}, text)
	if len(text) > maxCode {
		text = strings.ToValidUTF8(text[:maxCode], "") + "…"
	}
	longest, run := 0, 0
	for _, r := range text {
		if run++; r != '`' {
			run = 0
		}
		longest = max(longest, run)
	}
	fence := strings.Repeat("`", longest+1)
	if text == "" || strings.HasPrefix(text, "`") || strings.HasSuffix(text, "`") || strings.HasPrefix(text, " ") && strings.HasSuffix(text, " ") {
		text = " " + text + " " // one of which is not shown
	}
	return fence + text + fence
}
