package serve_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/serve"
	"github.com/anyarch/anyarch/internal/store"
)

// write puts an image into a layout as another program would.
func write(t testing.TB, st *store.Store, tag, seed string) ocispec.Descriptor {
	t.Helper()
	put := func(data []byte) ocispec.Descriptor {
		d, err := st.Write(data)
		if err != nil {
			t.Fatal(err)
		}
		return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: d, Size: int64(len(data))}
	}
	put([]byte("{}"))
	d := put(encode(t, manifest(put([]byte("layer "+seed)))))
	d.MediaType = ocispec.MediaTypeImageManifest
	if err := st.Tag(context.Background(), tag, d, false); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestRootIsALayout(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "apiping")
	st, err := store.Create(root)
	if err != nil {
		t.Fatal(err)
	}
	write(t, st, "1.5.0", "1")
	c := start(t, serve.Options{Root: root})
	if err := c.complete("apiping", "1.5.0"); err != nil {
		t.Error(err)
	}
	c.image("apiping", "1.6.0", "2")
	if d, err := st.Find("1.6.0"); err != nil || !st.Has(d.Digest) {
		t.Error(d, err)
	}
	empty := "/blobs/uploads/?digest=" + digest.FromString("{}").String()
	for _, name := range []string{"other", "apiping/deep", "blobs"} {
		for method, path := range map[string]string{"GET": "/tags/list", "POST": empty, "PUT": "/manifests/x"} {
			if a := c.want(404, method, "/v2/"+name+path, []byte("{}")); a.code() != "NAME_UNKNOWN" {
				t.Errorf("%s %s: %s", method, name, a.body)
			}
		}
	}
	if a := c.want(200, "GET", "/v2/_catalog", nil); string(a.body) != `{"repositories":["apiping"]}` {
		t.Errorf("%s", a.body)
	}
}

