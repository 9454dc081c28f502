package extra

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/anyarch/anyarch/internal/native/command"
)

// dumpFormat is one type of od: a letter and how many bytes a number has.
type dumpFormat struct {
	letter byte
	size   int
}

// parseFormat reads the value of od -t, as far as it is one type.
func parseFormat(text string) (dumpFormat, bool) {
	if text == "c" || text == "a" {
		return dumpFormat{text[0], 1}, true
	}
	if text == "" || strings.IndexByte("xoud", text[0]) < 0 {
		return dumpFormat{}, false
	}
	sizes := map[string]int{"": 4, "1": 1, "2": 2, "4": 4, "8": 8, "C": 1, "S": 2, "I": 4, "L": 8}
	size, ok := sizes[text[1:]]
	return dumpFormat{text[0], size}, ok
}

// text writes one number, or character.
func (f dumpFormat) text(b []byte, order binary.ByteOrder) string {
	var n uint64
	switch f.size {
	case 1:
		n = uint64(b[0])
	case 2:
		n = uint64(order.Uint16(b))
	case 4:
		n = uint64(order.Uint32(b))
	case 8:
		n = order.Uint64(b)
	}
	switch f.letter {
	case 'x':
		return fmt.Sprintf(" %0*x", 2*f.size, n)
	case 'o':
		return fmt.Sprintf(" %0*o", (8*f.size+2)/3, n)
	case 'u':
		return fmt.Sprintf(" %*d", map[int]int{1: 3, 2: 5, 4: 10, 8: 20}[f.size], n)
	case 'd':
		shift := 64 - 8*f.size
		return fmt.Sprintf(" %*d", map[int]int{1: 4, 2: 6, 4: 11, 8: 20}[f.size], int64(n<<shift)>>shift) //nolint:gosec // that is how a sign is read
	case 'a':
		names := "nul soh stx etx eot enq ack bel  bs  ht  nl  vt  ff  cr  so  si dle dc1 dc2 dc3 dc4 nak syn etb can  em sub esc  fs  gs  rs  us  sp"
		c := int(n & 127)
		switch {
		case c <= ' ':
			return " " + names[4*c:4*c+3]
		case c == 127:
			return " del"
		}
		return fmt.Sprintf("   %c", c)
	}
	c := byte(n) //nolint:gosec // one byte
	if at := strings.IndexByte("\x00\a\b\f\n\r\t\v", c); at >= 0 {
		return `  \` + `0abfnrtv`[at:at+1]
	}
	if c < ' ' || c > '~' {
		return fmt.Sprintf(" %03o", c)
	}
	return fmt.Sprintf("   %c", c)
}

// byteCount reads a number of bytes: decimal, octal or hexadecimal, with k, m or b.
func byteCount(text string) (int64, bool) {
	unit := int64(1)
	if !strings.HasPrefix(text, "0x") && text != "" {
		switch text[len(text)-1] {
		case 'b':
			unit = 512
		case 'k', 'K':
			unit = 1 << 10
		case 'm', 'M':
			unit = 1 << 20
		}
		if unit > 1 {
			text = text[:len(text)-1]
		}
	}
	n, err := strconv.ParseInt(text, 0, 40)
	return n * unit, err == nil && n >= 0 && text[0] != '+'
}

// od writes bytes as numbers.
func od(ctx context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	format, chosen := dumpFormat{'o', 2}, 0
	for _, o := range opt.Order {
		ok := true
		switch o.Name {
		case "t":
			format, ok = parseFormat(o.Value)
		case "b":
			format = dumpFormat{'o', 1}
		case "c":
			format = dumpFormat{'c', 1}
		case "d":
			format = dumpFormat{'u', 2}
		case "o":
			format = dumpFormat{'o', 2}
		case "x":
			format = dumpFormat{'x', 2}
		default:
			continue
		}
		if chosen++; !ok || chosen > 1 {
			return refuse(p, "the format %s", o.Name+o.Value)
		}
	}
	address := map[string]string{"": "%07o", "o": "%07o", "d": "%07d", "x": "%06x", "n": ""}
	layout, ok := address[opt.Values["A"]]
	if !ok {
		return p.Errorf("invalid output address radix '%s'; it must be one character from [doxn]", opt.Values["A"])
	}
	skip, limit, width := int64(0), int64(-1), int64(16)
	for name, n := range map[string]*int64{"j": &skip, "N": &limit, "w": &width} {
		if text, given := opt.Values[name]; given {
			if *n, ok = byteCount(text); !ok {
				return p.Errorf("invalid -%s argument '%s'", name, text)
			}
		}
	}
	if width < 1 || width > 1<<16 || width%int64(format.size) != 0 {
		return refuse(p, "lines of %d bytes", width)
	}
	for _, a := range opt.Args {
		if len(a) > 1 && (a[0] == '+' || a[0] >= '0' && a[0] <= '9') && len(opt.Args) > 1 {
			return refuse(p, "an offset without -j")
		}
	}
	order := binary.ByteOrder(binary.LittleEndian)
	if slices.Contains([]string{"s390x", "ppc64", "mips", "mips64"}, p.Platform.Architecture) {
		order = binary.BigEndian
	}
	out := newOutput(p)
	d := &dump{out: out, format: format, order: order, layout: layout, all: opt.Has["v"], block: make([]byte, 0, width), skip: skip, limit: limit, at: skip}
	exit, err := each(ctx, p, opt.Args, out, d.read)
	if err != nil {
		return exit, err
	}
	if d.skip > 0 {
		return p.Errorf("cannot skip past end of combined input")
	}
	if err := d.end(); err != nil {
		return 1, nil //nolint:nilerr // nobody reads it
	}
	return exit, nil
}

// dump writes blocks of bytes.
type dump struct {
	out         output
	format      dumpFormat
	order       binary.ByteOrder
	layout      string
	all         bool
	block, last []byte
	starred     bool
	skip, limit int64
	at          int64
}

func (d *dump) read(r *bufio.Reader) error {
	for d.skip > 0 {
		n, err := io.CopyN(io.Discard, r, d.skip)
		d.skip -= n
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	for d.limit != 0 {
		c, err := r.ReadByte()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		d.limit--
		if d.block = append(d.block, c); len(d.block) == cap(d.block) {
			if err := d.line(); err != nil {
				return err
			}
		}
	}
	return nil
}

// line writes a full block, or a star for those that are like the one before.
func (d *dump) line() error {
	defer func() { d.at += int64(len(d.block)); d.block = d.block[:0] }()
	if !d.all && len(d.block) == cap(d.block) && slices.Equal(d.block, d.last) {
		if d.starred {
			return nil
		}
		d.starred = true
		return d.out.write("*\n")
	}
	d.starred = false
	d.last = slices.Clone(d.block)
	if d.layout != "" {
		if err := d.out.write(fmt.Sprintf(d.layout, d.at)); err != nil {
			return err
		}
	}
	padded := slices.Clone(d.block)
	for len(padded)%d.format.size != 0 {
		padded = append(padded, 0)
	}
	for i := 0; i < len(padded); i += d.format.size {
		if err := d.out.write(d.format.text(padded[i:i+d.format.size], d.order)); err != nil {
			return err
		}
	}
	return d.out.write("\n")
}

func (d *dump) end() error {
	if len(d.block) > 0 {
		if err := d.line(); err != nil {
			return err
		}
	}
	if d.layout != "" {
		if err := d.out.write(fmt.Sprintf(d.layout, d.at), "\n"); err != nil {
			return err
		}
	}
	return d.out.Flush()
}

// xxd does xxd -p and xxd -r -p.
func xxd(ctx context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	switch {
	case !opt.Has["p"]:
		return refuse(p, "another form than -p")
	case len(opt.Args) > 1:
		return refuse(p, "a file to write to")
	case opt.Has["r"] && (opt.Has["c"] || opt.Has["l"] || opt.Has["u"]), opt.Has["u"] && p.Dialect == command.Busybox:
		return refuse(p, "this combination of options")
	}
	columns, limit := int64(30), int64(-1)
	for name, n := range map[string]*int64{"c": &columns, "l": &limit} {
		if text, given := opt.Values[name]; given {
			var ok bool
			if *n, ok = byteCount(text); !ok || strings.Trim(text, "0123456789") != "" || name == "c" && (*n < 1 || *n > 256) {
				return refuse(p, "-%s %s", name, text)
			}
		}
	}
	for _, a := range p.Args[1:] {
		// The xxd of vim has words for options, not letters.
		if p.Dialect == command.GNU && len(a) > 2 && (strings.HasPrefix(a, "-p") || strings.HasPrefix(a, "-r") || strings.HasPrefix(a, "-u")) {
			return refuse(p, "option %s", a)
		}
	}
	out := newOutput(p)
	exit, err := each(ctx, p, opt.Args, out, func(r *bufio.Reader) error {
		if opt.Has["r"] {
			return unhex(out, r)
		}
		in := io.Reader(r)
		if limit >= 0 {
			in = io.LimitReader(r, limit)
		}
		block := make([]byte, columns)
		for {
			n, err := io.ReadFull(in, block)
			if n > 0 {
				line := hex.EncodeToString(block[:n])
				if opt.Has["u"] {
					line = strings.ToUpper(line)
				}
				if err := out.write(line, "\n"); err != nil {
					return err
				}
			}
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return nil
			}
			if err != nil {
				return err
			}
		}
	})
	if exit != 0 && p.Dialect == command.GNU {
		exit = 2
	}
	return exit, err
}

// unhex reads hexadecimal digits with white space between them; what else there may
// be is taken in different ways.
func unhex(out output, r *bufio.Reader) error {
	half := -1
	for {
		c, err := r.ReadByte()
		if errors.Is(err, io.EOF) {
			if half >= 0 {
				return &command.Unsupported{Command: "xxd", What: "an odd number of digits"}
			}
			return nil
		}
		if err != nil {
			return err
		}
		if strings.IndexByte(" \t\r\n", c) >= 0 {
			continue
		}
		n, err := strconv.ParseUint(string(rune(c)), 16, 8)
		if err != nil {
			return &command.Unsupported{Command: "xxd", What: fmt.Sprintf("the character %q among hexadecimal digits", c)}
		}
		if half < 0 {
			half = int(n)
			continue
		}
		if err := out.WriteByte(byte(half<<4 | int(n))); err != nil { //nolint:gosec // two digits
			return errNobodyReads
		}
		half = -1
	}
}

// base64Tool encodes or decodes.
func base64Tool(ctx context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	if len(opt.Args) > 1 {
		return p.Errorf("extra operand '%s'", opt.Args[1])
	}
	wrap, err := whole(opt, "w", 76)
	if err != nil || wrap < 0 {
		return p.Errorf("invalid wrap size: '%s'", opt.Values["w"])
	}
	out := newOutput(p)
	if opt.Has["d"] {
		return each(ctx, p, opt.Args, out, func(r *bufio.Reader) error { return decode64(out, r) })
	}
	return each(ctx, p, opt.Args, out, func(r *bufio.Reader) error {
		w := &wrapper{out: out, width: wrap}
		e := base64.NewEncoder(base64.StdEncoding, w)
		if _, err := io.Copy(e, r); err != nil {
			return err
		}
		if err := e.Close(); err != nil {
			return err
		}
		if w.column > 0 && wrap > 0 {
			return out.write("\n")
		}
		return nil
	})
}

// wrapper breaks what is written into lines.
type wrapper struct {
	out    output
	width  int
	column int
}

func (w *wrapper) Write(b []byte) (int, error) {
	n := len(b)
	if w.width == 0 {
		return n, w.out.write(string(b))
	}
	for len(b) > 0 {
		part := b[:min(len(b), w.width-w.column)]
		if err := w.out.write(string(part)); err != nil {
			return 0, err
		}
		b = b[len(part):]
		if w.column += len(part); w.column == w.width {
			if err := w.out.write("\n"); err != nil {
				return 0, err
			}
			w.column = 0
		}
	}
	return n, nil
}

// decode64 reads groups of four characters with ends of lines between them. What is
// wrong with them is said in different ways, and so refused.
func decode64(out output, r *bufio.Reader) error {
	wrong := func(what string) error {
		return &command.Unsupported{Command: "base64", What: "decoding " + what}
	}
	var group []byte
	for {
		c, err := r.ReadByte()
		if errors.Is(err, io.EOF) {
			if len(group) > 0 {
				return wrong("a text that ends too early")
			}
			return nil
		}
		if err != nil {
			return err
		}
		if c == '\n' {
			continue
		}
		if group = append(group, c); len(group) < 4 {
			continue
		}
		b, err := base64.StdEncoding.Strict().DecodeString(string(group))
		if err != nil {
			return wrong(fmt.Sprintf("%q", group))
		}
		group = group[:0]
		if err := out.write(string(b)); err != nil {
			return err
		}
	}
}
