package main

import (
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// checkRecipeFile parses a file that a page gives, and its shell parts.
func checkRecipeFile(t *testing.T, f recipeFile) {
	if strings.ContainsRune(f.text, '\t') {
		t.Errorf("%s has a tab", f.path)
	}
	switch f.language {
	case "yaml":
		for _, document := range documents(t, f) {
			for _, variable := range variablesIn("", document) {
				if name, value, _ := strings.Cut(variable, "="); name == "OCTO_STS_SHA256" && len(value) != 64 {
					t.Errorf("%s: the digest is not quoted", f.path)
				}
			}
			checkKnownShape(t, f, document)
		}
	case "hcl":
		checkTerraform(t, f)
	case "groovy":
		for _, pair := range []string{"{}", "()", "[]"} {
			if opening, closing := strings.Count(f.text, pair[:1]), strings.Count(f.text, pair[1:]); opening != closing {
				t.Errorf("%s has %d %c and %d %c", f.path, opening, pair[0], closing, pair[1])
			}
		}
	case "dockerfile":
	default:
		t.Errorf("%s: there is no check for %s", f.path, f.language)
	}
	for _, script := range scripts(t, f) {
		checkScript(t, script)
	}
}

// documents are those of a YAML file.
func documents(t *testing.T, f recipeFile) (all []map[string]any) {
	t.Helper()
	for _, text := range strings.Split(f.text, "\n---\n") {
		document := map[string]any{}
		if err := yaml.UnmarshalStrict([]byte(text), &document); err != nil {
			t.Fatalf("%s: %v", f.path, err)
		}
		all = append(all, document)
	}
	return all
}

// checkKnownShape looks for what each CI system cannot do without.
func checkKnownShape(t *testing.T, f recipeFile, document map[string]any) {
	has := func(names ...string) {
		t.Helper()
		for _, name := range names {
			if document[name] == nil {
				t.Errorf("%s has no %s", f.path, name)
			}
		}
	}
	switch {
	case strings.HasPrefix(f.path, ".github/workflows/"):
		has("true", "jobs", "permissions") // YAML 1.1 reads on as true
		for name, job := range document["jobs"].(map[string]any) {
			job := job.(map[string]any)
			steps, _ := job["steps"].([]any)
			if job["runs-on"] == nil || len(steps) == 0 {
				t.Errorf("%s: job %s has no runs-on or no steps", f.path, name)
			}
			for _, step := range steps {
				if step := step.(map[string]any); (step["run"] == nil) == (step["uses"] == nil) {
					t.Errorf("%s: job %s has a step with neither or both of run and uses: %v", f.path, name, step)
				}
			}
		}
	case f.path == ".circleci/config.yml":
		has("version", "jobs", "workflows")
	case strings.HasPrefix(f.path, "kubernetes/"):
		has("apiVersion", "kind", "metadata")
	}
}

// checkTerraform has Terraform itself read it, where that is installed.
func checkTerraform(t *testing.T, f recipeFile) {
	program, err := exec.LookPath("terraform")
	if err != nil {
		t.Logf("%s: no terraform here to read it", f.path)
		return
	}
	cmd := exec.CommandContext(t.Context(), program, "fmt", "-check", "-diff", "-")
	cmd.Stdin = strings.NewReader(f.text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", f.path, err, out)
	}
}

var groovyShell = regexp.MustCompile(`(?s)\bsh '''(.*?)'''|\bsh '([^'\n]*)'`)

// scripts are a file's shell parts, in the order in which they run.
func scripts(t *testing.T, f recipeFile) (all []string) {
	t.Helper()
	switch f.language {
	case "groovy":
		for _, m := range groovyShell.FindAllStringSubmatch(f.text, -1) {
			// Groovy's '''…''' reads a backslash and what follows it, as a shell does not.
			all = append(all, strings.ReplaceAll(m[1]+m[2], `\\`, `\`))
		}
	case "yaml":
		for _, document := range documents(t, f) {
			all = append(all, shellIn("", document)...)
		}
	}
	return all
}

// shellIn finds the scripts of a CI system's YAML by the names of their keys.
func shellIn(key string, value any) (all []string) {
	isShell := slices.Contains([]string{"run", "script", "before_script", "command", "commands", "args"}, key)
	switch value := value.(type) {
	case string:
		if isShell {
			all = append(all, value)
		}
	case []any:
		var lines []string
		for _, element := range value {
			if line, ok := element.(string); ok && isShell {
				lines = append(lines, line)
			} else {
				all = append(all, shellIn("", element)...)
			}
		}
		if len(lines) > 0 && !strings.HasPrefix(lines[0], "/bin/") { // [/bin/sh, -c] is none by itself
			all = append(all, strings.Join(lines, "\n"))
		}
	case map[string]any:
		for _, name := range inOrder(value) {
			all = append(all, shellIn(name, value[name])...)
		}
	}
	return all
}

// inOrder is a mapping's keys: what goes before comes first.
func inOrder(m map[string]any) (names []string) {
	for name := range m {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		early := func(s string) string { return strings.Replace(s, "before_", " ", 1) }
		return strings.Compare(early(a), early(b))
	})
	return names
}

// checkScript has bash read a script, and this program its own command lines.
func checkScript(t *testing.T, script string) {
	cmd := exec.CommandContext(t.Context(), "bash", "-n")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("bash -n: %v: %s\n%s", err, out, script)
	}
	for _, line := range ownCommands(script) {
		root := newCommand()
		c, rest, err := root.Find(line)
		if err != nil || c == root {
			t.Errorf("octo-sts %q: no such command (%v)", line, err)
			continue
		}
		if c.Name() == "git-credential" {
			rest = append(rest, "get") // git adds it
		}
		if err := c.ParseFlags(rest); err != nil {
			t.Errorf("octo-sts %q: %v", line, err)
		} else if err := c.ValidateArgs(c.Flags().Args()); err != nil {
			t.Errorf("octo-sts %q: %v", line, err)
		}
	}
}

var (
	ownCommand = regexp.MustCompile(`(?m)(^|[\s;|&(!'"])(octo-sts) [a-z]`)
	comment    = regexp.MustCompile(`(?m)^\s*#.*$`)
)

// ownCommands finds the command lines of octo-sts in a script, as words, up to
// the command that one of them runs.
func ownCommands(script string) (lines [][]string) {
	script = comment.ReplaceAllString(strings.ReplaceAll(script, "\\\n", " "), "")
	for _, at := range ownCommand.FindAllStringSubmatchIndex(script, -1) {
		var quote rune // the one that the whole command stands in, as in '!octo-sts …'
		if i := strings.LastIndexAny(script[:at[4]], "'\"\n"); i >= 0 && script[i] != '\n' && strings.HasPrefix(script[i+1:at[4]], "!") {
			quote = rune(script[i])
		}
		lines = append(lines, words(script[at[5]:], quote))
	}
	return lines
}

// words splits the rest of a simple command, of which until ends it beside what
// ends any.
func words(rest string, until rune) (words []string) {
	word, quote, inWord := "", rune(0), false
	for _, c := range rest + "\n" {
		switch {
		case quote == 0 && (c == until && until != 0 || strings.ContainsRune("\n;|&)>", c)):
			if inWord {
				words = append(words, word)
			}
			return words
		case quote == 0 && c == ' ':
			if inWord {
				words = append(words, word)
			}
			word, inWord = "", false
		case quote == 0 && (c == '\'' || c == '"'):
			quote, inWord = c, true
		case c == quote:
			quote = 0
		default:
			word, inWord = word+string(c), true
		}
	}
	return words
}

func TestOwnCommands(t *testing.T) {
	for script, want := range map[string]string{
		"octo-sts version":                                                        "version",
		"a; octo-sts exchange --scope 'x y' >f":                                   "exchange|--scope|x y",
		"octo-sts exec \\\n  --identity i -- ls -l":                               "exec|--identity|i|--|ls|-l",
		`git -c credential.helper='!octo-sts git-credential --scope a/b' clone u`: "git-credential|--scope|a/b",
		"# octo-sts is a program":                                                 "",
		"cp octo-sts /usr/bin":                                                    "",
	} {
		got := ""
		for _, line := range ownCommands(script) {
			got += strings.Join(line, "|")
		}
		if got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
}
