package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// The recipes of docs/ci are held to what they say. A page has blocks of these
// kinds, by the words after the three backticks:
//
//	yaml policy               a repository's own policy, which says on its first line where it goes
//	yaml organization-policy  or an organization's
//	json claims               of an ID token that the policy before it grants
//	jsonc refused             changes of these claims, one a line, each of which it refuses
//	yaml issuers              what octo-stsd.yaml needs for the page's tokens
//	LANGUAGE FILE             a file of the user's, whole: the job
//	sh                        commands of a person
//	text                      what something prints
const recipesDomain = "sts.example.com"

// recipe is one page of docs/ci.
type recipe struct {
	name     string // the file's, without .md
	text     string
	policies []*recipePolicy
	issuers  string
	files    []recipeFile
	commands []string // sh blocks
	printed  []string // text blocks
}

type recipePolicy struct {
	repository, identity  string
	organization          bool
	text, claims, refused string
}

// scope is what a job asks for the policy with.
func (p *recipePolicy) scope() string {
	if p.organization {
		owner, _, _ := strings.Cut(p.repository, "/")
		return owner
	}
	return p.repository
}

// near are the claims of the tokens that the policy refuses.
func (p *recipePolicy) near(t *testing.T) (all []map[string]any) {
	t.Helper()
	for line := range strings.Lines(p.refused) {
		if strings.HasPrefix(line, "//") {
			continue
		}
		changed, changes := p.granted(t), map[string]any{}
		if err := json.Unmarshal([]byte(line), &changes); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		for name := range changes {
			if _, has := changed[name]; !has {
				t.Errorf("%s changes %s, which the claims do not have", line, name)
			}
		}
		maps.Copy(changed, changes)
		all = append(all, changed)
	}
	return all
}

func (p *recipePolicy) granted(t *testing.T) (claims map[string]any) {
	t.Helper()
	if err := json.Unmarshal([]byte(p.claims), &claims); err != nil {
		t.Fatalf("the claims for %s: %v", p.identity, err)
	}
	return claims
}

type recipeFile struct{ language, path, text string }

var policyPlace = regexp.MustCompile(`^# ([^/\s]+/[^/\s]+): \.github/chainguard/(\S+)\.sts\.yaml\n`)

// readRecipes reads every page but the one that is for all of them.
func readRecipes(t *testing.T) (all []*recipe) {
	t.Helper()
	pages, err := filepath.Glob("../../docs/ci/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		r := &recipe{name: strings.TrimSuffix(filepath.Base(page), ".md"), text: string(text)}
		info, block, inside := "", "", false
		for line := range strings.Lines(r.text) {
			fence, isFence := strings.CutPrefix(line, "```")
			switch {
			case isFence && !inside:
				info, block, inside = strings.TrimSpace(fence), "", true
			case isFence:
				r.take(t, info, block)
				inside = false
			case inside:
				block += line
			}
		}
		if inside {
			t.Fatalf("%s: a block has no end", page)
		}
		all = append(all, r)
	}
	return all
}

// take sorts one block in.
func (r *recipe) take(t *testing.T, info, block string) {
	t.Helper()
	switch language, rest, _ := strings.Cut(info, " "); {
	case info == "yaml policy", info == "yaml organization-policy":
		place := policyPlace.FindStringSubmatch(block)
		if place == nil {
			t.Fatalf("%s: the policy does not say on its first line where it goes:\n%s", r.name, block)
		}
		r.policies = append(r.policies, &recipePolicy{repository: place[1], identity: place[2], organization: rest == "organization-policy", text: block})
	case info == "json claims", info == "jsonc refused":
		if len(r.policies) == 0 {
			t.Fatalf("%s: %s before any policy", r.name, info)
		}
		p := r.policies[len(r.policies)-1]
		if rest == "claims" {
			p.claims += block
		} else {
			p.refused += block
		}
	case info == "yaml issuers":
		r.issuers += block
	case info == "sh":
		r.commands = append(r.commands, block)
	case info == "text":
		r.printed = append(r.printed, block)
	case rest != "":
		r.files = append(r.files, recipeFile{language, rest, block})
	default:
		t.Fatalf("%s: a block %q, which is none of the kinds that are checked", r.name, info)
	}
}

// Each recipe is there and complete: a policy that lint has nothing to say
// about that the page does not explain, claims that it grants, claims that it
// refuses, the issuer, and the job.
func TestRecipes(t *testing.T) {
	recipes := readRecipes(t)
	var names []string
	for _, r := range recipes {
		names = append(names, r.name)
		t.Run(r.name, func(t *testing.T) {
			for _, f := range r.files {
				checkRecipeFile(t, f)
			}
			for _, script := range r.commands {
				checkScript(t, script)
			}
			if r.name == "README" {
				return
			}
			if len(r.policies) == 0 || r.issuers == "" || len(r.files) == 0 {
				t.Fatalf("%d policies, %d bytes of issuers, %d files: something is missing", len(r.policies), len(r.issuers), len(r.files))
			}
			for _, p := range r.policies {
				checkRecipePolicy(t, r, p)
			}
		})
	}
	want := []string{"README", "argo-cd", "buildkite", "circleci", "flux", "github-actions", "gitlab", "jenkins", "renovate", "terraform"}
	if !slices.Equal(names, want) {
		t.Errorf("docs/ci has %v, want %v", names, want)
	}
}

