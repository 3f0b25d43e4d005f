//go:build packages

package packaging_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// The network of a test is two hosts and a cable, in a namespace from which nothing leads
// out: the world, which is this process, and the machine. Their addresses are public
// ones, or the appliance would refuse to connect to them; whoever has them in the world never hears of it.
const (
	worldAddress   = "11.0.0.1"
	machineAddress = "11.0.0.2"
	domain         = "sts.example.com"
)

// hostsFile is the DNS of both. The appliance finds the stand-ins where it would find the real ones, so
// its configuration is what a user's is.
const hostsFile = `127.0.0.1 localhost
::1 localhost
` + machineAddress + ` ` + domain + ` sts
` + worldAddress + ` github.com api.github.com token.actions.githubusercontent.com
` + worldAddress + ` acme-v02.api.letsencrypt.org packages.example.com
`

// furnishNetwork is the world's end.
func furnishNetwork() error {
	for _, line := range []string{"link set lo up", "address add " + worldAddress + "/32 dev lo"} {
		if err := ip(line); err != nil {
			return err
		}
	}
	hosts := filepath.Join("/run", "hosts")
	if err := os.WriteFile(hosts, []byte(hostsFile), 0o644); err != nil {
		return err
	}
	if err := syscall.Mount(hosts, "/etc/hosts", "", syscall.MS_BIND, ""); err != nil {
		return fmt.Errorf("mounting /etc/hosts: %w", err)
	}
	return nil
}

// connectMachine plugs in the cable of the machine whose systemd is init: systemd-nspawn has made its
// two ends, ve-sts and host0.
func connectMachine(init int) error {
	for _, line := range []string{"link set ve-sts up", "route replace " + machineAddress + "/32 dev ve-sts src " + worldAddress} {
		if err := ip(line); err != nil {
			return err
		}
	}
	for _, line := range []string{"address replace " + machineAddress + "/24 dev host0", "link set host0 up"} {
		if err := ip(line, "nsenter", "--target", fmt.Sprint(init), "--net"); err != nil {
			return err
		}
	}
	return nil
}

func ip(line string, under ...string) error {
	args := append(under, append([]string{"ip"}, strings.Fields(line)...)...)
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}
