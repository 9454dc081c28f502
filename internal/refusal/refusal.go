// Package refusal says what can't be done, where, why, and what to type instead.
//
// Everything that this program turns down, on purpose or because the outside
// world failed, reaches its user as an [Error]: a stable code, the platform, the
// place, what was seen there and a fix that can be pasted. Packages return it as
// an ordinary error; the command line renders it and turns its [Kind] into an
// exit code.
package refusal

import (
	"errors"
	"fmt"
	"strings"
)

// Kind says what a caller can do about a refusal. It decides the exit code.
type Kind int

// The kinds of refusal, each with the exit code of the program.
const (
	Failed      Kind = iota // 1: the work can't be done as asked
	Usage                   // 2: flags, arguments or configuration are wrong
	Findings                // 3: an image isn't what its index says
	Auth                    // 4: a registry wants other credentials
	Unavailable             // 5: a registry or the network is away; trying again may help
)

// ExitCode is the exit status of a program that ends with a refusal of this kind.
func (k Kind) ExitCode() int { return int(k) + 1 }

// Error is one refusal. Code and Summary are always set.
type Error struct {
	Code     string   // stable identifier, such as PA104; `anyarch explain CODE` describes it
	Kind     Kind     // decides the exit code
	Platform string   // OCI platform, such as linux/arm64; empty if all or none
	Place    string   // file:line, flag, reference or URL, as its user would look it up
	Summary  string   // what is wrong, one line, no final stop
	Seen     []string // what was seen: lines of detail
	Fix      []string // what to do: lines that can be pasted
	Err      error    // the cause, for errors.Is; never printed a second time
}

// Error renders the refusal on one line: platform, summary, place.
func (e *Error) Error() string {
	var b strings.Builder
	if e.Platform != "" {
		b.WriteString(e.Platform + ": ")
	}
	b.WriteString(e.Summary)
	if e.Place != "" {
		b.WriteString(" (" + e.Place + ")")
	}
	return b.String()
}

// Unwrap gives the cause, so that errors.Is finds context.Canceled and friends.
func (e *Error) Unwrap() error { return e.Err }

// List is several refusals that were found together. It is never empty.
type List []*Error

// Error joins the refusals, one a line.
func (l List) Error() string {
	lines := make([]string, len(l))
	for i, e := range l {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets errors.As and errors.Is look into every refusal.
func (l List) Unwrap() []error {
	errs := make([]error, len(l))
	for i, e := range l {
		errs[i] = e
	}
	return errs
}

// Collect gathers refusals so that a user sees all of them at once.
// The zero value is ready to use. It is not safe for concurrent use.
type Collect struct{ list List }

// Add keeps err if it is a refusal or a list of them, and reports whether it
// was; nil counts as kept. Other errors are left to the caller.
func (c *Collect) Add(err error) bool {
	if err == nil {
		return true
	}
	found := All(err)
	c.list = append(c.list, found...)
	return len(found) > 0
}

// Err is nil, the one refusal, or a [List] of all of them in order, each once.
func (c *Collect) Err() error {
	var unique List
	seen := map[string]bool{}
	for _, e := range c.list {
		key := fmt.Sprintf("%s\x00%s\x00%s\x00%s", e.Code, e.Platform, e.Place, e.Summary)
		if !seen[key] {
			seen[key] = true
			unique = append(unique, e)
		}
	}
	switch len(unique) {
	case 0:
		return nil
	case 1:
		return unique[0]
	}
	return unique
}

// All gives the refusals inside err, in order; none if err holds no refusal.
func All(err error) List {
	if list, ok := errors.AsType[List](err); ok {
		return list
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return List{e}
	}
	return nil
}
