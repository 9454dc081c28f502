package ui

import (
	"bytes"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/anyarch/anyarch/internal/progress"
)

// Options say where a [Screen] is and what it knows of the place. Out is
// needed; what else is missing is asked of Out and of the environment.
type Options struct {
	Out        io.Writer // standard error
	IsTerminal func() bool
	Width      func() int // columns, 0 if unknown; asked again for every frame
	Height     func() int // lines, 0 if unknown
	Getenv     func(string) string
	Mode       Mode
	Color      Color
	Now        func() time.Time
	Dir        string // working directory, for annotations in pull requests
	Images     int    // how many images the run makes; with several, lines name theirs
}

// Screen shows the events of one run. One goroutine of its own does all
// writing, so that neither a slow terminal nor a full pipe holds up the work.
type Screen struct {
	mode  Mode
	style Style
	out   io.Writer
	now   func() time.Time
	view  view

	mu      sync.Mutex
	queue   []progress.Event
	newest  map[stepKey]int // where in queue a step's last event is, if it is Advanced
	ending  bool
	clear   bool
	wake    chan struct{}
	stopped chan struct{}
}

// view renders one mode. It is called by one goroutine.
type view interface {
	// show renders what happened since the last call and returns after how
	// long it wants to be called although nothing happens, 0 for never.
	show(b *bytes.Buffer, events []progress.Event, now time.Time) time.Duration
	// end renders what has to be said last; clear asks for a clean slate.
	end(b *bytes.Buffer, clear bool, now time.Time)
	// interval is the shortest time between two calls of show.
	interval() time.Duration
}

type stepKey struct {
	image, platform string
	step            progress.Step
}

func keyOf(e progress.Event) stepKey { return stepKey{e.Image, e.Platform, e.Step} }

// New makes a screen and starts its writer; Close ends it.
func New(o Options) *Screen {
	file, _ := o.Out.(*os.File)
	if o.IsTerminal == nil {
		o.IsTerminal = func() bool { return file != nil && term.IsTerminal(int(file.Fd())) }
	}
	size := func() (int, int) {
		if file == nil {
			return 0, 0
		}
		w, h, err := term.GetSize(int(file.Fd()))
		if err != nil {
			return 0, 0
		}
		return w, h
	}
	if o.Width == nil {
		o.Width = func() int { w, _ := size(); return w }
	}
	if o.Height == nil {
		o.Height = func() int { _, h := size(); return h }
	}
	if o.Getenv == nil {
		o.Getenv = os.Getenv
	}
	if o.Now == nil {
		o.Now = time.Now
	}

	terminal := o.IsTerminal()
	if terminal && file != nil {
		// Consoles of Windows obey escape sequences only when asked to.
		terminal = enableEscapes(file)
	}
	s := &Screen{
		mode:    o.Mode.resolve(o.Getenv, terminal),
		style:   NewStyle(o.Getenv, o.Color, terminal, o.Dir),
		out:     o.Out,
		now:     o.Now,
		newest:  map[stepKey]int{},
		wake:    make(chan struct{}, 1),
		stopped: make(chan struct{}),
	}
	many := o.Images > 1
	switch s.mode {
	case TTY:
		s.view = newLive(s.style, many, o.Width, o.Height)
	case RawJSON:
		s.view = jsonLines{}
	case None:
		close(s.stopped)
		return s
	default:
		s.view = newLog(s.style, many, s.mode == Quiet)
	}
	go s.run()
	return s
}

// Mode is the mode in use; it is never Auto.
func (s *Screen) Mode() Mode { return s.mode }

// Style is the look of the place that the screen writes to, for what the
// caller writes there once the screen is closed.
func (s *Screen) Style() Style { return s.style }

// Sink takes the events of the run. It never waits for the terminal. Events
// that arrive before the previous ones are written are all kept, but of one
// step's Advanced only the newest. After Close, events are dropped.
func (s *Screen) Sink() progress.Sink {
	if s.view == nil {
		return progress.Discard
	}
	return s.put
}

func (s *Screen) put(e progress.Event) {
	if e.Time.IsZero() {
		e.Time = s.now()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending {
		return
	}
	key := keyOf(e)
	at, replace := s.newest[key]
	switch {
	case e.State == progress.Advanced && replace:
		s.queue[at] = e
	case e.State == progress.Advanced:
		s.newest[key] = len(s.queue)
		s.queue = append(s.queue, e)
	default:
		delete(s.newest, key)
		s.queue = append(s.queue, e)
	}
	s.poke()
}

func (s *Screen) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Close writes what is outstanding and leaves the last state of every line
// standing. The terminal is as it was before. Closing twice is allowed.
func (s *Screen) Close() { s.end(false) }

// Clear is Close for a run whose [Summary] follows: live lines are removed.
// Log lines stay.
func (s *Screen) Clear() { s.end(true) }

func (s *Screen) end(clear bool) {
	s.mu.Lock()
	if !s.ending {
		s.ending, s.clear = true, clear
		s.poke()
	}
	s.mu.Unlock()
	<-s.stopped
}

func (s *Screen) run() {
	defer close(s.stopped)
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	var (
		b    bytes.Buffer
		last time.Time // when show was called, by the real clock
	)
	for {
		select {
		case <-s.wake:
			rest := s.view.interval() - time.Since(last)
			if rest > 0 && !last.IsZero() && !s.isEnding() {
				timer.Reset(rest)
				continue
			}
		case <-timer.C:
		}
		events, ending, clear := s.take()
		again := s.view.show(&b, events, s.now())
		last = time.Now()
		if ending {
			s.view.end(&b, clear, s.now())
		}
		if b.Len() > 0 {
			// Nobody is left to tell that standard error is gone.
			_, _ = s.out.Write(b.Bytes())
			b.Reset()
		}
		if ending {
			timer.Stop()
			return
		}
		if again > 0 {
			timer.Reset(again)
		} else {
			timer.Stop()
		}
	}
}

func (s *Screen) isEnding() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ending
}

func (s *Screen) take() (events []progress.Event, ending, clear bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	events, s.queue = s.queue, nil
	for key := range s.newest {
		delete(s.newest, key)
	}
	return events, s.ending, s.clear
}
