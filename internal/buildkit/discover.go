package buildkit

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/refusal"
)

// buildxGroup is a builder as `docker buildx` keeps it in ~/.docker/buildx/instances/NAME
// (docker/buildx, store/nodegroup.go). Platforms has the form of image-spec descriptors.
type buildxGroup struct {
	Name   string
	Driver string
	Nodes  []struct {
		Name       string
		Endpoint   string
		Platforms  []struct{ OS, Architecture, Variant string }
		DriverOpts map[string]string
	}
}

// Buildx gives the endpoints of the builder that `docker buildx use` or BUILDX_BUILDER
// chose; none if there isn't one, or if it is the default one of the docker driver.
// A builder that can't be reached through an address is a refusal.Error with code PA140.
func Buildx(getenv func(string) string) ([]Endpoint, error) {
	dir := buildxDir(getenv)
	if dir == "" {
		return nil, nil
	}
	name := getenv("BUILDX_BUILDER")
	if name == "" {
		var current struct{ Name string }
		data, err := os.ReadFile(filepath.Join(dir, "current"))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err == nil {
			err = json.Unmarshal(data, &current)
		}
		if err != nil {
			return nil, &refusal.Error{Code: "PA140", Kind: refusal.Usage, Place: filepath.Join(dir, "current"), Summary: "the builder in use can't be read", Seen: []string{err.Error()}, Fix: []string{"docker buildx use NAME"}, Err: err}
		}
		name = current.Name
	}
	if name == "" || name == "default" || name != filepath.Base(name) {
		return nil, nil
	}
	file := filepath.Join(dir, "instances", name)
	data, err := os.ReadFile(file)
	var group buildxGroup
	if err == nil {
		err = json.Unmarshal(data, &group)
	}
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) && getenv("BUILDX_BUILDER") == "" {
			return nil, nil // the name of a docker context
		}
		return nil, &refusal.Error{Code: "PA140", Kind: refusal.Usage, Place: file, Summary: "the builder of docker buildx can't be read", Seen: []string{err.Error()}, Fix: []string{"docker buildx ls"}, Err: err}
	}
	var list []Endpoint
	var refused refusal.Collect
	for _, n := range group.Nodes {
		e := Endpoint{Origin: "docker buildx " + name}
		for _, p := range n.Platforms {
			known, err := platform.Parse(strings.TrimSuffix(p.OS+"/"+p.Architecture+"/"+p.Variant, "/"))
			if err == nil && !slices.Contains(e.Platforms, known) {
				e.Platforms = append(e.Platforms, known)
			}
		}
		switch group.Driver {
		case "docker-container":
			// buildx names the container after the node; the endpoint is a docker
			// context or the address of an engine.
			e.Address = "docker-container://buildx_buildkit_" + n.Name
			switch {
			case strings.Contains(n.Endpoint, "://"):
				if host := getenv("DOCKER_HOST"); n.Endpoint != "unix:///var/run/docker.sock" && n.Endpoint != host {
					refused.Add(&refusal.Error{Code: "PA140", Kind: refusal.Usage, Place: file, Summary: "the container of node " + n.Name + " is in the engine at " + n.Endpoint + ", which is none of docker's contexts",
						Fix: []string{"DOCKER_HOST=" + n.Endpoint, "docker context create builder --docker host=" + n.Endpoint}})
					continue
				}
			case n.Endpoint != "" && n.Endpoint != "default":
				e.Address += "?context=" + url.QueryEscape(n.Endpoint)
			}
		case "remote":
			parsed, err := ParseEndpoint(n.Endpoint, e.Origin, dir)
			if err != nil {
				refused.Add(err)
				continue
			}
			parsed.Platforms = e.Platforms
			if ca := n.DriverOpts["cacert"]; ca != "" || n.DriverOpts["cert"] != "" {
				parsed.TLS = TLS{CA: ca, Cert: n.DriverOpts["cert"], Key: n.DriverOpts["key"], ServerName: n.DriverOpts["servername"]}
			}
			e = parsed
		default:
			refused.Add(&refusal.Error{Code: "PA140", Kind: refusal.Usage, Place: file, Summary: "the driver " + group.Driver + " of the builder " + name + " gives no address",
				Fix: []string{"--builder kube-pod://POD?namespace=NAMESPACE", "docker buildx create --use --driver docker-container"}})
			continue
		}
		list = append(list, e)
	}
	return list, refused.Err()
}

// buildxDir is where buildx keeps its builders.
func buildxDir(getenv func(string) string) string {
	if dir := getenv("BUILDX_CONFIG"); dir != "" {
		return dir
	}
	if docker := dockerDir(getenv); docker != "" {
		return filepath.Join(docker, "buildx")
	}
	return ""
}

// dockerDir is where docker keeps what its user has configured; empty if there is no home.
func dockerDir(getenv func(string) string) string {
	if docker := getenv("DOCKER_CONFIG"); docker != "" {
		return docker
	}
	home := getenv("HOME")
	if home == "" {
		home = getenv("USERPROFILE")
	}
	if home == "" {
		return ""
	}
	return filepath.Join(home, ".docker")
}
