package ui

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anyarch/anyarch/internal/progress"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares got with testdata/name.golden.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.ReplaceAll(string(raw), "\r\n", "\n"); got != want {
		t.Errorf("%s differs (go test -update writes it)\ngot:\n%s\nwant:\n%s", path, got, want)
	}
}

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for _, pair := range pairs {
			if key, value, _ := strings.Cut(pair, "="); key == name {
				return value
			}
		}
		return ""
	}
}

// safeBuffer is a buffer for two goroutines.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func utcNow() time.Time { return time.Now().UTC() }

// run plays events of two platforms: one compiles for long, one fails, and a
// warning and a note come in between. It must be called in a synctest bubble.
func run(s progress.Sink, image string) {
	step := func(wait time.Duration, e progress.Event) {
		time.Sleep(wait)
		e.Image = image
		s(e)
		synctest.Wait()
	}
	step(0, progress.Event{Step: progress.Resolve, State: progress.Started, Message: "cgr.dev/base:1"})
	step(300*time.Millisecond, progress.Event{Step: progress.Resolve, State: progress.Done, Duration: 300 * time.Millisecond})
	step(0, progress.Event{Platform: "linux/amd64", Step: progress.Compile, State: progress.Started, Message: "./cmd/apiping"})
	step(0, progress.Event{Platform: "linux/arm64", Step: progress.Compile, State: progress.Started, Message: "./cmd/apiping"})
	step(50*time.Millisecond, progress.Event{Platform: "linux/amd64", Step: progress.Compile, State: progress.Cached, Duration: 50 * time.Millisecond, Message: "16147660 bytes"})
	step(time.Second, progress.Event{Platform: "linux/arm64", State: progress.Warning, Message: "evil \x1b[31mred\x1b[0m \x07 path\nbreak \u202edlrow"})
	step(24*time.Second, progress.Event{Platform: "linux/arm64", Step: progress.Compile, State: progress.Done, Duration: 25050 * time.Millisecond, Message: "15073442 bytes"})
	step(0, progress.Event{Platform: "linux/arm64", Step: progress.Pack, State: progress.Started})
	step(0, progress.Event{Platform: "linux/arm64", Step: progress.Pack, State: progress.Failed, Message: "no space left on device"})
	step(0, progress.Event{Platform: "linux/amd64", Step: progress.Push, State: progress.Started})
	for i := range int64(5) {
		step(3*time.Second, progress.Event{Platform: "linux/amd64", Step: progress.Push, State: progress.Advanced, Current: i * 1_500_000, Total: 6_186_598})
	}
	step(0, progress.Event{Platform: "linux/amd64", Step: progress.Push, State: progress.Done, Duration: 15 * time.Second, Total: 6_186_598})
	step(0, progress.Event{State: progress.Note, Step: progress.Tag, Message: "latest stays at 1.6.0"})
}

func TestLogModes(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]Options{
		"plain":           {Mode: Plain},
		"plain-many":      {Mode: Plain, Images: 2},
		"plain-ci":        {Mode: Auto, IsTerminal: func() bool { return true }, Getenv: env("CI=true", "LANG=C")},
		"plain-color":     {Mode: Plain, Color: ColorAlways},
		"rawjson":         {Mode: RawJSON},
		"quiet":           {Mode: Quiet},
		"none":            {Mode: None},
		"buildkit-plain":  {Mode: Auto, IsTerminal: func() bool { return true }, Getenv: env("BUILDKIT_PROGRESS=plain", "TERM=xterm")},
		"buildkit-absurd": {Mode: Auto, Getenv: env("BUILDKIT_PROGRESS=absurd")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var out safeBuffer
				o := o
				o.Out, o.Now = &out, utcNow
				if o.Getenv == nil {
					o.Getenv = env()
				}
				screen := New(o)
				run(screen.Sink(), "apiping")
				screen.Close()
				screen.Close()
				screen.Sink().Warn("", "", "too late")
				if strings.HasPrefix(name, "buildkit-") {
					if screen.Mode() != Plain {
						t.Errorf("mode is %s", screen.Mode())
					}
					return
				}
				golden(t, name, out.String())
				if strings.Contains(out.String(), "too late") {
					t.Error("an event after Close was shown")
				}
			})
		})
	}
}

func TestRawJSONIsOneObjectALine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out safeBuffer
		screen := New(Options{Out: &out, Mode: RawJSON, Now: utcNow, Getenv: env()})
		hostile := "a\n<b>\u009b31m \x1b[2J \u202e \u2028 \xff"
		screen.Sink().Warn("", "linux/arm64", hostile)
		screen.Close()
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		if len(lines) != 1 {
			t.Fatalf("%d lines: %q", len(lines), lines)
		}
		for _, r := range lines[0] {
			if hostileOrBreak(r) {
				t.Errorf("%q is in the output as it is", r)
			}
		}
		var e progress.Event
		if err := json.Unmarshal([]byte(lines[0]), &e); err != nil {
			t.Fatal(err)
		}
		if want := strings.ToValidUTF8(hostile, "\ufffd"); e.Message != want {
			t.Errorf("message is %q, want %q", e.Message, want)
		}
	})
}

