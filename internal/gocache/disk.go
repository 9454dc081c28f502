// Package gocache shares Go's build cache through an OCI registry.
//
// The go command asks a helper program for what it would look up in its build cache
// (GOCACHEPROG, cmd/go/internal/cacheprog). The helper is this very program; it hands
// every question to the run that started go, over a local socket. There, what the
// user's own build cache has is answered from it, what the registry has is fetched and
// put into it, and what go makes is put into it too, so that a plain go build finds all
// of it.
//
// In the registry there is one manifest under a tag. Thousands of small entries are
// packed, in the order in which builds need them, into blobs of some megabytes; an
// index, which is fetched first, says which entry is in which. A pack is fetched when
// one of its entries is wanted, and the next ones with it.
//
// Everything that comes is checked: the manifest names index and packs by digest, an
// entry must be what the index says, and its content has the hash that go calls its
// output ID. None of this says that an entry is right: whoever may write to the tag
// decides what is linked into programs. So only builds that are trusted may write, and
// others say mode=ro.
package gocache

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// ID is an action ID or an output ID of the go command: a SHA-256.
type ID [sha256.Size]byte

// entry is one result of an action.
type entry struct {
	action, output ID
	size           int64
}

// disk is a directory in the form of the go command's own build cache
// (cmd/go/internal/cache): below the first byte of an ID, ACTION-a says what came of
// an action and OUTPUT-d is it. It may be shared with running go commands.
type disk struct{ dir string }

func (d disk) path(id ID, kind string) string {
	return filepath.Join(d.dir, hex.EncodeToString(id[:1]), hex.EncodeToString(id[:])+"-"+kind)
}

// get gives what came of an action, and the file with it.
func (d disk) get(action ID) (entry, string, bool) {
	data, err := os.ReadFile(d.path(action, "a"))
	if err != nil {
		return entry{}, "", false
	}
	e, ok := parseEntry(data)
	if !ok || e.action != action {
		return entry{}, "", false
	}
	file := d.path(e.output, "d")
	info, err := os.Stat(file)
	if err != nil || info.Size() != e.size || !info.Mode().IsRegular() {
		return entry{}, "", false
	}
	// The go command removes what wasn't used for five days, and looks at times to
	// the hour.
	if now := time.Now(); now.Sub(info.ModTime()) > time.Hour {
		_ = os.Chtimes(file, now, now)
		_ = os.Chtimes(d.path(action, "a"), now, now)
	}
	return e, file, true
}

// parseEntry reads the file of an action: v1 ACTION OUTPUT SIZE TIME.
func parseEntry(data []byte) (entry, bool) {
	var e entry
	fields := bytes.Fields(data)
	if len(fields) != 5 || string(fields[0]) != "v1" || len(fields[1]) != 2*len(e.action) || len(fields[2]) != 2*len(e.output) {
		return e, false
	}
	if _, err := hex.Decode(e.action[:], fields[1]); err != nil {
		return e, false
	}
	if _, err := hex.Decode(e.output[:], fields[2]); err != nil {
		return e, false
	}
	var err error
	e.size, err = strconv.ParseInt(string(fields[3]), 10, 64)
	return e, err == nil && e.size >= 0
}

// put keeps what came of an action, if it is what the entry says, and gives the file.
func (d disk) put(e entry, body io.Reader) (string, error) {
	file := d.path(e.output, "d")
	if info, err := os.Stat(file); err == nil && info.Size() == e.size && info.Mode().IsRegular() {
		if n, err := io.Copy(io.Discard, io.LimitReader(body, e.size)); err != nil || n != e.size {
			return "", cutShort(e, n, err)
		}
		return file, d.note(e)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
		return "", err
	}
	temp, err := os.CreateTemp(filepath.Dir(file), "anyarch-")
	if err != nil {
		return "", err
	}
	defer os.Remove(temp.Name()) // fails once renamed, as it should
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(temp, sum), io.LimitReader(body, e.size))
	if cerr := temp.Close(); err == nil {
		err = cerr
	}
	if err != nil || n != e.size {
		return "", cutShort(e, n, err)
	}
	if ID(sum.Sum(nil)) != e.output {
		return "", fmt.Errorf("the output of action %x isn't the one that was announced", e.action)
	}
	if err := os.Chmod(temp.Name(), 0o666&^umask); err != nil {
		return "", err
	}
	if err := os.Rename(temp.Name(), file); err != nil {
		// Elsewhere than on Unix a file that somebody reads isn't replaced: it is the same.
		if info, serr := os.Stat(file); serr != nil || info.Size() != e.size {
			return "", err
		}
	}
	return file, d.note(e)
}

// umask is that of most systems: what is in the cache is for its owner to change.
const umask fs.FileMode = 0o022

func cutShort(e entry, n int64, err error) error {
	if err != nil {
		return err
	}
	return fmt.Errorf("%d bytes of an output came instead of %d", n, e.size)
}

func (d disk) note(e entry) error {
	file := d.path(e.action, "a")
	if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(file), "anyarch-")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name()) // fails once renamed, as it should
	_, err = fmt.Fprintf(temp, "v1 %x %x %20d %20d\n", e.action, e.output, e.size, time.Now().UnixNano())
	if cerr := temp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Chmod(temp.Name(), 0o666&^umask)
	}
	if err == nil {
		err = os.Rename(temp.Name(), file)
	}
	return err
}

// since lists the actions that were noted, or whose times were renewed, after a time.
func (d disk) since(t time.Time) []entry {
	var list []entry
	files, err := filepath.Glob(filepath.Join(d.dir, "??", "*-a"))
	if err != nil {
		return nil
	}
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil || info.ModTime().Before(t) {
			continue
		}
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if e, ok := parseEntry(data); ok {
			if got, _, ok := d.get(e.action); ok && got == e {
				list = append(list, e)
			}
		}
	}
	return list
}
