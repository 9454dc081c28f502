package prove

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/store"
)

// defect is something wrong with a blob of the image, as opposed to the way to
// it: it becomes a finding, and other parts of the image are still looked at.
type defect struct {
	rule    string
	summary string
	seen    []string
}

func (e *defect) Error() string { return e.summary }

// classify turns an error of reading the blob d into a defect; what is not the
// image's fault stays what it is.
func classify(err error, d ocispec.Descriptor, noun string) error {
	var (
		known   *defect
		bad     *badLayer
		disk    *diskError
		refused *refusal.Error
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &disk): // also if a directory for temporary files isn't there
		return disk.err
	case errors.As(err, &known), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.As(err, &bad):
		return &defect{RuleUnreadable, "the " + noun + " can't be read", []string{d.Digest.String(), bad.why}}
	case errors.As(err, &refused) && refused.Code == "PA408":
		return &defect{RuleIntegrity, "the " + noun + " doesn't have the digest or size that it is listed with", append([]string{d.Digest.String()}, refused.Seen...)}
	case errors.Is(err, store.ErrNotFound):
		return &defect{RuleMissing, "the " + noun + " is gone", []string{d.Digest.String() + " isn't there"}}
	}
	return fmt.Errorf("read %s: %w", d.Digest, err)
}

// checkDescriptor refuses descriptors that nothing may be looked up by.
func checkDescriptor(d ocispec.Descriptor, noun string) error {
	if err := d.Digest.Validate(); err != nil {
		return &defect{RuleIntegrity, "the " + noun + " is listed with an impossible digest", []string{fmt.Sprintf("%.100q: %v", string(d.Digest), err)}}
	}
	if d.Size < 0 {
		return &defect{RuleIntegrity, "the " + noun + " is listed with an impossible size", []string{fmt.Sprintf("%d bytes", d.Size)}}
	}
	if len(d.Data) > 0 && d.Digest.Algorithm().FromBytes(d.Data) != d.Digest {
		return &defect{RuleIntegrity, "the " + noun + " is embedded in its descriptor with other content", []string{d.Digest.String()}}
	}
	return nil
}

// readJSON reads a manifest, index or config into v. exact says that the size
// in d comes from a manifest, and zero is zero. Errors are defects unless the
// way to the blob failed.
func readJSON(ctx context.Context, src image.Source, d ocispec.Descriptor, noun string, exact bool, v any) error {
	if err := checkDescriptor(d, noun); err != nil {
		return err
	}
	if d.Size > store.MaxManifestSize {
		return &defect{RuleUnreadable, "the " + noun + " is too large", []string{fmt.Sprintf("%s has %d bytes, and %d are read", d.Digest, d.Size, store.MaxManifestSize)}}
	}
	r, err := src.Fetch(ctx, d)
	if err != nil {
		return classify(err, d, noun)
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, store.MaxManifestSize+1))
	if err != nil {
		return classify(err, d, noun)
	}
	unreadable := func(why string) error {
		return &defect{RuleUnreadable, "the " + noun + " can't be read", []string{d.Digest.String(), why}}
	}
	if len(data) > store.MaxManifestSize {
		return unreadable(fmt.Sprintf("more than %d bytes", store.MaxManifestSize))
	}
	if (exact || d.Size > 0) && int64(len(data)) != d.Size {
		return &defect{RuleIntegrity, "the " + noun + " doesn't have the digest or size that it is listed with",
			[]string{d.Digest.String(), fmt.Sprintf("%d bytes came instead of %d", len(data), d.Size)}}
	}
	if got := d.Digest.Algorithm().FromBytes(data); got != d.Digest {
		return &defect{RuleIntegrity, "the " + noun + " doesn't have the digest or size that it is listed with",
			[]string{d.Digest.String(), "its bytes have the digest " + got.String()}}
	}
	if err := json.Unmarshal(data, v); err != nil {
		return unreadable(err.Error())
	}
	if key := repeatedKey(data); key != "" {
		return unreadable(fmt.Sprintf("the key %q is there twice, and programs differ in which of them they take", key))
	}
	return nil
}

// repeatedKey finds a key that an object of valid JSON has twice.
func repeatedKey(data []byte) string {
	type level struct {
		keys map[string]bool // nil in an array
		key  bool            // a key comes next
	}
	var levels []level
	decoder := json.NewDecoder(bytes.NewReader(data))
	for {
		token, err := decoder.Token()
		if err != nil {
			return ""
		}
		var top *level
		if len(levels) > 0 {
			top = &levels[len(levels)-1]
		}
		if delim, ok := token.(json.Delim); ok {
			switch delim {
			case '{', '[':
				if top != nil {
					top.key = top.keys != nil
				}
				next := level{}
				if delim == '{' {
					next = level{map[string]bool{}, true}
				}
				levels = append(levels, next)
			default:
				levels = levels[:len(levels)-1]
			}
			continue
		}
		if top == nil || top.keys == nil {
			continue
		}
		if top.key {
			key := token.(string)
			if top.keys[key] {
				return key
			}
			top.keys[key] = true
		}
		top.key = !top.key
	}
}

// read gives what a layer holds, from the cache or from its bytes.
func (l *layers) read(ctx context.Context, d ocispec.Descriptor, moving func(int64)) (*scan, bool, error) {
	const noun = "layer"
	if err := checkDescriptor(d, noun); err != nil {
		return nil, false, err
	}
	r, err := l.src.Fetch(ctx, d)
	if err != nil {
		return nil, false, classify(err, d, noun)
	}
	defer r.Close()
	key := scanKey(d.Digest)
	if l.Cache != nil {
		// The blob was opened although its bytes aren't needed: a layer that a
		// clean-up has removed is found missing even if it was seen before.
		if data, ok := l.Cache.Get(key); ok {
			s := &scan{}
			if json.Unmarshal(data, s) == nil && s.Version == scanVersion && s.Root != nil {
				return s, true, checkSize(s, d)
			}
		}
	}
	src := &source{Reader: r, moving: moving}
	s, err := scanLayer(ctx, src, l.Limits, l.TempDir)
	if err != nil {
		if src.err != nil {
			return nil, false, classify(src.err, d, noun)
		}
		var bad *badLayer
		if errors.As(err, &bad) && d.Size > 0 && d.Size <= 1<<30 && !strings.HasPrefix(bad.why, "unpacks to") {
			// Damaged bytes trip the decompressor before the digest is known.
			// Reading on tells whether the layer was published like this.
			if _, e := io.Copy(io.Discard, src); e != nil {
				return nil, false, classify(e, d, noun)
			}
		}
		return nil, false, classify(err, d, noun)
	}
	if err := checkSize(s, d); err != nil {
		return nil, false, err
	}
	if l.Cache != nil && !s.unclean {
		if data, err := json.Marshal(s); err == nil {
			l.Cache.Put(key, data)
		}
	}
	return s, false, nil
}

func checkSize(s *scan, d ocispec.Descriptor) error {
	if s.Compressed == d.Size {
		return nil
	}
	return &defect{RuleIntegrity, "the layer doesn't have the digest or size that it is listed with",
		[]string{d.Digest.String(), fmt.Sprintf("%d bytes came instead of %d", s.Compressed, d.Size)}}
}
