package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
)

// floorConfig is what the floor is given, as JSON on its standard input.
type floorConfig struct {
	PublicKey []byte // of the issuer, PKCS #1
	MintURL   string
	AppJWT    string
	CAPEM     []byte
	Mint      []byte // the body to post
}

// runFloor is what the benchmark compares with: the least that an exchange can
// be. A bare handler verifies one RS256 signature and makes one POST to GitHub.
// It checks no claim, reads no policy and records nothing. Of a webhook's delivery
// it reads the body. It prints its address and serves until its standard input
// ends.
func runFloor(ctx context.Context) error {
	var c floorConfig
	decoder := json.NewDecoder(os.Stdin)
	if err := decoder.Decode(&c); err != nil {
		return fmt.Errorf("reading the floor's configuration: %w", err)
	}
	key, err := x509.ParsePKCS1PublicKey(c.PublicKey)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.CAPEM)
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 100,
	}}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/webhook" {
			_, _ = io.Copy(io.Discard, r.Body) // cut off or not, the sender finds out
			return
		}
		if err := verifyRS256(key, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")); err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		if err := c.mint(r.Context(), client, w); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
		}
	})}
	fmt.Println(listener.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, io.MultiReader(decoder.Buffered(), os.Stdin))
		_ = server.Close()
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func verifyRS256(key *rsa.PublicKey, jws string) error {
	i := strings.LastIndexByte(jws, '.')
	if i < 0 {
		return errors.New("no JWS")
	}
	signature, err := base64.RawURLEncoding.DecodeString(jws[i+1:])
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(jws[:i]))
	return rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], signature)
}

func (c *floorConfig) mint(ctx context.Context, client *http.Client, w io.Writer) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.MintURL, bytes.NewReader(c.Mint))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+c.AppJWT)
	response, err := client.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusCreated {
		return fmt.Errorf("GitHub answered %s", response.Status)
	}
	_, err = io.Copy(w, response.Body)
	return err
}
