// Package control reads and writes the control files of Debian: the descriptions
// of packages, the indexes of archives and the database of dpkg, all of which are
// paragraphs of fields (Debian Policy 5.1, deb822(5)); and what stands in those
// fields: versions and relationships between packages.
//
// Paragraphs keep the order of their fields and those they don't know, so that
// what is read and written again is the same.
package control

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Field is one field of a paragraph.
type Field struct {
	Name string
	// Value has no space around it. The lines after the first keep the space that
	// they start with; a value that starts on the second line starts with "\n".
	Value string
}

// Paragraph is a list of fields. A name is there once, whatever its case.
type Paragraph struct {
	Fields []Field
	// Line is where the paragraph starts in the file that it was read from, 1 for
	// the first line.
	Line int
}

// Get gives the value of a field, empty if there is none. Names of fields are the
// same in upper and lower case (Debian Policy 5.1).
func (p *Paragraph) Get(name string) string {
	value, _ := p.Lookup(name)
	return value
}

// Lookup gives the value of a field and whether it is there.
func (p *Paragraph) Lookup(name string) (string, bool) {
	if i := p.index(name); i >= 0 {
		return p.Fields[i].Value, true
	}
	return "", false
}

// Set changes a field where it stands, or puts it at the end.
func (p *Paragraph) Set(name, value string) {
	if i := p.index(name); i >= 0 {
		p.Fields[i].Value = value
		return
	}
	p.Fields = append(p.Fields, Field{name, value})
}

// Remove takes a field away if it is there.
func (p *Paragraph) Remove(name string) {
	if i := p.index(name); i >= 0 {
		p.Fields = append(p.Fields[:i:i], p.Fields[i+1:]...)
	}
}

// Clone gives an independent paragraph of the same fields.
func (p *Paragraph) Clone() *Paragraph {
	return &Paragraph{Fields: append([]Field(nil), p.Fields...), Line: p.Line}
}

func (p *Paragraph) index(name string) int {
	for i := range p.Fields {
		if len(p.Fields[i].Name) == len(name) && strings.EqualFold(p.Fields[i].Name, name) {
			return i
		}
	}
	return -1
}

// Append writes the paragraph after b, without an empty line at the end.
func (p *Paragraph) Append(b []byte) []byte {
	for _, f := range p.Fields {
		b = append(b, f.Name...)
		b = append(b, ':')
		if f.Value != "" && f.Value[0] != '\n' {
			b = append(b, ' ')
		}
		b = append(b, f.Value...)
		b = append(b, '\n')
	}
	return b
}

// String is the paragraph as it stands in a file.
func (p *Paragraph) String() string { return string(p.Append(nil)) }

// What a paragraph may be at most. The longest of Debian have less than 1 MiB.
const (
	maxParagraph = 8 << 20
	maxFields    = 4096
)

// SyntaxError is a control file that isn't one.
type SyntaxError struct {
	Line    int // 1 for the first
	Problem string
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Problem) }

// Reader reads the paragraphs of a control file one by one. It is not for
// concurrent use.
type Reader struct {
	// Comments says that lines which start with # are left out and that lines may
	// end in CR LF, as apt has it for the files that people write
	// (sources.list(5)). The indexes of archives and the database of dpkg have no
	// comments. It must be set before the first call of Next.
	Comments bool

	in   *bufio.Reader
	line int
	text []byte // of the paragraph that is being read
	err  error
}

// NewReader reads from r, which it buffers.
func NewReader(r io.Reader) *Reader {
	return &Reader{in: bufio.NewReaderSize(r, 1<<16)}
}

// span is where a field is in the text of a paragraph.
type span struct{ name, nameEnd, value int }

// Next gives the next paragraph, io.EOF after the last. A file that isn't in the
// form is a *SyntaxError. After an error there is nothing more.
func (r *Reader) Next() (*Paragraph, error) {
	if r.err != nil {
		return nil, r.err
	}
	p, err := r.next()
	if err != nil {
		r.err = err
	}
	return p, err
}

