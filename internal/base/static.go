package base

import (
	"archive/tar"
	"bytes"
	"context"
	_ "embed"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/crypto/x509roots/fallback/bundle"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/layer"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/store"
)

// StaticVersion is the version of the built-in base static: the date of its
// root certificates, which is that of the module x509roots/fallback. It and the
// digests below change together.
const StaticVersion = "2026-10-30"

// The layer of static as [layer.Write] makes it. Known digests let a run whose
// store or registry has the layer go on without making it again; a test holds
// them against what is made.
const (
	staticDiffID     digest.Digest = "sha256:bf2f2145175c8e4f3fbb3024aded521f03405770894e61b197417356b0954b14"
	staticGzipDigest digest.Digest = "sha256:6198cb0daad07f5759666ee014b04b06b995b69a7e01f46a8e54888829abf3be"
	staticGzipSize                 = 214416
	staticZstdDigest digest.Digest = "sha256:ea2b2fe4ffa45c2ba34df7baa00898becdfe910a96964c365f26eb1f857a4efd"
	staticZstdSize                 = 163957
)

// The users of static, with the numbers that distroless images gave them.
const (
	nonroot = 65532
	passwd  = `root:x:0:0:root:/root:/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin
nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin
`
	group = `root:x:0:
nobody:x:65534:
nonroot:x:65532:
`
)

// nsswitch lets programs that resolve by the C library's rules, Go's resolver
// among them, look into /etc/hosts before they ask the network.
const nsswitch = "hosts: files dns\n"

const osRelease = `NAME="anyarch static"
PRETTY_NAME="anyarch static ` + StaticVersion + ` (tzdata ` + zoneinfoVersion + `)"
ID=anyarch-static
VERSION="` + StaticVersion + ` (tzdata ` + zoneinfoVersion + `)"
VERSION_ID="` + StaticVersion + `"
HOME_URL="https://github.com/anyarch/anyarch"
`

// certificates is where crypto/x509 looks first, before the places of other
// distributions, none of which is therefore made.
const certificates = "etc/ssl/certs/ca-certificates.crt"

//go:generate go run zoneinfo_gen.go

// zoneinfo is a compressed tar of the files below usr/share/zoneinfo.
//
//go:embed static/zoneinfo.tar.zst
var zoneinfo string

// staticConfig is what an image on static starts from. The user is a number, as
// Kubernetes' runAsNonRoot wants it; its group and home are in /etc/passwd.
func staticConfig() ocispec.ImageConfig {
	return ocispec.ImageConfig{
		User: "65532",
		Env: []string{
			"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			"SSL_CERT_FILE=/" + certificates,
		},
		WorkingDir: "/",
	}
}

// staticDirs are the directories of static that are not root's with mode 0755,
// and those that hold nothing. /var/run isn't here: a link would be in the way
// of images that put files below it.
func staticDirs() []layer.Entry {
	dir := func(name string, mode fs.FileMode, owner int) layer.Entry {
		return layer.Entry{Name: name, Type: layer.Dir, Mode: mode, UID: owner, GID: owner}
	}
	return []layer.Entry{
		dir("home/nonroot", 0o700, nonroot),
		dir("root", 0o700, 0),
		dir("run", 0o755, 0),
		dir("tmp", 0o777|fs.ModeSticky, 0),
		dir("var/tmp", 0o777|fs.ModeSticky, 0),
	}
}

// staticDir gives the attributes of a directory of static, for layers above it.
func staticDir(name string) (layer.Entry, bool) {
	for _, e := range staticDirs() {
		if e.Name == name {
			return e, true
		}
	}
	return layer.Entry{}, false
}

// staticEntries are the files of static, the same for every platform.
func staticEntries() ([]layer.Entry, error) {
	roots, err := rootsPEM()
	if err != nil {
		return nil, err
	}
	entries := append(staticDirs(),
		staticFile("etc/group", []byte(group)),
		staticFile("etc/nsswitch.conf", []byte(nsswitch)),
		staticFile("etc/os-release", []byte(osRelease)),
		staticFile("etc/passwd", []byte(passwd)),
		staticFile(certificates, roots),
	)
	zones, err := zones()
	if err != nil {
		return nil, err
	}
	return append(entries, zones...), nil
}

func staticFile(name string, content []byte) layer.Entry {
	return layer.Entry{
		Name: name, Mode: 0o644, Size: int64(len(content)),
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
	}
}

// rootsPEM is Mozilla's set of root certificates in the order of the bundle,
// which is that of their names. A root that is to be trusted only within a
// constraint, such as for certificates from before some day, is left out: PEM
// can't say so, and to trust it without is worse. In this version that is one:
//
//	CN=Izenpe.com,O=IZENPE S.A.,C=ES    distrusted after 2026-04-15
func rootsPEM() ([]byte, error) {
	var out bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint != nil {
			continue
		}
		if err := pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}

// zones are the time zones.
func zones() ([]layer.Entry, error) {
	decoder, err := zstd.NewReader(strings.NewReader(zoneinfo), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer decoder.Close()
	var entries []layer.Entry
	tr := tar.NewReader(decoder)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return entries, nil
		}
		if err != nil {
			return nil, fmt.Errorf("time zones: %w", err)
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			return nil, fmt.Errorf("time zones: %w", err)
		}
		entries = append(entries, staticFile(path.Join("usr/share/zoneinfo", h.Name), content))
	}
}

// staticLayer describes the layer of static without making it.
func staticLayer(c layer.Compression) image.Layer {
	l := image.Layer{
		Descriptor: ocispec.Descriptor{MediaType: c.MediaType(), Digest: staticGzipDigest, Size: staticGzipSize},
		DiffID:     staticDiffID,
		History:    ocispec.History{CreatedBy: "anyarch static " + StaticVersion, Comment: "tzdata " + zoneinfoVersion},
	}
	if c == layer.Zstd {
		l.Descriptor.Digest, l.Descriptor.Size = staticZstdDigest, staticZstdSize
	}
	return l
}

// writeStatic makes the layer of static unless the store has it.
func writeStatic(ctx context.Context, st *store.Store, c layer.Compression) error {
	want := staticLayer(c)
	if st.Has(want.Descriptor.Digest) {
		return nil
	}
	entries, err := staticEntries()
	if err != nil {
		return fmt.Errorf("base static: %w", err)
	}
	made, err := layer.Write(ctx, st, entries, layer.Options{Compression: c})
	if err != nil {
		return err
	}
	if made.Descriptor.Digest != want.Descriptor.Digest || made.DiffID != want.DiffID {
		return fmt.Errorf("base static was made as %s and not as %s: the encoders have changed", made.Descriptor.Digest, want.Descriptor.Digest)
	}
	return nil
}

// staticPlatforms are those that Go 1.26 compiles for on Linux, each in the
// lowest form that Go has by default; on arm every form, since a machine of one
// doesn't run a higher one.
func staticPlatforms() []platform.Platform {
	list := []platform.Platform{
		{OS: "linux", Architecture: "386"},
		{OS: "linux", Architecture: "amd64"},
		{OS: "linux", Architecture: "arm", Variant: "v5"},
		{OS: "linux", Architecture: "arm", Variant: "v6"},
		{OS: "linux", Architecture: "arm", Variant: "v7"},
	}
	for _, architecture := range []string{"arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le", "riscv64", "s390x"} {
		list = append(list, platform.Platform{OS: "linux", Architecture: architecture})
	}
	return list
}
