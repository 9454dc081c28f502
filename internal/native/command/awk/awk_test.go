package awk

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
)

var files = map[string]string{
	"a": "one two three\nfour five\n\nsix  seven\teight nine\n", "b": "a:1\nb:2\nc:3", "n": "3\n1\n2.5\n-4\n1e2\nabc\n", "csv": "x,y,,z\n\"q\",1\n", "para": "\n\na b\nc\n\n\n\nd\n\ne f\n", "passwd": "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/:/bin/false\n",
	"empty": "", "one": "only", "os": "NAME=\"Alpine Linux\"\nID=alpine\nVERSION_ID=3.20.1\nPRETTY_NAME=\"Alpine Linux v3.20\"\n", "semi": "a;b;;c;\n", "prog": "{ n += NF }\nEND { print n }\n", "mod": "module example.com/x\n\ngo 1.25.3\n\nrequire (\n\tgithub.com/a/b v1.2.3\n\tgolang.org/x/sys v0.1.0 // indirect\n)\n",
}

func stage(t testing.TB) *filetree.Tree {
	t.Helper()
	x := filetree.New()
	err := x.MkdirAll("/w/dir", filetree.Attr{Mode: 0o755})
	for name, text := range files {
		err = errors.Join(err, x.WriteFile("/w/"+name, filetree.Bytes(text).Content(), filetree.Attr{Mode: 0o644}))
	}
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func call(t testing.TB, x *filetree.Tree, dialect command.Dialect, stdin string, args ...string) (stdout, stderr string, exit int, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	var out, errs bytes.Buffer
	p := &command.Proc{Tree: x, Dir: "/w", Env: map[string]string{"HOME": "/root", "N": "12"}, Args: append([]string{"awk"}, args...), Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errs, Umask: 0o022, Dialect: dialect}
	exit, err = Commands()[0].Run(ctx, p)
	return out.String(), errs.String(), exit, err
}

// programs are held against the awks of the host: arguments with a ¦ between them,
// and " < " before the file for standard input.
var programs = []string{
	// The language.
	`BEGIN { print "hello" }`, `BEGIN{print 1+2*3-4/2%3, 2^3^2, -2^2, 2^-1}`, `BEGIN { print 1 " " -1, 1 - -1, -1 " " -1 }`, `BEGIN{print !0, !1, !"", !"a", !x}`, `BEGIN{print 1==1.0, "a"<"b", "10"<"9", 10<9, "abc"<1, x=="", x==0, "1"==1}`, `BEGIN{print (1<2)(3>2), (1,2) in a, 5 in a}`,
	`BEGIN { x = 5; x += 2; print x; x -= 1; print x; x *= 3; print x; x /= 4; print x; x %= 3; print x; x ^= 2; print x }`, `BEGIN { i = 5; print i++ + ++i, i--, --i, i }`, `BEGIN{a=b=3; print a b}`, `BEGIN { print 1>2 ? "y" : "n"; print (1>2) ? "y" : "n" }`, `BEGIN { print x+0, x "", length(x), -x, +x }`, `BEGIN { print 1,2,3; print(1)(2); print (1)(2) 3 }`,
	`BEGIN { if (1) print "a"; else print "b"; if (0) print "c"
else print "d" }`, `BEGIN { while (i < 3) { i++; if (i == 2) continue; print i } ; do j++; while (j < 5); print j; for (;;) { if (++k > 3) break }; print k }`, `BEGIN{for(i=0;i<3;i++){for(j=0;j<3;j++){if(j==1)break; print i,j}}}`, `BEGIN { for (i = 1; i <= 3; i++) ; print i }`, `BEGIN { if (1) { } else { print "x" } print "y" }`, `BEGIN { if (1) ; else print "no"; print "yes" }`,
	`function f(n) { return n <= 1 ? 1 : n * f(n-1) } BEGIN { print f(10) }`, `function fill(a, n) { for (i = 1; i <= n; i++) a[i] = i*i } BEGIN { fill(sq, 4); print sq[1], sq[4], i }`, `function g(x) { x = 5 } BEGIN { y = 1; g(y); print y; print g(z) "|" z }`, `function loc(a, b, c) { c[1] = a + b; return c[1] } BEGIN { print loc(2, 3), loc(4, 5) }`, `function a(x) { x["k"] = 1; return b(x) } function b(y) { y["l"] = 2; return length(y) } BEGIN { print a(m), length(m) }`, `function noret() { } BEGIN { v = noret(); print "[" v "]" v+0 }`, `function f(x) { exit x } BEGIN { f(7) } END { print "end" }`,
	"BEGIN { print 1; # comment\n print 2 } # another\n\n# third\nEND { }", "BEGIN { s = \"a\" \\\n \"b\"; print s }", `BEGIN { print length("abc"), length(12345), length(), length }`, `BEGIN { print length length }`, `BEGIN{print substr("hello",2,3), substr("hello",2), substr("hello",1,100), substr("hello",10) "|", substr("hello",6) "|", substr("hello",2,0) "|" substr("hello",2,-1), substr(12345,2,3), substr("hello",0)}`,
	`BEGIN{print index("foobar","bar"), index("foo","x"), index("aXb","X")}`, `BEGIN { print toupper("abcXyz1"), tolower("ABC") }`, `BEGIN{print int(3.9), int(-3.9), int("4x"), int("x")}`, `BEGIN { printf "%.4f %.4f %.4f %.4f %.4f %.3f\n", sin(1), cos(1), exp(1), log(10), sqrt(2), atan2(1,2) }`, `BEGIN{print match("xaab", /a+/), RSTART, RLENGTH, match("x", /y/), RSTART, RLENGTH, match("abc", "c$")}`,
	`BEGIN{n=split("a:b:c",x,":"); print n,x[1],x[3]; n=split("  a b  ",y); print n,y[1],y[2]; n=split("",w); print n,length(w); n=split("a1b22c",v,/[0-9]+/); print n,v[3]; n=split("a.b.c",u,"."); print n; n=split("a|b",q,"|"); print n; n=split("abc",z,""); print n,z[2]}`, `BEGIN { n = split("one,two,,three", f, ","); for (i = 1; i <= n; i++) printf "[%s]", f[i]; print "" }`, `BEGIN { n = split(" a  b ", f, / /); print n }`, `BEGIN { n = split("aXXbXXc", f, "XX"); print n, f[2] }`, `BEGIN { n = split("3 1", f, " "); print (f[1] > f[2]), f[1]+f[2] }`,
	`BEGIN{s="hello"; n=gsub(/l/,"[&]",s); print n, s; t="aaa"; print sub(/a/,"b\\&c",t), t; u="a.b.c"; gsub(/\./,"x",u); print u; gsub("x","\\\\&",u); print u; v="abc"; gsub(/x*/,"-",v); print v; w="a/b"; gsub("/","_",w); print w}`, `BEGIN { s = "foo bar foo"; sub(/foo/, "x", s); print s; sub(/nope/, "y", s); print s; gsub(/^/, ">", s); print s; gsub(/$/, "<", s); print s }`, `{ gsub(/[aeiou]/, "#"); print; print NF, $1 } < a`, `{ n = sub(/two/, "2", $2); print n, $0 } < a`, `BEGIN { s = "aaa"; print gsub(/aa/, "b", s), s; s = "abab"; print gsub("ab", "&&", s), s }`, `BEGIN { x["a"] = "hello"; sub(/l+/, "L", x["a"]); print x["a"] }`, `BEGIN { v = "v1.25.3"; sub(/^v/, "", v); print v }`,
	// Arrays.
	`BEGIN { a["x"]=1; a["y"]; print length(a), ("x" in a), ("z" in a); delete a["x"]; print length(a); delete a; print length(a) }`, `BEGIN { a[1,2]=3; for (k in a) { split(k,p,SUBSEP); print p[1],p[2] }; if ((1,2) in a) print "yes"; print a[1,2] }`, `BEGIN { a[01-0]="x"; a["1"]="y"; a[1.0]="z"; print length(a), a[1]; a[0.1+0.2]="q"; for (k in a) n++; print n, a[0.3] }`, `BEGIN { SUBSEP=":"; a["p","q"]=1; for (k in a) print k }`, `{ count[$1]++ } END { print count["one"], count["four"], length(count) } < a`, `BEGIN { if (("a" in x) == 0) print "no"; print length(x) }`, `BEGIN { for (i = 0; i < 100; i++) a[i] = i; for (k in a) s += k; print s; for (i = 0; i < 100; i += 2) delete a[i]; for (k in a) t += a[k]; print t, length(a) }`, `BEGIN { a["k"] = 1; for (k in a) delete a[k]; print length(a) }`, `BEGIN { n = split("c b a", x); for (i = n; i > 0; i--) printf "%s ", x[i]; print "" }`, `!seen[$1]++ < n`,
	// printf.
	`BEGIN{printf "%d %i %5.2f|%-5s|%5s|%05d %+d %x %X %o %c %c %s %e %g %%\n", "12abc", 3.9, 3.14159, "ab", "cd", 42, 5, 255, 255, 8, 65, "hello", "x", 1e6, 12345.678}`, `BEGIN{printf "%g %g %g %g %g %g\n", 0.0001, 0.00001, 1e10, 123456, 1234567, 100000}`, `BEGIN{printf "%.3d|%8.3f|%-8.2e|%08.3f|%.0f|% d|%+.1f\n", 5, 3.14159, 12345.678, -3.14159, 2.5, 7, 2.25}`, `BEGIN{printf "%s %s %s\n", 1e6, 0.1+0.2, 1/3; printf("%s\n", "p"); printf "no newline"}`, `BEGIN{printf "%5c|%-3c|%.2s|%10.3s|\n", "x", "y", "abcdef", "abcdef"}`, `BEGIN{printf "%#o %#x %#.3g %#X|%e|%E|%G\n", 8, 255, 1, 255, 0, 123.456, 1e-10}`, `BEGIN { printf "%s" }`, `BEGIN { x = sprintf("%03d-%s", 7, "z"); print x }`, `BEGIN { printf "a\tb\\n\101\n" }`, `BEGIN{printf "%.0e %5d%%\n", 12345, 50}`, `BEGIN{print 0.1, 1e6, 100000, 1e-5, 123456.789, 3.0, -0.5, 1e5+0.5, 17/4}`, `BEGIN { CONVFMT="%.2g"; a=3.14159; b=a ""; print b; OFMT="%.3f"; print 3.14159, 17, 17 "" }`, `BEGIN { print 1e300*10, 2^31-1, -2^31+1 }`,
	// Records and fields.
	`{ print $1 } < a`, `{ print NF, $NF } < a`, `NR==2 < a`, `/five/ < a`, `!/e/ < a`, `$2 == "five" { print NR } < a`, `$1 ~ /^s/, 0 { print } < a`, `/two/,/five/ < a`, `NR==1,NR==2 { print NR": "$0 } END { print NR } < a`, `NR==2,NR==2 < a`, `END { print $0, NR } < a`, `{ $2=""; print; print NF } < a`, `{ $1=$1; print } < a`, `BEGIN{OFS="-"} { $1=$1; print; print $1,$2 } < a`, `{ NF=2; print } < a`, `{ $6="x"; print; print NF } < a`, `{ $0="x y z"; print $2, NF } < a`, `{ $3="X" } 1 < a`, `{ print $(NF) , $(1+1) } < b`, `{ print $NF-1 } < n`, `{ print $1*2, $1+0, $1"" } < n`, `$1 > 2 < n`, `$1 { n++ } END { print n } < n`, `{ s += $1 } END { print s, s/NR } < n`, `$1 == 100 { print "hundred" } < n`, `{ if ($1 > max) max = $1 } END { print max } < n`, `{ print ($1 < 10), ($1 < "10") } < n`, `{$1="a"; OFS="-"; print; $1=$1; print} < a`, `{FS=":"; print $1} < b`, `{ nf = NF; $(NF+2) = "e"; print nf, NF, $0 } < one`, `{ print; next; print "no" } END { print NR } < a`, `NR==1{exit 4} END{print "e"} < a`, `BEGIN{exit} END{print "e"}`, `END{exit 5} < a`, `BEGIN { exit 3 }`, `{ print NR, FNR, FILENAME }¦a¦b`, `FNR==2{nextfile} {print FILENAME, $0}¦a¦b`, `{print}¦x=1¦b¦x=2¦a`, `{print v, $0}¦v=1¦b¦v=a\tb¦one`, `{ print }¦-¦b < one`, `BEGIN { print ARGC, ARGV[1], ARGV[2] }¦x¦y=1`, `BEGIN { ARGV[1] = "b" } { print }¦a`, `BEGIN { ARGV[1] = "" } { print }¦a¦b`, `BEGIN { ARGC = 2 } { print }¦b¦nofile`, `{ print }¦nofile`, `{ print }¦b¦nofile`, `END { print NR }¦empty`, `{ print FILENAME "" } < one`, `END { print FILENAME } < one`, `BEGIN { print FILENAME, NR, NF }`,
	`-F:¦{ print $1, $3 }¦passwd`, `-F¦:¦{ print NF }¦passwd`, `-F,¦{ print NF, $3, $4 }¦csv`, `-F\t¦{ print $2 }¦a`, `-F=¦/^ID=/ { print $2 }¦os`, `-F=¦$1=="VERSION_ID" { gsub(/"/, "", $2); print $2 }¦os`, `-F¦[=.]¦/^VERSION_ID/ { print $2 "." $3 }¦os`, `-F¦\|¦{ print NF }¦a`, `-F.¦{ print NF }¦os`, `-F¦ +¦{ print NF }¦a`, `-F¦[ ]¦{ print NF }¦a`, `-F¦o+¦{ print NF }¦a`, `-F¦@¦{ print NF, $2 }¦a`, `-F;¦{ print NF, $2 }¦semi`, `-vx=5¦BEGIN { print x+1 }`, `-v¦x=a b¦-v¦y=2¦BEGIN { print x, y }`, `-v¦x=1e1¦BEGIN { print (x == 10), x }`, `-v¦OFS=,¦{ $1=$1; print }¦a`, `-v¦RS=;¦{ print NR": "$0 }¦semi`, `-v¦FS=:¦{ print $2 }¦b`, `-f¦prog¦a`, `-fprog¦a`, `--¦BEGIN { print "x" }`, `-F:¦--¦{ print $1 }¦b`,
	`BEGIN{RS=""}{print NR": "$1"-"$NF; for(i=1;i<=NF;i++) printf "%s,", $i; print ""} < para`, `BEGIN{RS=""}{ print $0 "|" } < a`, `BEGIN { RS=";" } { print NR, $0 } < semi`, `BEGIN { RS="[;,]" } { print NR, $0 }¦semi¦csv`, `BEGIN { RS="two|five" } { print NR "|" $0 "|" } < a`, `BEGIN{FS=""} {print NF, $2} < b`, `BEGIN{FS=","} {print $2} END{print NR} < csv`, `BEGIN { ORS="|" } { print $1 } END { printf "\n" } < a`, `BEGIN { RS="e" } { print } < one`, `NR==1 { RS=":" } { print NR "[" $0 "]" } < b`, `BEGIN { RS="\n\n" } { print NR, $0 } < para`,
	// getline and files.
	`NR==1{ while ((getline line < "b") > 0) n++; close("b"); getline line < "b"; print n, line } < a`, `{print NR": "$1; getline; print "after " $1} END{print NR, $0} < a`, `BEGIN{getline; print "got " $0; getline x; print x; print NR} < a`, `BEGIN { print (getline x < "nofile"), (getline < "empty") }`, `BEGIN { while ((getline < "b") > 0) print NR, $1 }`, `BEGIN { while ((getline l < "-") > 0) n++; print n } < a`, `BEGIN { "x" ~ /x/; if ((getline tmp) > 0) print tmp; else print "none" } < empty`, `{ print $1 > "out" } END { close("out"); while ((getline x < "out") > 0) print "r", x } < a`, `{ print $1 > "out" $2; print NR >> "outall" } < b`, `BEGIN { print "x" > "out"; print "y" > "out"; close("out"); print "z" >> "out" }`, `BEGIN { printf "%s\n", "q" > "out"; print "e" > "/dev/stderr"; print "o" > "/dev/stdout" ; print "n" > "/dev/null" }`, `BEGIN { print "x" > "nodir/out" }`, `BEGIN { print close("never") }`, `BEGIN { print "a", "b" > "out" ".txt"; print("p", "q") > "out2" }`, `-F:¦{ print > $1".txt" }¦b`, `{ fflush(); print }¦one`,
	// Regular expressions.
	`/^[a-z]+ [^ ]+$/ < a`, `/(one|six)/ < a`, `/o.*e/ < a`, `/\t/ { print "tab" } < a`, `/[[:digit:]]/ < n`, `/^-?[0-9]+(\.[0-9]+)?$/ { print $0 " is" } < n`, `$0 ~ "^" "f" < a`, `BEGIN { if ("a.b" ~ /a\.b/) print 1; if ("axb" ~ "a\\.b") print 2; if ("a/b" ~ /a\/b/) print 3; if ("]" ~ /[]]/) print 4; if ("a+" ~ /\+/) print 5 }`, `BEGIN { print match("foo.tar.gz", /\.[^.]*$/), substr("foo.tar.gz", RSTART) }`, `BEGIN { r = "^[0-9]+$"; print ("12" ~ r), ("1a" ~ r), !("x" ~ r) }`, `BEGIN { print "ab" ~ /^(a|b)+$/, "" ~ /^$/, "a\nb" ~ /a.b/ }`, `BEGIN { s = "a-b_c"; gsub(/[-_]/, "", s); print s; s = "tab\there"; gsub(/[ \t]+/, " ", s); print s; s = "x\"y"; gsub(/\"/, "", s); print s }`, `/go [0-9]/ { print $2 }¦mod`, `/^\t/ { print $1, $2 }¦mod`, `$1 == "module" { print $2 }¦mod`, `/^require \(/,/^\)/ { if (NF >= 2 && $1 != "require") print $1 "@" $2 }¦mod`,
	// What goes wrong.
	`BEGIN { print`, `BEGIN { print 1 `, `{ print $1`, `BEGIN { x[1] = 1; x = 2 }`, `BEGIN { f( }`, `BEGIN { if }`, `BEGIN { "a }`, `{ print $(-1) } < a`, `BEGIN { next }`, `BEGIN { return 1 }`, `function f(a) { } function f(b) { } BEGIN { }`, `BEGIN { break }`, ``, `-v¦x¦BEGIN { }`, `BEGIN { print 1 1 }`, `BEGIN { print 1, }`, `}`, `BEGIN { getline x y }`, `BEGIN { ++1 }`, `BEGIN { 1 = 2 }`, `BEGIN{print length(ENVIRON["HOME"]), ENVIRON["N"]+1, ("NOPE" in ENVIRON)}`, `BEGIN { print substr("x", 1) substr("y", 1, 1) }`,
}

func arguments(line string) (args []string, stdin string) {
	if i := strings.LastIndex(line, " < "); i >= 0 {
		if text, ok := files[line[i+3:]]; ok {
			line, stdin = line[:i], text
		}
	}
	return strings.Split(line, "¦"), stdin
}

// against holds programs against an awk of the host: what they print, write and end
// with.
func against(t *testing.T, dialect command.Dialect, program ...string) {
	for _, line := range programs {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			args, stdin := arguments(line)
			x := stage(t)
			got, said, exit, err := call(t, x, dialect, stdin, args...)
			if u := (*command.Unsupported)(nil); errors.As(err, &u) {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			for name, text := range files {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Mkdir(filepath.Join(dir, "dir"), 0o700); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, program[0], append(program[1:len(program):len(program)], args...)...) //nolint:gosec // tests
			if len(program) == 1 {
				cmd.Args[0] = "awk" // which is in ARGV
			}
			var out, errs bytes.Buffer
			cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.Stdin = dir, &out, &errs, strings.NewReader(stdin)
			cmd.Env = []string{"LC_ALL=C", "HOME=/root", "N=12", "PATH=" + os.Getenv("PATH")}
			_ = cmd.Run()
			if strings.Contains(errs.String(), "Math support is not compiled in") {
				t.Skip("this busybox is without it")
			}
			if code := cmd.ProcessState.ExitCode(); exit != code && (said == "" || exit == 0 || code == 0) {
				t.Errorf("exit code %d, the host's is %d\n%s--\n%s", exit, code, said, errs.String())
			}
			if got != out.String() {
				t.Errorf("got\n%s--\nthe host has\n%s", got, out.String())
			}
			list, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			ours, err := x.ReadDir("/w")
			if err != nil || len(ours) != len(list) {
				t.Errorf("it left %d files, on the host %d (%v)", len(ours), len(list), err)
			}
			for _, f := range list {
				want, _ := os.ReadFile(filepath.Join(dir, f.Name()))
				if b, err := x.ReadFile("/w/" + f.Name()); string(b) != string(want) && !f.IsDir() {
					t.Errorf("%s has %q (%v), on the host %q", f.Name(), b, err, want)
				}
			}
		})
	}
}

