package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// maxGitInput bounds what git may say, in bytes. It says a few hundred.
const maxGitInput = 64 << 10

// gitRequest is what git tells a credential helper, as far as it matters here.
type gitRequest struct {
	protocol, host, path, username, password string
}

// readGitRequest reads git's side of the helper protocol (git-credential(1),
// "INPUT/OUTPUT FORMAT"): lines of name=value up to an empty one or the end. Names
// that mean nothing here, as capability[], are skipped; of one that comes twice the last
// counts, as git has it. A control character is refused: no URL that git takes has one.
func readGitRequest(r io.Reader) (gitRequest, error) {
	var q gitRequest
	fields := map[string]*string{"protocol": &q.protocol, "host": &q.host, "path": &q.path, "username": &q.username, "password": &q.password}
	limited := &io.LimitedReader{R: r, N: maxGitInput + 1}
	lines := bufio.NewReader(limited)
	for {
		line, err := lines.ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return gitRequest{}, fmt.Errorf("reading what git asks for: %w", err)
		}
		if limited.N == 0 {
			return gitRequest{}, fmt.Errorf("git's input is longer than %d bytes", maxGitInput)
		}
		atEnd := err != nil
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			return q, nil
		}
		name, value, found := strings.Cut(line, "=")
		if !found || name == "" {
			return gitRequest{}, errors.New("a line of git's input is not name=value")
		}
		if field := fields[name]; field != nil {
			if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
				return gitRequest{}, fmt.Errorf("the %s of git's input has a control character in it", name)
			}
			*field = value
		}
		if atEnd {
			return q, nil
		}
	}
}

// scope is the owner/repository that the path of a URL at GitHub names, or "".
func (q gitRequest) scope() string {
	owner, rest, _ := strings.Cut(strings.TrimPrefix(q.path, "/"), "/")
	repository, _, _ := strings.Cut(rest, "/") // app.git/info/lfs
	repository = strings.TrimSuffix(strings.TrimSuffix(repository, ".git"), ".wiki")
	if owner == "" || repository == "" {
		return ""
	}
	return owner + "/" + repository
}

// writeGitAnswer gives git an installation token for a password, which GitHub takes
// with this user name, and says until when it serves.
func writeGitAnswer(w io.Writer, token string, expiry time.Time) error {
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("the token cannot be told to git: it has odd characters in it")
	}
	_, err := fmt.Fprintf(w, "username=%s\npassword=%s\npassword_expiry_utc=%d\n\n", gitUser, token, expiry.Unix())
	return err
}

const gitUser = "x-access-token"
