package idsource

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

func (f *finder) onAWS() bool {
	for _, name := range []string{
		"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
		"AWS_ACCESS_KEY_ID", "AWS_EC2_METADATA_SERVICE_ENDPOINT",
	} {
		if f.Environ(name) != "" {
			return true
		}
	}
	return f.firmware("sys_vendor") == "Amazon EC2"
}

// fromAWS takes the projected token of an EKS service account where it is meant for
// the appliance, else has AWS issue one.
func (f *finder) fromAWS(ctx context.Context) (string, error) {
	if file := f.Environ("AWS_WEB_IDENTITY_TOKEN_FILE"); file != "" {
		raw, err := readFile(file)
		if err == nil {
			raw, err = meantFor(raw, f.Audience)
		}
		if err != nil {
			return "", fmt.Errorf("AWS_WEB_IDENTITY_TOKEN_FILE: %w; a pod's own projected token, for the source kubernetes, can have any audience", err)
		}
		return raw, nil
	}
	credentials, err := f.awsCredentials(ctx)
	if err != nil {
		return "", fmt.Errorf("finding AWS credentials: %w", err)
	}
	return f.webIdentity(ctx, credentials)
}

// webIdentity calls sts:GetWebIdentityToken, which the account must have enabled
// (IAM: outbound identity federation) and the role must be allowed. Only regional
// endpoints of STS have it. The token lives five minutes.
func (f *finder) webIdentity(ctx context.Context, c awsCredentials) (string, error) {
	endpoint := cmp.Or(f.Environ("AWS_ENDPOINT_URL_STS"), "https://sts."+c.region+"."+awsDomain(c.region))
	target, err := url.Parse(endpoint)
	if err != nil || target.Host == "" {
		return "", errors.New("AWS_ENDPOINT_URL_STS is not a URL")
	}
	target.Path = "/"
	form := url.Values{
		"Action": {"GetWebIdentityToken"}, "Version": {"2011-06-15"},
		"Audience.member.1": {f.Audience}, "SigningAlgorithm": {"RS256"}, "DurationSeconds": {"300"},
	}.Encode()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), strings.NewReader(form))
	if err != nil {
		return "", err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	if err := c.sign(ctx, r, form, time.Now()); err != nil {
		return "", fmt.Errorf("signing the request to AWS STS: %w", err)
	}
	body, err := f.ask(f.HTTPClient, r, "AWS STS")
	if err != nil {
		return "", fmt.Errorf("%w (the account must have outbound identity federation enabled, `aws iam enable-outbound-web-identity-federation`, and the role must be allowed sts:GetWebIdentityToken for the audience %s)", err, f.Audience)
	}
	var answer struct {
		IDToken string `xml:"GetWebIdentityTokenResult>WebIdentityToken"`
	}
	if xml.Unmarshal(body, &answer) != nil || answer.IDToken == "" {
		return "", errors.New("the answer of AWS STS holds no token")
	}
	return answer.IDToken, nil
}

// sign signs a request with that body as AWS Signature Version 4 says.
func (c awsCredentials) sign(ctx context.Context, r *http.Request, body string, now time.Time) error {
	sum := sha256.Sum256([]byte(body))
	credentials := aws.Credentials{AccessKeyID: c.accessKeyID, SecretAccessKey: c.secretKey, SessionToken: c.session}
	return v4.NewSigner().SignHTTP(ctx, credentials, r, hex.EncodeToString(sum[:]), "sts", c.region, now)
}

// awsDomain is the domain of AWS's endpoints in a region.
func awsDomain(region string) string {
	if strings.HasPrefix(region, "cn-") {
		return "amazonaws.com.cn"
	}
	return "amazonaws.com"
}
