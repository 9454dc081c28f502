package awk

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"path"
	"strings"

	"github.com/anyarch/anyarch/internal/native/command"
)

// outputFile is a file that print writes to.
type outputFile struct {
	w *bufio.Writer
	c io.Closer // nil for what awk doesn't close
}

// output gives the file of a redirection, which stays open until it is closed.
func (in *interpreter) output(name string, appending bool) *bufio.Writer {
	if o := in.outputs[name]; o != nil {
		return o.w
	}
	var o *outputFile
	switch name {
	case "-":
		panic(failure{refuse("the output file - (which not every awk takes alike)")})
	case "/dev/stdout":
		o = &outputFile{in.out, nil}
	case "":
		in.runtime("a redirection to a file without a name")
	default:
		w, err := in.p.Create(name, appending, in.scratch)
		if err != nil && !command.Fatal(err) {
			in.runtime("can't open %s for writing: %s", name, command.Reason(err))
		}
		in.check(err)
		o = &outputFile{bufio.NewWriterSize(w, 1<<14), w}
	}
	in.outputs[name] = o
	return o.w
}

// close closes a file that was written or read: 0, or -1 if there is none.
func (in *interpreter) close(name string) int {
	result := -1
	if o := in.outputs[name]; o != nil {
		delete(in.outputs, name)
		in.check(o.finish())
		result = 0
	}
	if r := in.inputs[name]; r != nil {
		delete(in.inputs, name)
		in.check(r.close())
		result = 0
	}
	if result < 0 && in.prog.busybox {
		panic(failure{refuse("closing %s, which isn't open (of which not every version says that)", name)})
	}
	return result
}

func (o *outputFile) finish() error {
	if o.c == nil {
		return nil
	}
	return errors.Join(o.w.Flush(), o.c.Close())
}

// finish closes everything. What was written is in the tree then, even if the
// program ended with an error.
func (in *interpreter) finish() error {
	var err error
	for _, o := range in.outputs {
		err = errors.Join(err, o.finish())
	}
	for _, r := range in.inputs {
		_ = r.close()
	}
	if in.input != nil {
		_ = in.input.close()
	}
	return err
}

// records reads a file record by record.
type records struct {
	r     io.Reader
	c     io.Closer
	buf   []byte
	at    int // what was read of buf
	ended bool
	err   error
}

func (r *records) close() error {
	if r.c == nil {
		return nil
	}
	return r.c.Close()
}

// fill reads more; false at the end.
func (r *records) fill() bool {
	if r.ended {
		return false
	}
	if r.at > 0 {
		r.buf = append(r.buf[:0], r.buf[r.at:]...)
		r.at = 0
	}
	block := make([]byte, max(1<<16, len(r.buf)))
	n, err := r.r.Read(block)
	r.buf = append(r.buf, block[:n]...)
	if err != nil {
		r.ended = true
		if !errors.Is(err, io.EOF) {
			r.err = err
		}
	}
	return true
}

// take gives the next n bytes, and passes over skip more.
func (r *records) take(n, skip int) (string, bool, error) {
	s := string(r.buf[r.at : r.at+n])
	r.at += n + skip
	return s, true, nil
}

// next gives the next record.
func (in *interpreter) next(r *records) (string, bool, error) {
	switch {
	case in.splitRS != nil:
		return in.nextByRegexp(r)
	case in.rs == "":
		return r.paragraph(in.prog.busybox)
	}
	looked := 0
	for {
		rest := r.buf[r.at:]
		if i := bytes.IndexByte(rest[looked:], in.rs[0]); i >= 0 {
			return r.take(looked+i, 1)
		}
		looked = len(rest)
		if r.fill() {
			continue
		}
		if r.err != nil || looked == 0 {
			return "", false, r.err
		}
		return r.take(looked, 0)
	}
}

// paragraph gives a record that ends with empty lines.
func (r *records) paragraph(busybox bool) (string, bool, error) {
	for {
		for r.at < len(r.buf) && r.buf[r.at] == '\n' {
			r.at++
		}
		if r.at < len(r.buf) || !r.fill() {
			break
		}
	}
	looked := 0
	for {
		rest := r.buf[r.at:]
		if i := bytes.Index(rest[looked:], []byte("\n\n")); i >= 0 {
			end := looked + i
			skip := 2
			for end+skip < len(rest) && rest[end+skip] == '\n' {
				skip++
			}
			return r.take(end, skip)
		}
		looked = max(len(rest)-1, 0)
		if r.fill() {
			continue
		}
		rest = r.buf[r.at:]
		if r.err != nil || len(rest) == 0 {
			return "", false, r.err
		}
		end := len(rest)
		if !busybox { // which keeps the end of the last line if there is only one
			end = len(bytes.TrimRight(rest, "\n"))
		}
		return r.take(end, len(rest)-end)
	}
}