func TestAgainstMawk(t *testing.T) {
	against(t, command.GNU, known(t, "1.3.4 20200120", "mawk", "-W", "version"))
}

func TestAgainstGawk(t *testing.T) {
	against(t, command.GNU, known(t, "GNU Awk 5.", "gawk", "--version"))
}

func TestAgainstBusybox(t *testing.T) {
	against(t, command.Busybox, known(t, "BusyBox v1.35", "busybox"), "awk")
}

// known skips the test unless a program of the host is of a version that this was
// held against: others do some things otherwise, which isn't a mistake here.
func known(t *testing.T, version string, program ...string) string {
	t.Helper()
	at, err := exec.LookPath(program[0])
	if err != nil {
		t.Skip(err)
	}
	out, _ := exec.CommandContext(t.Context(), at, program[1:]...).CombinedOutput() //nolint:gosec // tests
	if !bytes.Contains(out, []byte(version)) {
		t.Skipf("%s isn't %s", program[0], version)
	}
	return at
}

// TestOrder: for … in goes through elements as busybox does.
func TestOrder(t *testing.T) {
	t.Parallel()
	program := `BEGIN { n = split("abc hello x1 zz k12 alpha beta gamma 10 linux/arm64 v1.2", p, " "); for (i = 1; i <= n; i++) a[p[i]]; delete a["zz"]; a["new"]; for (k in a) printf "%s ", k; for (i = 0; i < 1000; i++) big[i "k"]; for (i = 0; i < 1000; i += 3) delete big[i "k"]; for (k in big) printf "%s ", k; print "" }`
	got, _, exit, err := call(t, stage(t), command.Busybox, "", program)
	if exit != 0 || err != nil || !strings.HasPrefix(got, "v1.2 gamma abc 10 k12 new linux/arm64 x1 beta alpha hello 869k ") {
		t.Fatal(got, exit, err)
	}
	first := got
	got, _, _, _ = call(t, stage(t), command.GNU, "", `BEGIN { a["z"]; a["b"]; a["a"]; delete a["b"]; a["b"]; for (k in a) printf "%s ", k }`)
	if got != "z a b " {
		t.Error(got)
	}
	out, err := exec.CommandContext(t.Context(), known(t, "BusyBox v1.35", "busybox"), "awk", program).Output()
	if err != nil || string(out) != first {
		t.Errorf("got\n%s\nbusybox has\n%s%v", first, out, err)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		program string
		dialect command.Dialect
		early   bool
	}{
		{`BEGIN { system("ls") }`, command.GNU, true}, {`BEGIN { "date" | getline x }`, command.GNU, true}, {`{ print | "sort" }`, command.GNU, true}, {`BEGIN { print rand() }`, command.GNU, true}, {`BEGIN { srand(1) }`, command.Busybox, true}, {`BEGIN { print systime() }`, command.Busybox, true}, {`BEGIN { x = gensub(/a/, "b", 1) }`, command.Busybox, true}, {`BEGIN { undefined(1) }`, command.GNU, true}, {`BEGIN { RT = 1 }`, command.GNU, true},
		{`BEGIN { print 2**3 }`, command.GNU, false}, {`func f() { } BEGIN { }`, command.GNU, false}, {`/a{2}/`, command.GNU, false}, {`/a{/`, command.Busybox, false}, {`/[/]/`, command.GNU, true}, {`BEGIN { print "a\.b" }`, command.GNU, true}, {`BEGIN { print 010 }`, command.GNU, true}, {`BEGIN { print 0x1A }`, command.Busybox, true}, {`/\y/`, command.GNU, true}, {`/(a)\1/`, command.Busybox, false}, {`! $1 ~ /a/`, command.GNU, true}, {`BEGIN { switch (1) { } }`, command.GNU, true}, {`@include "x"`, command.GNU, true},
		{`BEGIN { print 1/0 }`, command.GNU, false}, {`BEGIN { print log(-1) }`, command.GNU, false}, {`BEGIN { print 2^31 }`, command.GNU, false}, {`BEGIN { printf "%d", 2^40 }`, command.Busybox, false}, {`BEGIN { print substr("hello", 0, 2) }`, command.GNU, false}, {`BEGIN { print "0x1A" + 0 }`, command.GNU, false}, {`BEGIN { print "nano" + 0 }`, command.GNU, false}, {`{ print $1 + 0 }`, command.Busybox, false}, {`BEGIN { sub(/a/, "\\\\", x); sub(//, "\\\\", x) }`, command.GNU, false},
		{`BEGIN { s = "abc"; gsub(/b*/, "-", s) }`, command.Busybox, false}, {`BEGIN { print > "-" }`, command.GNU, false}, {`BEGIN { printf "%z" }`, command.GNU, false}, {`BEGIN { printf "%c", 300 }`, command.GNU, false}, {`BEGIN { printf "%c", "" }`, command.GNU, false}, {`BEGIN { print index("a", "") }`, command.GNU, false}, {`function f(n) { return f(n+1) } BEGIN { f(1) }`, command.GNU, false}, {`BEGIN { OFMT = "%d"; print 0.5 }`, command.GNU, false}, {`BEGIN { RS = ""; FS = ":" } { print $1 }`, command.GNU, false}, {`BEGIN { getline x < "/dev/urandom" }`, command.GNU, false},
	} {
		if early := Commands()[0].Check([]*string{&test.program}); (early != nil) != test.early {
			t.Errorf("%s: before it runs it is %v", test.program, early)
		}
		_, said, exit, err := call(t, stage(t), test.dialect, "010\nx:y\n", test.program)
		if u := (*command.Unsupported)(nil); !errors.As(err, &u) {
			t.Errorf("%s: %d %v %s", test.program, exit, err, said)
		}
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	text := func(s string) *string { return &s }
	for _, test := range []struct {
		args    []*string
		refused bool
	}{
		{[]*string{text("{ print $1 }"), nil}, false}, {[]*string{nil}, false}, {[]*string{text("-v"), nil, text("BEGIN { system(x) }")}, true}, {[]*string{text("-F"), text(":"), text("{ print |")}, true}, {[]*string{text("-F:"), text("{ print $1 }")}, false}, {[]*string{text("-vx=1"), text("--"), text("BEGIN { srand() }")}, true},
		{[]*string{text("-f"), text("prog.awk"), text("BEGIN { srand() }")}, false}, {[]*string{text("--posix"), text("1")}, true}, {[]*string{text("{ print")}, true}, {[]*string{text("-v"), text("x=1"), nil, text("BEGIN { srand() }")}, false}, {[]*string{text("/a{2}/")}, false}, {[]*string{text("func f() { }")}, false}, {nil, false},
	} {
		if u := Commands()[0].Check(test.args); (u != nil) != test.refused {
			t.Errorf("%v: %v", test.args, u)
		}
	}
}

// TestUserMayNot: permissions of the tree count.
func TestUserMayNot(t *testing.T) {
	t.Parallel()
	x := stage(t)
	if err := x.Update("/w/b", true, func(a *filetree.Attr) { a.Mode = 0o600 }); err != nil {
		t.Fatal(err)
	}
	for program, want := range map[string]string{`BEGIN { print (getline x < "b") }`: "-1\n", `BEGIN { print "x" > "new" }`: "", `{ print }`: ""} {
		var out, errs bytes.Buffer
		p := &command.Proc{Tree: x, Dir: "/w", Args: []string{"awk", program, "b"}, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, UID: 33, GID: 33, Dialect: command.GNU}
		exit, err := Commands()[0].Run(t.Context(), p)
		if err != nil || out.String() != want || want == "" && (exit != 2 || !strings.Contains(errs.String(), "Permission denied")) {
			t.Errorf("%s: %d %v %s%s", program, exit, err, out.String(), errs.String())
		}
	}
}

type closed struct{}

func (closed) Write([]byte) (int, error) { return 0, fs.ErrClosed }

// TestStops: a program ends when nobody reads what it prints, and when the build is
// cancelled.
func TestStops(t *testing.T) {
	t.Parallel()
	p := &command.Proc{Tree: stage(t), Dir: "/w", Args: []string{"awk", "BEGIN { while (1) print \"x\" }"}, Stdin: strings.NewReader(""), Stdout: closed{}, Stderr: closed{}}
	if _, err := Commands()[0].Run(t.Context(), p); err != nil {
		t.Error(err)
	}
	for _, program := range []string{"BEGIN { while (1) ; }", "BEGIN { for (;;) x++ }", "BEGIN { do { } while (1) }"} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		p.Args = []string{"awk", program}
		if _, err := Commands()[0].Run(ctx, p); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", program, err)
		}
		cancel()
	}
}

