package signer

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
)

// memoryHSM is an HSM whose worker is a goroutine of this process. The protocol between is the real one.
type memoryHSM struct {
	mu       sync.Mutex
	keys     map[string]crypto.MessageSigner // guarded by mu
	labels   []string                        // that it was told last; guarded by mu
	closed   string                          // why the token is not open; guarded by mu
	mute     bool                            // starts no worker; guarded by mu
	workers  []*worker                       // all that were started; guarded by mu
	hang     chan struct{}                   // not nil: signatures wait until it is closed; guarded by mu
	entered  int                             // signatures begun; guarded by mu
	callFrom time.Time                       // of the oldest call; guarded by mu
	failure  error                           // of every signature; guarded by mu
	wrong    bool                            // signatures do not verify; guarded by mu
}

func (m *memoryHSM) set(change func(*memoryHSM)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(m)
}

// kill ends the worker that runs, as SIGKILL does.
func (m *memoryHSM) kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.workers[len(m.workers)-1].kill()
}

func (m *memoryHSM) start(setup WorkerSetup) (*worker, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mute {
		return nil, errors.New("cannot fork")
	}
	ours, theirs := net.Pipe()
	dead := make(chan struct{})
	die := sync.OnceFunc(func() {
		close(dead)
		_ = theirs.Close()
	})
	w := newWorker(ours, setup.HSM.ConcurrentSignatures(), die)
	server, err := NewWorkerServer(WorkerServerConfig{
		Key: func(label string) (crypto.MessageSigner, error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			if key := m.keys[label]; key != nil {
				return memoryKey{key, m, dead}, nil
			}
			return nil, errors.New("no private key is labelled " + label)
		},
		Token: func() (TokenStatus, time.Time) {
			m.mu.Lock()
			defer m.mu.Unlock()
			return TokenStatus{Module: setup.HSM.Module, Open: m.closed == "", Error: m.closed}, m.callFrom
		},
		SetLabels: func(labels []string) { m.set(func(m *memoryHSM) { m.labels = labels }) },
		Labels:    setup.Labels,
	})
	if err != nil {
		return nil, err
	}
	go func() {
		_ = server.Serve(context.Background(), theirs)
		die()
		_ = w.client.Close()
		close(w.ended)
	}()
	m.workers = append(m.workers, w)
	m.hang, m.callFrom = nil, time.Time{} // a fresh process hangs no more
	return w, nil
}

type memoryKey struct {
	crypto.MessageSigner
	hsm  *memoryHSM
	dead chan struct{}
}

func (k memoryKey) SignMessage(r io.Reader, message []byte, options crypto.SignerOpts) ([]byte, error) {
	k.hsm.mu.Lock()
	k.hsm.entered++
	hang, failure, wrong := k.hsm.hang, k.hsm.failure, k.hsm.wrong
	k.hsm.mu.Unlock()
	if hang != nil {
		select {
		case <-hang:
		case <-k.dead:
			return nil, errors.New("killed")
		}
	}
	if failure != nil {
		return nil, failure
	}
	if wrong {
		message = append(message, '!')
	}
	return k.MessageSigner.SignMessage(r, message, options)
}

// messageSigner makes a crypto.MessageSigner of a software key.
type messageSigner struct{ crypto.Signer }

func (s messageSigner) SignMessage(_ io.Reader, message []byte, options crypto.SignerOpts) ([]byte, error) {
	return crypto.SignMessage(s.Signer, rand.Reader, message, options)
}

// testKeys makes RSA keys once for all tests: it is slow.
var testKeys = sync.OnceValue(func() []*rsa.PrivateKey {
	var keys []*rsa.PrivateKey
	for range 3 {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		keys = append(keys, key)
	}
	return keys
})

