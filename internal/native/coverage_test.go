package native_test

import (
	"strings"
	"testing"

	"github.com/anyarch/anyarch/internal/refusal"
)

// corpus are the build stages of 327 Dockerfiles of ordinary Go projects, by what they
// need beyond the go command and files: how many there are, and the lines that are typical
// of them, of which each stands for an equal share.
var corpus = []struct {
	what  string
	count int
	lines []string
	later string // what is only refused, or may be, when it runs: none of these is covered
}{
	{"go alone", 117, []string{"RUN go mod download\nRUN go build -o /app .", "RUN go mod download && go mod verify\nRUN CGO_ENABLED=0 GOOS=linux go build -ldflags='-s -w' -o main ./cmd/app", "ENV CGO_ENABLED=0\nRUN go mod tidy && go build -v -o /go/bin/app",
		"RUN go install ./...", "ARG GOARCH\nRUN go env -w CGO_ENABLED=0\nRUN go build -o /usr/local/bin/app ./...", "RUN --mount=type=cache,target=/root/.cache/go-build go build -o /out/ ./...", "RUN go get -d ./... && go build .", "RUN go test ./... && go vet ./... && go build -a -installsuffix cgo -o app ."}, ""},
	{"go, files and packages", 104, []string{"RUN apk add --no-cache git ca-certificates\nRUN go build -o /app .", "RUN apk update && apk add git && apk add --no-cache tzdata && update-ca-certificates\nRUN go build -o app", "RUN mkdir -p /app/bin && cp config.yml /app/ && go build -o /app/bin/x && chmod +x /app/bin/x",
		"RUN adduser -D -g '' appuser\nRUN go build -o /app", "RUN cd cmd/server && go build -o /server && rm -rf /var/cache/apk/*", "RUN addgroup -S app && adduser -S -G app app && chown -R app:app /go\nRUN go build -o /app", "RUN touch .env && ln -s /app /srv/app; echo built > /built; go build -o /app"}, ""},
	{"cgo", 11, []string{"RUN apk add --no-cache gcc musl-dev\nRUN CGO_ENABLED=1 go build -o /app"}, "C without a compiler that may run"},
	{"npm", 13, []string{"RUN npm ci && npm run build"}, ""},
	{"make", 13, []string{"RUN make build"}, ""},
	{"git", 7, []string{`RUN VERSION=$(git describe --tags --always) && go build -ldflags "-X main.version=$VERSION" -o /app`, `RUN go build -ldflags "-X main.commit=$(git rev-parse --short HEAD)" -o /app`}, ""},
	{"apt: tools", 6, []string{"RUN apt-get update && apt-get install -y --no-install-recommends git ca-certificates && rm -rf /var/lib/apt/lists/*\nRUN go build -o /app"}, ""},
	{"coreutils", 6, []string{"RUN ls -la && pwd && cat go.mod | head -n 3 && date && go build -o /app", `RUN printf '%s\n' "$(uname -m)" | tee /arch && basename /a/b && test -f go.mod && go build -o /app`}, ""},
	{"apt: compilers and libraries", 6, []string{"RUN apt-get update && apt-get install -y gcc libc6-dev\nRUN CGO_ENABLED=1 go build -o /app"}, "C without a compiler that may run"},
	{"sed, grep, awk", 6, []string{"RUN sed -i 's/localhost/0.0.0.0/' config.yml && grep -q go go.mod && awk '/^go /{print $2}' go.mod > /v && go build -o /app", "RUN sed -i 's#https\\?://dl-cdn.alpinelinux.org#http://mirror.example.com#g' /etc/apk/repositories && go build -o /app"}, ""},
	{"project scripts", 5, []string{"RUN ./build.sh"}, "what the script calls"},
	{"update-ca-certificates", 4, []string{"RUN apk add ca-certificates && update-ca-certificates\nRUN go build -o /app"}, ""},
	{"installed tools", 4, []string{"RUN go install github.com/a-h/templ/cmd/templ@latest && templ generate\nRUN go build -o /app"}, ""},
	{"upx, strip", 4, []string{"RUN go build -o /app && upx /app"}, ""},
	{"tar, unzip", 2, []string{"RUN tar -xzf assets.tar.gz -C /assets && go build -o /app"}, ""},
	{"curl, wget", 5, []string{"RUN curl -sSL -o /tool https://example.com/tool && chmod +x /tool && go build -o /app", "RUN wget -q https://example.com/x.tar.gz -O /x.tgz && go build -o /app"}, ""},
	{"curl | sh", 3, []string{"RUN curl -sSfL https://example.com/install.sh | sh -s -- -b /bin v1"}, "what the script calls"},
	{"ssh", 2, []string{"RUN --mount=type=ssh go mod download"}, ""},
	{"task runners", 1, []string{"RUN task build"}, ""},
	{"programs that were built", 2, []string{"RUN go build -o /app && /app migrate"}, "a program for the image, or one that needs the sandbox"},
	{"pip", 1, []string{"RUN pip3 install x"}, ""},
	{"others: Windows, protoc, gcc, two that are alone", 5, []string{"RUN protoc --go_out=. x.proto"}, ""},
}

// TestCoverage prints the share of ordinary projects' Dockerfiles of which no line of a
// build stage is refused with the interpreter alone, and holds it above three quarters.
func TestCoverage(t *testing.T) {
	t.Parallel()
	total, covered := 0.0, 0.0
	for _, c := range corpus {
		total += float64(c.count)
		for _, lines := range c.lines {
			share := float64(c.count) / float64(len(c.lines))
			base := "golang:1.25.4-alpine"
			if strings.Contains(lines, "apt") {
				base = "golang:1.25.4"
			}
			w := newWorld(t)
			b, _ := w.build("FROM "+base+"\nWORKDIR /src\nCOPY . .\n"+lines+"\nFROM scratch\nCOPY --from=0 /x /x\n", amd64, arm64)
			err := b.Check(t.Context())
			if c.later != "" {
				t.Logf("%4.1f %%  %s: %s", share*100/327, c.what, c.later)
				continue
			}
			if err == nil {
				covered += share
				continue
			}
			for _, r := range refusal.All(err) {
				t.Logf("%4.1f %%  %s: %s", share*100/327, c.what, r.Summary)
			}
		}
	}
	if total != 327 {
		t.Fatalf("%v Dockerfiles, not 327", total)
	}
	t.Logf("%.1f %% of ordinary projects' Dockerfiles have no refusal in a build stage", covered*100/total)
	if covered < 0.75*total {
		t.Errorf("less than 75 %%")
	}
}
