package serve

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
)

// exchange sends a request to the handler itself.
func exchange(s *Server, method, path string, body io.Reader) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(method, path, body))
	return w
}

func begin(t *testing.T, s *Server) string {
	t.Helper()
	w := exchange(s, "POST", "/v2/app/blobs/uploads/", nil)
	if w.Code != http.StatusAccepted {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	return w.Header().Get("Location")
}

func temporary(t *testing.T, root string) int {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(root, "app", "ingest"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return len(entries)
}

func TestUploadExpires(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Options{Root: root, UploadExpiry: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		at := begin(t, s)
		for range 3 { // each request makes it live on
			time.Sleep(50 * time.Minute)
			if w := exchange(s, "PATCH", at, strings.NewReader("x")); w.Code != http.StatusAccepted {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
		}
		if n := temporary(t, root); n != 1 {
			t.Errorf("%d temporary files", n)
		}
		time.Sleep(61 * time.Minute)
		synctest.Wait()
		if w := exchange(s, "GET", at, nil); w.Code != http.StatusNotFound {
			t.Errorf("%d", w.Code)
		}
		if n := temporary(t, root); n != 0 {
			t.Errorf("%d temporary files", n)
		}
	})
}

// TestUploadQuota opens more uploads than may be: those that have been idle
// make room, fresh ones don't, and an upload without a byte costs no file.
func TestUploadQuota(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Options{Root: root, MaxUploads: 10})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		first := begin(t, s)
		for range 9 {
			begin(t, s)
		}
		w := exchange(s, "POST", "/v2/app/blobs/uploads/", nil)
		if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), "TOOMANYREQUESTS") {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		if n := temporary(t, root); n != 0 {
			t.Errorf("%d temporary files", n)
		}
		time.Sleep(2 * time.Minute)
		if w := exchange(s, "PATCH", first, strings.NewReader("x")); w.Code != http.StatusAccepted {
			t.Fatal(w.Code)
		}
		for range 9 {
			begin(t, s)
		}
		if w := exchange(s, "GET", first, nil); w.Code != http.StatusNoContent {
			t.Errorf("an upload in use gave way: %d", w.Code)
		}
	})
}

func TestUploadCancelAndClose(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	s, err := New(Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	one, two := begin(t, s), begin(t, s)
	for _, at := range []string{one, two} {
		exchange(s, "PATCH", at, strings.NewReader("x"))
	}
	if w := exchange(s, "DELETE", strings.Replace(one, "/app/", "/other/", 1), nil); w.Code != http.StatusNotFound {
		t.Errorf("cancelled from another repository: %d", w.Code)
	}
	if w := exchange(s, "DELETE", one, nil); w.Code != http.StatusNoContent {
		t.Error(w.Code)
	}
	if w := exchange(s, "DELETE", one, nil); w.Code != http.StatusNotFound {
		t.Error(w.Code)
	}
	if n := temporary(t, root); n != 1 {
		t.Errorf("%d temporary files", n)
	}
	s.Close()
	if n := temporary(t, root); n != 0 {
		t.Errorf("%d temporary files", n)
	}
}

// TestUploadTakeover goes on with an upload whose connection hangs.
func TestUploadTakeover(t *testing.T) {
	t.Parallel()
	s, err := New(Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s)
	defer server.Close()
	at := begin(t, s)

	hanging, feed := io.Pipe()
	defer feed.Close()
	broken := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		req, err := http.NewRequestWithContext(ctx, "PATCH", server.URL+at, hanging)
		if err == nil {
			var resp *http.Response
			if resp, err = http.DefaultClient.Do(req); err == nil {
				resp.Body.Close()
				err = fmt.Errorf("status %d", resp.StatusCode)
			}
		}
		broken <- err
	}()
	if _, err := feed.Write([]byte("0123456789")); err != nil {
		t.Fatal(err)
	}
	for exchange(s, "GET", at, nil).Header().Get("Range") != "0-9" { // till they have arrived
		time.Sleep(time.Millisecond)
	}
	data := []byte("0123456789abcdef")
	req := httptest.NewRequest("PATCH", at, bytes.NewReader(data[10:]))
	req.Header.Set("Content-Range", "10-15")
	w := httptest.NewRecorder()
	s.ServeHTTP(w, req)
	if w.Code != http.StatusAccepted {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	feed.CloseWithError(io.ErrUnexpectedEOF)
	if err := <-broken; err == nil || err.Error() == "status 202" {
		t.Errorf("the hanging request: %v", err)
	}
	if w := exchange(s, "PUT", at+"?digest="+digest.FromBytes(data).String(), nil); w.Code != http.StatusCreated {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestUploadResumes goes on after a connection that broke.
func TestUploadResumes(t *testing.T) {
	t.Parallel()
	s, err := New(Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	at := begin(t, s)
	w := exchange(s, "PATCH", at, io.MultiReader(strings.NewReader("01234"), failing{}))
	if w.Code != http.StatusBadRequest {
		t.Fatal(w.Code)
	}
	if w := exchange(s, "GET", at, nil); w.Header().Get("Range") != "0-4" {
		t.Fatal(w.Header())
	}
	if w := exchange(s, "PUT", at+"?digest="+digest.FromString("0123456789").String(), strings.NewReader("56789")); w.Code != http.StatusCreated {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func FuzzContentRange(f *testing.F) {
	for _, v := range []string{"0-0", "0-9223372036854775807", "bytes 1-2/3", "-", "+1-2", "2-1", "0x1-2"} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, value string) {
		first, last, ok := parseContentRange(value)
		if ok && (first < 0 || last < first || last-first+1 <= 0) {
			t.Errorf("%q: %d-%d", value, first, last)
		}
	})
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}}`), "")
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{}]}`), "application/vnd.oci.image.index.v1+json; x=y")
	f.Fuzz(func(t *testing.T, data []byte, contentType string) {
		m, mediaType, err := parseManifest(data, contentType)
		if err != nil {
			return
		}
		for _, d := range m.needs() {
			if d.Validate() != nil {
				t.Errorf("%s", d)
			}
		}
		if mediaType == "" || m.fact().mediaType == "" {
			t.Error("no media type")
		}
	})
}
