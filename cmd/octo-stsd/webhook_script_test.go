package main

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/ststest"
)

// story is what a script of deliveries acts on: an appliance with webhooks, and
// GitHub with the organization acme. A policy is used for an hour without asking
// whether it changed.
type story struct {
	*ststest.Service
	installation int64
	last         []ststest.DeliveryRecord // of the last event
	answered     time.Time                // when its first delivery was answered
	asked        map[string]int           // calls of GitHub's API before the last exchange
	request      string                   // the last exchange's ID
}

// storyCommands are the commands of scripts about deliveries:
//
//	appliance                               start it, with acme/app and acme/.github
//	policy REPOSITORY PATH FILE             a file on the default branch, as it was before the story began
//	deliveries lost|arrive                  what GitHub sends from now on gets lost, or does not
//	push REPOSITORY PATH FILE               push a commit to the default branch that writes a file;
//	push REPOSITORY PATH                    or one that deletes it
//	rename REPOSITORY NAME                  rename a repository
//	repository NAME                         make another repository
//	suspend, unsuspend                      the installation
//	redeliver                               have GitHub deliver the last event again
//	exchange granted|refused SCOPE IDENTITY [BRANCH]
//	                                        of a job on a branch, main by default
//	warm SCOPE IDENTITY                     granted, until GitHub is asked for nothing but the token
//	at-once                                 the last exchange was answered within 1 s of the last delivery's answer
//	intent, ! intent                        whether the audit log has that the last exchange was about to ask GitHub for a token
//	granted-permissions NAME=LEVEL…         what the last exchange's token may do, as GitHub has it
func storyCommands() map[string]func(*testscript.TestScript, bool, []string) {
	commands := map[string]func(*testscript.TestScript, bool, []string){
		"appliance": func(ts *testscript.TestScript, _ bool, _ []string) { startStory(ts) },
	}
	for name, command := range map[string]func(*story, *testscript.TestScript, bool, []string){
		"policy":              (*story).policy,
		"deliveries":          (*story).deliveries,
		"push":                (*story).push,
		"rename":              (*story).rename,
		"repository":          (*story).repository,
		"suspend":             (*story).suspend,
		"unsuspend":           (*story).unsuspend,
		"redeliver":           (*story).redeliver,
		"exchange":            (*story).exchange,
		"warm":                (*story).warm,
		"at-once":             (*story).atOnce,
		"intent":              (*story).intent,
		"granted-permissions": (*story).grantedPermissions,
	} {
		commands[name] = func(ts *testscript.TestScript, neg bool, args []string) {
			s, ok := ts.Value(storyKey{}).(**story)
			if !ok || *s == nil {
				ts.Fatalf("%s comes before appliance", name)
			}
			if neg && name != "intent" {
				ts.Fatalf("%s cannot be negated", name)
			}
			command(*s, ts, neg, args)
		}
	}
	return commands
}

// storyKey is where a script's environment has its **story.
type storyKey struct{}

func setUpStory(env *testscript.Env) error {
	env.Values[storyKey{}] = new(*story)
	return nil
}

func startStory(ts *testscript.TestScript) {
	programs, err := rigPrograms()
	ts.Check(err)
	ctx, cancel := context.WithCancel(context.Background())
	ts.Defer(cancel)
	service, err := ststest.Start(ctx, ststest.ServiceConfig{BinDir: programs, Webhook: true, Edit: func(config map[string]any) {
		config["github"].(map[string]any)["policy_max_age"] = "1h"
	}})
	ts.Check(err)
	ts.Defer(func() { _ = service.Close() }) // a directory that stays behind is no failure of the story
	s := &story{Service: service}
	*ts.Value(storyKey{}).(**story) = s
	ts.Setenv("ISSUER", s.Issuer.URL())
	s.GitHub.AddRepository("acme", "app")
	s.GitHub.AddRepository("acme", ".github")
	s.installation = s.GitHub.Install(ststest.DefaultApp, "acme", ststest.InstallOptions{})
}

// arguments are those of a command that takes a fixed number of them.
func arguments(ts *testscript.TestScript, args []string, least, most int) {
	if len(args) < least || len(args) > most {
		ts.Fatalf("%d arguments, want %d to %d", len(args), least, most)
	}
}

// split is owner and name of a repository.
func split(ts *testscript.TestScript, full string) (owner, name string) {
	owner, name, ok := strings.Cut(full, "/")
	if !ok {
		ts.Fatalf("%s is not OWNER/NAME", full)
	}
	return owner, name
}

// content is a file of the script, with the issuer's URL for $ISSUER.
func (s *story) content(ts *testscript.TestScript, file string) string {
	return strings.ReplaceAll(ts.ReadFile(file), "$ISSUER", s.Issuer.URL())
}

func (s *story) policy(ts *testscript.TestScript, _ bool, args []string) {
	arguments(ts, args, 3, 3)
	owner, name := split(ts, args[0])
	s.GitHub.PutFile(owner, name, args[1], s.content(ts, args[2]))
}

func (s *story) deliveries(ts *testscript.TestScript, _ bool, args []string) {
	arguments(ts, args, 1, 1)
	if !slices.Contains([]string{"lost", "arrive"}, args[0]) {
		ts.Fatalf("deliveries are lost or arrive")
	}
	s.GitHub.LoseDeliveries(ststest.DefaultApp, args[0] == "lost")
}