// runHSMs starts n HSMs that all hold the key app-1, and a checkpoint key each.
func runHSMs(ctx context.Context, n int) (*HSMs, []*memoryHSM) {
	config := &Config{
		Apps:       []AppConfig{{ID: 1, Keys: []string{"app-1"}}, {ID: 2, Keys: []string{"app-2"}}},
		Checkpoint: CheckpointConfig{Origin: "log.example", Key: "checkpoint"},
	}
	var memory []*memoryHSM
	for i := range n {
		config.HSMs = append(config.HSMs, HSMConfig{Module: "/lib/module.so", MaxSessions: 4})
		memory = append(memory, &memoryHSM{keys: map[string]crypto.MessageSigner{
			"app-1":      messageSigner{testKeys()[0]},
			"checkpoint": messageSigner{testKeys()[1+i]},
		}})
	}
	hsms := newHSMs(config, zap.NewNop(), func(index int, setup WorkerSetup) (*worker, error) { return memory[index].start(setup) })
	hsms.run(ctx)
	return hsms, memory
}

// onHSMs runs test in a bubble with a clock of its own, where a minute takes no time, on n HSMs that are open.
func onHSMs(t *testing.T, n int, test func(t *testing.T, hsms *HSMs, memory []*memoryHSM)) {
	testKeys() // outside the bubble
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		hsms, memory := runHSMs(ctx, n)
		time.Sleep(time.Second)
		test(t, hsms, memory)
		cancel()
		hsms.Wait()
	})
}

// sign makes a signature and says which HSM made it and how long the caller waited.
func sign(hsms *HSMs, memory []*memoryHSM, label string) (by int, took time.Duration, err error) {
	before := make([]int, len(memory))
	for i, m := range memory {
		m.set(func(m *memoryHSM) { before[i] = m.entered })
	}
	ctx, cancel := context.WithTimeout(context.Background(), signTimeout)
	defer cancel()
	began := time.Now()
	by = -1
	err = hsms.UseKey(ctx, label, func(key crypto.Signer) error {
		_, err := crypto.SignMessage(key, nil, []byte("message"), crypto.SHA256)
		if err == nil {
			by = key.(*hsmKey).member.index
		}
		return err
	})
	return by, time.Since(began), err
}

// The HSM that signs, what a caller waits, and what happens after the fault, in one table.
func TestFailover(t *testing.T) {
	for _, test := range []struct {
		name  string
		fault func(*memoryHSM)
		mend  func(*memoryHSM)
		most  time.Duration // that the first caller waits
	}{
		{"killed", (*memoryHSM).kill, func(*memoryHSM) {}, 0},
		{"signatures fail",
			func(m *memoryHSM) { m.set(func(m *memoryHSM) { m.failure = errors.New("CKR_DEVICE_ERROR") }) },
			func(m *memoryHSM) { m.set(func(m *memoryHSM) { m.failure = nil }) }, 0},
		{"wrong signatures",
			func(m *memoryHSM) { m.set(func(m *memoryHSM) { m.wrong = true }) },
			func(m *memoryHSM) { m.set(func(m *memoryHSM) { m.wrong = false }) }, 0},
		{"signatures hang",
			func(m *memoryHSM) { m.set(func(m *memoryHSM) { m.hang = make(chan struct{}) }) },
			func(m *memoryHSM) { m.set(func(m *memoryHSM) { close(m.hang); m.hang = nil }) }, tryTime},
		{"token away",
			func(m *memoryHSM) {
				m.set(func(m *memoryHSM) { m.closed = "CKR_TOKEN_NOT_PRESENT" })
				time.Sleep(2 * pollEvery)
			},
			func(m *memoryHSM) { m.set(func(m *memoryHSM) { m.closed = "" }) }, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			onHSMs(t, 2, func(t *testing.T, hsms *HSMs, memory []*memoryHSM) {
				if by, _, err := sign(hsms, memory, "app-1"); by != 0 {
					t.Fatalf("in good order, HSM %d signs, %v", by, err)
				}
				test.fault(memory[0])
				if by, took, err := sign(hsms, memory, "app-1"); by != 1 || took > test.most {
					t.Errorf("the first caller's signature is by HSM %d after %v, %v", by, took, err)
				}
				for range 3 {
					if by, took, err := sign(hsms, memory, "app-1"); by != 1 || took > 0 {
						t.Errorf("a later signature is by HSM %d after %v, %v", by, took, err)
					}
				}
				time.Sleep(time.Second)
				if s := hsms.Status(); s[0].Active || !s[1].Active || s[0].LastFailover.IsZero() || !s[1].LastFailover.IsZero() {
					t.Errorf("%+v", s)
				}
				test.mend(memory[0])
				time.Sleep(probation - 2*time.Second)
				if by, _, err := sign(hsms, memory, "app-1"); by != 1 {
					t.Errorf("before its probation is over, HSM %d signs, %v", by, err)
				}
				time.Sleep(5 * time.Second)
				if by, _, err := sign(hsms, memory, "app-1"); by != 0 {
					t.Errorf("after its probation, HSM %d signs, %v", by, err)
				}
			})
		})
	}
}

