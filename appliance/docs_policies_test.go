package appliance_test

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/octo-sts/appliance/appliance"
	"github.com/octo-sts/appliance/sts/idtoken"
	"github.com/octo-sts/appliance/sts/trustpolicy"
)

const (
	policyGuide  = "../docs/trust-policies.md"
	guidesDomain = "sts.example.com"
)

// An example of the guide is a section that shows a policy. It has one block of
// each of these kinds, named by the words after the three backticks.
const (
	blockPolicy       = "yaml policy"              // a repository's own
	blockOrganization = "yaml organization-policy" // one or the other
	blockClaims       = "json claims"              // of an ID token that the policy grants
	blockRefused      = "jsonc refused"            // changes of the claims, one a line, each of which it refuses
	blockIssuers      = "yaml issuers"             // what octo-stsd.yaml needs for the token
)

// section is what stands under one heading of a Markdown file.
type section struct {
	heading, text string
	blocks        map[string][]string // by the words after the three backticks
}

func sections(t *testing.T, file string) (all []section) {
	t.Helper()
	document, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	current, info, block, inBlock := section{}, "", "", false
	for line := range strings.Lines(string(document)) {
		fence, isFence := strings.CutPrefix(line, "```")
		switch {
		case isFence && !inBlock:
			info, block, inBlock = strings.TrimSpace(fence), "", true
		case isFence:
			current.blocks[info] = append(current.blocks[info], block)
			inBlock = false
		case inBlock:
			block += line
		case strings.HasPrefix(line, "#"):
			all = append(all, current)
			current = section{heading: strings.TrimSpace(strings.TrimLeft(line, "#")), blocks: map[string][]string{}}
		}
		current.text += line
	}
	if inBlock {
		t.Fatalf("%s: a block has no end", file)
	}
	return append(all, current)[1:]
}

// Each example is complete and does what the guide says: the policy has no fault
// and no weakness that lint knows, it grants the sample, it refuses each of the
// attacks beside it, and the daemon's configuration lets that issuer in.
func TestDocumentedPolicyExamples(t *testing.T) {
	examples, began := 0, false
	for _, s := range sections(t, policyGuide) {
		counts := map[string]int{}
		for _, kind := range []string{blockPolicy, blockOrganization, blockClaims, blockRefused, blockIssuers} {
			counts[kind] = len(s.blocks[kind])
		}
		if !began { // nothing above is an example, so that none is left out here
			if slices.Max(slices.Collect(maps.Values(counts))) > 0 {
				t.Errorf("%s: an example that does not stand below \"Examples\"", s.heading)
			}
			began = s.heading == "Examples"
			continue
		}
		examples++
		t.Run(s.heading, func(t *testing.T) {
			if counts[blockPolicy]+counts[blockOrganization] != 1 || counts[blockClaims] != 1 || counts[blockRefused] != 1 || counts[blockIssuers] != 1 {
				t.Fatalf("the section has %v, want one policy and one of each other kind", counts)
			}
			kind, policy := trustpolicy.Repository, strings.Join(s.blocks[blockPolicy], "")
			if counts[blockOrganization] == 1 {
				kind, policy = trustpolicy.Organization, s.blocks[blockOrganization][0]
			}
			checkExample(t, kind, policy, s.blocks[blockClaims][0], s.blocks[blockRefused][0])
			checkIssuers(t, s.blocks[blockIssuers][0], sample(t, s.blocks[blockClaims][0], nil).Issuer)
		})
	}
	if examples < 12 {
		t.Errorf("the guide has %d examples: are they found?", examples)
	}
}

func checkExample(t *testing.T, kind trustpolicy.Kind, yaml, claims, refused string) {
	known := trustpolicy.GitHubPermissions()
	for _, finding := range trustpolicy.LintKind(kind, "deploy.sts.yaml", []byte(yaml), known) {
		t.Errorf("lint: %+v", finding)
	}
	policy, err := trustpolicy.Parse(kind, "deploy.sts.yaml", []byte(yaml), known)
	if err != nil {
		t.Fatal(err)
	}
	match := func(changes map[string]any) trustpolicy.Decision {
		token := sample(t, claims, changes)
		return policy.Match(trustpolicy.Actor{
			Issuer: token.Issuer, Subject: token.Subject, Audience: token.Audience, Claims: token.Claims,
		}, guidesDomain)
	}
	if d := match(nil); !d.Granted {
		t.Errorf("the sample is refused: %s", d.Reason())
	}
	attacks := 0
	for line := range strings.Lines(refused) {
		if strings.HasPrefix(line, "//") {
			continue
		}
		attacks++
		var changes map[string]any
		if err := json.Unmarshal([]byte(line), &changes); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		original := sample(t, claims, nil).Claims
		for name := range changes {
			if _, has := original[name]; !has {
				t.Errorf("%s changes %s, which the sample does not have", line, name)
			}
		}
		if match(changes).Granted {
			t.Errorf("granted: %s", line)
		}
	}
	if attacks < 2 {
		t.Errorf("%d attacks, want 2 at least", attacks)
	}
	// Whatever the policy compares it needs: a token that differs there alone is refused.
	for _, name := range append(policy.ClaimNames(), "iss", "sub", "aud") {
		if match(map[string]any{name: "https://another.example"}).Granted {
			t.Errorf("granted with another %s", name)
		}
	}
}

