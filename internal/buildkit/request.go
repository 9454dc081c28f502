package buildkit

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/docker/cli/cli/config/types"
	"github.com/docker/go-units"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session/auth/authprovider"
	"github.com/moby/buildkit/session/secrets"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/session/sshforward/sshprovider"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/util/entitlements"
	"github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/go-csvvalue"

	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/store"
)

func usage(place, summary string, fix ...string) error {
	return &refusal.Error{Code: "PA502", Kind: refusal.Usage, Place: place, Summary: summary, Fix: fix}
}

// prepare reads what is the same on all platforms and nodes.
func (b *Build) prepare() error {
	o := &b.o
	f := map[string]string{"filename": "Dockerfile", "build-arg:SOURCE_DATE_EPOCH": strconv.FormatInt(o.LayerTime.Unix(), 10)}
	// Without such an attribute BuildKit attests nothing; with it, whatever it says, it
	// would make an index of one image.
	for kind, parameters := range o.Attest {
		f["attest:"+kind] = parameters
	}
	set := func(key, value string) {
		if value != "" {
			f[key] = value
		}
	}
	set("target", o.Target)
	var refused refusal.Collect
	if o.ShmSize != "" {
		size, err := units.RAMInBytes(o.ShmSize)
		if err != nil || size <= 0 {
			refused.Add(usage("--shm-size "+o.ShmSize, "this is no size", "--shm-size 64m"))
		}
		set("shm-size", strconv.FormatInt(size, 10))
	}
	for _, u := range o.Ulimits {
		if _, err := units.ParseUlimit(u); err != nil {
			refused.Add(usage("--ulimit "+u, err.Error(), "--ulimit nofile=1024:4096"))
		}
	}
	set("ulimit", strings.Join(o.Ulimits, ","))
	hosts, err := readHosts(o.Hosts)
	refused.Add(err)
	set("add-hosts", strings.Join(hosts, ","))
	if o.Network != "" && o.Network != "default" {
		f["force-network-mode"] = o.Network
	}
	if o.NoCache || len(o.IgnoreCache) > 0 {
		f["no-cache"] = strings.Join(o.IgnoreCache, ",")
	}
	if o.NoCache {
		f["no-cache"] = ""
	}
	if o.Pull {
		f["image-resolve-mode"] = "pull"
	}
	for k, v := range o.Labels {
		f["label:"+k] = v
	}
	b.frontend = f
	if b.to, err = readCaches("--cache-to", o.CacheTo, o.Getenv); err != nil && !refused.Add(err) {
		return err
	}
	if b.from, err = readCaches("--cache-from", o.CacheFrom, o.Getenv); err != nil && !refused.Add(err) {
		return err
	}
	for _, a := range o.Allow {
		if _, _, err := entitlements.Parse(a); err != nil {
			refused.Add(usage("--allow "+a, err.Error(), "--allow network.host", "--allow security.insecure"))
		}
	}
	if o.SourcePolicy != nil {
		b.policy = &spb.Policy{}
		if err := json.Unmarshal(o.SourcePolicy, b.policy); err != nil {
			refused.Add(usage("--source-policy", "not a source policy: "+err.Error()))
		}
	}
	b.session = append(b.session, authprovider.NewDockerAuthProvider(authprovider.DockerAuthProviderConfig{
		AuthConfigProvider: func(ctx context.Context, host string, _ []string, _ authprovider.ExpireCachedAuthCheck) (types.AuthConfig, error) {
			if o.Credentials == nil {
				return types.AuthConfig{}, nil
			}
			user, password, token := o.Credentials(ctx, host)
			return types.AuthConfig{ServerAddress: host, Username: user, Password: password, IdentityToken: token}, nil
		},
	}))
	if len(o.Secrets) > 0 {
		b.session = append(b.session, secretsprovider.NewSecretProvider(secretStore(o.Secrets)))
	}
	if len(o.SSH) > 0 {
		agents, err := readAgents(o.SSH)
		if err == nil {
			provider, perr := sshprovider.NewSSHAgentProvider(agents)
			if perr == nil {
				b.session = append(b.session, provider)
			}
			err = perr
		}
		if err != nil {
			refused.Add(usage("--ssh "+strings.Join(o.SSH, " "), err.Error(), "--ssh default", "--ssh default="+"$SSH_AUTH_SOCK"))
		}
	}
	if err := refused.Err(); err != nil {
		return err
	}
	if err := os.MkdirAll(o.Scratch, 0o700); err != nil {
		return err
	}
	return b.openContexts()
}

