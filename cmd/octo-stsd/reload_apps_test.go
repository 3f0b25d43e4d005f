package main

import (
	"net/http"
	"testing"

	"github.com/octo-sts/appliance/sts/ststest"
)

// An App that a reload takes away mints nothing any more, whatever is known of its
// installations; one that a reload adds is used at once.
func TestReloadOfApps(t *testing.T) {
	m := newServiceManager(t)
	acme := []string{"acme"}
	c := ststest.ServiceConfig{Apps: []ststest.ServiceApp{{ID: firstApp, Organizations: acme}, {ID: secondApp, Organizations: acme}}}
	m.manages(&c)
	p := &pool{rig: newRig(t, c)}
	p.GitHub.Install(secondApp, "acme", ststest.InstallOptions{})
	if app := p.as(p.granted("acme/app", "reader")); app != firstApp {
		t.Fatalf("App %d minted, want the first one", app)
	}
	serve := func(apps ...int64) {
		t.Helper()
		p.rewriteConfig(func(c map[string]any) {
			var listed []any
			for _, id := range apps {
				listed = append(listed, map[string]any{"id": id, "organizations": acme})
			}
			c["github"].(map[string]any)["apps"] = listed
		})
		p.reload(m)
	}
	for _, only := range []int64{secondApp, firstApp, secondApp} {
		serve(only)
		for range 3 {
			if app := p.as(p.granted("acme/app", "reader")); app != only {
				t.Errorf("App %d minted, and App %d is the only one", app, only)
			}
		}
	}
	p.rewriteConfig(func(c map[string]any) {
		c["github"].(map[string]any)["apps"].([]any)[0].(map[string]any)["organizations"] = []string{"elsewhere"}
	})
	p.reload(m)
	if x := p.exchange("acme/app", "reader", p.job(nil)); x.Status != http.StatusForbidden && x.Status != http.StatusNotFound {
		t.Errorf("an owner whom no App serves any more: %d %s", x.Status, x.Body)
	}
}
