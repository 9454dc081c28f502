package vcs

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
)

// Bounds of a chain of deltas. git makes chains of up to 4095; the work of a
// chain is the sum of the sizes of all its results.
const (
	maxDeltaDepth = 4096
	maxDeltaWork  = 1 << 30
	maxCached     = 32 << 20 // bytes of bases that are kept for the next delta
)

// pack is one packfile and its index (gitformat-pack). Both are read at the
// places that are needed and never as a whole. The files are opened with the
// first question.
type pack struct {
	path   string // without .idx and .pack
	format hashFormat
	files  []io.Closer

	index     io.ReaderAt
	indexSize int64
	version   int
	fanout    [256]uint32

	data     io.ReaderAt
	dataSize int64
}

func (p *pack) close() {
	for _, f := range p.files {
		f.Close()
	}
	p.files = nil
}

func (p *pack) open(extension string) (*os.File, int64, error) {
	f, info, err := openRegular(p.path + extension)
	if err != nil {
		return nil, 0, err
	}
	p.files = append(p.files, f)
	return f, info.Size(), nil
}

func (p *pack) bad(what string) error { return fmt.Errorf("pack %s: %s", p.path, what) }

// count is the number of objects.
func (p *pack) count() int64 { return int64(p.fanout[255]) }

// openIndex reads the head of the index.
func (p *pack) openIndex() error {
	if p.index == nil {
		f, size, err := p.open(".idx")
		if err != nil {
			return err
		}
		p.index, p.indexSize = f, size
	}
	head := make([]byte, 8+4*256)
	if _, err := p.index.ReadAt(head, 0); err != nil {
		return p.bad("the index is too short")
	}
	p.version = 1
	table := head[:4*256]
	if string(head[:4]) == "\xfftOc" {
		if v := binary.BigEndian.Uint32(head[4:]); v != 2 {
			return p.bad(fmt.Sprintf("index version %d isn't supported", v))
		}
		p.version = 2
		table = head[8:]
	}
	previous := uint32(0)
	for i := range p.fanout {
		p.fanout[i] = binary.BigEndian.Uint32(table[4*i:])
		if p.fanout[i] < previous {
			return p.bad("the index isn't sorted")
		}
		previous = p.fanout[i]
	}
	each := int64(p.format.size + 4)
	if p.version == 2 {
		each += 4
	}
	if p.names()+p.count()*each+2*int64(p.format.size) > p.indexSize {
		return p.bad("the index is cut off")
	}
	return nil
}

// names is where the table of object IDs starts, and stride how far they are apart.
func (p *pack) names() int64 {
	if p.version == 2 {
		return 8 + 4*256
	}
	return 4 * 256
}

func (p *pack) stride() int64 {
	if p.version == 2 {
		return int64(p.format.size)
	}
	return int64(p.format.size) + 4
}

// find gives the place of an object in the pack.
func (p *pack) find(id objectID) (offset int64, found bool, err error) {
	if p.version == 0 {
		if err := p.openIndex(); err != nil {
			if isAbsent(err) { // the pack was removed by a repack; its objects are elsewhere now
				return 0, false, nil
			}
			return 0, false, err
		}
	}
	low, high := int64(0), int64(p.fanout[id[0]])
	if id[0] > 0 {
		low = int64(p.fanout[id[0]-1])
	}
	// Halving by reading single names ends with one read of a run of them.
	const run = 128
	buffer := make([]byte, run*p.stride())
	shift := p.stride() - int64(p.format.size)
	for high-low > run {
		middle := low + (high-low)/2
		name := buffer[:p.stride()]
		if err := p.readIndex(name, p.names()+middle*p.stride()); err != nil {
			return 0, false, err
		}
		if string(name[shift:]) <= string(id) {
			low = middle
		} else {
			high = middle
		}
	}
	names := buffer[:(high-low)*p.stride()]
	if err := p.readIndex(names, p.names()+low*p.stride()); err != nil {
		return 0, false, err
	}
	n := int64(sort.Search(int(high-low), func(i int) bool {
		return string(names[int64(i)*p.stride()+shift:int64(i+1)*p.stride()]) >= string(id)
	}))
	if n == high-low || string(names[n*p.stride()+shift:(n+1)*p.stride()]) != string(id) {
		return 0, false, nil
	}
	if p.version == 1 {
		return int64(binary.BigEndian.Uint32(names[n*p.stride():])), true, nil
	}
	offset, err = p.offset(low + n)
	return offset, err == nil, err
}