// An HSM on probation signs at once where no other works.
func TestProbationIsNoExile(t *testing.T) {
	onHSMs(t, 2, func(t *testing.T, hsms *HSMs, memory []*memoryHSM) {
		memory[0].kill()
		time.Sleep(time.Second) // it is back
		if by, _, _ := sign(hsms, memory, "app-1"); by != 1 {
			t.Errorf("HSM %d signs, want 1", by)
		}
		memory[1].set(func(m *memoryHSM) { m.mute = true })
		memory[1].kill()
		if by, took, err := sign(hsms, memory, "app-1"); by != 0 || took > 0 {
			t.Errorf("HSM %d signs after %v, %v", by, took, err)
		}
	})
}

// Where both are on probation, the one that failed last is not what callers lose their time on.
func TestBothOnProbation(t *testing.T) {
	onHSMs(t, 2, func(t *testing.T, hsms *HSMs, memory []*memoryHSM) {
		memory[1].kill()
		time.Sleep(time.Second) // it is back
		memory[0].set(func(m *memoryHSM) { m.hang = make(chan struct{}) })
		if by, took, err := sign(hsms, memory, "app-1"); by != 1 || took != tryTime {
			t.Errorf("HSM %d signs after %v, %v", by, took, err)
		}
		for range 3 {
			if by, took, err := sign(hsms, memory, "app-1"); by != 1 || took > 0 {
				t.Errorf("HSM %d signs after %v, %v", by, took, err)
			}
		}
		memory[0].set(func(m *memoryHSM) { close(m.hang); m.hang = nil })
	})
}

// What a worker shows for a key that is none costs its own HSM the key, and no other.
func TestKeyThatIsNone(t *testing.T) {
	onHSMs(t, 2, func(t *testing.T, hsms *HSMs, memory []*memoryHSM) {
		time.Sleep(pollSoon / 2) // between two polls
		hsms.update(func() {
			hsms.members[0].take(WorkerStatus{Token: TokenStatus{Open: true}, Keys: map[string]WorkerKey{"app-1": {Public: []byte("none")}}}, time.Now())
		})
		if by, _, err := sign(hsms, memory, "app-1"); by != 1 {
			t.Errorf("HSM %d signs, %v", by, err)
		}
		if s := hsms.Status()[0].Keys[0]; s.Ready || !strings.Contains(s.Error, "reading its public half") {
			t.Errorf("%+v", s)
		}
	})
}

// An HSM that comes and goes is left alone: one signature in 30 s at most is lost time on it.
func TestNoFlapping(t *testing.T) {
	onHSMs(t, 2, func(t *testing.T, hsms *HSMs, memory []*memoryHSM) {
		for range 20 {
			memory[0].kill()
			time.Sleep(20 * time.Second)
			if by, _, err := sign(hsms, memory, "app-1"); by != 1 {
				t.Errorf("HSM %d signs, %v", by, err)
			}
		}
	})
}

