package githubapp

import (
	"bytes"
	"crypto/sha1" // git's object IDs are SHA-1; nothing else here rests on it
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

const (
	// maxFileSize is far more than a policy has. (GitHub includes the content of
	// files of up to 1 MiB.)
	maxFileSize = 64 << 10

	// contentsBodyLimit has room for maxFileSize in base64 with its escaped line
	// ends.
	contentsBodyLimit = 128 << 10
)

// contentsAnswer is what GET /repos/{owner}/{repo}/contents/{path} gives: an
// object, or an array where the path is a directory.
type contentsAnswer struct {
	directory bool
	object    contentsObject
}

type contentsObject struct {
	Type            string `json:"type"`
	Path            string `json:"path"`
	SHA             string `json:"sha"`
	Size            int64  `json:"size"`
	Encoding        string `json:"encoding"`
	Content         string `json:"content"`
	Target          string `json:"target"`            // of a symbolic link
	SubmoduleGitURL string `json:"submodule_git_url"` // submodules have type "file" in older API versions
}

// UnmarshalJSON tells a directory from the rest.
func (a *contentsAnswer) UnmarshalJSON(data []byte) error {
	*a = contentsAnswer{}
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("[")) {
		a.directory = true
		return nil
	}
	return json.Unmarshal(data, &a.object)
}

// check returns the file's blob ID and content, if it is the plain file that
// was asked for, whole: what the audit log names by its ID is then what was
// evaluated. The error's kind is ErrNotAFile, or ErrUnavailable where the answer
// contradicts itself.
func (a *contentsAnswer) check(path string) (sha string, content []byte, failure *apiError) {
	o := &a.object
	switch {
	case a.directory || o.Type == "dir":
		return "", nil, notAFile("it is a directory")
	case o.Type == "symlink" || o.Target != "":
		return "", nil, notAFile("it is a symbolic link")
	case o.Type == "submodule" || o.SubmoduleGitURL != "":
		return "", nil, notAFile("it is a submodule")
	case o.Type != "file":
		return "", nil, garbage("GitHub's answer is about something of type %s", quote(o.Type))
	case o.Path != path:
		// GitHub follows a symbolic link to a file of the same repository.
		return "", nil, notAFile("GitHub's answer is about %s, so it is a symbolic link", quote(o.Path))
	case o.Size > maxFileSize:
		return "", nil, notAFile("it has %d bytes", o.Size)
	case o.Encoding != "base64":
		return "", nil, garbage("GitHub's answer is in the encoding %s, not in base64", quote(o.Encoding))
	}
	// Line ends are ignored by the decoder; stray bits at the end are not.
	content, err := base64.StdEncoding.Strict().DecodeString(o.Content)
	if err != nil {
		return "", nil, garbage("GitHub's answer is not in base64")
	}
	if int64(len(content)) != o.Size {
		return "", nil, garbage("GitHub's answer has %d bytes and says it has %d", len(content), o.Size)
	}
	if sha = blobID(content); sha != o.SHA {
		// Either the ID is that of a symbolic link whose target was followed, or
		// something on the way is broken. The former is likelier by far.
		return "", nil, notAFile("the content has the blob ID %s, but GitHub names %s, so it is a symbolic link", sha, quote(o.SHA))
	}
	return sha, content, nil
}

// largeFile makes an ErrNotAFile of an answer that was too large for a file of
// maxFileSize.
func largeFile(doing string, err error) error {
	if errors.Is(err, errBodyTooLarge) {
		failure := notAFile("it has more than %d bytes", maxFileSize)
		failure.doing = doing
		return failure
	}
	return err
}

func notAFile(format string, args ...any) *apiError {
	return &apiError{kind: ErrNotAFile, status: http.StatusOK, detail: fmt.Sprintf(format, args...)}
}

func garbage(format string, args ...any) *apiError {
	return &apiError{kind: ErrUnavailable, status: http.StatusOK, detail: fmt.Sprintf(format, args...)}
}

// blobID is git's name for a file's content.
func blobID(content []byte) string {
	h := sha1.New()
	fmt.Fprintf(h, "blob %d\x00", len(content))
	h.Write(content)
	return hex.EncodeToString(h.Sum(nil))
}