func checkRecipePolicy(t *testing.T, r *recipe, p *recipePolicy) {
	dir := filepath.Join(t.TempDir(), filepath.Base(p.repository), ".github", "chainguard")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, p.identity+".sts.yaml")
	if err := os.WriteFile(file, []byte(p.text), 0o600); err != nil {
		t.Fatal(err)
	}
	kind := []string{}
	if p.organization {
		kind = append(kind, "--organization")
	}
	said, err := runCommand(t, append([]string{"policy", "lint", file}, kind...)...)
	if err != nil {
		t.Errorf("lint: %v\n%s", err, said)
	}
	for line := range strings.Lines(said) {
		rule := line[strings.LastIndex(line, "(")+1 : strings.LastIndex(line, ")")]
		if !strings.Contains(r.text, "`"+rule+"`") {
			t.Errorf("a warning that the page does not explain: %s", line)
		}
	}
	explain := func(claims map[string]any) (string, error) {
		token := filepath.Join(t.TempDir(), "id-token.txt")
		if err := os.WriteFile(token, []byte(unsigned(t, claims)), 0o600); err != nil {
			t.Fatal(err)
		}
		return runCommand(t, append([]string{"policy", "explain", "--policy", file, "--token", token, "--domain", recipesDomain}, kind...)...)
	}
	if said, err := explain(p.granted(t)); err != nil || !strings.Contains(said, "The policy would grant this token") {
		t.Errorf("%s refuses its claims: %v\n%s", p.identity, err, said)
	}
	near := p.near(t)
	if len(near) < 3 {
		t.Errorf("%s has %d claims that are refused, want 3 at least", p.identity, len(near))
	}
	for _, claims := range near {
		if said, err := explain(claims); !errors.Is(err, errNo) || !strings.Contains(said, "The policy would refuse this token.") {
			t.Errorf("%s grants %v\n%s", p.identity, claims, said)
		}
	}
}

// runCommand is octo-sts, in this process.
func runCommand(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	out := &bytes.Buffer{}
	c := newCommand()
	c.SetArgs(args)
	c.SetOut(out)
	c.SetErr(io.Discard)
	err = c.ExecuteContext(t.Context())
	return out.String(), err
}

// unsigned is an ID token that policy explain reads: it looks at claims alone.
func unsigned(t *testing.T, claims map[string]any) string {
	t.Helper()
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"RS256"}`)) + "." + encode(payload) + ".AAAA"
}

// The daemon takes what each page has the operator list, and lets that page's tokens in.
func TestRecipesIssuers(t *testing.T) {
	stsd := filepath.Join(programs(t), "octo-stsd")
	for _, r := range readRecipes(t) {
		if r.issuers == "" {
			continue
		}
		var part struct{ Issuers []struct{ URL string } }
		if err := yaml.UnmarshalStrict([]byte(r.issuers), &map[string]any{}); err != nil {
			t.Errorf("%s: %v", r.name, err)
		}
		if err := yaml.Unmarshal([]byte(r.issuers), &part); err != nil {
			t.Errorf("%s: %v", r.name, err)
		}
		for _, p := range r.policies {
			iss := p.granted(t)["iss"]
			if !slices.ContainsFunc(part.Issuers, func(i struct{ URL string }) bool { return i.URL == iss }) {
				t.Errorf("%s: %s's issuer %v is not listed", r.name, p.identity, iss)
			}
		}
		const files = "/etc/octo-sts/"
		dir := t.TempDir() + "/"
		for _, path := range regexp.MustCompile(files+`\S+`).FindAllString(r.issuers, -1) {
			if err := os.WriteFile(dir+strings.TrimPrefix(path, files), []byte("the operator's"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		file := filepath.Join(dir, "octo-stsd.yaml")
		config := "domain: " + recipesDomain + "\nlisten: {https: '127.0.0.1:8080'}\ntls: {mode: 'off'}\ngithub: {apps: [{id: 1234}]}\n" +
			"audit: {directory: " + dir + "}\nstate_directory: " + dir + "\n" + strings.ReplaceAll(r.issuers, files, dir)
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), stsd, "check-config", "--config", file).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", r.name, err, out)
		}
	}
}

var (
	markdownLink = regexp.MustCompile(`\]\(([^)#:\s]*)(#[^)\s]+)?\)`)
	notInAnchors = regexp.MustCompile(`[^a-z0-9 _-]`)
)

// Every link of the recipes to a page or a heading of this project leads there.
func TestRecipesLinks(t *testing.T) {
	for _, r := range readRecipes(t) {
		for _, link := range markdownLink.FindAllStringSubmatch(r.text, -1) {
			page := filepath.Join("../../docs/ci", link[1])
			if link[1] == "" {
				page = filepath.Join("../../docs/ci", r.name+".md")
			}
			text, err := os.ReadFile(page)
			if err != nil {
				t.Errorf("%s: %v", r.name, err)
				continue
			}
			found := link[2] == ""
			for line := range strings.Lines(string(text)) {
				heading := strings.ToLower(strings.TrimSpace(strings.TrimLeft(line, "#")))
				anchor := "#" + strings.ReplaceAll(notInAnchors.ReplaceAllString(heading, ""), " ", "-")
				found = found || strings.HasPrefix(line, "#") && anchor == link[2]
			}
			if !found {
				t.Errorf("%s: %s has no heading %s", r.name, page, link[2])
			}
		}
	}
}
