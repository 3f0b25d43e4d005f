package appliance

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/sts/githubapp"
)

// The least room that there has to be: so many bytes, of a small file system so large a
// part, and so many files. An exchange writes some three kilobytes.
const (
	leastFree     = 1 << 30
	leastFreePart = 10 // a tenth
	leastFiles    = 10_000
)

// checkDisk looks at the file systems of directories. It never fails: a log that cannot
// be written fails the check of that name.
func checkDisk(directories ...string) check {
	var low, all []string
	var seen []syscall.Fsid
	for _, directory := range directories {
		var fs syscall.Statfs_t
		if err := syscall.Statfs(directory, &fs); err != nil {
			low = append(low, fmt.Sprintf("%s: %v", directory, err))
			continue
		}
		if slices.Contains(seen, fs.Fsid) {
			continue
		}
		seen = append(seen, fs.Fsid)
		free, size := fs.Bavail*uint64(fs.Bsize), fs.Blocks*uint64(fs.Bsize)
		room := fmt.Sprintf("%s has %s free of %s", directory, bytesText(free), bytesText(size))
		all = append(all, room)
		switch {
		case free < min(leastFree, size/leastFreePart):
			low = append(low, room)
		case fs.Files > 0 && fs.Ffree < min(leastFiles, fs.Files/leastFreePart): // 0: there is no limit
			low = append(low, fmt.Sprintf("%s has room for %d more files", directory, fs.Ffree))
		}
	}
	if len(low) > 0 {
		return check{"disk", stateDegraded, strings.Join(low, "; ") + ": make room, since a full disk refuses every exchange"}
	}
	return check{"disk", stateReady, strings.Join(all, "; ")}
}

func bytesText(n uint64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
}

// checkClock never fails: what a clock that is off refuses is refused one by one.
func (h *health) checkClock() check {
	skew := h.github().Host().ClockSkew
	if skew.Abs() > githubapp.MaxClockSkew {
		return check{"clock", stateDegraded, fmt.Sprintf("this host's clock is off by %s against GitHub's: correct it", skew.Round(time.Second))}
	}
	return check{"clock", stateReady, fmt.Sprintf("within %s of GitHub's", githubapp.MaxClockSkew)}
}

// checkHSMs never fails: whether anything can be signed, checkSigner knows. One HSM of
// several that is away leaves the others alone.
func checkHSMs(status signer.Status) check {
	var wrong []string
	for i, h := range status.HSMs {
		if !h.Open {
			wrong = append(wrong, fmt.Sprintf("HSM %d: %s", i, h.Error))
			continue
		}
		for _, k := range h.Keys {
			if !k.Ready && signs(status, k.Key) {
				wrong = append(wrong, fmt.Sprintf("HSM %d: key %q: %s", i, k.Key, k.Error))
			}
		}
	}
	if len(wrong) > 0 {
		return check{"hsm", stateDegraded, strings.Join(wrong, "; ")}
	}
	return check{"hsm", stateReady, fmt.Sprintf("%d open", len(status.HSMs))}
}

// signs tells whether a key is one that something is signed with, and does not stand by.
func signs(status signer.Status, label string) bool {
	return status.Probe != nil && label == status.Probe.Key ||
		slices.ContainsFunc(status.Apps, func(a signer.AppStatus) bool { return a.Key == label })
}

// checkProbeIssuer never fails: nobody but a probe needs its ID tokens.
func checkProbeIssuer(status signer.Status, c *Config) check {
	if problem := probeProblem(status, c); problem != "" {
		return check{"probe", stateDegraded, problem}
	}
	return check{"probe", stateReady, "the signer makes its ID tokens"}
}
