package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/credentials"
	"github.com/docker/cli/cli/config/types"
	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/anyarch/anyarch/internal/refusal"
)

// Login asks a registry whether it takes the credentials and, if it does, keeps
// them where docker login would: in the credential helper or store of docker's
// config.json, else in that file. user may be empty if secret is an identity
// token. Credentials that aren't taken are a refusal with code PA401.
func (c *Client) Login(ctx context.Context, server, user, secret string) error {
	name, err := loginServer(server)
	if err != nil {
		return err
	}
	if secret == "" {
		return &refusal.Error{Code: "PA401", Kind: refusal.Usage, Place: name, Summary: "a login needs a password or token", Fix: []string{"anyarch login " + name + " --username USER --password-stdin"}}
	}
	auth := authn.AuthConfig{Username: user, Password: secret}
	if user == "" || user == tokenUser {
		auth = authn.AuthConfig{Username: tokenUser, IdentityToken: secret}
	}
	cred := credential{auth: auth, place: "the command line"}
	c.keychain.hide(cred)
	if err := c.host(name, c.routes.tables[name].Insecure).check(ctx, cred); err != nil {
		return err
	}
	file, err := c.dockerConfig()
	if err != nil {
		return err
	}
	if !file.ContainsAuth() {
		file.CredentialsStore = credentials.DetectDefaultStore(file.CredentialsStore)
	}
	key := serverKeys(name)[0]
	helper, helperKey, _ := helperFor(file, name)
	if helper != "" {
		input, err := json.Marshal(map[string]string{"ServerURL": helperKey, "Username": auth.Username, "Secret": secret})
		if err != nil {
			return err
		}
		if _, err := runHelper(ctx, helper, "store", string(input)); err != nil {
			return helperRefusal(ctx, helper, err)
		}
		file.AuthConfigs[key] = types.AuthConfig{} // as docker does: here the store has something
	} else {
		file.AuthConfigs[key] = types.AuthConfig{Username: auth.Username, Password: auth.Password, IdentityToken: auth.IdentityToken}
	}
	if err := file.Save(); err != nil {
		return fileRefusal(file.Filename, err)
	}
	c.forget(name)
	return nil
}

// Logout removes the credentials of a registry from docker's config.json and
// its helper. That there are none is no error.
func (c *Client) Logout(ctx context.Context, server string) error {
	name, err := loginServer(server)
	if err != nil {
		return err
	}
	file, err := c.dockerConfig()
	if err != nil {
		return err
	}
	if helper, key, _ := helperFor(file, name); helper != "" {
		if _, err := runHelper(ctx, helper, "erase", key); err != nil {
			return helperRefusal(ctx, helper, err)
		}
	}
	changed := false
	for _, key := range serverKeys(name) {
		if _, ok := file.AuthConfigs[key]; ok {
			delete(file.AuthConfigs, key)
			changed = true
		}
	}
	if changed {
		if err := file.Save(); err != nil {
			return fileRefusal(file.Filename, err)
		}
	}
	c.forget(name)
	return nil
}

func loginServer(server string) (string, error) {
	name := serverName(server)
	if !hostPattern.MatchString(name) {
		return "", &refusal.Error{Code: "PA503", Kind: refusal.Usage, Place: server, Summary: "not the name of a registry", Fix: []string{"anyarch login ghcr.io"}}
	}
	return name, nil
}

// check asks /v2/ with credentials, as distribution-spec v1.1.1, "Determining
// Support", and docker login do.
func (h *host) check(ctx context.Context, cred credential) error {
	known, err := h.reach(ctx)
	if err != nil {
		return err
	}
	const step = "check the credentials"
	var header string
	switch strings.ToLower(known.challenge.Scheme) {
	case "":
		return nil // it lets everybody in
	case "basic":
		if cred.auth.IdentityToken != "" {
			return &refusal.Error{Code: "PA401", Kind: refusal.Auth, Place: h.name, Summary: "the registry wants a user name", Fix: []string{"anyarch login " + h.name + " --username USER --password-stdin"}}
		}
		header = "Basic " + basicSecret(cred.auth.Username, cred.auth.Password)
	default:
		patience := retry{host: h, step: step}
		for {
			tok, err := h.exchange(ctx, known, cred, nil)
			if err == nil {
				header = tok.header
				break
			}
			if err := patience.again(ctx, err); err != nil {
				return err
			}
		}
	}
	patience := retry{host: h, step: step}
	for {
		q := &request{step: step, method: http.MethodGet}
		u, err := known.url(h, "")
		if err != nil {
			return err
		}
		resp, err := h.follow(ctx, q, u, header)
		if err == nil && temporary(resp.StatusCode) {
			err = h.failed(resp)
		}
		if err != nil {
			if err := patience.again(ctx, err); err != nil {
				return err
			}
			continue
		}
		if resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden {
			return h.unauthorized(h.failed(resp), cred, step, false, "")
		}
		discard(resp)
		return nil
	}
}

// dockerConfig reads docker's config.json anew, to be changed.
func (c *Client) dockerConfig() (*configfile.ConfigFile, error) {
	path := c.keychain.dockerFile()
	if path == "" {
		return nil, &refusal.Error{Code: "PA602", Summary: "there is no home directory to keep credentials in", Fix: []string{"export DOCKER_CONFIG=/some/directory"}}
	}
	file, err := readAuthFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return configfile.New(path), nil
	}
	if err != nil {
		return nil, &refusal.Error{Code: "PA602", Place: path, Summary: "docker's config.json isn't readable", Err: err, Fix: []string{"mv " + path + " " + path + ".broken"}}
	}
	if file.AuthConfigs == nil {
		file.AuthConfigs = map[string]types.AuthConfig{}
	}
	return file, nil
}

func fileRefusal(path string, err error) error {
	return &refusal.Error{Code: "PA602", Place: path, Summary: "can't write here", Seen: []string{err.Error()}, Err: err}
}

func helperRefusal(ctx context.Context, helper string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return &refusal.Error{
		Code: "PA401", Kind: refusal.Auth, Place: helperPrefix + helper, Summary: "the credential helper doesn't do its work",
		Seen: []string{fmt.Sprintf("%s%s: %v", helperPrefix, helper, err)}, Err: err,
		Fix: []string{helperPrefix + helper + " list"},
	}
}