func hostileOrBreak(r rune) bool { return hostile(r) || r == '\u2028' || r == '\u2029' }

// live starts a screen on a terminal.
func liveScreen(v *terminal, o Options) *Screen {
	o.Out, o.Width, o.Height, o.Now = v, v.Width, v.Height, utcNow
	o.IsTerminal = func() bool { return true }
	if o.Getenv == nil {
		o.Getenv = env("TERM=xterm-256color", "LANG=en_US.UTF-8")
	}
	return New(o)
}

func TestLiveFinalScreens(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name       string
		cols, rows int
		o          Options
		clear      bool
	}{
		{name: "tty", cols: 100, rows: 30},
		{name: "tty-narrow", cols: 38, rows: 30},
		{name: "tty-tiny", cols: 7, rows: 3},
		{name: "tty-many", cols: 100, rows: 30, o: Options{Images: 2, Color: ColorNever}},
		{name: "tty-ascii", cols: 100, rows: 30, o: Options{Getenv: env("TERM=vt100", "LC_ALL=C", "LANG=en_US.UTF-8")}},
		{name: "tty-cleared", cols: 100, rows: 30, clear: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				v := newTerminal(t, c.cols, c.rows)
				_, _ = io.WriteString(v, "$ anyarch publish\r\n")
				screen := liveScreen(v, c.o)
				if screen.Mode() != TTY {
					t.Fatalf("mode is %s", screen.Mode())
				}
				run(screen.Sink(), "apiping")
				if c.clear {
					screen.Clear()
				} else {
					screen.Close()
				}
				_, _ = io.WriteString(v, "the end\r\n")
				golden(t, c.name, v.text())
			})
		})
	}
}

// TestLiveFrames looks at the screen while things go on.
func TestLiveFrames(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := newTerminal(t, 90, 20)
		screen := liveScreen(v, Options{})
		sink := screen.Sink()
		var frames strings.Builder
		look := func(what string) {
			time.Sleep(frameTime)
			synctest.Wait()
			fmt.Fprintf(&frames, "--- %s\n%s", what, v.text())
		}
		for _, p := range []string{"linux/amd64", "linux/arm64/v8.2"} {
			sink(progress.Event{Platform: p, Step: progress.Compile, State: progress.Started, Message: "./cmd/世界"})
		}
		look("started")
		sink(progress.Event{Platform: "linux/amd64", Step: progress.Compile, State: progress.Done, Duration: 2 * time.Second})
		sink(progress.Event{Platform: "linux/amd64", Step: progress.Push, State: progress.Started})
		sink(progress.Event{Platform: "linux/amd64", Step: progress.Push, State: progress.Advanced, Current: 3 << 20, Total: 5 << 20})
		look("pushing")
		sink.Warn("", "linux/amd64", "first warning "+strings.Repeat("long ", 20))
		look("warned")
		v.resize(40, 20)
		look("narrower")
		v.resize(120, 20)
		look("wider")
		sink(progress.Event{Platform: "linux/arm64/v8.2", Step: progress.Compile, State: progress.Failed, Duration: time.Second})
		look("failed")
		screen.Close()
		golden(t, "tty-frames", frames.String())
	})
}

// TestLiveDisorder lets random things happen on a terminal that is resized at
// random: whatever was written to stay must stay, whole and in order, and the
// area below must be there once.
func TestLiveDisorder(t *testing.T) {
	t.Parallel()
	for seed := range uint64(30) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			v := newTerminal(t, 80, 40)
			screen := liveScreen(v, Options{Color: ColorAlways})
			sink := screen.Sink()
			var want []string
			platforms := []string{"linux/amd64", "linux/arm64", "linux/s390x"}
			for i := range 200 {
				p := platforms[random.IntN(3)]
				switch random.IntN(7) {
				case 0:
					sink(progress.Event{Platform: p, Step: progress.Push, State: progress.Started})
				case 1:
					sink(progress.Event{Platform: p, Step: progress.Push, State: progress.Advanced, Current: random.Int64N(100), Total: 100, Message: strings.Repeat("長い ", random.IntN(30))})
				case 2:
					sink(progress.Event{Platform: p, Step: progress.Push, State: progress.Done, Message: strings.Repeat("done ", random.IntN(30))})
				case 3:
					note := fmt.Sprintf("note%d:%s!", i, strings.Repeat("é", random.IntN(150)))
					want = append(want, note)
					sink.Note("", "", "", note)
				case 4:
					time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
					synctest.Wait()
				case 5:
					time.Sleep(frameTime)
					synctest.Wait()
					v.resize(20+random.IntN(100), 30+random.IntN(20))
				}
			}
			for _, p := range platforms {
				sink(progress.Event{Platform: p, Step: progress.Push, State: progress.Failed, Message: "end"})
			}
			screen.Close()
			v.resize(1000, 24)
			got := strings.Split(strings.TrimSpace(v.text()), "\n")
			if len(got) != len(want)+3 {
				t.Fatalf("seed %d: %d lines, want %d and 3:\n%s", seed, len(got), len(want), v.text())
			}
			for i, note := range want {
				if got[i] != note {
					t.Fatalf("seed %d: line %d is %q, want %q", seed, i, got[i], note)
				}
			}
		})
	}
}