// sent remembers how an event was delivered.
func (s *story) sent(ts *testscript.TestScript, all []ststest.DeliveryRecord) {
	if len(all) == 0 {
		ts.Fatalf("GitHub sent nothing")
	}
	s.last, s.answered = all, all[0].DeliveredAt.Add(all[0].Took)
	for _, d := range all {
		ts.Logf("%s %s: %d %s%s", d.Event, d.Action, d.StatusCode, d.Body, d.Error)
	}
}

func (s *story) push(ts *testscript.TestScript, _ bool, args []string) {
	arguments(ts, args, 2, 3)
	owner, name := split(ts, args[0])
	change := ststest.Change{Path: args[1], Delete: len(args) == 2}
	if !change.Delete {
		change.Content = s.content(ts, args[2])
	}
	s.sent(ts, s.GitHub.Push(owner, name, "main", []ststest.Change{change}).Deliveries)
}

func (s *story) rename(ts *testscript.TestScript, _ bool, args []string) {
	arguments(ts, args, 2, 2)
	owner, name := split(ts, args[0])
	s.sent(ts, s.GitHub.RenameRepository(owner, name, args[1]))
}

func (s *story) repository(ts *testscript.TestScript, _ bool, args []string) {
	arguments(ts, args, 1, 1)
	s.GitHub.AddRepository(split(ts, args[0]))
}

func (s *story) suspend(ts *testscript.TestScript, _ bool, args []string) {
	arguments(ts, args, 0, 0)
	s.sent(ts, s.GitHub.Suspend(s.installation))
}

func (s *story) unsuspend(ts *testscript.TestScript, _ bool, args []string) {
	arguments(ts, args, 0, 0)
	s.sent(ts, s.GitHub.Unsuspend(s.installation))
}

func (s *story) redeliver(ts *testscript.TestScript, _ bool, args []string) {
	arguments(ts, args, 0, 0)
	var again []ststest.DeliveryRecord
	for _, d := range s.last {
		again = append(again, s.GitHub.Redeliver(ststest.DefaultApp, d.ID))
	}
	s.sent(ts, again)
	for _, d := range again {
		if d.StatusCode/100 != 2 {
			ts.Fatalf("the delivery of %s was answered %d %s%s", d.Event, d.StatusCode, d.Body, d.Error)
		}
	}
}

// ask exchanges the ID token of a job of acme/app on a branch.
func (s *story) ask(ts *testscript.TestScript, scope, identity, branch string) ststest.Exchanged {
	claims := ststest.GitHubActions{Owner: "acme", Repo: "app", Ref: "refs/heads/" + branch}.Claims()
	claims["aud"] = "sts.example.com"
	idToken, err := s.Issuer.Sign(claims)
	ts.Check(err)
	s.asked = s.GitHub.Calls()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	x, err := s.Exchange(ctx, scope, identity, idToken)
	ts.Check(err)
	ts.Logf("%d %s", x.Status, x.Message)
	s.request = x.RequestID
	return x
}

func (s *story) exchange(ts *testscript.TestScript, _ bool, args []string) {
	arguments(ts, args, 3, 4)
	branch := append(args, "main")[3]
	x := s.ask(ts, args[1], args[2], branch)
	want := map[string]int{"granted": http.StatusOK, "refused": http.StatusForbidden}[args[0]]
	if x.Status != want || s.GitHub.IsLive(x.Token) != (want == http.StatusOK) {
		ts.Fatalf("%s as %s from %s: %d %s, want %s", args[1], args[2], branch, x.Status, x.Body, args[0])
	}
}

func (s *story) warm(ts *testscript.TestScript, _ bool, args []string) {
	arguments(ts, args, 2, 2)
	for deadline := time.Now().Add(patience); ; { // a check that is under way asks, too
		s.exchange(ts, false, []string{"granted", args[0], args[1]})
		now := s.GitHub.Calls()
		delete(now, ststest.MintRoute)
		delete(s.asked, ststest.MintRoute)
		if maps.Equal(now, s.asked) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("not warm: GitHub was asked %v, and before %v", now, s.asked)
		}
	}
}

func (s *story) atOnce(ts *testscript.TestScript, _ bool, args []string) {
	arguments(ts, args, 0, 0)
	took := time.Since(s.answered)
	ts.Logf("answered %s after the delivery was", took)
	if took > time.Second {
		ts.Fatalf("the exchange was answered %s after the delivery was", took)
	}
}

func (s *story) intent(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, args, 0, 0)
	found := false
	for record, err := range audit.Read(s.AuditDir) {
		ts.Check(err)
		found = found || record.Entry.Kind == audit.Intent && record.Entry.RequestID == s.request
	}
	if found == neg {
		ts.Fatalf("the audit log has an intent: %v", found)
	}
}

func (s *story) grantedPermissions(ts *testscript.TestScript, _ bool, args []string) {
	var permissions map[string]string
	for record, err := range audit.Read(s.AuditDir) {
		ts.Check(err)
		if e := record.Entry; e.Kind == audit.Outcome && e.RequestID == s.request {
			permissions = s.minted(ts, e.TokenSHA256)
		}
	}
	var got []string
	for _, name := range slices.Sorted(maps.Keys(permissions)) {
		if name != "metadata" { // GitHub adds it
			got = append(got, fmt.Sprint(name, "=", permissions[name]))
		}
	}
	if !slices.Equal(got, args) {
		ts.Fatalf("the token may do %v, want %v", got, args)
	}
}

// minted is what a token may do, by its hash, as GitHub has it.
func (s *story) minted(ts *testscript.TestScript, hash string) map[string]string {
	for _, m := range s.GitHub.Mints() {
		if m.TokenSHA256 == hash {
			return m.Permissions
		}
	}
	ts.Fatalf("GitHub minted no token with the hash %s", hash)
	return nil
}