// With one HSM, callers wait for the next worker, and none is turned away.
func TestOneHSMKilled(t *testing.T) {
	onHSMs(t, 1, func(t *testing.T, hsms *HSMs, memory []*memoryHSM) {
		for range 50 {
			memory[0].kill()
			if by, _, err := sign(hsms, memory, "app-1"); by != 0 {
				t.Error(err)
			}
			time.Sleep(11 * time.Second) // so that each is met with the shortest pause
		}
		if n := hsms.Status()[0].Restarts; n != 50 {
			t.Errorf("%d restarts", n)
		}
	})
}

// Who asks while the HSM is opened for the first time waits for it, and is told what is wrong where it stays closed.
func TestFirstOpening(t *testing.T) {
	testKeys()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		hsms, memory := runHSMs(ctx, 1)
		memory[0].set(func(m *memoryHSM) { m.closed = "it has not been opened yet" })
		if _, took, err := sign(hsms, memory, "app-1"); err == nil || !strings.Contains(err.Error(), "it has not been opened yet") || took != signTimeout {
			t.Errorf("after %v: %v", took, err)
		}
		time.AfterFunc(time.Second, func() { memory[0].set(func(m *memoryHSM) { m.closed = "" }) })
		if by, took, err := sign(hsms, memory, "app-1"); by != 0 || took < time.Second {
			t.Errorf("by %d after %v: %v", by, took, err)
		}
		if _, took, err := sign(hsms, memory, "app-2"); err == nil || took > 0 {
			t.Errorf("a key that is not there: after %v: %v", took, err)
		}
		cancel()
		hsms.Wait()
	})
}

// A worker that ends at once is started again, at most every two seconds.
func TestBackoff(t *testing.T) {
	onHSMs(t, 1, func(t *testing.T, hsms *HSMs, memory []*memoryHSM) {
		memory[0].set(func(m *memoryHSM) { m.mute = true })
		memory[0].kill()
		time.Sleep(time.Minute)
		if s := hsms.Status()[0]; s.Open || !strings.Contains(s.Error, "cannot fork") {
			t.Errorf("%+v", s)
		}
		began := time.Now()
		if _, took, err := sign(hsms, memory, "app-1"); err == nil || took > 0 {
			t.Errorf("long after the failure: %v after %v, want an error at once", err, took)
		}
		memory[0].set(func(m *memoryHSM) { m.mute = false })
		for hsms.Status()[0].Error != "" {
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(began); took > lastRestart+time.Second {
			t.Errorf("back after %v", took)
		}
	})
}

// A call that hangs costs the worker its life, before ten seconds are over; one HSM alone then signs again.
func TestHangIsCut(t *testing.T) {
	onHSMs(t, 1, func(t *testing.T, hsms *HSMs, memory []*memoryHSM) {
		began := time.Now()
		memory[0].set(func(m *memoryHSM) { m.hang, m.callFrom = make(chan struct{}), began })
		for ; time.Since(began) < callLimit; time.Sleep(10 * time.Millisecond) {
			if _, took, err := sign(hsms, memory, "app-1"); err == nil || took > signTimeout {
				t.Errorf("while it hangs: %v after %v", err, took)
			}
		}
		for by := -1; by != 0; {
			time.Sleep(10 * time.Millisecond)
			by, _, _ = sign(hsms, memory, "app-1")
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("replaced after %v", took)
		}
		if n := hsms.Status()[0].Restarts; n != 1 {
			t.Errorf("%d restarts, want 1", n)
		}
	})
}

// A hang holds as many signatures as there are sessions, and those that wait for one are not held against the HSM.
func TestSlotsAreBounded(t *testing.T) {
	onHSMs(t, 1, func(t *testing.T, hsms *HSMs, memory []*memoryHSM) {
		memory[0].set(func(m *memoryHSM) { m.hang = make(chan struct{}) })
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if _, _, err := sign(hsms, memory, "app-1"); err == nil {
					t.Error("signed")
				}
			})
		}
		wg.Wait()
		memory[0].set(func(m *memoryHSM) {
			if m.entered != 2 {
				t.Errorf("%d signatures were begun, want 2", m.entered)
			}
			close(m.hang)
			m.hang = nil
		})
		if by, _, err := sign(hsms, memory, "app-1"); by != 0 {
			t.Errorf("after the hang: %v", err)
		}
	})
}