// readHosts reads --add-host NAME=ADDRESS, and NAME:ADDRESS as docker has had it longer.
func readHosts(list []string) ([]string, error) {
	var out []string
	var refused refusal.Collect
	for _, text := range list {
		name, address, ok := strings.Cut(text, "=")
		if !ok {
			name, address, ok = strings.Cut(text, ":")
		}
		address = strings.TrimSuffix(strings.TrimPrefix(address, "["), "]")
		switch {
		case address == "host-gateway":
			refused.Add(usage("--add-host "+text, "host-gateway is known to Docker's engine alone", "--add-host "+name+"=192.0.2.1"))
		case !ok || name == "" || strings.ContainsAny(name, ",\"") || net.ParseIP(address) == nil:
			refused.Add(usage("--add-host "+text, "it is written NAME=ADDRESS, with the address in numbers", "--add-host db.example.com=192.0.2.1"))
		default:
			out = append(out, name+"="+address)
		}
	}
	return out, refused.Err()
}

// writeDockerfile makes the directory that the Dockerfile of a platform and the ignore
// file are read from, so that both engines see the same two files wherever they came
// from.
func (b *Build) writeDockerfile(p platform.Platform) (fsutil.FS, error) {
	dir, err := os.MkdirTemp(b.o.Scratch, "dockerfile-")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), b.o.Text(p), 0o600); err != nil {
		return nil, err
	}
	if b.o.Ignore != nil {
		if err := os.WriteFile(filepath.Join(dir, "Dockerfile.dockerignore"), b.o.Ignore, 0o600); err != nil {
			return nil, err
		}
	}
	return fsutil.NewFS(dir)
}

// openContexts opens the directories and layouts that a daemon may ask for.
func (b *Build) openContexts() error {
	b.mounts, b.layouts = map[string]fsutil.FS{}, map[string]content.Store{}
	add := func(name, dir string) error {
		fs, err := fsutil.NewFS(dir)
		b.mounts[name] = fs
		return err
	}
	if err := add("context", b.o.Context); err != nil {
		return err
	}
	for i, name := range slices.Sorted(maps.Keys(b.o.Contexts)) {
		c := b.o.Contexts[name]
		key := "context:" + name
		layout, isLayout := strings.CutPrefix(c.Value, "oci-layout://")
		switch {
		case c.Dir != "":
			if err := add(name, c.Dir); err != nil {
				return err
			}
			b.frontend[key] = "local:" + name
		case isLayout:
			st, digest, err := openLayout(layout)
			if err != nil {
				return err
			}
			id := fmt.Sprintf("layout%d", i)
			b.layouts[id] = newBlobs(st)
			b.frontend[key] = "oci-layout://" + id + "@" + digest
		default:
			b.frontend[key] = c.Value
		}
	}
	return nil
}

// openLayout opens DIR[:TAG][@DIGEST].
func openLayout(text string) (*store.Store, string, error) {
	dir, name := text, "latest"
	pinned := false
	if i := strings.LastIndex(text, "@"); i > 0 {
		dir, name, pinned = text[:i], text[i+1:], true
	}
	if i := strings.LastIndex(dir, ":"); i > 1 && !strings.Contains(dir[i:], "/") {
		if !pinned {
			name = dir[i+1:]
		}
		dir = dir[:i]
	}
	st, err := store.Open(dir)
	if err != nil {
		return nil, "", err
	}
	if d, err := digest.Parse(name); err == nil && pinned {
		if _, err := st.Size(d); err == nil {
			return st, name, nil // an image within an index, too
		}
	}
	d, err := st.Find(name)
	if err != nil {
		return nil, "", usage("--build-context oci-layout://"+text, "the layout has no image of this name", "--build-context NAME=oci-layout://"+dir+":TAG")
	}
	return st, d.Digest.String(), nil
}

