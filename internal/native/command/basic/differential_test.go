package basic_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/native/command/basic"
	"github.com/anyarch/anyarch/internal/native/command/text"
	"github.com/anyarch/anyarch/internal/native/shell"
	"github.com/anyarch/anyarch/internal/platform"
)

// texts are the files that the scripts of TestAgainstHost find.
var texts = map[string]string{
	"a": "one\ntwo\nthree\n", "b": "four\nfive\n", "noend": "x\ny", "empty": "", "blank": "\n\na\n\n\n\nb\n",
	"num": "10\n9\n2\n-1\n1.5\n007\n7\nx\n\n", "dup": "b\na\na\nB\nb\nb\n", "csv": "k1:v3:z\nk2:v1:y\nk3:v2\nnone\n:empty:\n",
	"ver": "v1.10\nv1.9\nv1.2.3\n1.0\nv1.9-rc1\n", "tab": "a\tb\tc\n  lead  two\n", "long": "the quick brown fox\njumps over\n",
	"conf": "# comment\nkey=value\nother = x\n[section]\npath=/usr/local/bin\n", "d/x": "x\n", "d/y": "y\n", "d/e/z": "z\n",
}

// made is when the texts were last changed.
var made = time.Unix(1700000000, 0)

// scripts are short scripts whose output, exit code and files are compared with those
// of the tools of this machine.
var scripts = []string{
	// cat, head, tail, wc
	`cat a b noend`, `cat -n a`, `cat nope a; echo $?`, `head -n 2 a`, `head -2 a`, `head -n 1 a b`, `head -n -1 a`, `head -c 4 a`, `head -c 2 a b`, `head -n 1 - < a`, `cat a | head -n 0`,
	`head -q -n 1 a b`, `tail -n 1 a`, `tail -1 a`, `tail -n 1 a b`, `tail -n +2 a`, `tail -c 4 a`, `tail -n 2 noend`, `tail -n 0 a`, `tail -q -n 1 a b`, `head nope; echo $?`, `head -n x a 2>/dev/null; echo $?`,
	`wc -l < a`, `cat a | wc -c`, `wc -w < long`, `wc -m < a`, `wc -l < noend`,
	// sort, uniq
	`sort num`, `sort -n num`, `sort -rn num`, `sort -u dup`, `sort -f dup`, `sort -r dup`, `sort -t: -k2 csv`, `sort -t: -k2,2 csv`, `sort -t : -k 2,2r csv`, `sort -k1,1 -t: csv`, `sort -nu num`,
	`sort -t. -k2n ver`, `sort -V ver`, `sort -c a; echo $?`, `sort -c dup 2>/dev/null; echo $?`, `sort a b`, `sort -o out a; cat out`, `sort < noend`, `sort -b tab`, `sort -s -k1,1 csv`, `sort -z empty`,
	`uniq dup`, `uniq -c dup`, `uniq -d dup`, `uniq -u dup`, `uniq -i dup`, `sort dup | uniq -c | sort -rn`, `uniq dup out; cat out`, `uniq -f1 tab`, `uniq -s1 dup`, `uniq -w1 dup`,
	// cut, tr
	`cut -d: -f2 csv`, `cut -d: -f1,3 csv`, `cut -d: -f2- csv`, `cut -d: -f-2 csv`, `cut -s -d: -f2 csv`, `cut -c1-3 a`, `cut -c 2 a`, `cut -b1,3 a`, `cut -f2 tab`, `cut -d' ' -f1 long`, `cut -d : -f 3,1 csv`, `cut -c-2,4- a`,
	`cut -f1 nope; echo $?`, `echo a,b,c | cut -d, -f2 --output-delimiter=-`, `cut -d, -f1 noend`,
	`tr a-z A-Z < a`, `tr -d '\n' < a`, `tr -s ' ' < tab`, `tr ' ' '\n' < long`, `tr -d '[:space:]' < tab`, `tr '[:lower:]' '[:upper:]' < a`, `tr -cd 'a-z\n' < conf`, `tr -c 'a-z\n' '_' < conf`, `tr -dc 0-9 < ver`,
	`tr abc x < a`, `tr '\t' ' ' < tab`, `tr -s '\n' < blank`, `tr -ds e t < a`, `tr '\101' b < a`, `tr a-c d-f < csv`, `tr 'a-z' 'n-za-m' < a`,
	// grep
	`grep o a`, `grep -n o a`, `grep -c o a b`, `grep -v o a`, `grep -i ONE a`, `grep -w on a; echo $?`, `grep -x one a`, `grep -q one a; echo $?`, `grep -l o a b nope; echo $?`, `grep -L o a b; echo $?`, `grep -h o a b`, `grep -H o a`,
	`grep -r x d | sort`, `grep -e one -e two a`, `grep -E '^(one|two)$' a`, `grep -F . ver`, `grep -o 'v[0-9]' ver`, `grep -A1 one a`, `grep -B1 three a`, `grep -C1 two a`, `grep -m1 o a`, `grep -s x nope; echo $?`, `grep x nope 2>/dev/null; echo $?`,
	`grep '^key=' conf | cut -d= -f2`, `grep '[[:digit:]]\{2\}' ver`, `grep -E '[0-9]+\.[0-9]+' ver`, `grep '\(o\)n' a`, `grep -c '' a`, `grep '' empty; echo $?`, `grep -nv '^$' blank`, `printf 'a\nb\n' | grep -q b && echo y`, `grep -f b a; echo $?`, `grep '\<t' a`, `grep 'o\+' a`, `grep 'a\|two' a`,
	`grep -vE '^#|^$' conf`, `echo "x=1" | grep -Eo '[0-9]+$'`, `grep -ril ONE . | sort`, `grep -rn z d`, `grep -rc x d | sort`, `grep -- -1 num`, `grep -A 1 -n one a b`, `egrep 'on|tw' a`, `fgrep '[section]' conf`, `grep -b two a`, `grep --include=x -r x d`,
	// sed
	`sed 's/o/0/' a`, `sed 's/e/E/g' a`, `sed 's/e/E/2' a`, `sed -n '2p' a`, `sed '2d' a`, `sed '$d' a`, `sed -n '$p' a b`, `sed '1,2d' a`, `sed '/two/d' a`, `sed '/one/,/two/d' a`, `sed -n '/two/,$p' a`, `sed '2!d' a`, `sed '2q' a`, `sed -n '2{p;q}' a`,
	`sed '2i\new' a`, `sed '2a\new' a`, `sed '2c\new' a`, `sed '2i new' a`, `sed '$a last' a`, `sed '$a\' noend`, `sed '/two/i\  indented' a`, `sed 'y/abc/xyz/' csv`, `sed '=' a`, `sed -n '$=' a`, `sed G a`, `sed -n 'H;${x;s/\n/,/g;p}' a`, `sed 'N;s/\n/ /' a`, `sed '$!N;P;D' a`, `sed ':a;N;$!ba;s/\n/ /g' a`,
	`sed -e 's/a/b/' -e 's/b/c/' csv`, `sed 's/\(.*\):\(.*\)/\2:\1/' csv`, `sed -E 's/(k)([0-9])/\2\1/' csv`, `sed 's|/usr/local|/opt|' conf`, `sed 's/.*/[&]/' a`, `sed 's/o/\&/' a`, `sed 's/o/\n/' a`, `sed 's,e,/,g' a`, `sed 's/[eo]//g' a`, `sed 's/^/> /' a`, `sed 's/$/ </' noend`,
	`sed 's/ONE/x/I' a`, `sed -n 's/o/0/p' a`, `sed -n '/o/s//0/p' a`, `sed '1~2d' a`, `sed '0,/o/s//0/' a`, `sed '2,+1d' a`, `sed '/one/{s/o/0/;s/e/3/}' a`, `sed '/one/{
s/o/0/
}' a`, `sed -n '/[0-9]/!p' csv`, `sed 's/x/y/;t;s/^/no /' a`, `sed '/one/b;s/^/not /' a`, `sed 's/a*/x/g' b`, `sed 's/b*/-/2' a`, `sed '/^#/d;/^$/d' conf`, `sed 's/key=.*/key=new/' conf`, `sed 's/\s*=\s*/=/' conf`,
	`sed -i 's/one/1/' a; cat a`, `sed -i.bak 's/one/1/' a; cat a a.bak`, `sed -i -e '1d' a b; cat a b`, `sed -i '$d' d/x; cat d/x`, `sed -n '1!G;h;$p' a`, `sed 's/\t/ /g' tab`, `sed -s -n '1p' a b`, `sed 's/o/x/w out' a; cat out`, `sed 'r b' a`, `sed '1r b' a`, `sed -f prog a 2>/dev/null; echo $?`, `sed 's/[/]/x/' conf`, `sed '\,usr,d' conf`, `sed -n l tab`, `sed '/one/I d' a`, `sed --expression='s/o/0/' a`, `sed -r 's/e+/E/' a`, `sed 5q a`, `sed 'n;d' a`, `sed '1!{$!d}' a`, `sed "s/'/x/" a`, `sed '2Q' a`, `sed '2q5' a; echo $?`, `sed 'a\
added' a`, `sed x a`, `sed '/three/r nope' a`, `sed "s/two/a\\
b/" a`, `sed '1,/o/d' a`, `sed '2,1p' a`, `sed -n '2,/one/p' a`, `sed 's/o/x/gp' a`, `sed -n 's/e/E/2p' a`, `sed -z 's/\n/,/g' a`, `sed '1d;1d' a`, `sed -E 's/^(.)(.*)$/\2\1/' a`, `sed '}' a 2>/dev/null; echo $?`,
	// files
	`cp a c && cat c`, `cp a b d && ls d`, `cp -r d e && ls -R e`, `cp a nope/x 2>/dev/null; echo $?`, `cp -v a c`, `cp -rv d/e f`, `rm -rv d/e`, `mkdir -pv m/n`, `mkdir -pv d/m`, `cp -v a b d`, `mv a c; ls`, `mv a b d; ls d`, `mv nope x 2>/dev/null; echo $?`, `mv -n a b; cat b`, `mv -v a c`, `cp -n a b; cat b`, `cp -u a b; ls`, `cp d x 2>/dev/null; echo $?`, `cp a a 2>/dev/null; echo $?; cat a`,
	`rm a; ls`, `rm nope 2>/dev/null; echo $?`, `rm -f nope; echo $?`, `rm d 2>/dev/null; echo $?`, `rm -r d; ls`, `rm -rf d nope; ls`, `rm -v a`, `rmdir d 2>/dev/null; echo $?`, `mkdir -p p/q && rmdir -p p/q && ls`, `mkdir a 2>/dev/null; echo $?`, `mkdir -p d; echo $?`, `mkdir x/y 2>/dev/null; echo $?`, `mkdir -v n`, `mkdir -m 700 m && ls -ld m | cut -c1-10`,
	`ln -s a l && cat l && readlink l`, `ln a h && cat h`, `ln -s a b 2>/dev/null; echo $?`, `ln -sf a b && readlink b`, `ln -s /x/y && readlink y`, `ln -s a b d; ls d`, `ln -sfn d l && readlink l`, `touch n && ls n`, `touch -c n; ls n 2>/dev/null; echo $?`, `touch x/y 2>/dev/null; echo $?`, `chmod 600 a && ls -l a | cut -c1-10`, `chmod u+x,go-r a && ls -l a | cut -c1-10`, `chmod +x a && ls -l a | cut -c1-10`, `chmod a=r a && ls -l a | cut -c1-10`, `chmod -R go= d && ls -lR d | grep -v total | cut -c1-10`, `chmod 4755 a && ls -l a | cut -c1-10`, `chmod u+s,g+s,+t a && ls -l a | cut -c1-10`, `chmod X=r a 2>/dev/null; echo $?`, `chmod 1777 d && ls -ld d | cut -c1-10`, `chmod g=u a && ls -l a | cut -c1-10`,
	`ls`, `ls d a`, `ls -d d`, `ls -A d`, `ls -1 d`, `ls -a d`, `ls nope 2>/dev/null; echo $?`, `ls -R d`, `ls -F`, `ls -p d`, `ls d/*`, `ls -r`, `ls -1 | wc -l`,
	`basename /a/b/`, `basename a.txt .txt`, `basename /`, `basename -s .c x.c y.c`, `basename a a`, `dirname /a/b/`, `dirname a`, `dirname /`, `dirname a//b`, `readlink nope; echo $?`, `readlink -f a | sed 's,.*/,,'`, `realpath nope/x 2>/dev/null; echo $?`,
	`tee t1 t2 < a && cat t1 t2`, `echo x | tee -a a; cat a`, `truncate -s 2 a && cat a`, `truncate -s 10 b && wc -c < b`, `install -m 755 a i && ls -l i | cut -c1-10`, `install -d x/y/z && ls x/y`, `install -D a p/q/r && cat p/q/r`, `mktemp -u /tmp/a.XXXXXX | wc -c`,
	// others
	`seq 3`, `seq 2 4`, `seq 1 2 7`, `seq 3 1`, `seq 3 -1 1`, `seq -s, 3`, `seq -w 8 11`, `seq -f 'n%g' 2`, `seq 1 .5 2`, `seq 5 | tail -n +3`, `seq 0`, `env -i A=1 env`, `env A=1 sh -c 'echo $A' 2>/dev/null || env A=1 printenv A`, `A=1 env | grep ^A=`, `env -u HOME env | grep -c ^HOME=`, `printenv NOPE; echo $?`,
	`printf 'a b\nc\n' | xargs`, `printf 'a b\nc\n' | xargs -n1 echo x`, `printf 'a b\nc\n' | xargs -I{} echo '[{}]'`, `printf 'a\0b c\0' | xargs -0 -n1 echo`, `printf '' | xargs echo x`, `printf '' | xargs -r echo x`, `ls d | xargs -I % echo d/%`, `echo "a 'b c' d" | xargs -n1`, `printf 'a\nb\n' | xargs -t echo 2>/dev/null`, `echo 1 2 3 | xargs -n 2`, `printf 'x\n' | xargs false; echo $?`, `printf 'a\nb\nc\n' | xargs -L 2 echo`, `seq 3 | xargs -P 2 -n 3 echo`,
	`sha256sum a`, `md5sum a b`, `sha1sum < a`, `sha512sum empty`, `sha256sum a > s && sha256sum -c s`, `sha256sum a > s; echo x > a; sha256sum -c s 2>/dev/null; echo $?`, `md5sum nope 2>/dev/null; echo $?`, `sha256sum a | cut -d' ' -f1`,
	`date -u -d @0 +%F`, `date -u -d @1700000000 '+%Y-%m-%dT%H:%M:%SZ %j %a %b %s'`, `date -u -d '2024-02-29 12:34:56' +%s`, `date -u -d @86399 +%T`, `date -u -d @0 -R`, `date -u -d @0 +%-d`, `true && false; echo $?`, `id -u`, `sleep 0; echo $?`, `expr 1 + 2`, `test -s a && test ! -s empty && echo y`, `stat -c '%a %s %F' a`, `stat -c %n d/x`, `which nosuchcommand; echo $?`,
	`nproc >/dev/null; echo $?`, `factor 12 2>/dev/null || true`, `cmp a a && echo same`, `diff a a && echo same`, `tac a`, `rev a`, `nl a`, `paste a b`, `fold -w 3 long`, `expand tab`, `split -l 1 a 2>/dev/null; ls`, `comm a a`, `join a a`, `shuf -n 0 a`, `od -c noend`, `yes | head -n 2`, `base64 a`, `base64 -d <<E
b25lCg==
E`, `wc a`, `wc -l a b`, `wc -lw a`, `wc -c a`, `cat a b | sort | uniq | wc -l`, `du -s empty | cut -f1 | wc -l`, `echo "$(<a)" 2>/dev/null`, `test a -nt b; echo $?`, `find . -name x`, `awk '{print $1}' long`, `dd if=a of=o bs=1 count=3 2>/dev/null; cat o`, `hostname >/dev/null; echo $?`, `tsort < empty`, `strings a`,
}

