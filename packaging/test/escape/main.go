//go:build packages && linux

// Command escape tries to get out of a service's sandbox. The tests of the packages put it in the place of a daemon's
// program, so that systemd runs it as that daemon: the same user, the same view of the machine, the same filter of
// system calls. They also run it outside, as a control: what root cannot do there either shows nothing of the unit.
//
// It prints one JSON object a line for each attempt. An attempt that got as far as the kernel's own check of an
// argument counts as done, so that nothing that it is allowed to do breaks the machine.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strings"
)

// attempt is one way out. do returns nil where it is open, and else why it is not.
type attempt struct {
	name string
	do   func() error
}

// result is a line of output.
type result struct {
	Attempt string `json:"attempt"`
	Denied  string `json:"denied"` // by which error; empty: the attempt succeeded
}

func main() {
	runtime.LockOSThread()
	var err error
	switch task := os.Getenv("ESCAPE"); task {
	case "attempts":
		err = tryAll()
	case "view":
		err = printView()
	default:
		if strings.HasPrefix(task, "audit ") {
			err = spoil(strings.Fields(task)[1])
		} else {
			err = fmt.Errorf("ESCAPE says %q, which is no task", task)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "escape:", err)
		os.Exit(1)
	}
	fmt.Println("done") // the reader of a journal cannot else tell whether there is more to come
}

func tryAll() error {
	out := json.NewEncoder(os.Stdout)
	for _, group := range [][]attempt{secrets(), processes(), kernel(), namespaces(), memory(), files(), identity(), sockets()} {
		for _, a := range group {
			r := result{Attempt: a.name}
			if err := a.do(); err != nil {
				r.Denied = err.Error()
			}
			if err := out.Encode(r); err != nil {
				return err
			}
		}
	}
	return nil
}
