package idsource

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"strings"
)

// awsCredentials sign requests to AWS.
type awsCredentials struct {
	accessKeyID, secretKey string
	session                string // "" for a user's own keys
	region                 string
}

// awsCredentials finds credentials where AWS's own libraries find those of a
// workload: the environment, the container's endpoint (ECS, EKS Pod Identity), the
// instance's role. Profiles in files are people's and are left alone.
func (f *finder) awsCredentials(ctx context.Context) (c awsCredentials, err error) {
	c.region = cmp.Or(f.Environ("AWS_REGION"), f.Environ("AWS_DEFAULT_REGION"))
	relative, full := f.Environ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"), f.Environ("AWS_CONTAINER_CREDENTIALS_FULL_URI")
	switch {
	case f.Environ("AWS_ACCESS_KEY_ID") != "":
		c.accessKeyID, c.secretKey, c.session = f.Environ("AWS_ACCESS_KEY_ID"), f.Environ("AWS_SECRET_ACCESS_KEY"), f.Environ("AWS_SESSION_TOKEN")
	case relative != "":
		err = f.fromContainer(ctx, "http://169.254.170.2"+relative, &c)
	case full != "":
		err = f.fromContainer(ctx, full, &c)
	default:
		err = f.fromInstance(ctx, &c)
	}
	switch {
	case err != nil:
		return c, err
	case c.accessKeyID == "" || c.secretKey == "":
		return c, errors.New("there is an access key ID without a secret access key, or neither")
	case c.region == "":
		return c, errors.New("the region is not known: set AWS_REGION")
	case !regexp.MustCompile(`^[a-z0-9-]{1,40}$`).MatchString(c.region): // it becomes part of a host's name
		return c, fmt.Errorf("AWS_REGION is %q, which is no region", c.region)
	}
	return c, nil
}

// fromContainer asks the endpoint that ECS or EKS Pod Identity gave the container.
func (f *finder) fromContainer(ctx context.Context, address string, c *awsCredentials) error {
	target, err := url.Parse(address)
	if err != nil || target.Scheme != "https" && !containerHost(target.Hostname()) {
		return errors.New("AWS_CONTAINER_CREDENTIALS_FULL_URI is neither https nor an address that containers get credentials from")
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return err
	}
	secret := f.Environ("AWS_CONTAINER_AUTHORIZATION_TOKEN")
	if file := f.Environ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"); file != "" {
		data, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("reading AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE: %w", err)
		}
		secret = strings.TrimSpace(string(data))
	}
	if secret != "" {
		r.Header.Set("Authorization", secret)
	}
	body, err := f.ask(metadataClient(), r, "the container's credentials endpoint")
	if err != nil {
		return err
	}
	return c.read(body, "the container's credentials endpoint")
}

// containerHost: loopback, ECS's address, and EKS Pod Identity's two.
func containerHost(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && (ip.IsLoopback() || host == "169.254.170.2" || host == "169.254.170.23" || host == "fd00:ec2::23")
}

// fromInstance asks the instance's metadata service, in its second version (IMDSv2).
func (f *finder) fromInstance(ctx context.Context, c *awsCredentials) error {
	base := strings.TrimSuffix(cmp.Or(f.Environ("AWS_EC2_METADATA_SERVICE_ENDPOINT"), "http://169.254.169.254"), "/")
	const whoever = "the instance's metadata service"
	session, err := f.askInstance(ctx, http.MethodPut, base+"/latest/api/token", "X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "60")
	if err != nil {
		return fmt.Errorf("%w (in a container it needs a hop limit of 2)", err)
	}
	get := func(path string) (string, error) {
		return f.askInstance(ctx, http.MethodGet, base+"/latest/meta-data/"+path, "X-Aws-Ec2-Metadata-Token", session)
	}
	const roles = "iam/security-credentials/"
	role, err := get(roles)
	if err != nil {
		return fmt.Errorf("%w (the instance needs an instance profile with a role)", err)
	}
	role, _, _ = strings.Cut(role, "\n")
	body, err := get(roles + url.PathEscape(strings.TrimSpace(role)))
	if err != nil {
		return err
	}
	if c.region == "" {
		if c.region, err = get("placement/region"); err != nil {
			return err
		}
		c.region = strings.TrimSpace(c.region)
	}
	return c.read([]byte(body), whoever)
}

func (f *finder) askInstance(ctx context.Context, method, address, header, value string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, method, address, http.NoBody)
	if err != nil {
		return "", errors.New("AWS_EC2_METADATA_SERVICE_ENDPOINT is not a URL")
	}
	r.Header.Set(header, value)
	body, err := f.ask(metadataClient(), r, "the instance's metadata service")
	return string(body), err
}

// read takes the keys out of the answer that both endpoints give.
func (c *awsCredentials) read(body []byte, whoever string) error {
	var answer struct{ AccessKeyID, SecretAccessKey, Token string }
	if err := json.Unmarshal(body, &answer); err != nil || answer.AccessKeyID == "" {
		return fmt.Errorf("the answer of %s holds no credentials", whoever)
	}
	c.accessKeyID, c.secretKey, c.session = answer.AccessKeyID, answer.SecretAccessKey, answer.Token
	return nil
}
