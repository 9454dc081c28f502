package fingerprint

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// maxParsed bounds the Go files whose shape is worked out, in bytes. For others, and
// for files with mistakes in them, every change may change which files are read.
const maxParsed = 4 << 20

// read hashes the content of a file and finds its shape.
func read(path string, filter Filter, name string) (sum, shape string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	h := sha256.New()
	shape = "-"
	var source bytes.Buffer
	var to io.Writer = h
	switch {
	case filter == Named, name == "go.mod" && filter != Data:
		shape = ""
	case filter != Everything && filter != Data && filepath.Ext(name) == ".go":
		shape = ""
		if info, err := f.Stat(); err == nil && info.Size() < maxParsed {
			to = io.MultiWriter(h, &source)
		}
	}
	if _, err := io.Copy(to, f); err != nil {
		return "", "", err
	}
	if source.Len() > 0 {
		shape = shapeOf(source.Bytes())
	}
	return hex.EncodeToString(h.Sum(nil)), shape, nil
}

// shapeOf hashes what in a Go file says which files a build reads: everything up to
// the end of the imports (build constraints, the package's name, cgo), and the comments
// that embed files. It is empty if the file's head has mistakes in it.
func shapeOf(source []byte) string {
	files := token.NewFileSet()
	f, err := parser.ParseFile(files, "", source, parser.ImportsOnly|parser.ParseComments)
	if err != nil {
		return ""
	}
	end := f.Name.End()
	for _, d := range f.Decls {
		if g, ok := d.(*ast.GenDecl); ok && g.End() > end {
			end = g.End()
		}
	}
	head := files.PositionFor(end, false).Offset
	head = min(head, len(source))
	h := sha256.New()
	h.Write(source[:head])
	for _, comment := range embedding(source[head:]) {
		h.Write([]byte{0})
		h.Write([]byte(comment))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// embedding lists the comments that embed files. A line that looks like one may be part
// of another comment or of a string, so that it takes a scanner to tell (go/build,
// readGoInfo).
func embedding(source []byte) (comments []string) {
	const mark = "//go:embed"
	if !bytes.Contains(source, []byte(mark)) {
		return nil
	}
	var s scanner.Scanner
	s.Init(token.NewFileSet().AddFile("", -1, len(source)), source, nil, scanner.ScanComments)
	for {
		_, tok, text := s.Scan()
		switch {
		case tok == token.EOF:
			return comments
		case tok == token.COMMENT && strings.HasPrefix(text, mark):
			comments = append(comments, text)
		}
	}
}