// expression makes up an expression.
func expression(r *rand.Rand, depth int) string {
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	if depth == 0 || r.IntN(6) == 0 {
		return pick("1", "2", "0", "10", "3.5", "\"a\"", "\"10\"", "\"\"", "\"b c\"", "$1", "$2", "$3", "$NF", "NF", "x", "s", "n", "arr[1]", "\"1a\"", "$4")
	}
	sub := func() string { return expression(r, depth-1) }
	switch r.IntN(14) {
	case 0:
		return "(" + sub() + ")"
	case 1:
		return sub() + pick(" + ", " - ", " * ") + sub()
	case 2:
		return "(" + sub() + ")" + pick(" < ", " <= ", " == ", " != ", " >= ") + "(" + sub() + ")"
	case 3:
		return "(" + sub() + " " + "(" + sub() + "))"
	case 4:
		return sub() + pick(" && ", " || ") + sub()
	case 5:
		return "(" + sub() + " ? " + sub() + " : " + sub() + ")"
	case 6:
		return pick("-", "!", "+") + "(" + sub() + ")"
	case 7:
		return pick("length", "toupper", "int", "tolower") + "(" + sub() + ")"
	case 8:
		return "(" + sub() + ")" + pick(" ~ ", " !~ ") + pick("/a/", "/^[0-9]+$/", "/b|c/", "\"1\"")
	case 9:
		return pick("x", "n", "$2", "arr[1]") + pick(" = ", " += ", " -= ") + sub()
	case 10:
		return pick("x++", "++n", "$1++", "--x", "n--", "arr[2]++")
	case 11:
		return "sprintf(\"%" + pick("s", "5s", "-4s", ".2s", "d", "05d", "x", "g", ".3f") + "\", " + sub() + ")"
	case 12:
		return "substr(" + sub() + ", " + pick("1", "2", "3") + pick("", ", 2", ", 1") + ")"
	}
	return "(" + sub() + ")" + pick(" % 7", " ^ 2", " \"-\" ", " 1", " / 4")
}

