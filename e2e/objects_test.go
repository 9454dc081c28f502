package e2e

import (
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// objects stands for the services that BuildKit's caches live in elsewhere: S3 with the
// bucket in the path, Azure's blobs, and GitHub's cache service (version 2), whose uploads
// are Azure's. Each keeps objects by their path, as far as BuildKit's clients ask.
type objects struct {
	*httptest.Server
	mu    sync.Mutex
	kept  map[string][]byte
	auth  map[string]int // Authorization headers that came
	parts map[string][]byte
}

func newObjects(t *testing.T) *objects {
	o := &objects{kept: map[string][]byte{}, auth: map[string]int{}, parts: map[string][]byte{}}
	o.Server = httptest.NewServer(http.HandlerFunc(o.serve))
	t.Cleanup(o.Close)
	return o
}

// has counts the objects whose path contains a text.
func (o *objects) has(part string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for path := range o.kept {
		if strings.Contains(path, part) {
			n++
		}
	}
	return n
}

// authorized counts the requests whose Authorization contains a text.
func (o *objects) authorized(part string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for header, times := range o.auth {
		if strings.Contains(header, part) {
			n += times
		}
	}
	return n
}

func (o *objects) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.auth[r.Header.Get("Authorization")]++
	if name, ok := strings.CutPrefix(r.URL.Path, "/twirp/github.actions.results.api.v1.CacheService/"); ok {
		o.github(w, name, body)
		return
	}
	path, query := r.URL.Path, r.URL.Query()
	azure := r.Header.Get("X-Ms-Version") != ""
	w.Header().Set("X-Ms-Request-Id", "1")
	w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
	w.Header().Set("Etag", `"1"`)
	switch {
	case azure && query.Get("restype") == "container":
		if r.Method == http.MethodPut {
			o.kept[path] = nil
			w.WriteHeader(http.StatusCreated)
		} else if _, ok := o.kept[path]; !ok {
			w.Header().Set("X-Ms-Error-Code", "ContainerNotFound")
			w.WriteHeader(http.StatusNotFound)
		}
	case r.Method == http.MethodPut && query.Get("comp") == "block":
		o.parts[path+"\n"+query.Get("blockid")] = body
		w.WriteHeader(http.StatusCreated)
	case r.Method == http.MethodPut && query.Get("comp") == "blocklist":
		var list struct {
			Latest []string
		}
		if err := xml.Unmarshal(body, &list); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		var whole []byte
		for _, id := range list.Latest {
			whole = append(whole, o.parts[path+"\n"+id]...)
		}
		o.kept[path] = whole
		w.WriteHeader(http.StatusCreated)
	case r.Method == http.MethodPut && r.Header.Get("X-Amz-Copy-Source") != "":
		fmt.Fprint(w, `<CopyObjectResult><ETag>"1"</ETag></CopyObjectResult>`)
	case r.Method == http.MethodPut:
		o.kept[path] = body
		if azure {
			w.WriteHeader(http.StatusCreated)
		}
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		o.get(w, r, path)
	default:
		w.WriteHeader(http.StatusNotImplemented)
	}
}

func (o *objects) get(w http.ResponseWriter, r *http.Request, path string) {
	data, ok := o.kept[path]
	if !ok {
		w.Header().Set("X-Ms-Error-Code", "BlobNotFound")
		w.WriteHeader(http.StatusNotFound)
		if r.Method == http.MethodGet {
			fmt.Fprint(w, `<Error><Code>NoSuchKey</Code></Error>`)
		}
		return
	}
	status := http.StatusOK
	for _, header := range []string{"Range", "X-Ms-Range"} {
		from, ok := strings.CutPrefix(r.Header.Get(header), "bytes=")
		if !ok {
			continue
		}
		first, last, _ := strings.Cut(from, "-")
		begin, _ := strconv.Atoi(first)
		end := len(data)
		if n, err := strconv.Atoi(last); err == nil && n < end {
			end = n + 1
		}
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", begin, end-1, len(data)))
		data, status = data[min(begin, end):end], http.StatusPartialContent
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(status)
	if r.Method == http.MethodGet {
		_, _ = w.Write(data)
	}
}

// github answers the calls of GitHub's cache service.
func (o *objects) github(w http.ResponseWriter, name string, body []byte) {
	var call struct {
		Key         string   `json:"key"`
		RestoreKeys []string `json:"restore_keys"`
	}
	answer := map[string]any{"ok": false}
	if err := json.Unmarshal(body, &call); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	switch name {
	case "CreateCacheEntry":
		answer = map[string]any{"ok": true, "signed_upload_url": o.URL + "/github/" + call.Key}
	case "FinalizeCacheEntryUpload":
		answer = map[string]any{"ok": true, "entry_id": "1"}
	case "GetCacheEntryDownloadURL":
		// The newest entry whose key begins with one of those that were asked for.
		for _, prefix := range call.RestoreKeys {
			best := ""
			for path := range o.kept {
				if key, ok := strings.CutPrefix(path, "/github/"); ok && strings.HasPrefix(key, prefix) && key > best {
					best = key
				}
			}
			if best != "" && !answer["ok"].(bool) {
				answer = map[string]any{"ok": true, "signed_download_url": o.URL + "/github/" + best, "matched_key": best}
			}
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

// githubToken is a token as GitHub's runners have it, as far as BuildKit reads it.
func githubToken() string {
	encode := func(v any) string {
		data, _ := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(data)
	}
	return encode(map[string]string{"alg": "none", "typ": "JWT"}) + "." + encode(map[string]any{
		"ac": `[{"Scope":"refs/heads/main","Permission":3}]`, "nbf": time.Now().Add(-time.Hour).Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	}) + "." + base64.RawURLEncoding.EncodeToString([]byte("signature of the test"))
}
