package gocache

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/store"
)

// The media types of the artifact in the registry.
const (
	artifactType = "application/vnd.anyarch.gocache.v1"
	indexType    = "application/vnd.anyarch.gocache.index.v1+zstd"
	packType     = "application/vnd.anyarch.gocache.pack.v1+zstd"
)

// What is believed of an index, in bytes. A cache of 2 GiB has some 50,000 entries,
// which are 4 MB.
const (
	maxIndex = 128 << 20 // of it all, before compression and after
	maxHead  = 8 << 20   // of what it says about packs
	// maxEntry bounds one result. What is larger is made on each machine.
	maxEntry = 512 << 20
	// maxPack bounds the content of one pack: no pack has more than one entry beyond
	// packSize.
	maxPack = packSize + maxEntry
)

// errDamaged wraps what is wrong with an index of which a writer begins anew.
var errDamaged = errors.New("the index of the build cache is damaged")

// contents are what a tag names.
type contents struct {
	was   digest.Digest // of the manifest; empty if there is none
	packs []*pack
}

// load reads the manifest and the index. There is nothing if there is no such tag. An
// error that wraps errDamaged says that there is a cache, but that nobody can use it.
func load(ctx context.Context, repo Repository, tagOrDigest string) (contents, error) {
	d, data, err := repo.Manifest(ctx, tagOrDigest)
	if errors.Is(err, store.ErrNotFound) {
		return contents{}, nil
	}
	if err != nil {
		return contents{}, err
	}
	c := contents{was: d.Digest}
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil || m.ArtifactType != artifactType {
		return c, errors.New("what is there is no build cache")
	}
	if len(m.Layers) == 0 || m.Layers[0].MediaType != indexType || m.Layers[0].Size > maxIndex {
		return c, fmt.Errorf("%w: its manifest names none", errDamaged)
	}
	r, err := repo.Fetch(ctx, m.Layers[0])
	if err == nil {
		defer r.Close()
		data, err = io.ReadAll(io.LimitReader(r, maxIndex))
	}
	switch {
	case err != nil && blames(err):
		return c, fmt.Errorf("%w: %w", errDamaged, err)
	case err != nil:
		return c, err
	}
	packs, err := decodeIndex(data)
	if err != nil {
		return c, fmt.Errorf("%w: %w", errDamaged, err)
	}
	named := map[digest.Digest]int64{}
	for _, l := range m.Layers[1:] {
		named[l.Digest] = l.Size
	}
	for _, p := range packs {
		if size, ok := named[p.Digest]; !ok || size != p.Size {
			return c, fmt.Errorf("%w: it names a pack that its manifest hasn't", errDamaged)
		}
	}
	c.packs = packs
	return c, nil
}

// manifest makes the manifest of an index and packs.
func manifest(index []byte, packs []*pack) ocispec.Manifest {
	empty := ocispec.DescriptorEmptyJSON
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactType,
		Config: ocispec.Descriptor{MediaType: empty.MediaType, Digest: empty.Digest, Size: empty.Size},
		Layers: []ocispec.Descriptor{{MediaType: indexType, Digest: digest.FromBytes(index), Size: int64(len(index))}},
	}
	for _, p := range packs {
		m.Layers = append(m.Layers, p.descriptor())
	}
	return m
}

// encodeIndex writes what is in which pack: a line of JSON, and then action, output
// and size of every entry.
func encodeIndex(packs []*pack) ([]byte, error) {
	head, err := json.Marshal(packs)
	if err != nil {
		return nil, err
	}
	plain := append(head, '\n')
	for _, p := range packs {
		for _, e := range p.entries {
			plain = append(plain, e.action[:]...)
			plain = append(plain, e.output[:]...)
			plain = binary.BigEndian.AppendUint64(plain, uint64(e.size))
		}
	}
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	return w.EncodeAll(plain, nil), nil
}

const entrySize = 2*len(ID{}) + 8

// decodeIndex reads what encodeIndex has written. It takes nothing that no writer
// makes.
func decodeIndex(data []byte) ([]*pack, error) {
	r, err := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxIndex))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	plain := bufio.NewReader(io.LimitReader(r, maxIndex))
	var head []byte
	for line := []byte(nil); len(line) == 0 || line[len(line)-1] != '\n'; {
		line, err = plain.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
		if head = append(head, line...); len(head) > maxHead {
			return nil, errors.New("it says too much about packs")
		}
	}
	var packs []*pack
	if err := json.Unmarshal(head, &packs); err != nil {
		return nil, err
	}
	now := time.Now().UTC()
	record := make([]byte, entrySize)
	for _, p := range packs {
		if p == nil || p.Digest.Validate() != nil || p.Size <= 0 || p.Count <= 0 {
			return nil, errors.New("it has a pack that can't be")
		}
		if p.Used.After(now) {
			p.Used = now // or it would stay for ever
		}
		var content int64
		for range p.Count {
			if _, err := io.ReadFull(plain, record); err != nil {
				return nil, err
			}
			e := readEntry(record)
			if e.size < 0 || e.size > maxEntry {
				return nil, errors.New("it has an entry that can't be")
			}
			if content += e.size; content > maxPack {
				return nil, errors.New("it has a pack of more than can be")
			}
			p.entries = append(p.entries, e)
		}
	}
	if _, err := plain.ReadByte(); !errors.Is(err, io.EOF) {
		return nil, errors.New("it goes on after its end")
	}
	return packs, nil
}

func readEntry(record []byte) entry {
	var e entry
	copy(e.action[:], record)
	copy(e.output[:], record[len(e.action):])
	e.size = int64(binary.BigEndian.Uint64(record[2*len(e.action):]))
	return e
}
