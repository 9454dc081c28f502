package cli_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// edits changes a project with a Dockerfile at random, N times, and builds it each time
// twice: with what earlier builds left in the cache, and with --no-cache in an empty
// one. Both must come to the same digest: edits N SEED.
func edits(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	if more := os.Getenv("ANYARCH_TEST_EDITS"); more != "" {
		n, err = strconv.Atoi(more)
		ts.Check(err)
	}
	seed, err := strconv.ParseUint(args[1], 10, 64)
	ts.Check(err)
	p := &project{ts: ts, r: rand.New(rand.NewPCG(seed, 0)), epoch: "1000000000", greeting: "hello", user: true}
	p.lines = []string{pool[0], pool[2]}
	write := func(name, text string) {
		path := ts.MkAbs(filepath.FromSlash("project/" + name))
		ts.Check(os.MkdirAll(filepath.Dir(path), 0o755))
		ts.Check(os.WriteFile(path, []byte(text), 0o644))
	}
	write("go.mod", "module example.com/p\n\ngo 1.24\n")
	write("data/a.txt", "a\n")
	write("data/b.txt", "b\n")
	write("main.go", "package main\n\nfunc main() { println(\"0\") }\n")
	same := 0
	var last string
	for i := range n {
		for range 1 + p.r.IntN(2) {
			p.edit(write)
		}
		write("Dockerfile", p.dockerfile())
		p.build("kept", filepath.Join("project", "id-kept"))
		p.build("", filepath.Join("project", "id-fresh"), "--no-cache")
		kept, fresh := ts.ReadFile("project/id-kept"), ts.ReadFile("project/id-fresh")
		if kept != fresh {
			ts.Fatalf("edit %d of seed %d: %s with the cache, %s without, of\n%s\nepoch %s", i, seed, kept, fresh, p.dockerfile(), p.epoch)
		}
		if kept == last {
			same++
		}
		last = kept
	}
	ts.Logf("%d edits, %d of which changed nothing", n, same)
}

type project struct {
	ts       *testscript.TestScript
	r        *rand.Rand
	lines    []string // of the final stage
	epoch    string
	greeting string
	user     bool
}

// pool are instructions that see different things of what is around them.
var pool = []string{
	"RUN apk add --no-cache tzdata",
	"RUN adduser -D -u 1001 someone",
	"RUN cp /data/a.txt /copy && chmod 600 /copy && ln -s copy /link && ln /copy /second",
	"RUN date > /stamp",
	"RUN ls -l /data > /list",
	"RUN tar -cf /data.tar -C / data",
	"RUN --mount=type=cache,id=x,target=/var/x test -f /var/x/n || echo first > /var/x/n; cat /var/x/n > /seen; echo second > /var/x/n",
	"RUN --mount=type=cache,id=x,target=/var/x cp -r /var/x /copied",
	"RUN --mount=type=bind,source=data,target=/in cat /in/a.txt /in/b.txt > /both",
	"RUN rm -rf /data/b.txt /nothing",
	"RUN mkdir -p /deep/er && echo $GREETING > /deep/er/greeting",
	"RUN rm -rf /data && mkdir /data && echo new > /data/new",
	"RUN echo $(cat /etc/passwd | wc -l) > /accounts",
	"COPY --from=build /go/extra /extra",
	"RUN --mount=type=bind,from=build,source=/go/extra,target=/in cat /in/a.txt > /mounted",
	"COPY --link data /linked",
	"ENV GREETING=again",
	"WORKDIR /made",
	"LABEL a=b",
}

func (p *project) dockerfile() string {
	var b strings.Builder
	fmt.Fprintf(&b, "FROM %s/library/golang:1-alpine AS build\nRUN apk add --no-cache git\nWORKDIR /src\nCOPY go.mod .\nRUN go mod download\nCOPY . .\nARG GREETING\n", p.ts.Getenv("REGISTRY"))
	b.WriteString("RUN mkdir /go/extra && cp data/a.txt /go/extra/ && echo $GREETING > /go/extra/greeting\n")
	b.WriteString("RUN CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o /out/app .\n")
	fmt.Fprintf(&b, "FROM %s/library/alpine:3.22\nARG GREETING\nCOPY data /data\n", p.ts.Getenv("REGISTRY"))
	for _, l := range p.lines {
		b.WriteString(l + "\n")
	}
	b.WriteString("COPY --from=build /out/app /app\n")
	if p.user {
		b.WriteString("USER 1001\n")
	}
	b.WriteString("ENTRYPOINT [\"/app\"]\n")
	return b.String()
}

func (p *project) edit(write func(name, text string)) {
	file := p.ts.MkAbs(filepath.FromSlash("project/data/" + []string{"a.txt", "b.txt"}[p.r.IntN(2)]))
	switch p.r.IntN(10) {
	case 0:
		write("main.go", fmt.Sprintf("package main\n\nfunc main() { println(\"%d\") }\n", p.r.IntN(3)))
	case 1:
		write("main.go", fmt.Sprintf("package main\n\n// %d\nfunc main() { println(\"0\") }\n", p.r.IntN(3)))
	case 2:
		p.ts.Check(os.WriteFile(file, fmt.Appendf(nil, "%d\n", p.r.IntN(3)), 0o644))
	case 3: // the same size and time as before
		info, err := os.Stat(file)
		p.ts.Check(err)
		p.ts.Check(os.WriteFile(file, fmt.Appendf(nil, "%d\n", p.r.IntN(3)), 0o644))
		p.ts.Check(os.Chtimes(file, info.ModTime(), info.ModTime()))
	case 4:
		at := time.Unix(1e9+int64(p.r.IntN(3))*1e5, 0)
		p.ts.Check(os.Chtimes(file, at, at))
	case 5:
		p.ts.Check(os.Chmod(file, []os.FileMode{0o644, 0o755, 0o600}[p.r.IntN(3)]))
	case 6:
		p.epoch = []string{"1000000000", "1000000001", "1000100000"}[p.r.IntN(3)]
	case 7:
		p.greeting = []string{"hello", "hi"}[p.r.IntN(2)]
		p.user = p.r.IntN(2) == 0
	default:
		if len(p.lines) > 0 && p.r.IntN(2) == 0 {
			at := p.r.IntN(len(p.lines))
			p.lines = slices.Delete(p.lines, at, at+1)
			return
		}
		at := p.r.IntN(len(p.lines) + 1)
		p.lines = slices.Insert(p.lines, at, pool[p.r.IntN(len(pool))])
	}
}

// build builds the project with a cache of its own; an empty name is a new one.
func (p *project) build(cache, id string, more ...string) {
	dir := p.ts.MkAbs("cache-" + cache)
	if cache == "" {
		p.ts.Check(os.RemoveAll(dir))
	}
	p.ts.Setenv("ANYARCH_CACHE", dir)
	p.ts.Setenv("SOURCE_DATE_EPOCH", p.epoch)
	p.ts.Setenv("ANYARCH_PACKAGE_MIRROR", "https://dl-cdn.alpinelinux.org/alpine/v3.22="+p.ts.Getenv("MIRROR"))
	args := append([]string{"build", "-q", "-f", "project/Dockerfile", "--build-arg", "GREETING=" + p.greeting, "--iidfile", id, "--output", "oci:out"}, more...)
	if err := p.ts.Exec("anyarch", append(args, "project")...); err != nil {
		p.ts.Fatalf("%v, of\n%s", err, p.dockerfile())
	}
}
