package ststest

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
)

// webhookCredential is the name of the credential that holds WebhookSecret.
const webhookCredential = "webhook-secret"

// credentialsDir is the daemon's $CREDENTIALS_DIRECTORY, as systemd makes one.
func (s *Service) credentialsDir() string { return filepath.Join(s.Dir, "credentials") }

// writeWebhookSecret makes the secret, and the credential that holds it.
func (s *Service) writeWebhookSecret() error {
	if err := os.Mkdir(s.credentialsDir(), 0o700); err != nil {
		return fmt.Errorf("making the service's credentials directory: %w", err)
	}
	s.WebhookSecret = rand.Text()
	_, err := s.writeFile(filepath.Join("credentials", webhookCredential), []byte(s.WebhookSecret))
	return err
}

// setWebhooks has GitHub deliver to where the daemon listens now.
func (s *Service) setWebhooks() {
	if !s.config.Webhook {
		return
	}
	for _, a := range s.config.Apps {
		s.GitHub.SetWebhook(a.ID, Webhook{URL: s.URL() + "/webhook", Secret: s.WebhookSecret, Client: s.client})
	}
}