// TestAgainstHost runs scripts with the tools of this machine, GNU's and busybox's,
// and with ours. Where ours refuse, they aren't wrong, and that is counted.
func TestAgainstHost(t *testing.T) {
	t.Parallel()
	for _, host := range []struct {
		dialect command.Dialect
		shell   shell.Dialect
		program []string
	}{{command.GNU, shell.Dash, []string{"dash"}}, {command.Busybox, shell.Ash, []string{"busybox", "ash"}}} {
		t.Run(string(host.dialect), func(t *testing.T) {
			t.Parallel()
			if _, err := exec.LookPath(host.program[0]); err != nil {
				t.Skipf("%s isn't on PATH: %d scripts aren't compared", host.program[0], len(scripts))
			}
			env := []string{"PATH=" + os.Getenv("PATH"), "HOME=/root", "LC_ALL=C", "TZ=UTC"}
			if host.dialect == command.GNU {
				if out, err := exec.Command("sed", "--version").Output(); err != nil || !strings.Contains(string(out), "GNU") {
					t.Skipf("the tools of this machine aren't GNU's: %d scripts aren't compared", len(scripts))
				}
			} else {
				dir := t.TempDir()
				if out, err := exec.Command("busybox", "--install", "-s", dir).CombinedOutput(); err != nil {
					t.Skipf("busybox can't be installed: %v %s", err, out)
				}
				env[0] = "PATH=" + dir
			}
			refused := 0
			for _, script := range scripts {
				want, missing := onHost(t, append(host.program, "-c", script), env)
				if missing {
					continue // this machine hasn't such a tool
				}
				got, err := ours(t, host.dialect, host.shell, script)
				if err != nil {
					refused++
					t.Logf("refused: %s: %v", script, err)
					continue
				}
				if got != want {
					t.Errorf("%s\n-- here\n%s-- %s\n%s", script, got, host.program[0], want)
				}
			}
			t.Logf("%d of %d scripts refused", refused, len(scripts))
		})
	}
}