// TestExpressions holds made up expressions against the awks of the host.
func TestExpressions(t *testing.T) {
	for _, awk := range []struct {
		dialect command.Dialect
		version string
		program []string
		asks    []string
	}{
		{command.GNU, "1.3.4 20200120", []string{"mawk"}, []string{"-W", "version"}}, {command.GNU, "GNU Awk 5.", []string{"gawk"}, []string{"--version"}}, {command.Busybox, "BusyBox v1.35", []string{"busybox", "awk"}, nil},
	} {
		t.Run(awk.program[0], func(t *testing.T) {
			t.Parallel()
			known(t, awk.version, append(awk.program[:1:1], awk.asks...)...)
			r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test
			compared := 0
			for range 1200 {
				e := expression(r, 4)
				if strings.Count(e, "++")+strings.Count(e, "--")+strings.Count(e, " = ")+strings.Count(e, "+= ")+strings.Count(e, "-= ") > 1 {
					continue // the order of effects is nobody's business
				}
				source := "BEGIN { s = \"str\"; n = 4; arr[1] = 7 } { print (" + e + "), x, n, $0, NF }"
				stdin := "10 abc 3.0 1e1\n0 a -1 z\n"
				got, said, exit, err := call(t, stage(t), awk.dialect, stdin, source)
				if u := (*command.Unsupported)(nil); errors.As(err, &u) {
					continue
				}
				if err != nil || exit != 0 {
					t.Errorf("%s: %d %v %s", source, exit, err, said)
					continue
				}
				cmd := exec.CommandContext(t.Context(), awk.program[0], append(awk.program[1:len(awk.program):len(awk.program)], source)...) //nolint:gosec // tests
				cmd.Stdin, cmd.Env = strings.NewReader(stdin), []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")}
				out, err := cmd.Output()
				if err != nil {
					continue
				}
				if compared++; got != string(out) {
					t.Errorf("%s\ngot\n%s--\nthe host has\n%s", source, got, out)
				}
			}
			if compared < 100 {
				t.Errorf("only %d expressions were compared", compared)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, line := range programs {
		args, _ := arguments(line)
		f.Add(args[0])
	}
	f.Add(strings.Repeat("(", 5000))
	f.Add("BEGIN { x = " + strings.Repeat("-", 5000) + "1 }")
	f.Fuzz(func(t *testing.T, program string) {
		for _, busybox := range []bool{false, true} {
			_, _ = parse(program, busybox)
		}
	})
}

func FuzzRun(f *testing.F) {
	for _, line := range programs {
		args, stdin := arguments(line)
		f.Add(args[0], stdin)
	}
	f.Fuzz(func(t *testing.T, program, text string) {
		for _, dialect := range []command.Dialect{command.GNU, command.Busybox} {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			p := &command.Proc{Tree: filetree.New(), Dir: "/", Args: []string{"awk", program}, Stdin: strings.NewReader(text), Stdout: &limited{}, Stderr: &limited{}, Dialect: dialect}
			_, _ = Commands()[0].Run(ctx, p)
			cancel()
		}
	})
}

type limited struct{ n int }

func (l *limited) Write(b []byte) (int, error) {
	if l.n += len(b); l.n > 1<<16 {
		return 0, fs.ErrClosed
	}
	return len(b), nil
}
