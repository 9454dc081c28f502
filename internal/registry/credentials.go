package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"
	"github.com/google/go-containerregistry/pkg/authn"
)

const maxConfigSize = 4 << 20 // bytes of a file with credentials

// credential is who this process is to a registry, and where that is written.
type credential struct {
	auth          authn.AuthConfig
	place         string // as users would look it up: ~/.docker/config.json (auths["ghcr.io"])
	githubActions bool
	notes         []string // what went wrong on the way here
}

func (c credential) anonymous() bool { return c.place == "" }

// who names the user, for messages.
func (c credential) who() string {
	switch {
	case c.anonymous():
		return "without credentials"
	case c.auth.Username != "" && c.auth.Username != tokenUser:
		return fmt.Sprintf("authenticated as %q", c.auth.Username)
	}
	return "authenticated with a token"
}

// keychain finds credentials, in this order: ANYARCH_REGISTRY_USER and
// ANYARCH_REGISTRY_PASSWORD, which were set for this program; DOCKER_AUTH_CONFIG;
// docker's configuration with its credential helpers; podman's; what GitHub
// Actions and GitLab CI give to jobs.
type keychain struct {
	getenv    func(string) string
	dockerDir string

	lookups flight[credential]
	mu      sync.Mutex // guards what follows
	found   map[string]credential
	files   map[string]*authFile
}

// authFile is a file of docker's form.
type authFile struct {
	*configfile.ConfigFile
	note string // why it couldn't be read
}

func newKeychain(getenv func(string) string, dockerDir string) *keychain {
	k := &keychain{getenv: getenv, dockerDir: dockerDir}
	if k.dockerDir == "" {
		k.dockerDir = getenv("DOCKER_CONFIG")
	}
	if k.dockerDir == "" {
		if home := k.home(); home != "" {
			k.dockerDir = filepath.Join(home, ".docker")
		}
	}
	k.forget()
	return k
}

// forget lets the next lookups read everything again.
func (k *keychain) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.found, k.files = map[string]credential{}, map[string]*authFile{}
}

func (k *keychain) home() string {
	if home := k.getenv("HOME"); home != "" {
		return home
	}
	return k.getenv("USERPROFILE")
}

func (k *keychain) dockerFile() string {
	if k.dockerDir == "" {
		return ""
	}
	return filepath.Join(k.dockerDir, "config.json")
}

// podmanFiles are podman's places (containers-auth.json(5)).
func (k *keychain) podmanFiles() []string {
	var files []string
	if f := k.getenv("REGISTRY_AUTH_FILE"); f != "" {
		files = append(files, f)
	}
	if dir := k.getenv("XDG_RUNTIME_DIR"); dir != "" {
		files = append(files, filepath.Join(dir, "containers", "auth.json"))
	}
	if dir := k.getenv("XDG_CONFIG_HOME"); dir != "" {
		files = append(files, filepath.Join(dir, "containers", "auth.json"))
	} else if home := k.home(); home != "" {
		files = append(files, filepath.Join(home, ".config", "containers", "auth.json"))
	}
	return files
}

// places are where credentials are looked for, for messages.
func (k *keychain) places() []string {
	var places []string
	if f := k.dockerFile(); f != "" {
		places = append(places, k.short(f))
	}
	for _, f := range k.podmanFiles() {
		places = append(places, k.short(f))
	}
	return append(places, "ANYARCH_REGISTRY_USER")
}

// short writes a path as people do.
func (k *keychain) short(path string) string {
	if rel, err := filepath.Rel(k.home(), path); err == nil && k.home() != "" && filepath.IsLocal(rel) {
		return "~/" + filepath.ToSlash(rel)
	}
	return path
}

// secrets are all that has been found so far, to be kept out of messages.
func (k *keychain) secrets() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var secrets []string
	for _, c := range k.found {
		for _, s := range []string{c.auth.Password, c.auth.IdentityToken, c.auth.RegistryToken} {
			if s != "" {
				secrets = append(secrets, s, basicSecret(c.auth.Username, s))
			}
		}
	}
	return secrets
}

// hide lets a credential that isn't found by lookups be kept out of messages.
func (k *keychain) hide(c credential) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.found["\x00"+c.auth.Password+c.auth.IdentityToken] = c
}

