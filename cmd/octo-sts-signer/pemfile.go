package main

import (
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/octo-sts/appliance/signer"
)

// pemFile is where a private key is read from: a file that can be shredded, or standard input.
type pemFile struct {
	name string
	file *os.File // open for writing where it is to be shredded, nil otherwise
}

// shredHelp is the help of --shred.
const shredHelp = `overwrite and remove the PEM file once every HSM has proven the key. On SSDs and on
copy-on-write, journalling or snapshotting file systems old copies may survive; where
that matters, give the key on standard input (--pem -) and keep it off disks`

// readPrivateKey reads and checks the key before any PIN is tried. With shred, the file must be one that overwriting
// can destroy: a plain file under a single name, which this process may write.
func readPrivateKey(path string, shred bool, stdin io.Reader) (*rsa.PrivateKey, *pemFile, error) {
	if path == "" {
		return nil, nil, usageError{errors.New("--pem FILE is required, or --pem - for standard input")}
	}
	source := &pemFile{name: path}
	if path == "-" {
		if shred {
			return nil, nil, usageError{errors.New("--shred needs a file, and --pem - is standard input")}
		}
		source.name = "standard input"
	} else if shred {
		var err error
		if source.file, err = openToShred(path); err != nil {
			return nil, nil, usageError{err}
		}
		stdin = source.file
		path = "-"
	}
	text, err := readPEM(path, stdin)
	if err == nil {
		var key *rsa.PrivateKey
		key, err = signer.ParsePrivateKey(text)
		clear(text)
		if err == nil {
			return key, source, nil
		}
		err = fmt.Errorf("reading the private key from %s: %w", source.name, err)
	}
	source.close()
	return nil, nil, usageError{err}
}

func openToShred(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the PEM file to read and later shred it: %w", err)
	}
	var stat unix.Stat_t
	err = unix.Fstat(int(file.Fd()), &stat)
	switch {
	case err != nil:
	case stat.Mode&unix.S_IFMT != unix.S_IFREG:
		err = errors.New("it is not a plain file")
	case stat.Nlink != 1:
		err = fmt.Errorf("it has %d names (hard links)", stat.Nlink)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s cannot be shredded: %w", path, err), file.Close())
	}
	return file, nil
}

// close lets go of the file.
func (p *pemFile) close() {
	if p.file != nil {
		_ = p.file.Close()
	}
}

// shred overwrites the very file that was read and removes its name.
func (p *pemFile) shred() error {
	size, err := p.file.Seek(0, io.SeekEnd)
	if err == nil {
		noise := make([]byte, size)
		rand.Read(noise)
		_, err = p.file.WriteAt(noise, 0)
	}
	if err == nil {
		err = p.file.Sync()
	}
	if err == nil {
		err = os.Remove(p.name)
	}
	if err != nil {
		return fmt.Errorf("shredding %s, which has the App's private key: destroy it yourself: %w", p.name, err)
	}
	return nil
}

// farewell shreds the file where that was asked for, and says what is left to do about the PEM.
func (p *pemFile) farewell(w io.Writer) error {
	if p.file != nil {
		if err := p.shred(); err != nil {
			return err
		}
		_, err := fmt.Fprintf(w, "%s was overwritten and removed. (On SSDs and copy-on-write file systems old copies may survive.)\n", p.name)
		return err
	}
	if p.name == "standard input" {
		_, err := fmt.Fprintln(w, "If the PEM lies on a disk anywhere, destroy it now: whoever has it is the App.")
		return err
	}
	_, err := fmt.Fprintf(w, "Then destroy the PEM, for whoever has it is the App: shred -u %s\n", p.name)
	return err
}
