package idsource

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
)

// gitlabVariable is the name that a GitLab job gives its ID token (`id_tokens:`).
const gitlabVariable = "OCTO_STS_ID_TOKEN"

func (f *finder) inGitLab() bool {
	return f.Environ(gitlabVariable) != "" || f.Environ("GITLAB_CI") != ""
}

func (f *finder) checkGitLab() error {
	if f.Environ(gitlabVariable) == "" {
		return fmt.Errorf("%s is not set: give the job `id_tokens: {%s: {aud: %s}}`", gitlabVariable, gitlabVariable, f.Audience)
	}
	return nil
}

func (f *finder) fromGitLab(context.Context) (string, error) { return f.Environ(gitlabVariable), nil }

func (f *finder) inGitHub() bool {
	return f.Environ("ACTIONS_ID_TOKEN_REQUEST_URL") != "" || f.Environ("GITHUB_ACTIONS") == "true"
}

func (f *finder) checkGitHub() error {
	for _, name := range []string{"ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"} {
		if f.Environ(name) == "" {
			return fmt.Errorf("%s is not set: give the job `permissions: {id-token: write}`", name)
		}
	}
	return nil
}

// fromGitHub asks GitHub Actions, as GitHub's documentation of OpenID Connect in
// Actions describes.
func (f *finder) fromGitHub(ctx context.Context) (string, error) {
	target, err := url.Parse(f.Environ("ACTIONS_ID_TOKEN_REQUEST_URL"))
	if err != nil || target.Host == "" {
		return "", errors.New("ACTIONS_ID_TOKEN_REQUEST_URL is not a URL")
	}
	query := target.Query()
	query.Set("audience", f.Audience)
	target.RawQuery = query.Encode()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return "", errors.New("ACTIONS_ID_TOKEN_REQUEST_URL is not a URL")
	}
	r.Header.Set("Authorization", "Bearer "+f.Environ("ACTIONS_ID_TOKEN_REQUEST_TOKEN"))
	body, err := f.ask(f.HTTPClient, r, "GitHub Actions")
	if err != nil {
		return "", err
	}
	var answer struct{ Value string }
	if json.Unmarshal(body, &answer) != nil || answer.Value == "" {
		return "", errors.New("the answer of GitHub Actions holds no token")
	}
	return answer.Value, nil
}

func (f *finder) inBuildkite() bool { return f.Environ("BUILDKITE") == "true" }

func (f *finder) checkBuildkite() error {
	if _, err := exec.LookPath("buildkite-agent"); err != nil {
		return errors.New("the program buildkite-agent is not on the PATH: in a container, mount the agent's (`mount-buildkite-agent: true` with the docker plugin)")
	}
	return nil
}

// fromBuildkite asks the agent, which knows the job.
func (f *finder) fromBuildkite(ctx context.Context) (string, error) {
	return f.run(ctx, "buildkite-agent", "oidc", "request-token", "--audience", f.Audience)
}

func (f *finder) inCircleCI() bool { return f.Environ("CIRCLECI") == "true" }

func (f *finder) checkCircleCI() error {
	if _, err := exec.LookPath("circleci"); err != nil && f.Environ("CIRCLE_OIDC_TOKEN_V2") == "" {
		return errors.New("the program circleci is not on the PATH and CIRCLE_OIDC_TOKEN_V2 is not set: run in a job of CircleCI's cloud, whose image has the program")
	}
	return nil
}

// fromCircleCI has the job's own program ask for a token with the audience that is
// wanted. The token in the job's variable is for the organization's ID.
func (f *finder) fromCircleCI(ctx context.Context) (string, error) {
	if _, err := exec.LookPath("circleci"); err != nil {
		idToken, err := meantFor(f.Environ("CIRCLE_OIDC_TOKEN_V2"), f.Audience)
		if err != nil {
			return "", fmt.Errorf("the program circleci is not on the PATH, and CIRCLE_OIDC_TOKEN_V2 does not serve: %w", err)
		}
		return idToken, nil
	}
	claims, err := json.Marshal(map[string]string{"aud": f.Audience})
	if err != nil {
		return "", err
	}
	return f.run(ctx, "circleci", "run", "oidc", "get", "--claims", string(claims))
}
