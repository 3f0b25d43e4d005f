package appliance

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

// acmeStore keeps the certificate, its key, the account and OCSP staples in files,
// as certmagic's FileStorage does. Its locks are in memory: state.db is locked by
// the kernel for as long as a daemon has state_directory, so there is no second
// one to lock out, and no lock that a crash could leave behind.
type acmeStore struct {
	*certmagic.FileStorage
	logger *zap.Logger
	mu     sync.Mutex
	locks  map[string]chan struct{} // by name; holds one element while locked
}

func newACMEStore(directory string, logger *zap.Logger) *acmeStore {
	return &acmeStore{FileStorage: &certmagic.FileStorage{Path: directory}, logger: logger, locks: map[string]chan struct{}{}}
}

func (s *acmeStore) lock(name string) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.locks[name] == nil {
		s.locks[name] = make(chan struct{}, 1)
	}
	return s.locks[name]
}

// Lock waits for the lock of that name.
func (s *acmeStore) Lock(ctx context.Context, name string) error {
	select {
	case s.lock(name) <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TryLock does not wait.
func (s *acmeStore) TryLock(_ context.Context, name string) (bool, error) {
	select {
	case s.lock(name) <- struct{}{}:
		return true, nil
	default:
		return false, nil
	}
}

// Unlock gives the lock back.
func (s *acmeStore) Unlock(_ context.Context, name string) error {
	select {
	case <-s.lock(name):
		return nil
	default:
		return fmt.Errorf("%s is not locked", name)
	}
}

// load reads the certificate with its key. It is nil where there is none. What
// cannot be used, and nothing but a new certificate would mend, is removed, so that
// there will be one; what somebody has to mend is an error.
func (s *acmeStore) load(issuer, domain string) (*tls.Certificate, error) {
	var files [3][]byte
	for i, key := range []string{
		certmagic.StorageKeys.SiteCert(issuer, domain),
		certmagic.StorageKeys.SitePrivateKey(issuer, domain),
		certmagic.StorageKeys.SiteMeta(issuer, domain),
	} {
		s.makeWay(key)
		var err error
		if files[i], err = os.ReadFile(s.Filename(key)); errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		} else if err != nil {
			return nil, s.explain(err)
		}
	}
	pair, err := loadPair(files[0], files[1])
	if err == nil {
		err = pair.Leaf.VerifyHostname(domain)
	}
	if err == nil {
		err = json.Unmarshal(files[2], &certmagic.CertificateResource{})
	}
	if err == nil {
		return pair, nil
	}
	directory := s.Filename(certmagic.StorageKeys.CertsSitePrefix(issuer, domain))
	s.logger.Error("the stored certificate is damaged, so there will be a new one", zap.String("removed", directory), zap.Error(err))
	if err := os.RemoveAll(directory); err != nil {
		return nil, s.explain(err)
	}
	return nil, nil
}

// makeWay removes what is a file where a directory belongs, on the way to key, and
// what is a directory where key's file does.
func (s *acmeStore) makeWay(key string) {
	path := s.Path
	for _, part := range append(strings.Split(filepath.Dir(key), "/"), "") {
		if info, err := os.Stat(path); err == nil && !info.IsDir() {
			s.remove(path, "a file is where a directory belongs")
		}
		path = filepath.Join(path, part)
	}
	if info, err := os.Stat(s.Filename(key)); err == nil && info.IsDir() {
		s.remove(s.Filename(key), "a directory is where a file belongs")
	}
}

func (s *acmeStore) remove(path, why string) {
	if err := os.RemoveAll(path); err != nil {
		s.logger.Error("the store is damaged", zap.String("path", path), zap.String("why", why), zap.Error(err))
		return
	}
	s.logger.Error("the store was damaged; what was in the way is gone", zap.String("path", path), zap.String("why", why))
}

// explain says where an error comes from, and how to mend it where that is known.
func (s *acmeStore) explain(err error) error {
	return fmt.Errorf("the store of certificates: %w", explainOwner(err, s.Path))
}

// staleStaple is when nobody can want an OCSP response any more.
const staleStaple = 60 * 24 * time.Hour

// sweep removes what a crash left half-written, and staples of old certificates.
func (s *acmeStore) sweep() {
	halfWritten := regexp.MustCompile(`^(rw_test_)?\d+$`) // as certmagic names them
	err := filepath.WalkDir(s.Path, func(path string, f fs.DirEntry, err error) error {
		if err != nil || !f.Type().IsRegular() {
			return nil // what cannot be read is complained of where it is needed
		}
		stale := false
		if info, err := f.Info(); err == nil && filepath.Base(filepath.Dir(path)) == "ocsp" {
			stale = time.Since(info.ModTime()) > staleStaple
		}
		if stale || halfWritten.MatchString(f.Name()) {
			return os.Remove(path)
		}
		return nil
	})
	if err != nil {
		s.logger.Warn("the store of certificates was not tidied up", zap.Error(err))
	}
}
