package source

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/anyarch/anyarch/internal/filetree"
)

func tree(t testing.TB, files map[string]string) *filetree.Tree {
	t.Helper()
	tr := filetree.New()
	for name, text := range files {
		if err := tr.MkdirAll(path.Dir(name), filetree.Attr{Mode: 0o755}); err != nil {
			t.Fatal(err)
		}
		if err := tr.Put(name, filetree.Attr{Mode: 0o644, Content: filetree.Bytes(text).Content()}); err != nil {
			t.Fatal(err)
		}
	}
	return tr
}

const key = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDMEYCQjIxYJKwYBBAHaRw8BAQdAD/P5Nvvn\n=abcd\n-----END PGP PUBLIC KEY BLOCK-----\n"

func TestRead(t *testing.T) {
	t.Parallel()
	embeddedKey := " " + strings.ReplaceAll(strings.TrimSuffix(strings.ReplaceAll(key, "\n\n", "\n.\n"), "\n"), "\n", "\n ")
	for _, c := range []struct {
		name  string
		files map[string]string
		want  []Source
	}{
		{"nothing", nil, nil},
		{"lines", map[string]string{mainFile: "# a comment\n\ndeb http://deb.debian.org/debian bookworm main contrib # more\r\n \tdeb-src\thttp://deb.debian.org/debian/\tbookworm\tmain\n"}, []Source{
			{URI: "http://deb.debian.org/debian/", Suite: "bookworm", Components: []string{"main", "contrib"}, Place: mainFile + ":3"},
			{Sources: true, URI: "http://deb.debian.org/debian/", Suite: "bookworm", Components: []string{"main"}, Place: mainFile + ":4"},
		}},
		{"options", map[string]string{mainFile: "deb [ arch=amd64,arm64 signed-by=/a.gpg,/b.asc trusted=yes lang=en check-valid-until=no valid-until-max=86400] https://x bookworm/updates main\ndeb [arch+=i386 arch-=arm64 allow-insecure=yes allow-weak=no allow-downgrade-to-insecure=1 check-date=off date-max-future=5 valid-until-min=6 pdiffs=no by-hash=force target-=Contents] http://y a b"}, []Source{
			{URI: "https://x/", Suite: "bookworm/updates", Components: []string{"main"}, Architectures: []string{"amd64", "arm64"}, SignedBy: SignedBy{Files: []string{"/a.gpg", "/b.asc"}}, Trusted: Yes, CheckValidUntil: No, ValidUntilMax: 86400, Place: mainFile + ":1"},
			{URI: "http://y/", Suite: "a", Components: []string{"b"}, AddArchitectures: []string{"i386"}, RemoveArchitectures: []string{"arm64"}, AllowInsecure: Yes, AllowWeak: No, AllowDowngrade: Yes, CheckDate: No, DateMaxFuture: 5, ValidUntilMin: 6, Place: mainFile + ":2"},
		}},
		{"directories", map[string]string{mainFile: "deb [trusted=true] file:/repo ./\ndeb file:///repo2 /\ndeb file:/repo3 binary-$(ARCH)/\n"}, []Source{
			{URI: "file:/repo/", Suite: "./", Components: []string{}, Trusted: Yes, Place: mainFile + ":1"},
			{URI: "file:///repo2/", Suite: "/", Components: []string{}, Place: mainFile + ":2"},
			{URI: "file:/repo3/", Suite: "binary-amd64/", Components: []string{}, Place: mainFile + ":3"},
		}},
		{"quotes", map[string]string{mainFile: "deb cdrom:[Debian#1]/x%20y\"/z\" bookworm main\n"}, nil},
		{"files", map[string]string{
			partsDir + "/b.list": "deb http://b s c\n", partsDir + "/a.sources": "Types: deb\nURIs: http://a\nSuites: s\nComponents: c\n",
			partsDir + "/c.list.bak": "nonsense", partsDir + "/d e.list": "nonsense", partsDir + "/.f.list": "nonsense", partsDir + "/dir.list/x": "nonsense", mainFile: "deb http://m s c\n",
		}, []Source{
			{URI: "http://m/", Suite: "s", Components: []string{"c"}, Place: mainFile + ":1"},
			{URI: "http://a/", Suite: "s", Components: []string{"c"}, Place: partsDir + "/a.sources:1"},
			{URI: "http://b/", Suite: "s", Components: []string{"c"}, Place: partsDir + "/b.list:1"},
		}},
		{"stanzas", map[string]string{partsDir + "/x.sources": "# one\n\nTypes: deb deb-src\nURIs: http://a/ https://b\nSuites: s t\nComponents: c\n d\nArchitectures: amd64 arm64\nArchitectures-Add: i386\nTrusted: No\nX-Repolib-Name: me\n\nEnabled: no\nTypes: nonsense\nNonsense: x\n\nEnabled: yes\nTypes: deb\nURIs: http://c\nSuites: ./\nSigned-By:" + embeddedKey + "\n"}, []Source{
			{URI: "http://a/", Suite: "s", Components: []string{"c", "d"}, Architectures: []string{"amd64", "arm64"}, AddArchitectures: []string{"i386"}, Trusted: No, Place: partsDir + "/x.sources:3"},
			{URI: "http://a/", Suite: "t", Components: []string{"c", "d"}, Architectures: []string{"amd64", "arm64"}, AddArchitectures: []string{"i386"}, Trusted: No, Place: partsDir + "/x.sources:3"},
			{URI: "https://b/", Suite: "s", Components: []string{"c", "d"}, Architectures: []string{"amd64", "arm64"}, AddArchitectures: []string{"i386"}, Trusted: No, Place: partsDir + "/x.sources:3"},
			{URI: "https://b/", Suite: "t", Components: []string{"c", "d"}, Architectures: []string{"amd64", "arm64"}, AddArchitectures: []string{"i386"}, Trusted: No, Place: partsDir + "/x.sources:3"},
			{Sources: true, URI: "http://a/", Suite: "s", Components: []string{"c", "d"}, Architectures: []string{"amd64", "arm64"}, AddArchitectures: []string{"i386"}, Trusted: No, Place: partsDir + "/x.sources:3"},
			{Sources: true, URI: "http://a/", Suite: "t", Components: []string{"c", "d"}, Architectures: []string{"amd64", "arm64"}, AddArchitectures: []string{"i386"}, Trusted: No, Place: partsDir + "/x.sources:3"},
			{Sources: true, URI: "https://b/", Suite: "s", Components: []string{"c", "d"}, Architectures: []string{"amd64", "arm64"}, AddArchitectures: []string{"i386"}, Trusted: No, Place: partsDir + "/x.sources:3"},
			{Sources: true, URI: "https://b/", Suite: "t", Components: []string{"c", "d"}, Architectures: []string{"amd64", "arm64"}, AddArchitectures: []string{"i386"}, Trusted: No, Place: partsDir + "/x.sources:3"},
			{URI: "http://c/", Suite: "./", Components: []string{}, SignedBy: SignedBy{Key: key}, Place: partsDir + "/x.sources:17"},
		}},
		{"fingerprints", map[string]string{partsDir + "/x.sources": "Types: deb\nURIs: http://a/\nSuites: s\nComponents: c\nSigned-By: /usr/share/keyrings/a.gpg,\n 4D64FEC119C2029067D6E791F8D2585B8783D481!\n"}, []Source{
			{URI: "http://a/", Suite: "s", Components: []string{"c"}, SignedBy: SignedBy{Files: []string{"/usr/share/keyrings/a.gpg"}, Fingerprints: []string{"4D64FEC119C2029067D6E791F8D2585B8783D481!"}}, Place: partsDir + "/x.sources:1"},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := Read(tree(t, c.files), "amd64")
			if c.name == "quotes" {
				c.want = []Source{{URI: "cdrom:[Debian#1]/x y/z/", Suite: "bookworm", Components: []string{"main"}, Place: mainFile + ":1"}}
				if err == nil || !strings.Contains(err.Error(), "has a space in it") {
					t.Errorf("%+v %v", got, err)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("%v\n%+v\nwant\n%+v", err, got, c.want)
			}
		})
	}
}

func TestReadErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ file, text, want string }{
		{mainFile, "\nrpm http://a b c\n", `:2: the type "rpm" isn't known`},
		{mainFile, "deb\n", ":1: it has no URI or no suite"},
		{mainFile, "deb http://a\n", ":1: it has no URI or no suite"},
		{mainFile, "deb http://a b\n", ":1: the suite b has no component"},
		{mainFile, "deb http://a b/ c\n", ":1: the directory b/ can't have components"},
		{mainFile, "deb http://a ../../b c\n", ":1: the suite ../../b leads out of the archive"},
		{mainFile, "deb a b c\n", `:1: "a" is no URI`},
		{mainFile, "deb [arch=amd64 http://a b c\n", ":1: the options don't end in ]"},
		{mainFile, "deb [arch] http://a b c\n", `:1: the option "arch" has no name or no value`},
		{mainFile, "deb [arch=] http://a b c\n", `:1: the option "arch=" has no name or no value`},
		{mainFile, "deb [snapshot=2024] http://a b c\n", ":1: the option snapshot isn't known"},
		{mainFile, "deb [trusted+=yes] http://a b c\n", ":1: the option trusted+ isn't known"},
		{mainFile, "deb [trusted=maybe] http://a b c\n", `:1: trusted is "maybe", neither yes nor no`},
		{mainFile, "deb [valid-until-max=-1] http://a b c\n", `:1: valid-until-max is "-1", no number of seconds`},
		{mainFile, "deb [signed-by=a.gpg] http://a b c\n", `:1: Signed-By has "a.gpg", which is neither an absolute path nor a fingerprint`},
		{mainFile, "deb [signed-by=,] http://a b c\n", `:1: Signed-By is empty`},
		{mainFile, "deb \"http://a b c\n", `:1: "\"http://a b c" doesn't end in "`},
		{mainFile, "deb http://a b c\ndeb [trusted=yes] http://a/ b d\n", ":2: conflicting values for the option Trusted of http://a/ b, which is at /etc/apt/sources.list:1 too"},
		{mainFile, "deb [signed-by=/x] http://a b c\ndeb http://a/ b d\n", ":2: conflicting values for the option Signed-By of http://a/ b, which is at /etc/apt/sources.list:1 too"},
		{partsDir + "/x.sources", "Types: deb\nURIs\n", `:2: "URIs" has no colon after its name`},
		{partsDir + "/x.sources", "\nTypes: rpm\nURIs: http://a\nSuites: b\nComponents: c\n", `:2: the type "rpm" isn't known`},
		{partsDir + "/x.sources", "URIs: http://a\nSuites: b\nComponents: c\n", `:1: it has no Types`},
		{partsDir + "/x.sources", "Types: deb\nSuites: b\nComponents: c\n", `:1: it has no URIs`},
		{partsDir + "/x.sources", "Types: deb\nURIs: http://a\nComponents: c\n", `:1: it has no Suites`},
		{partsDir + "/x.sources", "Types: deb\nURIs: http://a\nSuites: b\n", `:1: the suite b has no component`},
		{partsDir + "/x.sources", "Types: deb\nURIs: http://a\nSuites: b\nComponent: c\n", `:1: the field Component isn't known`},
		{partsDir + "/x.sources", "Types: deb\nURIs: http://a\nSuites: b\nComponents: c\nSnapshot: yes\n", `:1: the field Snapshot isn't known`},
		{partsDir + "/x.sources", "Types: deb\nURIs: http://a\nSuites: b\nComponents: c\nEnabled: perhaps\n", `:1: Enabled is "perhaps", neither yes nor no`},
		{partsDir + "/x.sources", "Types: deb\nURIs: http://a\nSuites: b\nComponents: c\nSigned-By: -----BEGIN PGP\n abc\n", `:1: the key of Signed-By has no end`},
	} {
		_, err := Read(tree(t, map[string]string{c.file: c.text}), "amd64")
		if err == nil || err.Error() != c.file+c.want {
			t.Errorf("%q: %v, want %s", c.text, err, c.file+c.want)
		}
	}
}