// offset reads the place of the nth object from an index of version 2.
func (p *pack) offset(n int64) (int64, error) {
	small := p.names() + p.count()*(p.stride()+4)
	var buffer [8]byte
	if err := p.readIndex(buffer[:4], small+4*n); err != nil {
		return 0, err
	}
	value := binary.BigEndian.Uint32(buffer[:4])
	if value < 1<<31 {
		return int64(value), nil
	}
	if err := p.readIndex(buffer[:], small+4*p.count()+8*int64(value&(1<<31-1))); err != nil {
		return 0, err
	}
	return int64(binary.BigEndian.Uint64(buffer[:]) &^ (1 << 63)), nil
}

func (p *pack) readIndex(buffer []byte, at int64) error {
	if len(buffer) == 0 {
		return nil
	}
	if _, err := p.index.ReadAt(buffer, at); err != nil {
		return p.bad("the index is cut off")
	}
	return nil
}

// Types of objects in packs (gitformat-pack, "Object types").
const (
	offsetDelta = 6
	refDelta    = 7
)

var kinds = [8]string{1: "commit", 2: "tree", 3: "blob", 4: "tag"}

// entry is the head of one object in a pack.
type entry struct {
	kind byte
	size int64 // inflated
	body int64 // place of the compressed bytes
	base int64 // place of the base if it is a delta
}

// entryAt reads the head of the object at offset.
func (p *pack) entryAt(offset int64) (entry, error) {
	head := make([]byte, 64) // size and offset take at most 10 bytes each, an ID 32
	if offset < 12 || offset >= p.dataSize {
		return entry{}, p.bad("an object lies outside of it")
	}
	n, err := p.data.ReadAt(head, offset)
	if err != nil && err != io.EOF {
		return entry{}, err
	}
	head = head[:n]
	at := 0
	next := func() (byte, bool) {
		if at == len(head) {
			return 0, false
		}
		at++
		return head[at-1], true
	}
	c, ok := next()
	if !ok {
		return entry{}, p.bad("an object has no size")
	}
	e := entry{kind: c >> 4 & 7, size: int64(c & 15)}
	for shift := 4; c&0x80 != 0; shift += 7 {
		if c, ok = next(); !ok || shift > 53 {
			return entry{}, p.bad("an object has no size")
		}
		e.size |= int64(c&0x7f) << shift
	}
	switch e.kind {
	case offsetDelta:
		back := int64(0)
		for first := true; first || c&0x80 != 0; first = false {
			if c, ok = next(); !ok || back > 1<<54 {
				return entry{}, p.bad("a delta has no base")
			}
			if !first {
				back++
			}
			back = back<<7 | int64(c&0x7f)
		}
		if e.base = offset - back; back <= 0 || e.base < 12 {
			return entry{}, p.bad("a delta's base lies outside of it")
		}
	case refDelta:
		if at+p.format.size > len(head) {
			return entry{}, p.bad("a delta has no base")
		}
		base, found, err := p.find(objectID(head[at : at+p.format.size]))
		if err != nil {
			return entry{}, err
		}
		if !found {
			return entry{}, p.bad("a delta's base isn't in it")
		}
		e.base = base
		at += p.format.size
	default:
		if kinds[e.kind] == "" {
			return entry{}, p.bad("an object has an unknown type")
		}
	}
	e.body = offset + int64(at)
	return e, nil
}

