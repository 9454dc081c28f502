// Package plan turns what a user asked for into what will be done, and refuses
// here, all at once, whatever is known not to be possible: before anything is
// compiled and long before anything is pushed.
package plan

import (
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/anyarch/anyarch/internal/publish"
	"github.com/anyarch/anyarch/internal/refusal"
)

// Request is what was asked for. Flags feed it now; a configuration file will
// feed the same fields. Strings marked T are templates.
type Request struct {
	Dir       string   // what relative paths are relative to
	Targets   []string // Go packages; none means the package in Dir
	Combine   bool     // all programs go into one image
	Platforms []string // as --platform takes them

	LDFlags      []string // T
	GoTags       []string // T
	GoFlags      []string // T
	GoEnv        []string // T
	CC           []string // PLATFORM=COMMAND
	AllowOutside bool

	Base        string // T static, scratch, a reference or oci:DIR
	Image       Shape
	Name        string   // T of the image, instead of the program's
	Tags        []string // T references, and bare tags for the one before
	Compression string
	MediaTypes  string
	Outputs     []string
	Latest      publish.LatestPolicy
	Verify      string

	// Plain asks for an image as docker build makes it: one platform has no index
	// over it, and there are no annotations but those that are asked for. Those of
	// the image then go to the manifests, and IndexAnnotations to the index.
	Plain            bool
	IndexAnnotations []string
	// ByDigest pushes without moving a tag: those of Tags only say what the image is
	// to be called later.
	ByDigest bool
}

// Shape is what an image looks like from outside. The field names follow the
// OCI image configuration (image-spec v1.1.1, config.md).
type Shape struct {
	BinaryDir    string   // where programs go; /usr/local/bin if empty
	Entrypoint   []string // T; the program if empty
	Cmd          []string // T
	Env          []string // T KEY=value
	WorkingDir   string
	User         string
	ExposedPorts []string // 8080, 8080/tcp
	Volumes      []string
	StopSignal   string
	Labels       []string // T key=value
	Annotations  []string // T key=value, on every manifest and the index
	Files        []string // SRC:DST[:mode=0644][,owner=UID[:GID]]
}

// File is an extra file or directory of an image.
type File struct {
	Source   string      // on this machine, absolute
	Target   string      // in the image, absolute
	Mode     fs.FileMode // of files, 0 to go by the executable bit
	UID, GID int
}

// parseFile reads one --file.
func parseFile(dir, text string) (File, error) {
	bad := func(why string) (File, error) {
		return File{}, &refusal.Error{
			Code: "PA505", Kind: refusal.Usage, Place: "--file " + text, Summary: "not a file for the image: " + why,
			Fix: []string{"--file config.yaml:/etc/app/config.yaml", "--file web:/srv/web:mode=0644,owner=65532:65532"},
		}
	}
	rest := text
	drive := ""
	if len(rest) > 2 && rest[1] == ':' && (rest[2] == '\\' || rest[2] == '/') { // C:\…
		drive, rest = rest[:2], rest[2:]
	}
	source, rest, found := strings.Cut(rest, ":")
	if !found || source == "" {
		return bad("it is written SRC:DST")
	}
	target, options, _ := strings.Cut(rest, ":")
	if !path.IsAbs(target) {
		return bad("the place in the image must be absolute")
	}
	f := File{Source: filepath.Clean(drive + filepath.FromSlash(source)), Target: target}
	if !filepath.IsAbs(f.Source) {
		f.Source = filepath.Join(dir, f.Source)
	}
	if strings.HasSuffix(target, "/") && target != "/" {
		f.Target = path.Join(target, filepath.Base(f.Source))
	}
	f.Target = path.Clean(f.Target)
	for option := range strings.SplitSeq(options, ",") {
		if option == "" {
			continue
		}
		key, value, _ := strings.Cut(option, "=")
		switch key {
		case "mode":
			mode, err := strconv.ParseUint(value, 8, 12)
			if err != nil {
				return bad(fmt.Sprintf("mode %q isn't octal, as in 0644", value))
			}
			f.Mode = fs.FileMode(mode & 0o777)
			for bit, flag := range map[uint64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
				if mode&bit != 0 {
					f.Mode |= flag
				}
			}
		case "owner":
			user, group, hasGroup := strings.Cut(value, ":")
			if !hasGroup {
				group = user
			}
			uid, errU := strconv.ParseUint(user, 10, 31)
			gid, errG := strconv.ParseUint(group, 10, 31)
			if errU != nil || errG != nil {
				return bad(fmt.Sprintf("owner %q isn't UID or UID:GID", value))
			}
			f.UID, f.GID = int(uid), int(gid)
		default:
			return bad(fmt.Sprintf("there is no option %q; known are mode and owner", key))
		}
	}
	return f, nil
}

// parsePairs reads key=value flags; the last of equal keys counts.
func parsePairs(flag string, pairs []string) (map[string]string, error) {
	var refused refusal.Collect
	result := map[string]string{}
	for _, pair := range pairs {
		key, value, found := strings.Cut(pair, "=")
		if !found || strings.TrimSpace(key) == "" {
			refused.Add(&refusal.Error{Code: "PA502", Kind: refusal.Usage, Place: flag + " " + pair, Summary: "it is written KEY=VALUE"})
			continue
		}
		result[key] = value
	}
	return result, refused.Err()
}

// parsePorts writes ports as the image configuration has them.
func parsePorts(ports []string) (map[string]struct{}, error) {
	var refused refusal.Collect
	result := map[string]struct{}{}
	for _, text := range ports {
		number, protocol, found := strings.Cut(text, "/")
		if !found {
			protocol = "tcp"
		}
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil || n == 0 || !slices.Contains([]string{"tcp", "udp", "sctp"}, protocol) {
			refused.Add(&refusal.Error{
				Code: "PA502", Kind: refusal.Usage, Place: "--expose " + text, Summary: "not a port",
				Fix: []string{"--expose 8080", "--expose 53/udp"},
			})
			continue
		}
		result[fmt.Sprintf("%d/%s", n, protocol)] = struct{}{}
	}
	return result, refused.Err()
}

// Output is one place that images go to.
type Output struct {
	Kind OutputKind
	Path string // of a layout or archive
	// PerImage puts each image into a layout of its own below Path.
	PerImage bool
}

// OutputKind says what form an image has at its destination.
type OutputKind string

// The forms of output.
const (
	ToRegistry      OutputKind = "registry"
	ToLayout        OutputKind = "oci"
	ToArchive       OutputKind = "oci-archive"
	ToDockerArchive OutputKind = "docker-archive"
)

// DefaultOutput is the directory that layouts go to when nobody says otherwise,
// one layout per image in it.
const DefaultOutput = "anyarch-out"

// parseOutput reads one --output. The word default is DefaultLayout.
func parseOutput(dir, text string) (Output, error) {
	if text == "default" {
		return DefaultLayout(dir), nil
	}
	kind, place, _ := strings.Cut(text, ":")
	o := Output{Kind: OutputKind(kind), Path: place}
	switch {
	case o.Kind == ToRegistry && place == "":
		return o, nil
	case slices.Contains([]OutputKind{ToLayout, ToArchive, ToDockerArchive}, o.Kind) && place != "":
		if !filepath.IsAbs(o.Path) {
			o.Path = filepath.Join(dir, o.Path)
		}
		return o, nil
	}
	return o, &refusal.Error{
		Code: "PA502", Kind: refusal.Usage, Place: "--output " + text, Summary: "not a place for an image",
		Fix: []string{"--output oci:DIR", "--output oci-archive:FILE.tar", "--output docker-archive:FILE.tar", "--output registry"},
	}
}
