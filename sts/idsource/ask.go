package idsource

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 64 << 10

// ask makes one request of whoever and returns the body of a 200. No error of its
// holds the URL's query or a header.
func (f *finder) ask(client *http.Client, r *http.Request, whoever string) ([]byte, error) {
	response, err := client.Do(r)
	if err != nil {
		if u := (*url.Error)(nil); errors.As(err, &u) {
			err = u.Err
		}
		return nil, fmt.Errorf("asking %s at %s: %w", whoever, r.URL.Host, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the answer of %s: %w", whoever, err)
	case len(body) > maxAnswer:
		return nil, fmt.Errorf("the answer of %s is longer than %d bytes", whoever, maxAnswer)
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s answered HTTP status %d and no token: %s", whoever, response.StatusCode, withoutTokens(string(body)))
	}
	return body, nil
}

// metadataClient asks the machine's own metadata service, which is one hop away and
// never behind a proxy.
func metadataClient() *http.Client {
	return &http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{
			DialContext:       (&net.Dialer{Timeout: 2 * time.Second}).DialContext,
			DisableKeepAlives: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// firmware is a string that the machine's firmware has (SMBIOS, by Linux's
// /sys/class/dmi/id), or "".
func (f *finder) firmware(name string) string {
	file, err := os.Open(filepath.Join(f.dmi, name))
	if err != nil {
		return ""
	}
	defer file.Close()
	data, _ := io.ReadAll(io.LimitReader(file, 256))
	return strings.TrimSpace(string(data))
}
