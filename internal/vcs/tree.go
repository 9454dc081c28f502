package vcs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// treeEntry is one name in a tree object.
type treeEntry struct {
	name string
	mode uint32
	id   objectID
}

// parseTree calls each for the entries of a tree object, in order.
func parseTree(format hashFormat, data []byte, each func(treeEntry) error) error {
	for len(data) > 0 {
		head, rest, found := bytes.Cut(data, []byte{0})
		mode, name, _ := bytes.Cut(head, []byte(" "))
		bits, err := strconv.ParseUint(string(mode), 8, 32)
		if !found || err != nil || len(name) == 0 || len(rest) < format.size {
			return errors.New("not a tree")
		}
		if err := each(treeEntry{string(name), uint32(bits), objectID(rest[:format.size])}); err != nil {
			return err
		}
		data = rest[format.size:]
	}
	return nil
}

// canonical is a mode with only the bits that count.
func canonical(mode uint32) uint32 {
	switch mode & modeType {
	case modeFile & modeType:
		if mode&0o100 != 0 {
			return modeExecutable
		}
		return modeFile
	default:
		return mode & modeType
	}
}

// difference is how a comparison ends at the first name that differs.
type difference struct{ name string }

func (d *difference) Error() string { return d.name + " differs" }

// comparison walks a tree object and the index side by side.
type comparison struct {
	db      *objects
	entries []indexEntry // what is left of the index
}

// treeDiffers compares a tree with the index and gives the first name that
// differs, or "". A tree that was made to explode when it is unfolded can't:
// every step takes an entry of the index, or is the last.
func treeDiffers(ctx context.Context, db *objects, tree objectID, entries []indexEntry) (string, error) {
	c := &comparison{db: db, entries: entries}
	err := c.tree(ctx, tree, "")
	if d, ok := errors.AsType[*difference](err); ok {
		return d.name, nil
	}
	if err != nil {
		return "", err
	}
	if len(c.entries) > 0 {
		return c.entries[0].name, nil
	}
	return "", nil
}

func (c *comparison) tree(ctx context.Context, id objectID, prefix string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	kind, data, err := c.db.read(id)
	if err != nil {
		return fmt.Errorf("read the tree of HEAD: %w", err)
	}
	if kind != "tree" {
		return fmt.Errorf("read the tree of HEAD: object %s is a %s", id, kind)
	}
	return parseTree(c.db.format, data, func(t treeEntry) error {
		name := prefix + t.name
		if len(c.entries) == 0 {
			return &difference{name}
		}
		e := c.entries[0]
		if t.mode&modeType == modeTree {
			below := name + "/"
			if e.name == below && e.mode&modeType == modeTree { // a directory that a sparse index leaves folded
				if e.id != t.id {
					return &difference{name}
				}
				c.entries = c.entries[1:]
				return nil
			}
			if !strings.HasPrefix(e.name, below) {
				return &difference{name}
			}
			before := len(c.entries)
			if err := c.tree(ctx, t.id, below); err != nil {
				return err
			}
			if len(c.entries) == before { // an empty tree, which git doesn't make
				return &difference{name}
			}
			return nil
		}
		if e.name != name {
			return &difference{min(name, e.name)}
		}
		if e.id != t.id || canonical(e.mode) != canonical(t.mode) || e.unmerged {
			return &difference{name}
		}
		c.entries = c.entries[1:]
		return nil
	})
}
