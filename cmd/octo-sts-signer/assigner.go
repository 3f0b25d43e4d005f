package main

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// asSigner runs f, in root's process, as the user that the signer's state directory belongs to, which is the signer's.
// So what a module writes belongs to who will read it, and what the signer may not do fails now. Everywhere in the
// process: the module's own threads count too. Elsewhere, and where the directory is root's, it just runs f.
func asSigner(stateDirectory string, f func() error) error {
	if os.Geteuid() != 0 {
		return f()
	}
	info, err := os.Stat(stateDirectory)
	if err != nil {
		return fmt.Errorf("finding out who the signer's state belongs to: %w", err)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || owner.Uid == 0 {
		return f()
	}
	back, err := become(owner.Uid, owner.Gid)
	if err != nil {
		return err
	}
	return errors.Join(f(), back())
}

// become changes the effective user, group and supplementary groups. back undoes it.
func become(uid, gid uint32) (back func() error, err error) {
	groups, err := groupsOf(uid)
	if err != nil {
		return nil, err
	}
	before, err := syscall.Getgroups()
	if err != nil {
		return nil, fmt.Errorf("reading this process's groups: %w", err)
	}
	beforeGID := os.Getegid()
	back = func() error {
		err := syscall.Setresuid(-1, 0, -1) // first: the others need root
		err = errors.Join(err, syscall.Setresgid(-1, beforeGID, -1), syscall.Setgroups(before))
		if err != nil {
			return fmt.Errorf("becoming root again: %w", err)
		}
		return nil
	}
	if err = syscall.Setgroups(groups); err == nil {
		err = syscall.Setresgid(-1, int(gid), -1)
	}
	if err == nil {
		err = syscall.Setresuid(-1, int(uid), -1)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("becoming user %d: %w", uid, err), back())
	}
	return back, nil
}

// groupsOf lists a user's groups, none for a user ID without an account.
func groupsOf(uid uint32) ([]int, error) {
	account, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if errors.As(err, new(user.UnknownUserIdError)) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for user %d: %w", uid, err)
	}
	names, err := account.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("looking for the groups of %s: %w", account.Username, err)
	}
	groups := make([]int, len(names))
	for i, name := range names {
		if groups[i], err = strconv.Atoi(name); err != nil {
			return nil, fmt.Errorf("a group of %s: %w", account.Username, err)
		}
	}
	return groups, nil
}