func TestIndexes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		source  Source
		base    string
		indexes string
	}{
		{Source{URI: "http://a/", Suite: "b", Components: []string{"c", "d"}}, "http://a/dists/b/", "c/binary-amd64/Packages d/binary-amd64/Packages"},
		{Source{URI: "http://a/", Suite: "b/updates", Components: []string{"c"}}, "http://a/dists/b/updates/", "c/binary-amd64/Packages"},
		{Source{URI: "http://a/", Suite: "/"}, "http://a/", "Packages"},
		{Source{URI: "http://a/", Suite: "./"}, "http://a/./", "Packages"},
		{Source{URI: "http://a/", Suite: "x/y/"}, "http://a/x/y/", "Packages"},
	} {
		if got := c.source.Base(); got != c.base {
			t.Errorf("base %s, want %s", got, c.base)
		}
		if got := strings.Join(c.source.Indexes("amd64"), " "); got != c.indexes {
			t.Errorf("indexes %s, want %s", got, c.indexes)
		}
	}
	s := Source{AddArchitectures: []string{"i386", "arm64"}, RemoveArchitectures: []string{"amd64"}}
	if got := fmt.Sprint(s.For([]string{"amd64", "i386"})); got != "[i386 arm64]" {
		t.Errorf("architectures %s", got)
	}
	s.Architectures = []string{"amd64", "riscv64"}
	if got := fmt.Sprint(s.For([]string{"s390x"})); got != "[riscv64 i386 arm64]" {
		t.Errorf("architectures %s", got)
	}
}

