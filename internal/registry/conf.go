package registry

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/anyarch/anyarch/internal/refusal"
)

// mirrorUse says which references a mirror serves
// (containers-registries.conf(5), pull-from-mirror).
type mirrorUse string

const (
	useAll    mirrorUse = "all"
	useDigest mirrorUse = "digest-only"
	useTag    mirrorUse = "tag-only"
)

// location is where a repository is really had: a host and a path.
type location struct {
	name     string
	insecure bool
}

// route is where one repository is read and written.
type route struct {
	mirrors []struct {
		location
		use mirrorUse
	}
	location location
}

// routes are the tables of registries.conf. Immutable.
type routes struct{ tables map[string]registryTable } // by prefix

type registryTable struct {
	Prefix             string
	Location           string
	Insecure           bool
	Blocked            bool
	MirrorByDigestOnly bool          `toml:"mirror-by-digest-only"`
	Mirrors            []mirrorTable `toml:"mirror"`

	file string
}

type mirrorTable struct {
	Location       string
	Insecure       bool
	PullFromMirror mirrorUse `toml:"pull-from-mirror"`
}

// DefaultRegistriesConf lists where containers-registries.conf(5) says that
// configuration is: $CONTAINERS_REGISTRIES_CONF, else the user's file, else the
// machine's; then the drop-in directories of the machine and the user, and
// $CONTAINERS_REGISTRIES_CONF_OVERRIDE. What isn't there is left out, unless the
// environment names it.
func DefaultRegistriesConf(getenv func(string) string) []string {
	exists := func(path string) bool {
		_, err := os.Stat(path)
		return err == nil
	}
	var user string
	if dir := getenv("XDG_CONFIG_HOME"); dir != "" {
		user = filepath.Join(dir, "containers", "registries.conf")
	} else if home := getenv("HOME"); home != "" {
		user = filepath.Join(home, ".config", "containers", "registries.conf")
	}
	const system = "/etc/containers/registries.conf"
	var paths []string
	switch named := getenv("CONTAINERS_REGISTRIES_CONF"); {
	case named != "":
		paths = append(paths, named)
	case user != "" && exists(user):
		paths = append(paths, user)
	case exists(system):
		paths = append(paths, system)
	}
	for _, dir := range []string{system + ".d", user + ".d"} {
		if dir != ".d" && exists(dir) {
			paths = append(paths, dir)
		}
	}
	if override := getenv("CONTAINERS_REGISTRIES_CONF_OVERRIDE"); override != "" {
		paths = append(paths, override)
	}
	return paths
}

// loadRoutes reads files, and directories of files named *.conf, in order.
func loadRoutes(paths []string) (*routes, error) {
	r := &routes{tables: map[string]registryTable{}}
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, confRefusal(path, err)
		}
		if !info.IsDir() {
			if err := r.load(path); err != nil {
				return nil, err
			}
			continue
		}
		entries, err := os.ReadDir(path) // sorted
		if err != nil {
			return nil, confRefusal(path, err)
		}
		for _, entry := range entries {
			if strings.HasSuffix(entry.Name(), ".conf") && !entry.IsDir() {
				if err := r.load(filepath.Join(path, entry.Name())); err != nil {
					return nil, err
				}
			}
		}
	}
	return r, nil
}

func confRefusal(path string, err error) error {
	seen := err.Error()
	if errors.Is(err, fs.ErrNotExist) {
		seen = "there is no such file"
	}
	return &refusal.Error{Code: "PA503", Kind: refusal.Usage, Place: path, Summary: "registries.conf isn't readable", Seen: []string{seen}, Err: err}
}

func (r *routes) load(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return confRefusal(path, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfigSize))
	if err != nil {
		return confRefusal(path, err)
	}
	tables, err := parseConf(string(data))
	if err != nil {
		return confRefusal(path, err)
	}
	for _, t := range tables {
		t.file = path
		r.tables[t.Prefix] = t // a later file's table replaces an earlier one's
	}
	return nil
}

