package base

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"golang.org/x/crypto/x509roots/fallback/bundle"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/layer"
	"github.com/anyarch/anyarch/internal/platform"
)

var update = flag.Bool("update", false, "write testdata/static.txt anew")

// staticTree makes the layer of static and reads its files.
func staticTree(t *testing.T, c layer.Compression) (image.Layer, []tar.Header, map[string][]byte) {
	t.Helper()
	st := newStore(t)
	r := New(Options{Store: st, Compression: c})
	b, err := r.Resolve(t.Context(), Static, "")
	if err != nil {
		t.Fatal(err)
	}
	images, err := b.For(t.Context(), []platform.Platform{linuxAMD64})
	if err != nil {
		t.Fatal(err)
	}
	l := images[0].Layers[0]
	f, err := st.Blob(l.Descriptor.Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var r2 io.Reader
	if c == layer.Zstd {
		r2, err = zstd.NewReader(f)
	} else {
		r2, err = gzip.NewReader(f)
	}
	if err != nil {
		t.Fatal(err)
	}
	var headers []tar.Header
	contents := map[string][]byte{}
	tr := tar.NewReader(r2)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return l, headers, contents
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		headers = append(headers, *h)
		contents[h.Name] = content
	}
}

// The layer is byte for byte what its constants say. If it is changed on
// purpose they change with it, and so does StaticVersion.
func TestStaticDigests(t *testing.T) {
	t.Parallel()
	entries, err := staticEntries()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []layer.Compression{layer.Gzip, layer.Zstd} {
		made, err := layer.Write(t.Context(), newStore(t), entries, layer.Options{Compression: c})
		if err != nil {
			t.Fatal(err)
		}
		want := staticLayer(c)
		if made.DiffID != want.DiffID || !reflect.DeepEqual(made.Descriptor, want.Descriptor) {
			t.Errorf("%s: made %s %d, diff ID %s; the constants are %s %d, %s", c, made.Descriptor.Digest, made.Descriptor.Size, made.DiffID,
				want.Descriptor.Digest, want.Descriptor.Size, want.DiffID)
		}
		st := newStore(t)
		if err := writeStatic(t.Context(), st, c); err != nil {
			t.Error(err)
		}
		if !st.Has(want.Descriptor.Digest) {
			t.Error("not in the store")
		}
		if err := writeStatic(t.Context(), st, c); err != nil {
			t.Error(err)
		}
	}
}

func TestStaticTree(t *testing.T) {
	t.Parallel()
	_, headers, contents := staticTree(t, layer.Zstd)
	var tree strings.Builder
	zones, zoneBytes := 0, int64(0)
	zoneDigest := digest.Canonical.Digester()
	for _, h := range headers {
		if h.Uname+h.Gname != "" || !h.ModTime.Equal(time.Unix(0, 0)) {
			t.Errorf("%s: user %q, group %q, time %v", h.Name, h.Uname, h.Gname, h.ModTime)
		}
		if strings.HasPrefix(h.Name, "usr/share/zoneinfo/") && h.Typeflag == tar.TypeReg {
			zones++
			zoneBytes += h.Size
			fmt.Fprintf(zoneDigest.Hash(), "%s %d %o\n", h.Name, h.Size, h.Mode)
			zoneDigest.Hash().Write(contents[h.Name])
			continue
		}
		fmt.Fprintf(&tree, "%s %4o %5d:%-5d %7d %s\n", map[byte]string{tar.TypeDir: "d", tar.TypeReg: "-"}[h.Typeflag], h.Mode, h.Uid, h.Gid, h.Size, h.Name)
	}
	fmt.Fprintf(&tree, "and %d time zones of %d bytes, %s\n", zones, zoneBytes, zoneDigest.Digest())
	golden := filepath.Join("testdata", "static.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(tree.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got := tree.String(); got != strings.ReplaceAll(string(want), "\r\n", "\n") {
		t.Errorf("go test -run StaticTree -update changes this; got\n%s", got)
	}
}

func TestStaticCertificates(t *testing.T) {
	t.Parallel()
	_, _, contents := staticTree(t, layer.Gzip)
	data := contents[certificates]
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		t.Fatal("no certificates")
	}
	in := map[string]bool{}
	now := time.Date(2026, 10, 30, 0, 0, 0, 0, time.UTC)
	for rest := data; len(rest) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			t.Fatalf("%d bytes aren't PEM", len(rest))
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if !c.IsCA || now.After(c.NotAfter) {
			t.Errorf("%s: CA %v, until %v", c.Subject, c.IsCA, c.NotAfter)
		}
		in[string(c.Raw)] = true
	}
	// Those that PEM can't express, as they are listed at rootsPEM.
	var left []string
	all := 0
	for root := range bundle.Roots() {
		all++
		if !in[string(root.Certificate)] {
			c, err := x509.ParseCertificate(root.Certificate)
			if err != nil {
				t.Fatal(err)
			}
			left = append(left, c.Subject.String())
		}
	}
	if want := []string{"CN=Izenpe.com,O=IZENPE S.A.,C=ES"}; !reflect.DeepEqual(left, want) {
		t.Errorf("left out are %q, want %q", left, want)
	}
	if len(in)+len(left) != all || len(in) < 100 {
		t.Errorf("%d certificates, %d left out, of %d", len(in), len(left), all)
	}
}