// exporter says how the image is written.
func (b *Build) exporter() map[string]string {
	attrs := map[string]string{"tar": "false", "rewrite-timestamp": "true", "oci-mediatypes": strconv.FormatBool(!b.o.Docker)}
	if b.o.Compression != "" {
		attrs["compression"] = b.o.Compression
	}
	if b.o.Level != "" {
		attrs["compression-level"] = b.o.Level
	}
	if len(b.o.Attest) > 0 {
		attrs["oci-artifact"] = "false" // some registries refuse the newer form
	}
	if !b.o.Docker {
		for k, v := range b.o.Annotations {
			attrs["annotation."+k] = v
		}
	}
	return attrs
}

// secretValues are what opens a cache, which is never shown.
var secretValues = regexp.MustCompile(`(?i)\b(secret_access_key|session_token|token|ghtoken)=[^,]*`)

// readCaches reads --cache-to and --cache-from: type=TYPE,KEY=VALUE,… or a reference.
// What GitHub's and Amazon's caches need is taken from where their own clients take it.
func readCaches(flag string, list []string, getenv func(string) string) ([]client.CacheOptionsEntry, error) {
	if getenv == nil {
		getenv = func(string) string { return "" }
	}
	var out []client.CacheOptionsEntry
	var refused refusal.Collect
	for _, text := range list {
		e := client.CacheOptionsEntry{Attrs: map[string]string{}}
		fields, err := csvvalue.Fields(text, nil)
		if err == nil && !strings.Contains(text, "type=") {
			e.Type, e.Attrs["ref"] = "registry", text
			fields = nil
		}
		for _, field := range fields {
			k, v, ok := strings.Cut(field, "=")
			if k = strings.ToLower(k); !ok {
				err = fmt.Errorf("%s is no KEY=VALUE", secretValues.ReplaceAllString(field, "$1=…"))
			} else if k == "type" {
				e.Type = v
			} else {
				e.Attrs[k] = v
			}
		}
		fill := func(key string, names ...string) {
			for _, name := range names {
				if v := getenv(name); v != "" && e.Attrs[key] == "" {
					e.Attrs[key] = v
				}
			}
		}
		need := func(keys ...string) {
			for _, key := range keys {
				if e.Attrs[key] == "" && err == nil {
					err = fmt.Errorf("%s is missing", key)
				}
			}
		}
		switch e.Type {
		case "inline":
		case "registry":
			need("ref")
		case "local":
			if flag == "--cache-to" {
				need("dest")
			} else {
				need("src")
			}
		case "gha":
			version := e.Attrs["version"]
			if v2, _ := strconv.ParseBool(getenv("ACTIONS_CACHE_SERVICE_V2")); v2 && version == "" {
				version = "2"
			}
			if version == "2" {
				fill("url_v2", "ACTIONS_RESULTS_URL")
			}
			fill("url", "ACTIONS_CACHE_URL", "ACTIONS_RESULTS_URL")
			fill("token", "ACTIONS_RUNTIME_TOKEN")
			if e.Attrs["url_v2"] == "" {
				need("url")
			}
			need("token")
		case "s3":
			// What is one's own and what is the environment's aren't mixed; what neither
			// has the daemon may have, of its own environment or machine.
			if e.Attrs["access_key_id"] == "" && e.Attrs["secret_access_key"] == "" && e.Attrs["session_token"] == "" {
				fill("access_key_id", "AWS_ACCESS_KEY_ID")
				fill("secret_access_key", "AWS_SECRET_ACCESS_KEY")
				fill("session_token", "AWS_SESSION_TOKEN")
			}
			fill("region", "AWS_REGION", "AWS_DEFAULT_REGION")
		case "azblob": // the daemon may have its account from its environment, too
		default:
			err = fmt.Errorf("type %q is none of registry, local, inline, gha, s3 and azblob", e.Type)
		}
		if err != nil {
			refused.Add(usage(flag+" "+secretValues.ReplaceAllString(text, "$1=…"), err.Error(), flag+" type=registry,ref=registry.example.com/team/app:cache"))
			continue
		}
		if flag == "--cache-to" && e.Attrs["mode"] == "" && e.Type != "inline" {
			e.Attrs["mode"] = "min"
		}
		out = append(out, e)
	}
	return out, refused.Err()
}

