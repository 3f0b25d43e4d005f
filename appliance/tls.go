package appliance

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
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
	logger  *zap.Logger
	current atomic.Pointer[tls.Certificate]
}

// newCertificateFiles loads the pair, which at the start has to work.
func newCertificateFiles(files TLSFiles, logger *zap.Logger) (*certificateFiles, error) {
	c := &certificateFiles{files: files, logger: logger}
	if err := c.load(); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *certificateFiles) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.current.Load(), nil
		},
	}
}

func (c *certificateFiles) load() error {
	pair, err := tls.LoadX509KeyPair(c.files.Certificate, c.files.Key)
	if err != nil {
		return fmt.Errorf("loading certificate %s and key %s: %w", c.files.Certificate, c.files.Key, err)
	}
	c.current.Store(&pair)
	return nil
}

// watch reloads the pair when either file changed, or when asked to, until ctx
// is done. Two files are never replaced at one instant: the first look may find
// a pair that does not fit, the next one mends it.
func (c *certificateFiles) watch(ctx context.Context, reload <-chan os.Signal) {
	ticker := time.NewTicker(certificatePoll)
	defer ticker.Stop()
	seen := c.stamp()
	for {
		select {
		case <-ctx.Done():
			return
		case <-reload:
		case <-ticker.C:
			if now := c.stamp(); now == seen {
				continue
			}
		}
		seen = c.stamp()
		if err := c.load(); err != nil {
			c.logger.Error("certificate not reloaded, the old one stays in use", zap.Error(err))
			continue
		}
		c.logger.Info("certificate reloaded", zap.Time("not_after", c.current.Load().Leaf.NotAfter))
	}
}

// stamp changes when a file was written to or replaced.
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