// sample reads a sample's claims, with some of them replaced, as the exchange
// would read them out of an ID token.
func sample(t *testing.T, claims string, changes map[string]any) *idtoken.IDToken {
	t.Helper()
	if changes != nil {
		var all map[string]any
		if err := json.Unmarshal([]byte(claims), &all); err != nil {
			t.Fatal(err)
		}
		maps.Copy(all, changes)
		encoded, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		claims = string(encoded)
	}
	encode := base64.RawURLEncoding.EncodeToString
	token, err := idtoken.ParseUnverified(encode([]byte(`{"alg":"RS256"}`)) + "." + encode([]byte(claims)) + ".AAAA")
	if err != nil {
		t.Fatalf("%s\n%v", claims, err)
	}
	return token
}

// checkIssuers loads the issuers as a part of octo-stsd.yaml.
func checkIssuers(t *testing.T, issuers, wanted string) {
	const files = "/etc/octo-sts/"
	dir := t.TempDir() + "/"
	for _, path := range regexp.MustCompile(files+`\S+`).FindAllString(issuers, -1) {
		if err := os.WriteFile(dir+strings.TrimPrefix(path, files), []byte("the operator's"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "octo-stsd.yaml")
	configuration := "domain: " + guidesDomain + "\nlisten: {https: '127.0.0.1:8080'}\ntls: {mode: 'off'}\n" +
		"github: {apps: [{id: 1234}]}\naudit: {directory: /var/log/octo-sts/audit}\n" + strings.ReplaceAll(issuers, files, dir)
	if err := os.WriteFile(file, []byte(configuration), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := appliance.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Issuers) != 1 || c.Issuers[0].URL != wanted {
		t.Errorf("issuers are %+v, want the sample's, %s", c.Issuers, wanted)
	}
}

// The organization's list of issuers is one that lint has nothing to say about.
func TestDocumentedTrustedIssuers(t *testing.T) {
	lists := 0
	for _, s := range sections(t, policyGuide) {
		for _, list := range s.blocks["yaml trusted-issuers"] {
			lists++
			for _, finding := range trustpolicy.Lint(trustpolicy.TrustedIssuersPath, []byte(list), trustpolicy.GitHubPermissions()) {
				t.Errorf("%+v", finding)
			}
		}
	}
	if lists != 1 {
		t.Errorf("the guide has %d lists of trusted issuers", lists)
	}
}

// The table of patterns tells the truth.
func TestDocumentedPatterns(t *testing.T) {
	quoted := regexp.MustCompile("`([^`]+)`")
	values := func(cell string) (all []string) {
		for _, m := range quoted.FindAllStringSubmatch(cell, -1) {
			all = append(all, m[1])
		}
		return all
	}
	rows := 0
	for line := range strings.Lines(find(t, "Patterns").text) {
		const bar = "\x00" // of a pattern, which the table writes with a backslash
		cells := strings.Split(strings.ReplaceAll(line, `\|`, bar), "|")
		if len(cells) != 5 || len(values(cells[1])) != 1 {
			continue
		}
		rows++
		pattern := strings.ReplaceAll(values(cells[1])[0], bar, "|")
		p, err := trustpolicy.Parse(trustpolicy.Repository, "", []byte("issuer: https://ci.example\nsubject_pattern: '"+pattern+"'\npermissions: {contents: read}\n"), trustpolicy.GitHubPermissions())
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range []bool{true, false} {
			if len(values(cells[2+i])) == 0 {
				t.Errorf("%s: no values", pattern)
			}
			for _, value := range values(cells[2+i]) {
				d := p.Match(trustpolicy.Actor{Issuer: "https://ci.example", Subject: value, Audience: []string{guidesDomain}}, guidesDomain)
				if d.Granted != want {
					t.Errorf("%s matches %s: %v", pattern, value, d.Granted)
				}
			}
		}
	}
	if rows < 5 {
		t.Errorf("%d rows: are they found?", rows)
	}
}

// Whatever reason the exchange can give, and whatever rule lint has, is explained.
func TestDocumentedReasons(t *testing.T) {
	for _, tc := range []struct {
		section, files, word string
		atLeast              int
	}{
		{"It says no: why", "../sts/*.go", `(?:invalid|unauthenticated|denied|unavailable)\("([a-z_]+)"`, 15},
		{"It says no: why", "../sts/*.go", `(?:Reason: |reason := )"([a-z_]+)"`, 2},
		{"It says no: why", "../sts/idtoken/*.go", `Reason\w+ += "([a-z_]+)"`, 10},
		{"It says no: why", "../appliance/*.go", `Reason: +"([a-z_]+)"`, 4},
		{"What lint says", "../sts/trustpolicy/*.go", `Rule\w+ += "([a-z-]+)"`, 10},
	} {
		files, err := filepath.Glob(tc.files)
		if err != nil {
			t.Fatal(err)
		}
		words := map[string]bool{}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(tc.word).FindAllStringSubmatch(string(source), -1) {
				words[m[1]] = true
			}
		}
		if len(words) < tc.atLeast {
			t.Errorf("%s: found only %v: has the code's form changed?", tc.files, words)
		}
		text := find(t, tc.section).text
		for _, word := range slices.Sorted(maps.Keys(words)) {
			if !strings.Contains(text, "`"+word+"`") {
				t.Errorf("%s: %q does not explain `%s`", policyGuide, tc.section, word)
			}
		}
	}
}

func find(t *testing.T, heading string) section {
	t.Helper()
	for _, s := range sections(t, policyGuide) {
		if s.heading == heading {
			return s
		}
	}
	t.Fatalf("%s has no section %q", policyGuide, heading)
	return section{}
}