// parseConf reads one file of version 2. What the format has for other purposes,
// such as short names, is ignored: names without a host mean docker.io here.
func parseConf(data string) ([]registryTable, error) {
	var file struct {
		Registry []registryTable
	}
	if _, err := toml.Decode(data, &file); err != nil {
		return nil, err
	}
	for i := range file.Registry {
		t := &file.Registry[i]
		var err error
		if t.Location, err = parseLocation(t.Location); err != nil {
			return nil, err
		}
		if t.Prefix == "" {
			t.Prefix = t.Location
		} else if rest, wild := strings.CutPrefix(t.Prefix, "*."); wild {
			if strings.ContainsAny(rest, "*/") || !hostPattern.MatchString(rest) {
				return nil, fmt.Errorf("prefix %q: * stands for the first labels of a host, and only of a host", t.Prefix)
			}
			t.Prefix = strings.ToLower(t.Prefix)
		} else if t.Prefix, err = parseLocation(t.Prefix); err != nil {
			return nil, err
		}
		if t.Prefix == "" {
			return nil, errors.New("a [[registry]] has neither prefix nor location")
		}
		for j := range t.Mirrors {
			m := &t.Mirrors[j]
			if m.Location, err = parseLocation(m.Location); err != nil {
				return nil, err
			}
			if m.Location == "" {
				return nil, fmt.Errorf("a mirror of %s has no location", t.Prefix)
			}
			switch m.PullFromMirror {
			case "":
				m.PullFromMirror = useAll
				if t.MirrorByDigestOnly {
					m.PullFromMirror = useDigest
				}
			case useAll, useDigest, useTag:
				if t.MirrorByDigestOnly {
					return nil, fmt.Errorf("a mirror of %s has pull-from-mirror, which doesn't go with mirror-by-digest-only", t.Prefix)
				}
			default:
				return nil, fmt.Errorf("pull-from-mirror is %q; all, digest-only and tag-only are known", m.PullFromMirror)
			}
		}
	}
	return file.Registry, nil
}

// parseLocation checks a host, with or without a path, and brings its host to
// the form that repository names have.
func parseLocation(s string) (string, error) {
	s = strings.TrimRight(s, "/")
	if s == "" {
		return "", nil
	}
	if strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://") {
		return "", fmt.Errorf("%q: locations and prefixes have no http:// or https://", s)
	}
	host, path, _ := strings.Cut(s, "/")
	if !hostPattern.MatchString(host) {
		return "", fmt.Errorf("%q doesn't begin with a host", s)
	}
	host = strings.ToLower(host)
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		host = dockerHub
	}
	if path == "" {
		return host, nil
	}
	// A prefix may name a tag or digest after the path; only its form matters.
	if bare, _, _ := strings.Cut(path, "@"); !pathPattern.MatchString(strings.SplitN(bare, ":", 2)[0]) {
		return "", fmt.Errorf("%q isn't the name of a repository or a part of one", s)
	}
	return host + "/" + path, nil
}

// find gives the route of a canonical repository name: that of the longest
// matching prefix.
func (r *routes) find(name string) (route, error) {
	var prefixes []string
	for prefix := range r.tables {
		if matchLen(prefix, name) > 0 {
			prefixes = append(prefixes, prefix)
		}
	}
	if len(prefixes) == 0 {
		return route{location: location{name: name}}, nil
	}
	sort.Slice(prefixes, func(i, j int) bool {
		a, b := len(prefixes[i]), len(prefixes[j])
		return a > b || a == b && prefixes[i] < prefixes[j]
	})
	t := r.tables[prefixes[0]]
	if t.Blocked {
		return route{}, blockedError(name, t.file, t.Prefix)
	}
	rest := name[matchLen(t.Prefix, name):]
	result := route{location: location{name: name, insecure: t.Insecure}}
	if t.Location != "" {
		result.location.name = t.Location + rest
	}
	for _, m := range t.Mirrors {
		result.mirrors = append(result.mirrors, struct {
			location
			use mirrorUse
		}{location{m.Location + rest, m.Insecure}, m.PullFromMirror})
	}
	for _, l := range append([]string{result.location.name}, mirrorNames(result)...) {
		if host, path, ok := strings.Cut(l, "/"); !ok || !hostPattern.MatchString(host) || !pathPattern.MatchString(path) {
			return route{}, confRefusal(t.file, fmt.Errorf("it makes %q of %q, which isn't the name of a repository", l, name))
		}
	}
	return result, nil
}

func mirrorNames(r route) []string {
	var names []string
	for _, m := range r.mirrors {
		names = append(names, m.name)
	}
	return names
}

// matchLen is how much of a repository name a prefix covers, 0 if it doesn't
// match. A prefix ends where a part of a name ends.
func matchLen(prefix, name string) int {
	if domain, wild := strings.CutPrefix(prefix, "*"); wild {
		host, _, _ := strings.Cut(name, "/")
		if h, d := host, domain; strings.HasSuffix(h, d) || strings.HasSuffix(hostname(h), d) && !strings.Contains(d, ":") {
			return len(host)
		}
		return 0
	}
	if rest, ok := strings.CutPrefix(name, prefix); ok && (rest == "" || rest[0] == '/') {
		return len(prefix)
	}
	return 0
}
