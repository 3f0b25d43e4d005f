package setup

import (
	"strings"
	"testing"

	"github.com/octo-sts/appliance/sts/trustpolicy"
)

func TestNewGitHub(t *testing.T) {
	for _, c := range []struct {
		web, api   string
		want       GitHub
		issuer     string
		errorHas   string
		newApp     string
		settingsOf string
	}{
		{web: "https://github.com", want: GitHub{"https://github.com", "https://api.github.com"}, issuer: "https://token.actions.githubusercontent.com",
			newApp: "https://github.com/organizations/acme/settings/apps/new?state=s", settingsOf: "https://github.com/organizations/acme/settings/apps/our-sts"},
		{web: "https://GitHub.com/", want: GitHub{"https://github.com", "https://api.github.com"}, issuer: "https://token.actions.githubusercontent.com"},
		{web: "https://corp.ghe.com", want: GitHub{"https://corp.ghe.com", "https://api.corp.ghe.com"}, issuer: "https://token.actions.corp.ghe.com"},
		{web: "https://ghe.example.com:8443", want: GitHub{"https://ghe.example.com:8443", "https://ghe.example.com:8443/api/v3"}, issuer: "https://ghe.example.com:8443/_services/token",
			newApp: "https://ghe.example.com:8443/organizations/acme/settings/apps/new?state=s"},
		{web: "https://ghe.example.com", api: "https://api.example.com/v3/", want: GitHub{"https://ghe.example.com", "https://api.example.com/v3"}, issuer: "https://ghe.example.com/_services/token"},
		{web: "http://127.0.0.1:80", want: GitHub{"http://127.0.0.1:80", "http://127.0.0.1:80/api/v3"}},
		{web: "https://ghe.example.com/api/v3", errorHas: "leave out the path"},
		{web: "http://ghe.example.com", errorHas: "must be https"},
		{web: "ghe.example.com", errorHas: "want a base URL"},
		{web: "https://user@ghe.example.com", errorHas: "want a base URL"},
		{web: "https://github.com", api: "http://api.github.com", errorHas: "must be https"},
	} {
		got, err := NewGitHub(c.web, c.api)
		if c.errorHas != "" {
			if err == nil || !strings.Contains(err.Error(), c.errorHas) {
				t.Errorf("%s: %+v, %v", c.web, got, err)
			}
			continue
		}
		if err != nil || got != c.want || got.ActionsIssuer() != c.issuer {
			t.Errorf("%s: %+v, %v, issuer %q", c.web, got, err, got.ActionsIssuer())
		}
		if c.newApp != "" && got.NewAppURL("acme", "s") != c.newApp {
			t.Errorf("%s: %s", c.web, got.NewAppURL("acme", "s"))
		}
		if c.settingsOf != "" && got.AppURL("acme", "our-sts") != c.settingsOf {
			t.Errorf("%s: %s", c.web, got.AppURL("acme", "our-sts"))
		}
	}
	dotCom, _ := NewGitHub("https://github.com", "")
	if got := dotCom.NewAppURL("", "s"); got != "https://github.com/settings/apps/new?state=s" {
		t.Errorf("one's own account: %s", got)
	}
	if got := dotCom.AppURL("../../logout", "x/y"); got != "https://github.com/organizations/..%2F..%2Flogout/settings/apps/x%2Fy" {
		t.Errorf("an owner of slashes: %s", got)
	}
}

func TestChoiceProblems(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Choice)
		want   []string
	}{
		"as it begins": {func(*Choice) {}, nil},
		"no webhook": {func(c *Choice) {
			c.Events, c.Permissions = nil, map[string]string{"metadata": "read", "contents": "read"}
		}, nil},
		"more than is needed":         {func(c *Choice) { c.Permissions["contents"] = "write"; c.Permissions["actions"] = "read" }, nil},
		"a name with umlauts":         {func(c *Choice) { c.Name = strings.Repeat("ä", 34) }, nil},
		"no name":                     {func(c *Choice) { c.Name = "" }, []string{"1 to 34 characters"}},
		"a long name":                 {func(c *Choice) { c.Name = strings.Repeat("x", 35) }, []string{"1 to 34 characters"}},
		"a name of two lines":         {func(c *Choice) { c.Name = "a\nb" }, []string{"1 to 34 characters"}},
		"an owner with a slash":       {func(c *Choice) { c.Owner = "acme/app" }, []string{`"acme/app" is not the name`}},
		"an owner that is too long":   {func(c *Choice) { c.Owner = strings.Repeat("x", 40) }, []string{"is not the name"}},
		"contents missing":            {func(c *Choice) { delete(c.Permissions, "contents") }, []string{"contents: read is needed: trust policies"}},
		"checks too low":              {func(c *Choice) { c.Permissions["checks"] = "read" }, []string{"checks: write is needed for push"}},
		"an unknown permission":       {func(c *Choice) { c.Permissions["content"] = "read" }, []string{`unknown permission "content": did you mean contents?`}},
		"an unknown level":            {func(c *Choice) { c.Permissions["issues"] = "all" }, []string{`no level "all"`}},
		"an event that is not for us": {func(c *Choice) { c.Events = append(c.Events, "star") }, []string{`does nothing with the event "star"`}},
		"merge_group alone":           {func(c *Choice) { c.Events = []string{"merge_group"}; delete(c.Permissions, "merge_queues") }, []string{"merge_queues: read is needed for merge_group"}},
	} {
		choice := DefaultChoice()
		choice.Name, choice.Owner = "Our STS", "acme"
		c.change(&choice)
		got := choice.Problems(trustpolicy.GitHubPermissions())
		if len(got) != len(c.want) {
			t.Errorf("%s: %q, want %d problems", name, got, len(c.want))
			continue
		}
		for i := range got {
			if !strings.Contains(got[i], c.want[i]) {
				t.Errorf("%s: %q, want %q", name, got[i], c.want[i])
			}
		}
	}
}
