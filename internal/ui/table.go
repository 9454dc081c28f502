package ui

import (
	"io"
	"strings"
)

// Table aligns rows of text by display width. Make one with [NewTable].
type Table struct {
	style  Style
	indent string
	header []string
	rows   [][]cell
}

type cell struct {
	text string
	tone tone
}

// NewTable starts a table whose lines are indented by a number of columns.
// A table without header has none printed.
func NewTable(style Style, indent int, header ...string) *Table {
	return &Table{style: style, indent: strings.Repeat(" ", indent), header: header}
}

// Row adds a row. Cells may hold foreign text; missing ones are empty.
func (t *Table) Row(cells ...string) {
	row := make([]cell, len(cells))
	for i, text := range cells {
		row[i] = cell{text: text}
	}
	t.add(row...)
}

func (t *Table) add(cells ...cell) {
	for i := range cells {
		cells[i].text = t.style.fold(Clean(cells[i].text))
	}
	t.rows = append(t.rows, cells)
}

// WriteTo writes the table; columns that are empty in every row are left out.
func (t *Table) WriteTo(w io.Writer) (int64, error) {
	var widths []int
	measure := func(i int, text string) {
		for len(widths) <= i {
			widths = append(widths, 0)
		}
		widths[i] = max(widths[i], width(text))
	}
	for _, row := range t.rows {
		for i, c := range row {
			measure(i, c.text)
		}
	}
	for i, text := range t.header {
		if i < len(widths) && widths[i] > 0 {
			measure(i, text)
		}
	}
	var b strings.Builder
	if len(t.header) > 0 {
		header := make([]cell, len(t.header))
		for i, text := range t.header {
			header[i] = cell{text, dim}
		}
		t.write(&b, widths, header)
	}
	for _, row := range t.rows {
		t.write(&b, widths, row)
	}
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}

// write keeps spaces pending until text follows, so that no line ends in any.
func (t *Table) write(b *strings.Builder, widths []int, row []cell) {
	var line strings.Builder
	pending := t.indent
	for i, c := range row {
		if i >= len(widths) || widths[i] == 0 {
			continue
		}
		if c.text != "" {
			line.WriteString(pending + t.style.paint(c.tone, c.text))
			pending = ""
		}
		pending += strings.Repeat(" ", widths[i]-width(c.text)+3)
	}
	b.WriteString(t.style.line(line.String()) + "\n")
}
