package idsource

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// onGoogle: a virtual machine by its firmware; Cloud Run by the variables that it
// sets; GCE_METADATA_HOST names the metadata server to all of Google's libraries.
func (f *finder) onGoogle() bool {
	product := f.firmware("product_name")
	return product == "Google" || product == "Google Compute Engine" ||
		f.Environ("GCE_METADATA_HOST") != "" || f.Environ("K_SERVICE") != "" || f.Environ("CLOUD_RUN_JOB") != ""
}

// fromGoogle asks for the identity of the default service account, as Google's
// "Verify the identity of an instance" describes.
func (f *finder) fromGoogle(ctx context.Context) (string, error) {
	host := cmp.Or(f.Environ("GCE_METADATA_HOST"), "metadata.google.internal")
	query := url.Values{"audience": {f.Audience}, "format": {"full"}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet,
		"http://"+host+"/computeMetadata/v1/instance/service-accounts/default/identity?"+query.Encode(), nil)
	if err != nil {
		return "", errors.New("GCE_METADATA_HOST is not a host")
	}
	r.Header.Set("Metadata-Flavor", "Google")
	body, err := f.ask(metadataClient(), r, "Google's metadata server")
	if err != nil {
		return "", fmt.Errorf("%w (it has an identity where a service account is attached)", err)
	}
	return string(body), nil
}

// azureChassis is the asset tag of every virtual machine of Azure's.
const azureChassis = "7783-7084-3265-9085-8269-3286-77"

func (f *finder) onAzure() bool {
	return f.Environ("AZURE_FEDERATED_TOKEN_FILE") != "" || f.firmware("chassis_asset_tag") == azureChassis
}

// fromAzure takes the projected token of Azure's workload identity, or asks the
// instance metadata service. What that gives is an access token, with a JWT's form,
// the tenant for its issuer and the managed identity for its subject.
func (f *finder) fromAzure(ctx context.Context) (string, error) {
	if file := f.Environ("AZURE_FEDERATED_TOKEN_FILE"); file != "" {
		raw, err := readFile(file)
		if err == nil {
			raw, err = meantFor(raw, f.Audience)
		}
		if err != nil {
			return "", fmt.Errorf("AZURE_FEDERATED_TOKEN_FILE: %w; a pod's own projected token, for the source kubernetes, can have any audience", err)
		}
		return raw, nil
	}
	// The variable is that of Azure's libraries, for a service at another address.
	base := strings.TrimSuffix(cmp.Or(f.Environ("AZURE_POD_IDENTITY_AUTHORITY_HOST"), "http://169.254.169.254"), "/")
	query := url.Values{"api-version": {"2018-02-01"}, "resource": {f.Audience}}
	if id := f.Environ("AZURE_CLIENT_ID"); id != "" { // of a user-assigned identity
		query.Set("client_id", id)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/metadata/identity/oauth2/token?"+query.Encode(), nil)
	if err != nil {
		return "", errors.New("AZURE_POD_IDENTITY_AUTHORITY_HOST is not a URL")
	}
	r.Header.Set("Metadata", "true")
	body, err := f.ask(metadataClient(), r, "Azure's metadata service")
	if err != nil {
		return "", fmt.Errorf("%w (the machine needs a managed identity, and --audience the application ID URI of an application registered in the tenant, as api://octo-sts; AZURE_CLIENT_ID chooses among several identities)", err)
	}
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if json.Unmarshal(body, &answer) != nil || answer.AccessToken == "" {
		return "", errors.New("the answer of Azure's metadata service holds no token")
	}
	return answer.AccessToken, nil
}