// read gives the object at offset, with all its deltas applied.
func (p *pack) read(offset int64, cache *deltaCache) (kind string, data []byte, err error) {
	if p.data == nil {
		f, size, err := p.open(".pack")
		if err != nil {
			return "", nil, err
		}
		p.data, p.dataSize = f, size
	}
	var chain []entry // deltas, the outermost first
	places := []int64{offset}
	for {
		at := places[len(places)-1]
		if kind, data = cache.get(p, at); kind != "" {
			break
		}
		e, err := p.entryAt(at)
		if err != nil {
			return "", nil, err
		}
		if kind = kinds[e.kind]; kind != "" {
			if data, err = p.inflate(e); err != nil {
				return "", nil, err
			}
			cache.put(p, at, kind, data)
			break
		}
		if len(chain) == maxDeltaDepth {
			return "", nil, p.bad(fmt.Sprintf("deltas on deltas more than %d deep", maxDeltaDepth))
		}
		chain = append(chain, e)
		places = append(places, e.base)
	}
	work := 0
	for i := len(chain) - 1; i >= 0; i-- {
		delta, err := p.inflate(chain[i])
		if err != nil {
			return "", nil, err
		}
		if data, err = applyDelta(data, delta); err != nil {
			return "", nil, p.bad(err.Error())
		}
		if work += len(data) + len(delta); work > maxDeltaWork {
			return "", nil, p.bad("a chain of deltas makes too much of too little")
		}
		cache.put(p, places[i], kind, data)
	}
	return kind, data, nil
}

// inflate decompresses the body of an object.
func (p *pack) inflate(e entry) ([]byte, error) {
	section := io.NewSectionReader(p.data, e.body, p.dataSize-e.body)
	inflated, err := zlib.NewReader(bufio.NewReader(section))
	if err != nil {
		return nil, p.bad(err.Error())
	}
	data, err := readSized(inflated, e.size)
	if err != nil {
		return nil, p.bad(err.Error())
	}
	return data, nil
}

var errDelta = errors.New("a delta is damaged")

// applyDelta makes an object from its base (gitformat-pack, "Deltified
// representation").
func applyDelta(base, delta []byte) ([]byte, error) {
	in := bytes.NewReader(delta)
	from, err := binary.ReadUvarint(in)
	if err != nil || from != uint64(len(base)) {
		return nil, errDelta
	}
	size, err := binary.ReadUvarint(in)
	if err != nil || size > maxObject {
		return nil, errDelta
	}
	out := make([]byte, 0, min(size, 1<<20))
	for in.Len() > 0 {
		op, _ := in.ReadByte()
		switch {
		case op == 0:
			return nil, errDelta
		case op < 0x80: // new bytes
			at := len(delta) - in.Len()
			if int(op) > in.Len() {
				return nil, errDelta
			}
			out = append(out, delta[at:at+int(op)]...)
			in.Seek(int64(op), io.SeekCurrent)
		default: // bytes of the base
			var offset, length uint64
			for bit := range 7 {
				if op&(1<<bit) == 0 {
					continue
				}
				c, err := in.ReadByte()
				if err != nil {
					return nil, errDelta
				}
				if bit < 4 {
					offset |= uint64(c) << (8 * bit)
				} else {
					length |= uint64(c) << (8 * (bit - 4))
				}
			}
			if length == 0 {
				length = 0x10000
			}
			if offset+length > uint64(len(base)) {
				return nil, errDelta
			}
			out = append(out, base[offset:offset+length]...)
		}
		if uint64(len(out)) > size {
			return nil, errDelta
		}
	}
	if uint64(len(out)) != size {
		return nil, errDelta
	}
	return out, nil
}

// deltaCache keeps objects that further deltas are probably made from: the
// trees of a commit are deltas on their neighbours. The zero value is ready.
type deltaCache struct {
	held map[deltaKey]deltaBase
	size int
}

type deltaKey struct {
	pack   *pack
	offset int64
}

type deltaBase struct {
	kind string
	data []byte
}

func (c *deltaCache) get(p *pack, offset int64) (kind string, data []byte) {
	base := c.held[deltaKey{p, offset}]
	return base.kind, base.data
}

func (c *deltaCache) put(p *pack, offset int64, kind string, data []byte) {
	if len(data) > maxCached/4 {
		return
	}
	if c.held == nil || c.size+len(data) > maxCached {
		c.held, c.size = map[deltaKey]deltaBase{}, 0
	}
	c.held[deltaKey{p, offset}] = deltaBase{kind, data}
	c.size += len(data)
}