// find gives the credentials for a repository of a host; path may be empty.
// Lookups are remembered: helpers are slow programs.
func (k *keychain) find(ctx context.Context, host, path string) credential {
	key := host + "/" + path
	k.mu.Lock()
	c, ok := k.found[key]
	k.mu.Unlock()
	if ok {
		return c
	}
	c, _ = k.lookups.do(ctx, key, func() (credential, error) {
		c := k.lookup(ctx, host, path)
		if ctx.Err() != nil {
			return credential{}, ctx.Err()
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		k.found[key] = c
		return c, nil
	})
	return c
}

// Credentials gives what is known about this process's account on a host, for other
// programs that pull in its name: user and password, or an identity token alone.
// All are empty where nothing is known.
func (c *Client) Credentials(ctx context.Context, host string) (user, password, token string) {
	found := c.keychain.find(ctx, serverName(host), "").auth
	return found.Username, found.Password, found.IdentityToken
}

func (k *keychain) lookup(ctx context.Context, host, path string) credential {
	env := func(user, password, place string) credential {
		return credential{auth: authn.AuthConfig{Username: user, Password: password}, place: place}
	}
	if own, password := k.getenv("ANYARCH_REGISTRY"), k.getenv("ANYARCH_REGISTRY_PASSWORD"); own != "" && password != "" && serverName(own) == host {
		return env(k.getenv("ANYARCH_REGISTRY_USER"), password, "the environment (ANYARCH_REGISTRY_USER, ANYARCH_REGISTRY_PASSWORD)")
	}
	var notes []string
	if data := k.getenv("DOCKER_AUTH_CONFIG"); data != "" {
		cf := configfile.New("")
		if err := cf.LoadFromReader(strings.NewReader(data)); err != nil {
			notes = append(notes, "DOCKER_AUTH_CONFIG isn't readable")
		} else if c, ok := fromFile(cf, host, path, "the environment (DOCKER_AUTH_CONFIG)"); ok {
			return c
		}
	}
	for _, name := range append([]string{k.dockerFile()}, k.podmanFiles()...) {
		if name == "" {
			continue
		}
		file := k.file(name)
		if file == nil {
			continue
		}
		if file.note != "" {
			notes = append(notes, file.note)
			continue
		}
		if c, ok, note := fromHelper(ctx, file.ConfigFile, host, k.short(name)); ok {
			c.notes = notes
			return c
		} else if note != "" {
			notes = append(notes, note)
		}
		if c, ok := fromFile(file.ConfigFile, host, path, k.short(name)); ok {
			c.notes = notes
			return c
		}
	}
	if token := k.getenv("GITHUB_TOKEN"); token != "" && host == "ghcr.io" {
		user := k.getenv("GITHUB_ACTOR")
		if user == "" {
			user = "token" // any name does
		}
		c := env(user, token, "the environment (GITHUB_ACTOR, GITHUB_TOKEN)")
		c.githubActions = true
		return c
	}
	if registry := k.getenv("CI_REGISTRY"); registry != "" && serverName(registry) == host {
		if user, password := k.getenv("CI_REGISTRY_USER"), k.getenv("CI_REGISTRY_PASSWORD"); user != "" && password != "" {
			return env(user, password, "the environment (CI_REGISTRY_USER, CI_REGISTRY_PASSWORD)")
		}
		if token := k.getenv("CI_JOB_TOKEN"); token != "" {
			return env("gitlab-ci-token", token, "the environment (CI_JOB_TOKEN)")
		}
	}
	return credential{notes: notes}
}

// file reads a file once; nil if there is none.
func (k *keychain) file(path string) *authFile {
	k.mu.Lock()
	defer k.mu.Unlock()
	if f, ok := k.files[path]; ok {
		return f
	}
	cf, err := readAuthFile(path)
	f := &authFile{ConfigFile: cf}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f = nil
	case err != nil:
		// The decoder's words may hold the secret that it stumbled over.
		f.note = k.short(path) + " isn't readable as docker's config.json"
	}
	k.files[path] = f
	return f
}

func readAuthFile(path string) (*configfile.ConfigFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cf := configfile.New(path)
	data, err := io.ReadAll(io.LimitReader(f, maxConfigSize+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxConfigSize {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxConfigSize)
	}
	if len(strings.TrimSpace(string(data))) == 0 {
		return cf, nil
	}
	if !json.Valid(data) {
		return nil, fmt.Errorf("%s isn't JSON", path)
	}
	return cf, cf.LoadFromReader(strings.NewReader(string(data)))
}

// serverName reduces what people write for a registry to its host.
func serverName(server string) string {
	server = strings.TrimPrefix(strings.TrimPrefix(server, "https://"), "http://")
	server, _, _ = strings.Cut(server, "/")
	server = strings.ToLower(server)
	switch server {
	case "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com", "hub.docker.com", "":
		return dockerHub
	}
	return server
}

// hubKey is what docker calls Docker Hub in its files and to its helpers.
const hubKey = authn.DefaultAuthKey

// serverKeys are the names under which a host may be in a file, best first.
func serverKeys(host string) []string {
	if host == dockerHub {
		return []string{hubKey, "index.docker.io", dockerHub, "registry-1.docker.io", "https://index.docker.io/v2/"}
	}
	return []string{host, "https://" + host, "https://" + host + "/", "https://" + host + "/v1/", "https://" + host + "/v2/", "http://" + host}
}

func fromFile(cf *configfile.ConfigFile, host, path, place string) (credential, bool) {
	var keys []string
	// Podman's files may have entries for parts of a host; the closest counts.
	for p := path; p != ""; {
		keys = append(keys, host+"/"+p)
		i := strings.LastIndexByte(p, '/')
		p = p[:max(i, 0)]
	}
	for _, key := range append(keys, serverKeys(host)...) {
		if auth, ok := cf.AuthConfigs[key]; ok && usable(auth) {
			return credential{
				auth: authn.AuthConfig{
					Username: auth.Username, Password: auth.Password,
					IdentityToken: auth.IdentityToken, RegistryToken: auth.RegistryToken,
				},
				place: fmt.Sprintf("%s (auths[%q])", place, key),
			}, true
		}
	}
	return credential{}, false
}

func usable(auth types.AuthConfig) bool {
	return auth.Username != "" && auth.Password != "" || auth.IdentityToken != "" || auth.RegistryToken != ""
}
