package layer

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/anyarch/anyarch/internal/store"
)

// text is content that compresses like a program does: some.
func text(seed uint64, size int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(r.IntN(24) * r.IntN(5))
	}
	return data
}

func content(data []byte) []Entry {
	return []Entry{{Name: "bin/app", Mode: 0o755, Size: int64(len(data)), Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }}}
}

// Taking blocks over from an earlier layer must never show in a layer's bytes:
// not when they fit, not when the earlier blob is gone, other, or damaged.
func TestEarlierBlocksChangeNothing(t *testing.T) {
	t.Parallel()
	before := text(1, 5*blockSize+12345)
	after := slices.Clone(before)
	copy(after[3*blockSize:], "one line has changed")
	st := newStore(t)
	var made Blocks
	first, err := Write(t.Context(), st, content(before), Options{Made: func(b Blocks) { made = b }})
	if err != nil {
		t.Fatal(err)
	}
	if made.Blob != first.Descriptor.Digest || len(made.Blocks) != 6 {
		t.Fatalf("made of %+v", made)
	}
	plain, err := Write(t.Context(), newStore(t), content(after), Options{})
	if err != nil {
		t.Fatal(err)
	}
	damaged := newStore(t)
	if _, err := Write(t.Context(), damaged, content(before), Options{}); err != nil {
		t.Fatal(err)
	}
	path, err := damaged.Path(made.Blob)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := 100; i < len(data); i += 1000 {
		data[i] ^= 1
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	wrong := Blocks{Blob: made.Blob, Blocks: slices.Clone(made.Blocks)}
	for i := range wrong.Blocks {
		wrong.Blocks[i].Offset = made.Blocks[(i+1)%len(made.Blocks)].Offset
		wrong.Blocks[i].Size = 1 << 40
	}
	for name, earlier := range map[string]*Blocks{"fitting": &made, "wrong offsets": &wrong} {
		again, err := Write(t.Context(), st, content(after), Options{Earlier: earlier})
		if err != nil || again.Descriptor.Digest != plain.Descriptor.Digest || again.DiffID != plain.DiffID {
			t.Errorf("%s: %v, %v, want %v", name, again.Descriptor, err, plain.Descriptor)
		}
		readBack(t, st, again)
	}
	for name, st := range map[string]*store.Store{"damaged": damaged, "gone": newStore(t)} {
		again, err := Write(t.Context(), st, content(after), Options{Earlier: &made})
		if err != nil || again.Descriptor.Digest != plain.Descriptor.Digest {
			t.Errorf("%s: %v, %v, want %v", name, again.Descriptor, err, plain.Descriptor)
		}
	}
}

// The bytes don't depend on how many blocks are compressed at once, nor on how
// the tar is cut into writes.
func TestBlocksDoNotDependOnWrites(t *testing.T) {
	t.Parallel()
	data := text(2, 3*blockSize+7)
	var want []byte
	for _, step := range []int{len(data), blockSize, blockSize + 1, 1000} {
		var out bytes.Buffer
		z, err := newBlockGzip(&out, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		for chunk := range slices.Chunk(data, step) {
			if _, err := z.Write(chunk); err != nil {
				t.Fatal(err)
			}
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		if want == nil {
			want = out.Bytes()
		} else if !bytes.Equal(out.Bytes(), want) {
			t.Errorf("other bytes in steps of %d", step)
		}
	}
}

type broken struct{ left int }

func (b *broken) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, os.ErrClosed
	}
	return len(p), nil
}

func TestBlocksToABrokenWriter(t *testing.T) {
	t.Parallel()
	for _, room := range []int{0, 5, 20, 300 << 10} {
		z, err := newBlockGzip(&broken{room}, nil, nil)
		if err != nil {
			continue
		}
		_, writeErr := z.Write(text(3, 20*blockSize))
		if closeErr := z.Close(); closeErr == nil {
			t.Errorf("room for %d bytes: write %v, close %v", room, writeErr, closeErr)
		}
	}
}