// A caller that gives up is no fault of the HSM's: a daemon cannot drive the signer from one to the other.
func TestImpatientCaller(t *testing.T) {
	onHSMs(t, 2, func(t *testing.T, hsms *HSMs, memory []*memoryHSM) {
		memory[0].set(func(m *memoryHSM) { m.hang = make(chan struct{}) })
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(tryTime/2, cancel)
		_ = hsms.UseKey(ctx, "app-1", func(key crypto.Signer) error {
			_, err := crypto.SignMessage(key, nil, nil, crypto.SHA256)
			return err
		})
		memory[0].set(func(m *memoryHSM) { close(m.hang); m.hang = nil })
		if by, _, err := sign(hsms, memory, "app-1"); by != 0 {
			t.Errorf("HSM %d signs, %v", by, err)
		}
	})
}

// An App's key must be the same everywhere; the checkpoint key is another one in each HSM.
func TestKeysOfSeveralHSMs(t *testing.T) {
	onHSMs(t, 2, func(t *testing.T, hsms *HSMs, memory []*memoryHSM) {
		status := hsms.Status()
		for i, s := range status {
			if got := s.Keys[2]; got.Key != "checkpoint" || !got.Ready || got.Public == nil || slices.Equal(got.Public, status[1-i].Keys[2].Public) {
				t.Errorf("checkpoint key of HSM %d: %+v", i, got)
			}
			if got := s.Keys[1]; got.Key != "app-2" || got.Ready || !strings.Contains(got.Error, "no private key") {
				t.Errorf("missing key: %+v", got)
			}
		}
		memory[1].set(func(m *memoryHSM) { m.keys["app-1"] = messageSigner{testKeys()[2]} })
		time.Sleep(time.Second)
		status = hsms.Status()
		if !status[0].Keys[0].Ready || status[1].Keys[0].Ready || !strings.Contains(status[1].Keys[0].Error, `another key lies under the label "app-1" than in HSM 0`) {
			t.Errorf("%+v", status)
		}
		memory[0].set(func(m *memoryHSM) { m.mute = true })
		memory[0].kill()
		if by, _, err := sign(hsms, memory, "app-1"); err == nil || !strings.Contains(err.Error(), "another key lies under the label") {
			t.Errorf("HSM %d signs with another key, %v", by, err)
		}
		if by, _, err := sign(hsms, memory, "checkpoint"); by != 1 {
			t.Errorf("HSM %d signs checkpoints, %v", by, err)
		}
	})
}

// Other labels reach every worker, also those that are started later.
func TestSetLabels(t *testing.T) {
	onHSMs(t, 2, func(t *testing.T, hsms *HSMs, memory []*memoryHSM) {
		for _, m := range memory {
			m.set(func(m *memoryHSM) { m.keys["app-9"] = messageSigner{testKeys()[2]} })
		}
		if _, err := hsms.Public("app-9"); err == nil {
			t.Error("a key that nobody asked for")
		}
		hsms.SetLabels([]string{"app-9", "checkpoint"})
		time.Sleep(2 * pollSoon)
		for i := range memory {
			if by, _, err := sign(hsms, memory, "app-9"); by != i {
				t.Errorf("HSM %d signs, %v", by, err)
			}
			if _, err := hsms.Public("app-1"); err == nil {
				t.Error("the old key still signs")
			}
			memory[i].kill()
			time.Sleep(time.Second)
		}
	})
}

// A worker that lies about its key, or sends without end, harms nobody.
func TestBoundedConn(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	go func() {
		for {
			if _, err := theirs.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	}()
	n, err := io.Copy(io.Discard, &boundedConn{Conn: ours})
	if err == nil || n > maxWorkerAnswer+1<<20 {
		t.Errorf("read %d bytes, %v", n, err)
	}
	_ = theirs.Close()
}