// TestOtherWriters changes a layout behind the back of the registry, at once
// after it has read it.
func TestOtherWriters(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	c := start(t, serve.Options{Root: root})
	c.want(404, "GET", "/v2/team/app/tags/list", nil)
	st, err := store.Create(filepath.Join(root, "team", "app"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 30 {
		want := write(t, st, "v1", fmt.Sprint(i))
		if a := c.want(200, "HEAD", "/v2/team/app/manifests/v1", nil); a.header.Get("Docker-Content-Digest") != want.Digest.String() {
			t.Fatalf("round %d: an old manifest", i)
		}
	}
	c.image("team/app", "v2", "pushed")
	if err := os.RemoveAll(filepath.Join(root, "team")); err != nil {
		t.Fatal(err)
	}
	c.want(404, "GET", "/v2/team/app/tags/list", nil)
	c.want(404, "GET", "/v2/team/app/blobs/"+digest.FromString("{}").String(), nil)
	c.image("team/app", "v3", "again")
	if got := c.tags("team/app"); !slices.Equal(got, []string{"v3"}) {
		t.Error(got)
	}
}

// TestForeignLayout serves what other programs write: no media types, full
// references as names, entries twice, links instead of blobs.
func TestForeignLayout(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir := filepath.Join(root, "app")
	st, err := store.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	one, two := write(t, st, "one", "1"), write(t, st, "two", "2")
	err = st.UpdateIndex(t.Context(), func(index *ocispec.Index) error {
		for i := range index.Manifests {
			index.Manifests[i].MediaType = ""
		}
		named := one
		named.Annotations = map[string]string{ocispec.AnnotationRefName: "docker.io/library/app:1"}
		again := two
		again.Annotations = map[string]string{ocispec.AnnotationRefName: "one"}
		index.Manifests = append(index.Manifests, named, again, ocispec.Descriptor{Digest: "sha256:../../../secret"})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	c := start(t, serve.Options{Root: root})
	if got := c.tags("app"); !slices.Equal(got, []string{"one", "two"}) {
		t.Error(got)
	}
	a := c.want(200, "GET", "/v2/app/manifests/one", nil)
	if a.header.Get("Content-Type") != ocispec.MediaTypeImageManifest || a.header.Get("Docker-Content-Digest") != one.Digest.String() {
		t.Error(a.header)
	}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := digest.FromString("secret")
	path, err := st.Path(d)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, path); err != nil {
		t.Skip("no symbolic links here:", err)
	}
	c.want(404, "GET", "/v2/app/blobs/"+d.String(), nil)
	c.want(202, "POST", "/v2/other/blobs/uploads/?mount="+d.String(), nil)
}

func TestReadOnly(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	st, err := store.Create(filepath.Join(root, "app"))
	if err != nil {
		t.Fatal(err)
	}
	d := write(t, st, "v1", "1")
	c := start(t, serve.Options{Root: root, ReadOnly: true})
	if err := c.complete("app", "v1"); err != nil {
		t.Error(err)
	}
	for _, request := range []string{
		"PUT /v2/app/manifests/v2", "DELETE /v2/app/manifests/v1", "DELETE /v2/app/blobs/" + d.Digest.String(),
		"POST /v2/app/blobs/uploads/", "POST /v2/new/blobs/uploads/?digest=" + digest.FromString("{}").String(), "PATCH /v2/app/blobs/uploads/x",
	} {
		method, path, _ := strings.Cut(request, " ")
		if a := c.want(405, method, path, []byte("{}")); a.header.Get("Allow") != "GET, HEAD" {
			t.Error(a.header)
		}
	}
	if _, err := os.Stat(filepath.Join(root, "new")); !os.IsNotExist(err) {
		t.Error(err)
	}
	if _, err := serve.New(serve.Options{Root: filepath.Join(root, "nowhere"), ReadOnly: true}); err == nil {
		t.Error("an absent directory")
	}
}

// TestSparse accepts what the strict registry turns down.
func TestSparse(t *testing.T) {
	t.Parallel()
	c := start(t, serve.Options{Sparse: true})
	d := c.push("app", "v1", index(descriptor("nowhere"), descriptor("neither")))
	c.want(404, "GET", "/v2/app/manifests/"+digest.FromString("nowhere").String(), nil)
	c.want(202, "DELETE", "/v2/app/manifests/"+d.Digest.String(), nil)
}

// TestConcurrentWriters pushes from eight writers through two registries over
// one directory, while a program of another kind tags in the same layout.
func TestConcurrentWriters(t *testing.T) {
	t.Parallel()
	const writers, each = 8, 12
	root := t.TempDir()
	registries := []client{start(t, serve.Options{Root: root}), start(t, serve.Options{Root: root})}
	var (
		want []string
		all  sync.WaitGroup
	)
	for w := range writers {
		for i := range each {
			want = append(want, fmt.Sprintf("w%d-%d", w, i))
		}
		all.Go(func() {
			c := registries[w%2]
			for i := range each {
				seed := fmt.Sprintf("w%d-%d", w, i)
				layer := []byte("layer " + seed)
				for _, blob := range [][]byte{[]byte("{}"), layer} {
					if a, err := c.try("POST", "/v2/app/blobs/uploads/?digest="+digest.FromBytes(blob).String(), blob); err != nil || a.status != 201 {
						t.Errorf("%s: %d %v", seed, a.status, err)
					}
				}
				if a, err := c.try("PUT", "/v2/app/manifests/"+seed, encode(t, manifest(descriptor(string(layer))))); err != nil || a.status != 201 {
					t.Errorf("%s: %d %s %v", seed, a.status, a.body, err)
				}
				if i%3 == 0 { // deletions in between lose nothing else
					if a, err := c.try("DELETE", "/v2/app/manifests/"+seed, nil); err != nil || a.status != 202 {
						t.Errorf("%s: %d %v", seed, a.status, err)
					}
					if a, err := c.try("PUT", "/v2/app/manifests/"+seed, encode(t, manifest(descriptor(string(layer))))); err != nil || a.status != 201 {
						t.Errorf("%s: %d %s %v", seed, a.status, a.body, err)
					}
				}
			}
		})
	}
	for i := range each {
		want = append(want, fmt.Sprintf("x-%d", i))
	}
	all.Go(func() {
		st, err := store.Create(filepath.Join(root, "app"))
		if err != nil {
			t.Error(err)
			return
		}
		for i := range each {
			write(t, st, fmt.Sprintf("x-%d", i), fmt.Sprintf("x-%d", i))
		}
	})
	all.Wait()
	slices.Sort(want)
	for _, c := range registries {
		if got := c.tags("app"); !slices.Equal(got, want) {
			t.Fatalf("%d tags of %d", len(got), len(want))
		}
	}
	for _, tag := range want {
		if err := registries[0].complete("app", tag); err != nil {
			t.Error(tag, err)
		}
	}
	if left := leftovers(t, root); len(left) > 0 {
		t.Error(left)
	}
}

// TestDeleteRaces pushes and deletes one image from several sides: whatever
// remains tagged is complete.
func TestDeleteRaces(t *testing.T) {
	t.Parallel()
	c := start(t, serve.Options{})
	layer := []byte("layer")
	m := encode(t, manifest(descriptor("layer")))
	d := digest.FromBytes(m).String()
	var all sync.WaitGroup
	for w := range 6 {
		all.Go(func() {
			for range 15 {
				if w%2 == 0 {
					for _, blob := range [][]byte{[]byte("{}"), layer} {
						if a, err := c.try("POST", "/v2/app/blobs/uploads/?digest="+digest.FromBytes(blob).String(), blob); err != nil || a.status != 201 {
							t.Errorf("%d %v", a.status, err)
						}
					}
					a, err := c.try("PUT", "/v2/app/manifests/v1", m)
					if err != nil || a.status != 201 && a.code() != "MANIFEST_BLOB_UNKNOWN" {
						t.Errorf("%d %s %v", a.status, a.body, err)
					}
					continue
				}
				for _, path := range []string{"manifests/" + d, "blobs/" + digest.FromBytes(layer).String()} {
					if a, err := c.try("DELETE", "/v2/app/"+path, nil); err != nil || a.status != 202 && a.status != 404 && a.status != 405 {
						t.Errorf("%d %s %v", a.status, a.body, err)
					}
				}
			}
		})
	}
	all.Wait()
	for _, tag := range c.tags("app") {
		if err := c.complete("app", tag); err != nil {
			t.Error(err)
		}
	}
}
