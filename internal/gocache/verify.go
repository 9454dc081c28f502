package gocache

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// Verified is what a check of a cache in a registry found.
type Verified struct {
	Packs, Entries int
	Bytes          int64    // of packs that are what they should be
	Damaged        []string // which aren't; they are named no more
}

// Verify reads all of a cache, and names no more what isn't what the index says. The
// index itself is such a thing. What can't be had is an error.
func Verify(ctx context.Context, repo Repository, tag string) (Verified, error) {
	var v Verified
	there, err := load(ctx, repo, tag)
	if errors.Is(err, errDamaged) {
		v.Damaged = append(v.Damaged, err.Error())
	} else if err != nil {
		return v, err
	}
	bad := map[digest.Digest]bool{}
	for _, p := range there.packs {
		err := verifyPack(ctx, repo, p)
		switch {
		case err == nil:
			v.Packs, v.Entries, v.Bytes = v.Packs+1, v.Entries+p.Count, v.Bytes+p.Size
		case ctx.Err() != nil:
			return v, context.Cause(ctx)
		case blames(err):
			v.Damaged = append(v.Damaged, fmt.Sprintf("%s: %v", p.Digest, err))
			bad[p.Digest] = true
		default:
			return v, err
		}
	}
	if len(v.Damaged) == 0 {
		return v, nil
	}
	return v, update(ctx, repo, tag, func(packs []*pack) ([]*pack, bool, error) {
		before := len(packs)
		packs = slices.DeleteFunc(packs, func(p *pack) bool { return bad[p.Digest] })
		return packs, len(packs) < before, nil
	})
}

func verifyPack(ctx context.Context, repo Repository, p *pack) error {
	r, err := repo.Fetch(ctx, p.descriptor())
	if err != nil {
		return err
	}
	defer r.Close()
	sum := p.Digest.Verifier()
	raw := io.TeeReader(r, sum)
	z, err := zstd.NewReader(raw, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		return err
	}
	defer z.Close()
	plain := bufio.NewReaderSize(z, 256<<10)
	record := make([]byte, entrySize)
	for _, e := range p.entries {
		if _, err := io.ReadFull(plain, record); err != nil {
			return err
		}
		if readEntry(record) != e {
			return errors.New("it isn't what the index says")
		}
		h := sha256.New()
		if _, err := io.CopyN(h, plain, e.size); err != nil {
			return err
		}
		if ID(h.Sum(nil)) != e.output {
			return fmt.Errorf("the output of action %x isn't the one that was announced", e.action)
		}
	}
	if _, err := plain.ReadByte(); !errors.Is(err, io.EOF) {
		return errors.New("it goes on after its end")
	}
	if _, err := io.Copy(io.Discard, raw); err != nil {
		return err
	}
	if !sum.Verified() {
		return errors.New("its bytes have another digest")
	}
	return nil
}