func TestLiveStream(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := newTerminal(t, 80, 20)
		screen := liveScreen(v, Options{})
		sink := screen.Sink()
		sink(progress.Event{Platform: "linux/arm64", Step: progress.Push, State: progress.Started})
		synctest.Wait()
		sink.Note("", "linux/arm64", progress.Push, "a note")
		time.Sleep(frameTime)
		synctest.Wait()
		screen.Close()
		golden(t, "tty-stream", strings.NewReplacer("\x1b", "␛", "\r", "␍").Replace(v.stream.String()))
	})
}

// A terminal that is lower than the live area can't be redrawn above its top.
func TestLiveMoreRowsThanLines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := newTerminal(t, 60, 6)
		screen := liveScreen(v, Options{})
		sink := screen.Sink()
		for i := range 12 {
			sink(progress.Event{Platform: fmt.Sprintf("linux/p%d", i), Step: progress.Compile, State: progress.Started})
		}
		for i := range 9 {
			sink(progress.Event{Platform: fmt.Sprintf("linux/p%d", i), Step: progress.Compile, State: progress.Done})
			time.Sleep(2 * frameTime)
			synctest.Wait()
			sink.Note("", "", "", fmt.Sprintf("note %d", i))
		}
		time.Sleep(2 * frameTime)
		synctest.Wait()
		during := v.text()
		screen.Close()
		golden(t, "tty-low", during+"--- closed\n"+v.text())
	})
}

// Frames are drawn at most ten times a second, and not at all when nothing
// would look different.
func TestLiveRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := newTerminal(t, 80, 20)
		screen := liveScreen(v, Options{})
		sink := screen.Sink()
		sink(progress.Event{Platform: "linux/arm64", Step: progress.Push, State: progress.Started})
		for i := range int64(2000) { // two seconds
			time.Sleep(time.Millisecond)
			sink(progress.Event{Platform: "linux/arm64", Step: progress.Push, State: progress.Advanced, Current: i, Total: 2000})
		}
		if v.count() > 21 {
			t.Errorf("%d frames in two seconds", v.count())
		}
		sink(progress.Event{Platform: "linux/arm64", Step: progress.Push, State: progress.Done})
		time.Sleep(time.Second)
		synctest.Wait()
		before := v.count()
		time.Sleep(time.Minute)
		synctest.Wait()
		if v.count() != before {
			t.Errorf("%d frames while nothing happened", v.count()-before)
		}
		screen.Close()
	})
}

func TestNothingHappened(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{TTY, Plain, RawJSON, Quiet, None} {
		var out safeBuffer
		New(Options{Out: &out, Mode: mode, Getenv: env()}).Close()
		if out.String() != "" {
			t.Errorf("%s wrote %q", mode, out.String())
		}
	}
}

// stuck is a terminal that doesn't take anything until it's released.
type stuck struct {
	release chan struct{}
	out     safeBuffer
}

func (s *stuck) Write(p []byte) (int, error) {
	<-s.release
	return s.out.Write(p)
}

func TestSinkDoesNotWaitForTheWriter(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{TTY, Plain, RawJSON} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			out := &stuck{release: make(chan struct{})}
			screen := New(Options{Out: out, Mode: mode, Getenv: env(), Now: utcNow})
			var g sync.WaitGroup
			for i := range 8 {
				g.Go(func() {
					sink := screen.Sink()
					p := fmt.Sprintf("linux/p%d", i)
					end := sink.Start("apiping", p, progress.Push, "start")
					for n := range int64(1000) {
						sink(progress.Event{Image: "apiping", Platform: p, Step: progress.Push, State: progress.Advanced, Current: n, Total: 1000})
					}
					sink.Warn("apiping", p, "careful")
					end(progress.Done, "layers")
				})
			}
			g.Wait()
			screen.mu.Lock()
			queued := len(screen.queue)
			screen.mu.Unlock()
			if queued > 8*4 {
				t.Errorf("%d events are queued: Advanced ones aren't merged", queued)
			}
			close(out.release)
			screen.Close()
			for i := range 8 {
				if !strings.Contains(out.out.String(), fmt.Sprintf("linux/p%d", i)) {
					t.Errorf("nothing about platform %d", i)
				}
			}
			if n := strings.Count(out.out.String(), "careful"); n != 8 {
				t.Errorf("%d warnings of 8", n)
			}
		})
	}
}