func (in *interpreter) nextByRegexp(r *records) (string, bool, error) {
	for {
		rest := r.buf[r.at:]
		if len(rest) > 0 {
			from, to := in.splitRS.Find(string(rest))
			// What reaches to the end of what was read may be longer.
			if from >= 0 && to > from && (to < len(rest) || r.ended) {
				return r.take(from, to-from)
			}
		}
		if r.fill() {
			continue
		}
		rest = r.buf[r.at:]
		if r.err != nil || len(rest) == 0 {
			return "", false, r.err
		}
		// Without a separator the end of the last line isn't part of the record.
		return r.take(len(rest), 0)
	}
}

// reading ends when the build is cancelled.
type reading struct {
	ctx context.Context //nolint:containedctx // of this one run
	io.Reader
}

func (r reading) Read(b []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.Reader.Read(b)
}

// open opens a file to read records of; all that read standard input read on where
// another one stopped.
func (in *interpreter) open(name string) (*records, error) {
	switch name {
	case "-", "/dev/stdin":
		if in.stdin == nil {
			in.stdin = &records{r: reading{in.ctx, in.p.Stdin}}
		}
		return in.stdin, nil
	}
	f, err := in.p.Open(name)
	if err != nil {
		return nil, err
	}
	return &records{r: reading{in.ctx, f}, c: f}, nil
}

// nextRecord gives the next record of the files that the program was called with.
func (in *interpreter) nextRecord() (string, bool) {
	for {
		if in.input == nil && !in.nextFile() {
			return "", false
		}
		record, ok, err := in.next(in.input)
		if err != nil {
			if command.Fatal(err) && !errors.Is(err, context.Canceled) {
				in.check(err)
			}
			in.runtime("read error (%s)", command.Reason(err))
		}
		if ok {
			in.nr++
			in.fnr++
			return record, true
		}
		in.skipFile()
	}
}

// skipFile goes on to the next file.
func (in *interpreter) skipFile() {
	if in.input != nil {
		in.check(in.input.close())
	}
	in.input = nil
}

// nextFile opens the next file of ARGV, and does the assignments before it.
func (in *interpreter) nextFile() bool {
	argv := in.globals[varARGV].arr
	for in.argument++; ; in.argument++ {
		if float64(in.argument) >= in.number(in.globals[varARGC].v) {
			if in.usedFile {
				return false
			}
			in.usedFile = true
			in.openInput("-")
			return true
		}
		key := in.text(numeric(float64(in.argument)))
		if argv.values[key] == nil {
			continue
		}
		arg := in.text(*argv.at(key))
		switch {
		case arg == "":
			continue
		case in.assignArgument(arg):
			continue
		}
		in.usedFile = true
		in.openInput(arg)
		return true
	}
}

func (in *interpreter) openInput(name string) {
	r, err := in.open(name)
	if err != nil && !command.Fatal(err) {
		if in.prog.busybox {
			in.runtime("%s: %s", name, command.Reason(err))
		}
		in.runtime("cannot open %s (%s)", name, command.Reason(err))
	}
	in.check(err)
	in.input, in.fnr = r, 0
	in.globals[varFILENAME].v = literal(name)
}

// assignArgument does an argument such as name=value.
func (in *interpreter) assignArgument(arg string) bool {
	name, text, ok := strings.Cut(arg, "=")
	if !ok || !isName(name) {
		return false
	}
	in.assignText(name, text)
	return true
}

func isName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c != '_' && (c|0x20 < 'a' || c|0x20 > 'z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// assignText gives a variable the value that -v or an argument has for it.
func (in *interpreter) assignText(name, source string) {
	if _, ok := others[name]; ok && name != "func" {
		panic(failure{refuse("the variable %s", name)})
	}
	s, err := escapes(source, in.prog.busybox)
	in.check(err)
	for i, n := range in.prog.names {
		if n == name {
			in.set(&variable{index: i, name: name}, fromInput(s))
			return
		}
	}
	// A variable that the program doesn't use needs no value.
}

// getLine does getline: 1, 0 at the end, -1 if the file can't be read.
func (in *interpreter) getLine(e *getLine) value {
	if e.from == nil {
		record, ok := in.nextRecord()
		if !ok {
			return numeric(0)
		}
		if e.target == nil {
			in.setRecord(fromInput(record))
		} else {
			in.assign(e.target, fromInput(record))
		}
		return numeric(1)
	}
	name := in.text(in.eval(e.from))
	r := in.inputs[name]
	if r == nil {
		if name == "" {
			return numeric(-1)
		}
		var err error
		path := name
		if name == "-" && in.prog.busybox {
			path = "./-" // no standard input there
		}
		if r, err = in.open(path); err != nil {
			if command.Fatal(err) {
				in.check(err)
			}
			return numeric(-1)
		}
		in.inputs[name] = r
	}
	record, ok, err := in.next(r)
	if err != nil {
		if command.Fatal(err) {
			in.check(err)
		}
		return numeric(-1)
	}
	switch {
	case !ok:
		return numeric(0)
	case e.target == nil:
		in.setRecord(fromInput(record))
	default:
		in.assign(e.target, fromInput(record))
	}
	return numeric(1)
}

// base is the name that a command was called by.
func base(p *command.Proc) string { return path.Base(p.Args[0]) }
