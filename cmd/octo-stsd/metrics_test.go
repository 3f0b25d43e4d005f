package main

import (
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/octo-sts/appliance/sts/ststest"
)

func (r *rig) scrape() string {
	r.t.Helper()
	response, err := r.Client().Get(r.AdminURL() + "/metrics")
	if err != nil {
		r.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(text)
}

func TestMetrics(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{TLS: true, Webhook: true, HSMs: 2})
	r.granted("acme/app", "reader")
	r.granted("acme/app", "reader")
	for _, w := range r.wires() {
		a := w.ask(t, "acme/app", "nobody", r.job(nil))
		t.Logf("%s %+v", w.name, a.Code)
	}
	text := r.scrape()
	cmd := exec.Command("promtool", "check", "metrics")
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.CombinedOutput()
	t.Logf("%s %v", out, err)
	t.Log(text)
}