// caches are those of one platform. Where several platforms are built each has its own,
// or the last would be all that is left of them: the cache is told apart by a suffix, of
// the tag, the directory, the scope or the name.
func (b *Build) caches(p platform.Platform) (to, from []client.CacheOptionsEntry) {
	if len(b.platforms) == 1 {
		return cloneCaches(b.to), cloneCaches(b.from)
	}
	suffix := "-" + strings.ReplaceAll(p.String(), "/", "-")
	return ownCaches(b.to, suffix, false), ownCaches(b.from, suffix, true)
}

// ownCaches are caches with a suffix. With shared set, what others wrote without one is
// read too.
func ownCaches(list []client.CacheOptionsEntry, suffix string, shared bool) []client.CacheOptionsEntry {
	var out []client.CacheOptionsEntry
	for _, e := range cloneCaches(list) {
		as := client.CacheOptionsEntry{Type: e.Type, Attrs: maps.Clone(e.Attrs)}
		switch e.Type {
		case "registry":
			if strings.Contains(as.Attrs["ref"], "@") {
				break
			}
			if ref := as.Attrs["ref"]; !strings.Contains(ref[strings.LastIndex(ref, "/")+1:], ":") {
				as.Attrs["ref"] += ":latest"
			}
			as.Attrs["ref"] += suffix
		case "local":
			for _, key := range []string{"dest", "src"} {
				if as.Attrs[key] != "" {
					as.Attrs[key] = filepath.Join(as.Attrs[key], strings.TrimPrefix(suffix, "-"))
				}
			}
		case "gha":
			scope := as.Attrs["scope"]
			if scope == "" {
				scope = "buildkit"
			}
			as.Attrs["scope"] = scope + suffix
		case "s3", "azblob":
			name := as.Attrs["name"]
			if name == "" {
				name = "buildkit"
			}
			as.Attrs["name"] = name + suffix
		}
		out = append(out, as)
		if shared && e.Type == "registry" && as.Attrs["ref"] != e.Attrs["ref"] {
			out = append(out, e)
		}
	}
	return out
}

// cloneCaches copies a list: the client writes into the attributes.
func cloneCaches(list []client.CacheOptionsEntry) []client.CacheOptionsEntry {
	out := make([]client.CacheOptionsEntry, len(list))
	for i, e := range list {
		out[i] = client.CacheOptionsEntry{Type: e.Type, Attrs: maps.Clone(e.Attrs)}
	}
	return out
}

// readAgents reads --ssh ID[=SOCKET|KEY,…], as docker does.
func readAgents(list []string) ([]sshprovider.AgentConfig, error) {
	var out []sshprovider.AgentConfig
	for _, text := range list {
		id, value, ok := strings.Cut(text, "=")
		a := sshprovider.AgentConfig{ID: id}
		if ok {
			for path := range strings.SplitSeq(value, ",") {
				if k, v, is := strings.Cut(path, "="); is && k == "raw" {
					raw, err := strconv.ParseBool(v)
					if err != nil {
						return nil, fmt.Errorf("raw=%s is neither true nor false", v)
					}
					a.Raw = raw
					continue
				}
				a.Paths = append(a.Paths, path)
			}
		}
		out = append(out, a)
	}
	return out, nil
}

// secretStore gives secrets to RUN --mount=type=secret.
type secretStore map[string]func() ([]byte, error)

// GetSecret implements secrets.SecretStore.
func (s secretStore) GetSecret(_ context.Context, id string) ([]byte, error) {
	value, ok := s[id]
	if !ok {
		return nil, fmt.Errorf("secret %s: %w", id, secrets.ErrNotFound)
	}
	return value()
}