func (r *Reader) next() (*Paragraph, error) {
	// The text of a paragraph is collected as it is and becomes one string that
	// the fields are parts of: an index of 60,000 packages costs two allocations
	// for each.
	r.text = r.text[:0]
	var spans []span
	start := 0
	for {
		from := len(r.text)
		err := r.readLine()
		line := r.text[from:]
		switch {
		case err != nil && (!errors.Is(err, io.EOF) || len(line) == 0):
			if errors.Is(err, io.EOF) && len(spans) > 0 {
				return r.paragraph(spans, start)
			}
			return nil, err
		case len(line) == 0:
			if len(spans) > 0 {
				return r.paragraph(spans, start)
			}
			continue
		case r.Comments && line[0] == '#':
			r.text = r.text[:from]
			continue
		}
		if line[0] == ' ' || line[0] == '\t' {
			if len(spans) == 0 {
				if r.Comments && len(bytes.TrimSpace(line)) == 0 {
					r.text = r.text[:from]
					continue
				}
				return nil, r.syntax("the line continues a field, but there is none before it")
			}
			r.text = append(r.text, '\n')
			continue
		}
		colon := bytes.IndexByte(line, ':')
		if colon < 0 {
			return nil, r.syntax("%s has no colon after its name", quoted(line))
		}
		name := bytes.TrimRight(line[:colon], " \t")
		if !validName(name) {
			return nil, r.syntax("%s is no name of a field", quoted(line[:colon]))
		}
		for _, s := range spans {
			if s.nameEnd-s.name == len(name) && bytes.EqualFold(r.text[s.name:s.nameEnd], name) {
				return nil, r.syntax("the field %s is there twice", name)
			}
		}
		if len(spans) == maxFields {
			return nil, r.syntax("the paragraph has more than %d fields", maxFields)
		}
		if len(spans) == 0 {
			start = r.line
		}
		spans = append(spans, span{from, from + len(name), from + colon + 1})
		r.text = append(r.text, '\n')
	}
}

// readLine adds the next line to the text, without its end.
func (r *Reader) readLine() error {
	from := len(r.text)
	for {
		part, err := r.in.ReadSlice('\n')
		r.text = append(r.text, part...)
		if len(r.text) > maxParagraph {
			return &SyntaxError{r.line + 1, fmt.Sprintf("the paragraph is longer than %d bytes", maxParagraph)}
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err == nil || len(r.text) > from {
			r.line++
		}
		if err == nil {
			r.text = r.text[:len(r.text)-1]
		}
		if n := len(r.text); r.Comments && n > from && r.text[n-1] == '\r' {
			r.text = r.text[:n-1]
			if n-1 == from && err != nil {
				return err
			}
		}
		// A last line without its end counts like the others.
		if errors.Is(err, io.EOF) && len(r.text) > from {
			err = nil
		}
		return err
	}
}

func (r *Reader) paragraph(spans []span, line int) (*Paragraph, error) {
	text := string(r.text)
	p := &Paragraph{Fields: make([]Field, len(spans)), Line: line}
	for i, s := range spans {
		end := len(text)
		if i+1 < len(spans) {
			end = spans[i+1].name
		}
		value := strings.TrimRight(text[s.value:end], " \t\r\n")
		// Only the space of the first line doesn't belong to the value.
		p.Fields[i] = Field{text[s.name:s.nameEnd], strings.TrimLeft(value, " \t")}
	}
	return p, nil
}

func (r *Reader) syntax(format string, args ...any) error {
	return &SyntaxError{r.line, fmt.Sprintf(format, args...)}
}

// validName follows Debian Policy 5.1: printable ASCII but space and colon, and
// neither # nor - at the start.
func validName(name []byte) bool {
	if len(name) == 0 || name[0] == '#' || name[0] == '-' {
		return false
	}
	for _, c := range name {
		if c <= ' ' || c >= 0x7f || c == ':' {
			return false
		}
	}
	return true
}

// quoted shortens what a foreign file has for an error message.
func quoted(b []byte) string {
	const most = 60
	if len(b) > most {
		return fmt.Sprintf("%q...", b[:most])
	}
	return fmt.Sprintf("%q", b)
}

// Lines gives the lines of a value that has one item on each, such as Conffiles,
// without the space around them and without empty ones.
func Lines(value string) []string {
	var list []string
	for line := range strings.SplitSeq(value, "\n") {
		if line = strings.TrimSpace(line); line != "" {
			list = append(list, line)
		}
	}
	return list
}
