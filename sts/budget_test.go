package sts

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

func caller(subject, owner string) *purse {
	return &purse{caller: grantKey{subjectKey{"https://issuer.example", subject}, owner}, account: owner}
}

func testBudget(t *testing.T, perSubject, perOwner int) (*budget, *time.Time) {
	t.Helper()
	b, err := newBudget(perSubject, perOwner)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	b.now = func() time.Time { return now }
	return b, &now
}

// refusals is how many of n are worth something.
func refusals(b *budget, n int, p func(i int) *purse) (worth int) {
	for i := range n {
		if b.refused(p(i)) {
			worth++
		}
	}
	return worth
}

func TestBudgetOfOneSubject(t *testing.T) {
	b, now := testBudget(t, 60, 600)
	same := func(int) *purse { return caller("ci", "acme") }
	if got := refusals(b, 100, same); got != 60 {
		t.Errorf("%d of 100 refusals at once, want 60", got)
	}
	*now = now.Add(10 * time.Minute)
	if got := refusals(b, 100, same); got != 10 {
		t.Errorf("%d after ten minutes, want 10", got)
	}
	*now = now.Add(1000 * time.Hour)
	if got := refusals(b, 100, same); got != 60 {
		t.Errorf("%d after a long time, want 60", got)
	}
	if !b.refused(caller("another", "acme")) {
		t.Error("another subject pays for the first")
	}
}

func TestBudgetOfStrangers(t *testing.T) {
	b, _ := testBudget(t, 60, 600)
	b.remember(caller("known", "acme").caller)
	if got := refusals(b, 5000, func(i int) *purse { return caller(fmt.Sprint(i), "acme") }); got != 600 {
		t.Errorf("%d refusals of strangers with as many names, want 600", got)
	}
	if _, ok := b.lookUp(caller("new", "acme"), lookupKey{"acme", "app", "made-up"}); ok {
		t.Error("a stranger may still have GitHub asked")
	}
	if !b.refused(caller("known", "acme")) {
		t.Error("who was granted something pays for strangers")
	}
	if !b.refused(caller("new", "other")) {
		t.Error("another owner's strangers pay for these")
	}
}

// Names that somebody makes up share what strangers have.
func TestBudgetOfUnknownOwners(t *testing.T) {
	b, _ := testBudget(t, 60, 600)
	got := refusals(b, 5000, func(i int) *purse {
		p := caller(fmt.Sprint("s", i), fmt.Sprint("owner", i))
		p.account = unknownOwners
		return p
	})
	if got != 600 {
		t.Errorf("%d refusals at made-up owners, want 600", got)
	}
}

// A thousand jobs that begin at once with one policy cost one look-up.
func TestBudgetOfOneLookup(t *testing.T) {
	b, _ := testBudget(t, 1, 1)
	key := lookupKey{"acme", "app", "deploy"}
	var group sync.WaitGroup
	dones := make(chan func(), 1000)
	for range 1000 {
		group.Go(func() {
			done, ok := b.lookUp(caller("ci", "acme"), key)
			if !ok {
				t.Error("the same look-up has to be paid for twice")
				return
			}
			dones <- done
		})
	}
	group.Wait()
	close(dones)
	for done := range dones {
		done()
	}
	if len(b.lookups) != 0 {
		t.Errorf("%d look-ups are left", len(b.lookups))
	}
	if _, ok := b.lookUp(caller("ci", "acme"), key); ok {
		t.Error("the next look-up is free")
	}
}

// What leads to a grant costs nothing, however often.
func TestBudgetIsGivenBack(t *testing.T) {
	b, _ := testBudget(t, 2, 2)
	for i := range 100 {
		p := caller("ci", "acme")
		done, ok := b.lookUp(p, lookupKey{"acme", "app", fmt.Sprint(i)})
		if !ok {
			t.Fatalf("look-up %d: not enough", i)
		}
		b.remember(p.caller)
		b.giveBack(p)
		b.giveBack(p) // once
		done()
	}
	if got := refusals(b, 10, func(int) *purse { return caller("ci", "acme") }); got != 2 {
		t.Errorf("%d refusals, want 2", got)
	}
	if got := refusals(b, 10, func(i int) *purse { return caller(fmt.Sprint(i), "acme") }); got != 2 {
		t.Errorf("%d refusals of strangers, want 2", got)
	}
}

// A look-up that ends in a refusal is paid for once.
func TestBudgetOfARefusedLookup(t *testing.T) {
	b, _ := testBudget(t, 2, 2)
	p := caller("ci", "acme")
	done, ok := b.lookUp(p, lookupKey{"acme", "app", "made-up"})
	if !ok || !b.refused(p) {
		t.Fatal("not enough")
	}
	done()
	if got := refusals(b, 10, func(int) *purse { return caller("ci", "acme") }); got != 1 {
		t.Errorf("%d more refusals, want 1", got)
	}
}

// A policy that was there is no guess, until it is not there any more.
func TestBudgetRemembersPolicies(t *testing.T) {
	b, _ := testBudget(t, 1, 1)
	key := lookupKey{"acme", "app", "deploy"}
	if b.wasFound(key) {
		t.Error("what nobody looked up was found")
	}
	b.found(key)
	if !b.wasFound(key) {
		t.Error("what was found is forgotten")
	}
	b.absent(key)
	if b.wasFound(key) {
		t.Error("what is gone was found")
	}
}
