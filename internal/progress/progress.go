// Package progress carries what is happening, as events, from where it happens
// to whoever shows it.
//
// Packages that do long work take a [Sink]; the screen, a log or a test is on
// the other end. Events are small values, sent in the order in which things
// happen within one platform; events of several platforms interleave.
package progress

import "time"

// State is where a step stands.
type State string

// The states of a step. A step starts once, may advance, and ends as done,
// cached (nothing had to be done) or failed. Note and Warning stand alone.
const (
	Started  State = "started"
	Advanced State = "advanced"
	Done     State = "done"
	Cached   State = "cached"
	Failed   State = "failed"
	Note     State = "note"
	Warning  State = "warning"
)

// Step names one kind of work.
type Step string

// The steps of a run, in the order in which one platform walks through them.
const (
	Resolve Step = "resolve" // bases, toolchain, packages
	Compile Step = "compile"
	Pack    Step = "pack"  // binaries and files become layers
	Build   Step = "build" // one instruction of a Dockerfile
	Verify  Step = "verify"
	Pull    Step = "pull"
	Push    Step = "push"
	Index   Step = "index"
	Tag     Step = "tag"
	Serve   Step = "serve"
)

// Event is one thing that happened.
type Event struct {
	Time     time.Time     `json:"time"`
	Image    string        `json:"image,omitempty"`    // name of the image, if the event is of one
	Platform string        `json:"platform,omitempty"` // OCI platform, if the event is of one
	Step     Step          `json:"step,omitempty"`
	State    State         `json:"state"`
	Message  string        `json:"message,omitempty"`  // one line, no final stop
	Current  int64         `json:"current,omitempty"`  // bytes so far, with Advanced
	Total    int64         `json:"total,omitempty"`    // bytes in all, 0 if unknown
	Duration time.Duration `json:"duration,omitempty"` // nanoseconds, with Done, Cached and Failed
}

// Sink takes events. It may be called from several goroutines at once, must not
// block for long, and is never nil: use [Discard] where nobody looks.
type Sink func(Event)

// Discard is a Sink that drops everything.
func Discard(Event) {}

// Start reports that a step has begun and returns the function that ends it.
// The returned function is to be called once, with the end state.
func (s Sink) Start(image, platform string, step Step, message string) func(State, string) {
	begin := time.Now()
	s(Event{Time: begin, Image: image, Platform: platform, Step: step, State: Started, Message: message})
	return func(state State, message string) {
		now := time.Now()
		s(Event{Time: now, Image: image, Platform: platform, Step: step, State: state, Message: message, Duration: now.Sub(begin)})
	}
}

// Warn reports something that its user should know although the work goes on.
func (s Sink) Warn(image, platform string, message string) {
	s(Event{Time: time.Now(), Image: image, Platform: platform, State: Warning, Message: message})
}

// Note reports something worth a line.
func (s Sink) Note(image, platform string, step Step, message string) {
	s(Event{Time: time.Now(), Image: image, Platform: platform, Step: step, State: Note, Message: message})
}
