package explain

import (
	"go/scanner"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestPages(t *testing.T) {
	t.Parallel()
	all := All()
	if len(all) < 50 {
		t.Fatalf("only %d pages", len(all))
	}
	seen := map[string]bool{}
	name := regexp.MustCompile(`^(PA[0-9]{3}|[a-z]+(-[a-z]+)*)$`)
	for _, page := range all {
		t.Run(page.Code, func(t *testing.T) {
			t.Parallel()
			if !name.MatchString(page.Code) {
				t.Errorf("not a code or topic")
			}
			if page.Title == "" || len(page.Title) > 70 || strings.HasSuffix(page.Title, ".") {
				t.Errorf("title %q", page.Title)
			}
			lines := strings.Split(strings.TrimSuffix(page.Text, "\n"), "\n")
			if len(lines) < 5 || len(lines) > 28 {
				t.Errorf("%d lines", len(lines))
			}
			example := false
			for _, line := range lines {
				if len([]rune(line)) > 80 && !strings.HasPrefix(line, "    ") {
					t.Errorf("line of %d columns: %q", len(line), line)
				}
				if strings.TrimRight(line, " \t") != line || strings.Contains(line, "\t") {
					t.Errorf("space at the end, or a tab: %q", line)
				}
				example = example || strings.HasPrefix(line, "    ")
			}
			if !example {
				t.Error("no example to paste")
			}
		})
		if seen[page.Code] {
			t.Errorf("%s twice", page.Code)
		}
		seen[page.Code] = true
	}
	if !slices.IsSortedFunc(all[1:], func(a, b Page) int { return strings.Compare(a.Code, b.Code) }) || all[0].Code != "exit-codes" {
		t.Error("pages aren't in order")
	}
}

func TestLookup(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"PA104", "pa104", "104", " PA104 "} {
		if page, ok := Lookup(code); !ok || page.Code != "PA104" {
			t.Errorf("%q: %v %v", code, page.Code, ok)
		}
	}
	if page, ok := Lookup("exit-codes"); !ok || !strings.Contains(page.Text, "130") {
		t.Error("exit-codes")
	}
	for _, code := range []string{"", "PA", "PA999", "PA10", "# PA104"} {
		if page, ok := Lookup(code); ok {
			t.Errorf("%q: %s", code, page.Code)
		}
	}
}

// TestEveryCodeHasAPage reads the string literals of the whole program.
func TestEveryCodeHasAPage(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil {
		t.Skip("the sources of the program aren't here")
	}
	used := map[string]string{} // code → where
	code := regexp.MustCompile(`\bPA[0-9]{3}\b`)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "vendor") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		source, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files := token.NewFileSet()
		var s scanner.Scanner
		s.Init(files.AddFile(path, -1, len(source)), source, nil, 0)
		for {
			pos, tok, text := s.Scan()
			if tok == token.EOF {
				return nil
			}
			if tok == token.STRING {
				for _, found := range code.FindAllString(text, -1) {
					used[found] = files.Position(pos).String()
				}
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for found, where := range used {
		if _, ok := Lookup(found); !ok {
			t.Errorf("%s has no page (%s)", found, where)
		}
	}
	for _, page := range All() {
		if strings.HasPrefix(page.Code, "PA") && used[page.Code] == "" {
			t.Logf("%s is explained and never used", page.Code)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("# PA104 title\n\ntext\n# b c\n")
	f.Add("text\r\n# \r\n#\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, page := range parse(text) {
			if !strings.HasSuffix(page.Text, "\n") || strings.Contains(page.Code, "\n") {
				t.Errorf("%+v", page)
			}
		}
	})
}
