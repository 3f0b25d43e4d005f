package appliance

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"
)

// certificatePoll is how often the certificate's files are looked at.
const certificatePoll = 2 * time.Second

// certificateFiles serves the certificate of two PEM files and takes up new
// ones when they change. A pair that cannot be used never replaces one that can.
type certificateFiles struct {
	files   TLSFiles
	domain  string
	logger  *zap.Logger
	current atomic.Pointer[tls.Certificate]
	lastErr atomic.Pointer[error] // of the last reading; nil: it went well

	mu   sync.Mutex // one reading at a time; guards seen
	seen [2]string  // the files' stamps when they were last read
}

// newCertificateFiles loads the pair, which at the start has to be one.
func newCertificateFiles(files TLSFiles, domain string, logger *zap.Logger) (*certificateFiles, error) {
	c := &certificateFiles{files: files, domain: domain, logger: logger}
	if err := c.reload(); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *certificateFiles) config() *tls.Config {
	return publicTLS(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current.Load(), nil })
}

// challenges has nothing to answer: no CA asks.
func (c *certificateFiles) challenges(next http.Handler) http.Handler { return next }

func (c *certificateFiles) status() certificateStatus {
	leaf := c.current.Load().Leaf
	s := certificateStatus{notBefore: leaf.NotBefore, notAfter: leaf.NotAfter}
	if err := c.lastErr.Load(); err != nil {
		s.lastError = *err
	}
	return s
}

// run reloads the pair when either file changed, until ctx is done. Two files
// are never replaced at one instant: the first look may find a pair that does
// not fit, the next one mends it.
func (c *certificateFiles) run(ctx context.Context) {
	ticker := time.NewTicker(certificatePoll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			c.mu.Lock()
			// One that cannot be used may become usable without a change: a file that
			// can be read now, a time that has come.
			if c.lastErr.Load() != nil || c.stamp() != c.seen {
				_ = c.take() // which logs
			}
			c.mu.Unlock()
		}
	}
}

func (c *certificateFiles) reload() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.take()
}

// take reads the pair and uses it, or keeps the old one. The same fault is logged
// once.
func (c *certificateFiles) take() error {
	before := c.seen
	c.seen = c.stamp()
	old, previous := c.current.Load(), c.lastErr.Load()
	pair, err := c.load(old)
	if err != nil {
		c.lastErr.Store(&err)
		if old != nil && (previous == nil || c.seen != before || (*previous).Error() != err.Error()) {
			c.logger.Error("certificate not reloaded, the old one stays in use", zap.Error(err))
		}
		return err
	}
	c.lastErr.Store(nil)
	c.current.Store(pair)
	if old != nil {
		c.logger.Info("certificate reloaded", zap.Time("not_after", pair.Leaf.NotAfter))
	}
	c.warn(pair)
	return nil
}

// load reads the pair. One that is not valid now is an error only where old is:
// at the start there is nothing better.
func (c *certificateFiles) load(old *tls.Certificate) (*tls.Certificate, error) {
	var pair *tls.Certificate
	certificate, err := os.ReadFile(c.files.Certificate)
	key, keyErr := os.ReadFile(c.files.Key)
	if err = errors.Join(err, keyErr); err == nil {
		pair, err = loadPair(certificate, key)
	}
	if err == nil && old != nil && validNow(old) && !validNow(pair) {
		err = fmt.Errorf("it is valid from %s until %s", pair.Leaf.NotBefore.UTC().Format(time.RFC3339), pair.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	if err != nil {
		return nil, fmt.Errorf("loading certificate %s and key %s: %w", c.files.Certificate, c.files.Key, err)
	}
	return pair, nil
}

func validNow(pair *tls.Certificate) bool {
	now := time.Now()
	return !now.Before(pair.Leaf.NotBefore) && !now.After(pair.Leaf.NotAfter)
}

// warn says what works and should not stay so.
func (c *certificateFiles) warn(pair *tls.Certificate) {
	if info, err := os.Stat(c.files.Key); err == nil && info.Mode().Perm()&0o007 != 0 {
		c.logger.Warn("every user of this machine may read the certificate's key, or write it: chmod o= it",
			zap.String("key", c.files.Key), zap.Stringer("mode", info.Mode().Perm()))
	}
	if err := pair.Leaf.VerifyHostname(c.domain); err != nil {
		c.logger.Warn("the certificate is not for domain: who calls by that name will refuse it", zap.Error(err))
	}
	if !validNow(pair) {
		c.logger.Error("the certificate is not valid now: callers refuse it",
			zap.Time("not_before", pair.Leaf.NotBefore), zap.Time("not_after", pair.Leaf.NotAfter))
	}
}

// stamp changes when a file was written to or replaced, also where a symbolic
// link on the way to it was.
func (c *certificateFiles) stamp() [2]string {
	var stamps [2]string
	for i, file := range []string{c.files.Certificate, c.files.Key} {
		if info, err := os.Stat(file); err == nil {
			stamps[i] = fmt.Sprint(info.ModTime().UnixNano(), info.Size(), inode(info))
		}
	}
	return stamps
}

// inode tells a file that was replaced from one that was not, where both have
// the same time and size.
func inode(info os.FileInfo) uint64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Ino
	}
	return 0
}
