package native

import (
	"testing"

	"github.com/anyarch/anyarch/internal/dockerfile"
)

// How much of the time a RUN can see decides whether its result may be taken over at
// another time.
func TestClock(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]clock{
		"go build -o /app .":                          timeless,
		"CGO_ENABLED=0 go build ./...":                timeless,
		"go mod download && cp a b":                   timeless,
		"[ -z \"$X\" ] || echo x > /y":                timeless,
		"f() { echo x; }; f":                          timeless,
		"git rev-parse HEAD > /rev":                   timeless,
		"curl -fsSL https://example.com/x -o /x":      timeless,
		"env A=b cp a b":                              timeless,
		"apk add --no-cache ca-certificates":          byDay,
		"adduser -D app":                              byDay,
		"apk add --virtual .deps gcc":                 byTime,
		"apk add -t .deps gcc":                        byTime,
		"date > /stamp":                               byTime,
		"go build -ldflags \"-X main.d=$(date)\"":     byTime,
		"ls -l > /list":                               byTime,
		"tar -cf /x.tar /data":                        byTime,
		"find / -newer /x":                            byTime,
		"[ a -nt b ] && echo x":                       byTime,
		"cp -u a b":                                   byTime,
		"wget -N https://example.com/x":               byTime,
		"go run ./cmd/tool":                           byTime,
		"go generate ./...":                           byTime,
		"./build.sh":                                  byTime,
		"make":                                        byTime,
		"$CMD x":                                      byTime,
		"f() { date; }; f":                            byTime,
		"echo $RANDOM":                                byTime,
		"printf '%(%s)T'":                             byTime,
		"apt-get update && apt-get install -y tzdata": byTime,
		"sh -c 'date'":                                byTime,
		"eval \"$X\"":                                 byTime,
		"env date":                                    byTime,
		"this is 'no shell":                           byTime,
		"GOOS=linux exec go build":                    timeless,
	} {
		if got := clockOf(&dockerfile.Exec{Args: []string{"/bin/sh", "-c", text}}); got != want {
			t.Errorf("%s: %d, want %d", text, got, want)
		}
	}
	if clockOf(&dockerfile.Exec{Args: []string{"go", "build"}}) != timeless || clockOf(&dockerfile.Exec{Args: []string{"/tool"}}) != byTime {
		t.Error("the exec form")
	}
}
