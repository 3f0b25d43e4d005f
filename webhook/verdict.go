package webhook

import (
	"strings"

	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/trustpolicy"
)

// Conclusions of a check run, as GitHub names them. A rule that requires the
// check is satisfied by success and by neutral.
const (
	conclusionSuccess = "success"
	conclusionNeutral = "neutral" // the exchange would accept it, and there are warnings
	conclusionFailure = "failure"
)

// Levels of an annotation, as GitHub names them.
const (
	levelFailure = "failure"
	levelWarning = "warning"
	levelNotice  = "notice"
)

// verdict is what a check run says of one commit.
type verdict struct {
	conclusion  string
	title       string
	summary     string // Markdown
	annotations []githubapp.Annotation
	files       []string // the policies that were judged, sorted
}

// finding is one remark on a file.
type finding struct {
	path    string
	line    int // counted from 1; 0 for the file as a whole
	level   string
	title   string
	message string // foreign text in it is quoted, but it is no Markdown
}

// Titles of what the exchange would refuse for another reason than the file's
// own faults. The report goes by them.
const (
	titleLacking = "Permission that the App lacks"
	titleCeiling = "Over the operator's ceiling"
)

// maxKept bounds the failures, and the warnings, that are kept of one check, and
// so the annotations that it makes. What is over it is counted.
const maxKept = 500

// findings is what one check came to.
type findings struct {
	fault   string   // of the directory as a whole, in Markdown; "" for none
	removed []string // paths that are not there any more

	files              []fileResult // in order
	failures, warnings []finding    // in the order of files, at most maxKept of each
	failed, warned     int          // how many there were
}

// fileResult is how many remarks there are on one file.
type fileResult struct {
	path             string
	failed, warnings int
}

// add takes what was found in one file.
func (f *findings) add(path string, all []finding) {
	result := fileResult{path: path}
	for _, one := range all {
		if one.level == levelFailure {
			result.failed++
			f.failures = keep(f.failures, one)
		} else {
			result.warnings++
			f.warnings = keep(f.warnings, one)
		}
	}
	f.failed += result.failed
	f.warned += result.warnings
	f.files = append(f.files, result)
}

func keep(kept []finding, one finding) []finding {
	if len(kept) < maxKept {
		kept = append(kept, one)
	}
	return kept
}

// conclusion is a failure wherever the exchange would refuse something.
func (f *findings) conclusion() string {
	switch {
	case f.fault != "" || f.failed > 0:
		return conclusionFailure
	case f.warned > 0:
		return conclusionNeutral
	}
	return conclusionSuccess
}

// isReadable reports whether the file's name is one that any identity could have.
// Another one is not read: the exchange never does, and a name that GitHub's API
// cannot express would fail each time.
func isReadable(path string) bool {
	name := strings.TrimPrefix(path, trustpolicy.Directory)
	return trustpolicy.ValidIdentity(strings.TrimSuffix(name, trustpolicy.Suffix))
}

// inPolicyRepository reports whether the job's repository is the organization's
// policy repository.
func (c *checker) inPolicyRepository(job checkJob) bool {
	return strings.EqualFold(job.Repository, c.policyRepository)
}

// kind says how the policies of the job's repository are judged.
//
// A policy in the policy repository is read in two ways: as the organization's,
// with the organization as scope, and as that one repository's own, with
// owner/repository as scope. It is judged as the organization's, which is what it
// is there for. That is the wider language, so what is called good here may be
// refused under the other scope; never the other way round.
func (c *checker) kind(job checkJob) trustpolicy.Kind {
	if c.inPolicyRepository(job) {
		return trustpolicy.Organization
	}
	return trustpolicy.Repository
}

// judgeFile says what the exchange would find in a file, as far as the file, the
// installation and the configuration decide it. file is nil where it was not
// read, because of unreadable or of its name.
func (c *checker) judgeFile(inst githubapp.Installation, job checkJob, path string, file *githubapp.File, unreadable error) []finding {
	var content []byte
	switch {
	case unreadable != nil:
		return []finding{{path: path, level: levelFailure, title: "Not a plain file",
			message: "the exchange reads only a plain file of at most 64 KiB, and no symbolic link, directory or submodule: put the policy itself there"}}
	case file != nil:
		content = file.Content
	}
	if path == trustpolicy.TrustedIssuersPath {
		return c.judgeTrustedIssuers(job, content)
	}
	if file == nil {
		return misnamed(path)
	}
	kind := c.kind(job)
	all := lintFindings(path, trustpolicy.LintKind(kind, path, content, c.permissions))
	policy, err := trustpolicy.Parse(kind, "", content, c.permissions)
	if err != nil {
		return all // lint has said why
	}
	for _, lacking := range policy.Lacking(inst.Permissions) {
		all = append(all, finding{path: path, line: lacking.Line, level: levelFailure, title: titleLacking, message: lacking.Message})
	}
	if err := c.ceiling.Check(kind, policy); err != nil {
		all = append(all, finding{path: path, level: levelFailure, title: titleCeiling, message: err.Error()})
	}
	return all
}

// judgeTrustedIssuers judges the organization's list of trusted issuers.
func (c *checker) judgeTrustedIssuers(job checkJob, content []byte) []finding {
	if !c.inPolicyRepository(job) {
		return []finding{{path: trustpolicy.TrustedIssuersPath, level: levelNotice, title: "Without effect here",
			message: "a list of trusted issuers counts only in the organization's policy repository, which is " + c.policyRepository + ": here nobody reads it"}}
	}
	return lintFindings(trustpolicy.TrustedIssuersPath, trustpolicy.Lint(trustpolicy.TrustedIssuersPath, content, c.permissions))
}

// misnamed is about a file that the exchange cannot find under its name. Lint says
// so of any content, and of none that there is nothing in it.
func misnamed(path string) []finding {
	for _, one := range trustpolicy.LintKind(trustpolicy.Repository, path, nil, trustpolicy.Catalog{}) {
		if one.Rule == trustpolicy.RuleFileName {
			return lintFindings(path, []trustpolicy.Finding{one})
		}
	}
	return nil
}

// lintFindings takes over what lint says.
func lintFindings(path string, linted []trustpolicy.Finding) []finding {
	all := make([]finding, 0, len(linted))
	for _, one := range linted {
		f := finding{path: path, line: one.Line, level: levelWarning, title: "Trust policy: " + one.Rule, message: one.Message}
		if one.Severity == trustpolicy.Error {
			f.level, f.title = levelFailure, "Trust policy refused"
		}
		all = append(all, f)
	}
	return all
}
