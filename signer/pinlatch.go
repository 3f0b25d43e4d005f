package signer

import (
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// ErrPINLatched means that the PIN was not tried, because a token refused the same one before. It is tried again when the
// credential's content changes, or when the operator removes the file that the error names.
var ErrPINLatched = errors.New("the PIN is not tried again")

const (
	// pinIterations is OWASP's figure for PBKDF2 with HMAC-SHA256: some 0.1 s a guess for whoever steals the file.
	pinIterations = 600_000
	// latchWait bounds the wait for another process that is logging in to the same token.
	latchWait = 10 * time.Second
	// maxMarker bounds the file, in bytes. One has some 200.
	maxMarker = 4 << 10
)

// PINLatch remembers on disk that a token refused a PIN, so that no restart of any program tries the same PIN again:
// tokens lock for good after a few wrong ones. The file DIRECTORY/NAME exists from before a login until the token has
// accepted its PIN. It holds a salted PBKDF2 of a PIN that was refused, or may have been, and never more: of a good PIN
// there is nothing on the disk. DIRECTORY/NAME.lock keeps two processes from trying at once. A login is Begin, C_Login,
// then one of Succeeded, Refused and Unclear.
//
// A PINLatch belongs to one goroutine at a time.
type PINLatch struct {
	path string
	lock *os.File  // holds the lock from Begin to the verdict, else nil
	pin  string    // of the last Begin
	mark pinMarker // what Begin wrote
	// iterations is pinIterations, and less only in tests of what is not the hash.
	iterations int
}

// pinMarker is the content of a latch's file.
type pinMarker struct {
	State string    `json:"state"` // pinTrying or pinRefused
	Salt  []byte    `json:"salt,omitempty"`
	Hash  []byte    `json:"pbkdf2_sha256_600000,omitempty"` // none: nothing speaks against the PIN being tried yet
	Time  time.Time `json:"time"`
}

const (
	pinTrying  = "trying"
	pinRefused = "refused"
)

// NewPINLatch returns the latch called name in directory, which must exist when Begin is called. It touches nothing.
func NewPINLatch(directory, name string) *PINLatch {
	return &PINLatch{path: filepath.Join(directory, name), iterations: pinIterations}
}

// Path is the file that remembers. Whoever removes it allows one more attempt.
func (l *PINLatch) Path() string { return l.path }

// Begin makes a durable note that pin is about to be tried. countLow is what the token says of attempts before
// (CKF_USER_PIN_COUNT_LOW: a wrong PIN was tried since the last good login). Where the error is not nil the PIN must not
// be tried. It matches ErrPINLatched where the token refused this very PIN before, or may have: an earlier attempt was
// cut short by a crash or a hang and the token counts a wrong one.
func (l *PINLatch) Begin(pin string, countLow bool) error {
	if err := l.acquire(); err != nil {
		return fmt.Errorf("noting that the PIN is about to be tried: %w", err)
	}
	if err := l.begin(pin, countLow); err != nil {
		l.release()
		return err
	}
	return nil
}

func (l *PINLatch) begin(pin string, countLow bool) error {
	l.pin = pin
	known, err := l.read()
	if err != nil {
		return err
	}
	if known == nil {
		l.mark = pinMarker{State: pinTrying}
		return l.write()
	}
	l.mark = *known
	if len(known.Hash) == 0 {
		if !countLow {
			return nil
		}
		// Nothing says with which PIN the attempt was made. It is taken for this one.
		if err := l.writeHash(); err != nil {
			return err
		}
	}
	hash, err := l.hash(l.mark.Salt)
	if err != nil {
		return err
	}
	since := known.Time.Format(time.RFC3339)
	switch {
	case subtle.ConstantTimeCompare(hash, l.mark.Hash) != 1:
		l.mark = pinMarker{State: pinTrying}
		return l.write()
	case known.State == pinRefused:
		return fmt.Errorf("%w: the token refused it on %s; correct the credential, or remove %s to have the same PIN tried once more", ErrPINLatched, since, l.path)
	case countLow:
		return fmt.Errorf("%w: an attempt on %s was cut short, and the token counts a wrong PIN since the last good login; correct the credential, or remove %s to have the same PIN tried once more", ErrPINLatched, since, l.path)
	}
	return nil
}

// Succeeded removes the note: nothing of a good PIN stays on the disk.
func (l *PINLatch) Succeeded() error {
	defer l.release()
	if err := os.Remove(l.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing the note of a good PIN: %w", err)
	}
	return syncDirectory(filepath.Dir(l.path))
}

// Refused makes the note permanent: the token gave a verdict against the PIN of the last Begin.
func (l *PINLatch) Refused() error {
	defer l.release()
	l.mark.State = pinRefused
	return l.writeHash()
}

// Unclear ends an attempt that the token gave no verdict on, such as a device error. The note stays, as after a crash.
func (l *PINLatch) Unclear() { l.release() }

func (l *PINLatch) hash(salt []byte) ([]byte, error) {
	hash, err := pbkdf2.Key(sha256.New, l.pin, salt, l.iterations, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("hashing the PIN: %w", err)
	}
	return hash, nil
}

// acquire takes the lock. A latch that holds it keeps it.
func (l *PINLatch) acquire() error {
	if l.lock != nil {
		return nil
	}
	lock, err := lockFile(l.path+".lock", latchWait)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("another process is logging in to the token: %w", err)
	}
	l.lock = lock
	return err
}

func (l *PINLatch) release() {
	if l.lock != nil {
		_ = l.lock.Close() // and with it the lock
		l.lock = nil
	}
}

// read returns nil where there is no note. A note that makes no sense is not taken for none.
func (l *PINLatch) read() (*pinMarker, error) {
	file, err := os.OpenFile(l.path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking whether the PIN was refused before: %w", err)
	}
	defer file.Close()
	m, err := parsePINMarker(io.LimitReader(file, maxMarker))
	if err != nil {
		return nil, fmt.Errorf("%w: %s is damaged (%w); remove it to have the PIN tried", ErrPINLatched, l.path, err)
	}
	return m, nil
}

func parsePINMarker(r io.Reader) (*pinMarker, error) {
	var m pinMarker
	decoder := json.NewDecoder(r)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&m); err != nil {
		return nil, err
	}
	isHashed := len(m.Salt) >= 8 && len(m.Hash) == sha256.Size
	isBare := len(m.Salt) == 0 && len(m.Hash) == 0
	if m.State == pinRefused && isHashed || m.State == pinTrying && (isHashed || isBare) {
		return &m, nil
	}
	return nil, errors.New("its state, salt or hash is wrong")
}

// writeHash adds the PIN's hash to the note.
func (l *PINLatch) writeHash() (err error) {
	l.mark.Salt = make([]byte, 16)
	_, _ = rand.Read(l.mark.Salt) // never fails
	if l.mark.Hash, err = l.hash(l.mark.Salt); err != nil {
		return err
	}
	return l.write()
}

// write makes l.mark the note, durably.
func (l *PINLatch) write() error {
	l.mark.Time = time.Now().UTC().Truncate(time.Second)
	data, err := json.Marshal(l.mark)
	if err == nil {
		err = replaceFile(l.path, append(data, '\n'))
	}
	if err != nil {
		return fmt.Errorf("writing a note about the PIN: %w", err)
	}
	return nil
}
