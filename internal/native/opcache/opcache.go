// Package opcache keeps what instructions of a Dockerfile have done to a file tree,
// from run to run: the differences as a record, and the content of all files that
// they brought as one blob.
package opcache

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/store"
)

// Source is something of the network that a result depends on and that changes: the
// index of a package repository.
type Source struct {
	URL    string `json:"url"`
	SHA256 string `json:"sha256"` // of what it was
}

// Record says what an instruction did.
type Record struct {
	Blob    digest.Digest `json:"blob,omitempty"` // content of files; empty if there is none
	Size    int64         `json:"size,omitempty"`
	Forced  bool          `json:"forced,omitempty"`
	Gone    []string      `json:"gone,omitempty"`
	Files   []file        `json:"files,omitempty"`
	Bound   bool          `json:"bound,omitempty"`   // it depends on the platform
	Sources []Source      `json:"sources,omitempty"` // of it and of all that it was made from
	Own     []Source      `json:"own,omitempty"`     // of it alone
}

// Did identifies what the instruction did, and nothing else.
func (r *Record) Did() (string, error) {
	only := *r
	only.Sources, only.Own = nil, nil
	data, err := only.Encode()
	return digest.FromBytes(data).Encoded(), err
}

type file struct {
	Path       string            `json:"p"`
	Removed    bool              `json:"d,omitempty"`
	Mode       fs.FileMode       `json:"m,omitempty"`
	UID        int               `json:"u,omitempty"`
	GID        int               `json:"g,omitempty"`
	Time       time.Time         `json:"t,omitzero"`
	Xattrs     map[string][]byte `json:"x,omitempty"`
	Link       string            `json:"l,omitempty"`
	Major      int64             `json:"ma,omitempty"`
	Minor      int64             `json:"mi,omitempty"`
	Offset     int64             `json:"o,omitempty"` // in the blob
	Size       int64             `json:"s,omitempty"`
	LinkTo     string            `json:"h,omitempty"`
	Incomplete bool              `json:"i,omitempty"`
	Assumed    bool              `json:"a,omitempty"`
	Unread     []string          `json:"r,omitempty"`
}

// Save writes the content that a delta brings to a store and gives its record.
func Save(st *store.Store, d filetree.Delta) (*Record, error) {
	r := &Record{Forced: d.Forced, Gone: d.Gone}
	var blob *store.Writer
	for _, c := range d.Files {
		f := file{Path: c.Path, Removed: c.Removed, Mode: c.Mode, UID: c.UID, GID: c.GID, Time: c.ModTime, Link: c.Link, Major: c.DevMajor, Minor: c.DevMinor,
			LinkTo: c.LinkTo, Incomplete: c.Incomplete, Assumed: c.Assumed, Unread: c.Unread}
		for k, v := range c.Xattrs {
			if f.Xattrs == nil {
				f.Xattrs = map[string][]byte{}
			}
			f.Xattrs[k] = []byte(v)
		}
		if f.Size = c.Size(); f.Size > 0 && c.LinkTo == "" {
			if blob == nil {
				var err error
				if blob, err = st.Ingest(); err != nil {
					return nil, err
				}
				defer blob.Abort()
			}
			f.Offset = blob.Size()
			if err := copyContent(blob, c); err != nil {
				return nil, err
			}
		}
		r.Files = append(r.Files, f)
	}
	if blob != nil {
		r.Size = blob.Size()
		var err error
		if r.Blob, err = blob.Commit(""); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func copyContent(w io.Writer, c filetree.Difference) error {
	in, err := c.Open()
	if err != nil {
		return err
	}
	n, err := io.Copy(w, in)
	if cerr := in.Close(); err == nil {
		err = cerr
	}
	if err == nil && n != c.Size() {
		err = fmt.Errorf("%s: %d bytes came instead of %d", c.Path, n, c.Size())
	}
	return err
}

// Encode writes a record down.
func (r *Record) Encode() ([]byte, error) { return json.Marshal(r) }

// Decode reads a record; nil if it is none.
func Decode(data []byte) *Record {
	var r Record
	if json.Unmarshal(data, &r) != nil {
		return nil
	}
	return &r
}

// Usable reports whether the content of a record is in a store.
func (r *Record) Usable(st *store.Store) bool {
	if r.Blob == "" {
		return true
	}
	size, err := st.Size(r.Blob)
	return err == nil && size == r.Size
}

// Restore does to a tree what the instruction did. The content is read and compared
// with its digest first: what is damaged is removed from the store, and an error.
func (r *Record) Restore(st *store.Store, t *filetree.Tree) error {
	var path string
	if r.Blob != "" {
		f, err := st.Blob(r.Blob)
		if err != nil {
			return err
		}
		verifier := r.Blob.Verifier()
		_, err = io.Copy(verifier, f)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err == nil && !verifier.Verified() {
			_ = st.Delete(r.Blob) // so that it is made again
			err = fmt.Errorf("%s of the cache is damaged", r.Blob)
		}
		if err != nil {
			return err
		}
		if err := st.Settle(r.Blob); err != nil {
			return err
		}
		if path, err = st.Path(r.Blob); err != nil {
			return err
		}
	}
	d := filetree.Delta{Forced: r.Forced, Gone: r.Gone}
	contents := map[string]filetree.Content{}
	for _, f := range r.Files {
		c := filetree.Difference{Path: f.Path, Removed: f.Removed, LinkTo: f.LinkTo, Incomplete: f.Incomplete, Assumed: f.Assumed, Unread: f.Unread,
			Attr: filetree.Attr{Mode: f.Mode, UID: f.UID, GID: f.GID, ModTime: f.Time, Link: f.Link, DevMajor: f.Major, DevMinor: f.Minor}}
		for k, v := range f.Xattrs {
			if c.Xattrs == nil {
				c.Xattrs = map[string]string{}
			}
			c.Xattrs[k] = string(v)
		}
		if f.Size > 0 {
			if f.Offset < 0 || f.Offset+f.Size > r.Size {
				return fmt.Errorf("the record of %s doesn't fit its content", f.Path)
			}
			if f.LinkTo != "" {
				c.Content = contents[f.LinkTo]
			} else {
				c.Content = filetree.SectionContent(path, f.Offset, f.Size)
				contents[f.Path] = c.Content
			}
		}
		d.Files = append(d.Files, c)
	}
	return t.Apply(d)
}
