package trace

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anyarch/anyarch/internal/progress"
	"github.com/anyarch/anyarch/internal/trace/tracetest"
)

var update = flag.Bool("update", false, "rewrite the golden file")

// The shape is what Perfetto loads: an object with traceEvents, complete events with
// times in microseconds, no two of one lane at once.
func TestShape(t *testing.T) {
	begin := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(ms int) time.Time { return begin.Add(time.Duration(ms) * time.Millisecond) }
	r := &Recorder{begin: begin}
	r.add(Process, "go build linux/amd64", at(1), at(40), "args", "build -trimpath")
	r.add(Process, "go build linux/arm64", at(2), at(30), "args", "build -trimpath")
	r.add(Process, "go list linux/arm64", at(30), at(50))
	r.add(Layer, "linux/arm64 programs", at(31), at(35), "bytes", "1234")
	r.add(Request, "PUT blobs/uploads", at(36), at(38), "status", "201", "nothing", "")
	var passed int
	sink := r.Sink(func(progress.Event) { passed++ })
	sink(progress.Event{Time: at(2), Platform: "linux/arm64", Step: progress.Compile, State: progress.Started})
	sink(progress.Event{Time: at(30), Platform: "linux/arm64", Step: progress.Compile, State: progress.Done, Message: "app", Duration: 28 * time.Millisecond})
	if passed != 2 {
		t.Errorf("%d events passed, want 2", passed)
	}
	var b bytes.Buffer
	if _, err := r.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, b.Bytes(), "", "\t"); err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "trace.json")
	if *update {
		if err := os.WriteFile(golden, indented.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(indented.Bytes(), want) {
		t.Errorf("the trace differs from %s:\n%s", golden, indented.Bytes())
	}
}

// What is recorded by many at once, with whatever names, is a file that viewers take.
func TestViewersTakeIt(t *testing.T) {
	t.Parallel()
	r := New()
	ctx := With(context.Background(), r)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(i)))
			for n := range 200 {
				track := tracks[random.IntN(len(tracks))]
				switch random.IntN(3) {
				case 0:
					end := Start(ctx, track, []string{"go build", "", "a\xffb", "\u2028\"</script>", strings.Repeat("x", 5000)}[random.IntN(5)])
					if n%2 == 0 {
						time.Sleep(time.Microsecond)
					}
					end("a", "b\xff", "odd")
				case 1: // a step that took longer than the run, or less than nothing
					r.Sink(progress.Discard)(progress.Event{Time: time.Now(), Step: progress.Compile, State: progress.Done, Duration: time.Duration(random.IntN(2e9) - 1e9)})
				default:
					begin := time.Now().Add(time.Duration(random.IntN(1000)))
					r.add(track, "x", begin, begin.Add(time.Duration(random.IntN(5000))))
				}
			}
		})
	}
	wg.Wait()
	var b bytes.Buffer
	if _, err := r.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	spans, err := tracetest.Read(b.Bytes())
	if err != nil || len(spans) != 1600 {
		t.Errorf("%d spans, %v", len(spans), err)
	}
	b.Reset()
	if _, err := New().WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	if spans, err := tracetest.Read(b.Bytes()); err != nil || len(spans) != 0 {
		t.Errorf("of nothing: %v %v", spans, err)
	}
}

func TestNobodyRecords(t *testing.T) {
	Start(context.Background(), Process, "go")("args", "build")
	r := New()
	Start(With(context.Background(), r), Process, "go")("args", "build")
	if len(r.spans) != 1 || r.spans[0].args["args"] != "build" {
		t.Errorf("recorded %v", r.spans)
	}
}