// TestLikeApt compares the indexes with those that the apt of the host would get.
func TestLikeApt(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("apt-get"); err != nil || testing.Short() {
		t.Skip("no apt on this host, or a short test")
	}
	files := map[string]string{
		mainFile:                   "deb http://deb.debian.org/debian bookworm main contrib #x\ndeb-src http://deb.debian.org/debian bookworm main\ndeb [ arch=arm64 trusted=yes ] http://a/x%41 s/t c\n",
		partsDir + "/one.list":     "deb [arch+=i386 trusted=no] http://b/ s c d\ndeb [arch=amd64,i386 arch-=i386] http://c \"s\" c\ndeb http://d ./\ndeb http://d2 /\ndeb http://d3/ x/$(ARCH)/\n",
		partsDir + "/two.sources":  "# x\nTypes: deb deb-src\nURIs: http://e http://f/g\nSuites: s t\n# in between\nComponents: c d\n\n\nTypes: deb\nURIs: http://g/$(ARCH)\nSuites: s-$(ARCH)\nComponents: c\nArchitectures: i386 amd64\nArchitectures-Remove: i386\nTrusted: yes\n",
		partsDir + "/three.list.x": "nonsense\n",
		partsDir + "/four.sources": "Types: deb\nURIs: http://h\nSuites: s\nComponents: c\nEnabled: no\n",
	}
	dir := t.TempDir()
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(dir+name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command("apt-get", "indextargets", "--no-release-info", "-o", "APT::Architecture=amd64", "-o", "APT::Architectures::=amd64",
		"-o", "Dir::Etc::sourcelist="+dir+mainFile, "-o", "Dir::Etc::sourceparts="+dir+partsDir,
		"--format", "$(REPO_URI) $(RELEASE) $(COMPONENT) $(ARCHITECTURE) $(METAKEY)", "Created-By: Packages").Output()
	if err != nil {
		t.Skipf("apt-get indextargets: %v", err)
	}
	want := strings.Split(strings.TrimSpace(string(out)), "\n")
	// A directory has neither component nor architecture; "all" comes along.
	unset := strings.NewReplacer("$(COMPONENT)", "", "$(ARCHITECTURE)", "")
	for i := range want {
		want[i] = strings.Join(strings.Fields(unset.Replace(want[i])), " ")
	}
	want = slices.DeleteFunc(want, func(line string) bool { return strings.Contains(line, "/binary-all/") })
	list, err := Read(tree(t, files), "amd64")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range list {
		if s.Sources {
			continue
		}
		for _, arch := range s.For([]string{"amd64"}) {
			for i, index := range s.Indexes(arch) {
				component, shown := "", arch
				if len(s.Components) > 0 {
					component = s.Components[i] + " "
				} else {
					shown = ""
				}
				release := s.Suite + " "
				if s.Suite == "/" {
					release = ""
				}
				got = append(got, strings.Join(strings.Fields(s.URI+" "+release+component+shown+" "+index), " "))
			}
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(want, got) {
		t.Errorf("indexes:\n%s\napt has:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func FuzzRead(f *testing.F) {
	f.Add("deb [ arch=amd64 signed-by=/a ] http://a b c # x\n", "Types: deb\nURIs: http://a\nSuites: b\nComponents: c\n")
	f.Add("deb [trusted=yes] cdrom:[a b]/ \"x\"%20 c", "# x\n\nTypes: deb\nSigned-By:\n -----BEGIN\n .\n -----END\n")
	f.Fuzz(func(t *testing.T, lines, stanzas string) {
		for file, text := range map[string]string{mainFile: lines, partsDir + "/x.sources": stanzas} {
			list, err := Read(tree(t, map[string]string{file: text}), "amd64")
			if err != nil && !strings.HasPrefix(err.Error(), file) {
				t.Fatalf("%v doesn't say where", err)
			}
			for _, s := range list {
				if !strings.HasSuffix(s.URI, "/") || s.Suite == "" || !strings.HasPrefix(s.Place, file+":") {
					t.Fatalf("%+v", s)
				}
			}
		}
	})
}