// onHost runs a script in a directory with the texts: its output, its exit code, and
// the files that are there then.
func onHost(t *testing.T, program, env []string) (result string, missing bool) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range texts {
		at := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(at, made, made); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), program[0], append(program[1:len(program)-1:len(program)-1], "umask 022; "+program[len(program)-1])...)
	var out, errs bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, env, &out, &errs
	_ = cmd.Run()
	if strings.Contains(errs.String(), "not found") || cmd.ProcessState == nil || strings.Contains(errs.String(), "unrecognized option") || strings.Contains(errs.String(), "invalid option") {
		return "", true
	}
	var files strings.Builder
	if err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, name)
		text := ""
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			text = fmt.Sprintf("%q", data)
		case info.Mode()&fs.ModeSymlink != 0:
			if text, err = os.Readlink(name); err != nil {
				return err
			}
			fmt.Fprintf(&files, "%s -> %s\n", rel, text)
			return nil
		}
		fmt.Fprintf(&files, "%s %v %s\n", rel, info.Mode(), text)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%sexit %d\n%s", out.String(), cmd.ProcessState.ExitCode(), changed(files.String())), false
}

// ours runs a script with the commands of this package.
func ours(t *testing.T, dialect command.Dialect, sh shell.Dialect, script string) (string, error) {
	t.Helper()
	x := filetree.New()
	for name, text := range texts {
		at := "/w/" + name
		if err := x.MkdirAll(filepath.Dir(at), filetree.Attr{Mode: 0o755}); err != nil {
			t.Fatal(err)
		}
		if err := x.Put(at, filetree.Attr{Mode: 0o644, ModTime: made, Content: filetree.Bytes(text).Content()}); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.MkdirAll("/tmp", filetree.Attr{Mode: 0o777}); err != nil {
		t.Fatal(err)
	}
	set := command.Set{}
	for _, c := range slices.Concat(text.CommandsIn(t.TempDir()), basic.Commands()) {
		set[c.Name] = c
	}
	source := shell.Script{Text: "umask 022; " + script, Dialect: sh, Name: "sh"}
	if problems := shell.Check(source, func(name string) (*command.Command, bool) { c, ok := set[name]; return c, ok }); len(problems) > 0 {
		return "", problems[0].Unsupported
	}
	var out, errs bytes.Buffer
	exit, err := shell.Run(t.Context(), source, shell.Options{
		Tree: x, Dir: "/w", Env: []string{"PATH=/usr/bin:/bin", "HOME=/root", "LC_ALL=C", "TZ=UTC"}, Platform: platform.Platform{OS: "linux", Architecture: "amd64"},
		Commands: set, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Now: time.Unix(1750000000, 0), CommandDialect: dialect, Scratch: t.TempDir(),
	})
	if err != nil {
		return "", err
	}
	var files strings.Builder
	if err := x.Walk("/w", func(name string, a filetree.Attr) error {
		if name == "/w" {
			return nil
		}
		rel := strings.TrimPrefix(name, "/w/")
		switch {
		case a.IsSymlink():
			fmt.Fprintf(&files, "%s -> %s\n", rel, a.Link)
		case a.IsDir():
			fmt.Fprintf(&files, "%s %v \n", rel, a.Mode)
		default:
			data, err := x.ReadFile(name)
			if err != nil {
				return err
			}
			fmt.Fprintf(&files, "%s %v %q\n", rel, a.Mode, data)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%sexit %d\n%s", out.String(), exit, changed(files.String())), nil
}

// changed leaves out the files that are as they were, and names those that are gone.
func changed(files string) string {
	var out strings.Builder
	there := map[string]bool{}
	for line := range strings.Lines(files) {
		name, _, _ := strings.Cut(line, " ")
		there[name] = true
		if text, ok := texts[name]; ok && line == fmt.Sprintf("%s -rw-r--r-- %q\n", name, text) || line == "d drwxr-xr-x \n" || line == "d/e drwxr-xr-x \n" {
			continue
		}
		out.WriteString(line)
	}
	for _, name := range []string{"a", "b", "conf", "csv", "d/e/z", "d/x", "d/y", "dup"} {
		if !there[name] {
			out.WriteString(name + " is gone\n")
		}
	}
	return out.String()
}