func TestStaticTimeZones(t *testing.T) {
	t.Parallel()
	_, _, contents := staticTree(t, layer.Gzip)
	load := func(name string) *time.Location {
		location, err := time.LoadLocationFromTZData(name, contents["usr/share/zoneinfo/"+name])
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return location
	}
	at := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	for name, want := range map[string]string{
		"Europe/Zurich": "14:00 CEST", "America/New_York": "08:00 EDT", "Asia/Kolkata": "17:30 IST", "UTC": "12:00 UTC", "America/Argentina/Ushuaia": "09:00 -03",
	} {
		if got := at.In(load(name)).Format("15:04 MST"); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	n := 0
	for file := range contents {
		if name, ok := strings.CutPrefix(file, "usr/share/zoneinfo/"); ok && name != "" && !strings.HasSuffix(name, "/") {
			load(name)
			n++
		}
	}
	if n < 500 {
		t.Errorf("%d time zones", n)
	}
}

func TestStaticFiles(t *testing.T) {
	t.Parallel()
	_, headers, contents := staticTree(t, layer.Gzip)
	homes := map[string]tar.Header{}
	for _, h := range headers {
		homes["/"+strings.TrimSuffix(h.Name, "/")] = h
	}
	for line := range strings.Lines(string(contents["etc/passwd"])) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) != 7 || fields[2] != fields[3] {
			t.Fatalf("%q", line)
		}
		if !strings.Contains("\n"+string(contents["etc/group"]), "\n"+fields[0]+":x:"+fields[3]+":\n") {
			t.Errorf("%s has no group", fields[0])
		}
		home, ok := homes[fields[5]]
		if fields[0] != "nobody" && (!ok || fmt.Sprint(home.Uid) != fields[2] || home.Mode != 0o700) {
			t.Errorf("home of %s: %+v", fields[0], home)
		}
	}
	if h := homes["/tmp"]; h.Mode != 0o1777 {
		t.Errorf("/tmp has mode %o", h.Mode)
	}
	release := string(contents["etc/os-release"])
	for _, want := range []string{"ID=anyarch-static\n", `VERSION_ID="` + StaticVersion + "\"\n", "(tzdata " + zoneinfoVersion + ")", "anyarch static"} {
		if !strings.Contains(release, want) {
			t.Errorf("os-release lacks %q:\n%s", want, release)
		}
	}
	if got := string(contents["etc/nsswitch.conf"]); got != "hosts: files dns\n" {
		t.Errorf("nsswitch.conf is %q", got)
	}
}

// The version is the date of the module that the certificates are from.
func TestStaticVersion(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(filepath.Join("..", "..", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(data), "golang.org/x/crypto/x509roots/fallback v0.0.0-")
	if len(after) < 8 || after[:4]+"-"+after[4:6]+"-"+after[6:8] != StaticVersion {
		t.Errorf("StaticVersion is %s, go.mod has %.14s: change it, and the digests of static", StaticVersion, after)
	}
}

// What is committed is what the generator makes of the same version.
func TestTimeZonesAreOfTheToolchain(t *testing.T) {
	t.Parallel()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Skipf("there is no go command: %v", err)
	}
	dir := filepath.Join(strings.TrimSpace(string(root)), "lib", "time")
	script, err := os.ReadFile(filepath.Join(dir, "update.bash"))
	if err != nil || !bytes.Contains(script, []byte("\nDATA="+zoneinfoVersion+"\n")) {
		t.Skipf("the toolchain's time zones are of another version than %s", zoneinfoVersion)
	}
	archive, err := zip.OpenReader(filepath.Join(dir, "zoneinfo.zip"))
	if err != nil {
		t.Skip(err)
	}
	defer archive.Close()
	entries, err := zones()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range entries {
		want, err := fs.ReadFile(archive, strings.TrimPrefix(e.Name, "usr/share/zoneinfo/"))
		if err != nil {
			t.Fatal(err)
		}
		r, err := e.Open()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s differs from the toolchain's, %v", e.Name, err)
		}
		n++
	}
	files := 0
	for _, f := range archive.File {
		if !strings.HasSuffix(f.Name, "/") {
			files++
		}
	}
	if n != files {
		t.Errorf("%d time zones of %d", n, files)
	}
}
