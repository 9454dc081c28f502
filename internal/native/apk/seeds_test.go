package apk_test

import (
	"os"
	"testing"

	"github.com/anyarch/anyarch/internal/native/apk/apktest"
)

// TestSeeds writes the files that fuzzing starts from: UPDATE=1 go test -run Seeds.
func TestSeeds(t *testing.T) {
	if os.Getenv("UPDATE") == "" {
		for _, name := range []string{"testdata/small.apk", "testdata/signed.apk", "testdata/APKINDEX.tar.gz"} {
			if _, err := os.Stat(name); err != nil {
				t.Error(err)
			}
		}
		return
	}
	key, err := apktest.NewKey("k.rsa.pub")
	if err != nil {
		t.Fatal(err)
	}
	p := apktest.Package{Name: "x", Version: "1.0-r0", Arch: "aarch64", Depends: []string{"y>1"}, Scripts: map[string]string{"post-install": "#!/bin/sh\n"}, Triggers: []string{"/bin"},
		Files: append(apktest.Dirs("usr/bin"), apktest.File{Name: "usr/bin/x", Mode: 0o755, Data: "x"}, apktest.File{Name: "usr/bin/y", HardLink: "usr/bin/x"})}
	small, err := p.Build(nil)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := p.Build(key)
	if err != nil {
		t.Fatal(err)
	}
	index, err := apktest.Index(key, signed.Index)
	if err != nil {
		t.Fatal(err)
	}
	put(t, "testdata/small.apk", small.File)
	put(t, "testdata/signed.apk", signed.File)
	put(t, "testdata/APKINDEX.tar.gz", index)
}
