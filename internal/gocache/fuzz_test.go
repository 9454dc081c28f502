package gocache

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

func compressed(t testing.TB, plain []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(plain, nil)
}

const somePack = `{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":5,"used":"2026-01-02T03:04:05Z","count":1}`

func record(size int64) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 2*sha256.Size), uint64(size))
}

// Nothing of an index that no writer makes is believed.
func TestHostileIndex(t *testing.T) {
	t.Parallel()
	for name, plain := range map[string]string{
		"empty":                "",
		"no end of the line":   "[" + somePack + "]",
		"no JSON":              "{{{\n",
		"another kind of JSON": "{}\n",
		"a null":               "[null]\n",
		"no digest":            `[{"size":1,"count":0}]` + "\n",
		"a path as a digest":   strings.Replace("["+somePack+"]\n", "sha256:e3b0", "sha256:../../../../", 1) + string(record(1)),
		"an unknown digest":    strings.Replace("["+somePack+"]\n", "sha256", "sha2", 1) + string(record(1)),
		"a negative size":      strings.Replace("["+somePack+"]\n", `"size":5`, `"size":-5`, 1) + string(record(1)),
		"a negative count":     strings.Replace("["+somePack+"]\n", `"count":1`, `"count":-1`, 1) + string(record(1)),
		"a large count":        strings.Replace("["+somePack+"]\n", `"count":1`, `"count":9223372036854775807`, 1) + string(record(1)),
		"too many digits":      strings.Replace("["+somePack+"]\n", `"count":1`, `"count":92233720368547758070`, 1) + string(record(1)),
		"cut short":            "[" + somePack + "]\n" + string(record(1)[:50]),
		"more than it says":    "[" + somePack + "]\n" + string(record(1)) + "x",
		"a negative entry":     "[" + somePack + "]\n" + string(record(-1)),
		"a large entry":        "[" + somePack + "]\n" + string(record(maxEntry+1)),
		"a large pack":         strings.Replace("["+somePack+"]\n", `"count":1`, `"count":3`, 1) + strings.Repeat(string(record(maxEntry)), 3),
		"a large head":         strings.Repeat(" ", maxHead+1) + "[" + somePack + "]\n" + string(record(1)),
	} {
		if packs, err := decodeIndex(compressed(t, []byte(plain))); err == nil {
			t.Errorf("%s: it was taken: %v", name, packs)
		}
	}
	for name, data := range map[string][]byte{
		"no zstd":   []byte("plain"),
		"nothing":   nil,
		"cut zstd":  compressed(t, []byte("["+somePack+"]\n"+string(record(1))))[:20],
		"a bomb":    compressed(t, make([]byte, maxIndex+1)),
		"half file": compressed(t, bytes.Repeat([]byte("["), maxHead)),
	} {
		if _, err := decodeIndex(data); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
	future := strings.Replace("["+somePack+"]\n", "2026", "2926", 1) + string(record(1))
	packs, err := decodeIndex(compressed(t, []byte(future)))
	if err != nil || packs[0].Used.After(time.Now()) {
		t.Errorf("a pack of the future would never go: %v %v", packs, err)
	}
}

func FuzzIndex(f *testing.F) {
	index, err := encodeIndex([]*pack{{Digest: digest.FromString("x"), Size: 5, Count: 1, entries: []entry{{size: 3}}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(index)
	f.Add([]byte("[" + somePack + "]\n" + string(record(1))))
	f.Add([]byte("[]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		// As it comes, and as what is in it, since mutations seldom make good zstd.
		for _, data := range [][]byte{data, compressed(t, data)} {
			packs, err := decodeIndex(data)
			if err != nil {
				continue
			}
			for _, p := range packs {
				if p.Digest.Validate() != nil || p.Size <= 0 || len(p.entries) != p.Count {
					t.Errorf("%+v", p)
				}
			}
			again, err := encodeIndex(packs)
			if err != nil {
				t.Fatal(err)
			}
			same, err := decodeIndex(again)
			if err != nil || !slices.EqualFunc(packs, same, func(a, b *pack) bool {
				return a.Digest == b.Digest && a.Size == b.Size && slices.Equal(a.entries, b.entries)
			}) {
				t.Errorf("what was read isn't read again: %v", err)
			}
		}
	})
}

func FuzzPack(f *testing.F) {
	e, text := made("content")
	plain := append(append(append([]byte(nil), e.action[:]...), e.output[:]...), record(e.size)[2*sha256.Size:]...)
	plain = append(plain, text...)
	f.Add(compressed(f, plain))
	f.Add(plain)
	empty, _ := made("")
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, data := range [][]byte{data, compressed(t, data)} {
			root := t.TempDir()
			d := disk{filepath.Join(root, "cache")}
			_, _ = readPack(t.Context(), bytes.NewReader(data), d, []entry{e, empty}, func(entry) {})
			err := filepath.WalkDir(root, func(path string, file fs.DirEntry, err error) error {
				if err != nil || file.IsDir() {
					return err
				}
				content, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				name, isOutput := strings.CutSuffix(file.Name(), "-d")
				sum := sha256.Sum256(content)
				switch _, ok := parseEntry(content); {
				case isOutput && hex.EncodeToString(sum[:]) != name:
					t.Errorf("%s is %q", file.Name(), content)
				case !isOutput && (!strings.HasSuffix(file.Name(), "-a") || !ok):
					t.Errorf("%s was left", file.Name())
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		}
	})
}

// What go has written into its cache, or somebody else has, is read with care.
func FuzzEntry(f *testing.F) {
	f.Add([]byte("v1 " + strings.Repeat("ab", 32) + " " + strings.Repeat("cd", 32) + "                   12  1234567890123456789\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if e, ok := parseEntry(data); ok && e.size < 0 {
			t.Errorf("%q has %d bytes", data, e.size)
		}
	})
}
