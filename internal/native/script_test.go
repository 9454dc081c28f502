package native

import (
	"slices"
	"testing"

	"github.com/anyarch/anyarch/internal/dockerfile"
)

// What a go command compiles for is known before it runs where nothing decides on it:
// a wrong guess would refuse Dockerfiles that are right on every platform.
func TestGoBuilds(t *testing.T) {
	for _, c := range []struct {
		script string
		env    []string
		want   []string // GOARCH of each build, empty: not known
	}{
		{"go build ./...", nil, []string{""}},
		{"go build ./...", []string{"GOARCH=amd64"}, []string{"amd64"}},
		{"GOARCH=amd64 go build", nil, []string{"amd64"}},
		{"CGO_ENABLED=0 GOOS=linux GOARCH=${GOARCH} go build -a", []string{"GOARCH=amd64"}, []string{"amd64"}},
		{"GOARCH=$TARGETARCH go build", []string{"TARGETARCH=arm64"}, []string{"arm64"}},
		{`GOARCH="$ARCH" go build`, []string{"ARCH=arm64"}, []string{"arm64"}},
		{"GOARCH=${ARCH:-amd64} go build", nil, []string{""}},
		{"GOARCH=$(go env GOHOSTARCH) go build", nil, []string{""}},
		{"env GOARCH=amd64 go build", nil, []string{"amd64"}},
		{"env GOOS=linux GOARCH=$A go build -o /x .", []string{"A=386"}, []string{"386"}},
		{"export GOARCH=amd64 && go build && go install", nil, []string{"amd64", "amd64"}},
		{"export GOARCH; go build", []string{"GOARCH=amd64"}, []string{"amd64"}},
		{"(cd x && GOARCH=amd64 go build)", nil, []string{"amd64"}},
		{"go mod download && GOARCH=amd64 go build", nil, []string{"amd64"}},
		{"if [ $TARGETARCH = arm64 ]; then GOARCH=arm64 go build; else GOARCH=amd64 go build; fi", nil, nil},
		{"case $TARGETARCH in arm64) GOARCH=arm64;; *) GOARCH=amd64;; esac; GOARCH=$GOARCH go build", nil, []string{""}},
		{"case $P in x) export GOARCH=arm64;; esac; go build", []string{"GOARCH=amd64"}, []string{""}},
		{"[ $TARGETARCH = arm64 ] && GOARCH=arm64 go build || GOARCH=amd64 go build", nil, nil},
		{"[ $TARGETARCH = arm64 ] && export GOARCH=arm64; go build", nil, []string{""}},
		{"for a in amd64 arm64; do GOARCH=$a go build -o app-$a; done", nil, nil},
		{"f() { GOARCH=amd64 go build; }; f", nil, nil},
		{"go install example.com/tool@v1", []string{"GOARCH=amd64"}, nil},
		{"go test ./... && go vet ./...", []string{"GOARCH=amd64"}, nil},
	} {
		var got []string
		for _, env := range goBuilds(&dockerfile.Exec{Args: []string{"/bin/sh", "-c", c.script}, Env: c.env}) {
			got = append(got, env["GOARCH"])
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s %v: %q, want %q", c.script, c.env, got, c.want)
		}
	}
}
