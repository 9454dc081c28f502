package refusal

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

func TestNearest(t *testing.T) {
	t.Parallel()
	names := []string{"linux/amd64", "linux/arm64", "publish", "platform", "PA201", "tag"}
	for name, want := range map[string]string{
		"linux/arm46": "linux/arm64", "linux/amd46": "linux/amd64", "publsih": "publish", "platfrom": "platform",
		"pa201": "PA201", "tga": "tag", "x": "", "something else": "", "": "",
	} {
		if got := Nearest(name, names); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestCollect(t *testing.T) {
	t.Parallel()
	var c Collect
	if c.Err() != nil {
		t.Error("nothing collected is an error")
	}
	a := &Error{Code: "PA1", Platform: "linux/arm64", Summary: "first"}
	b := &Error{Code: "PA2", Place: "x:1", Summary: "second", Kind: Usage, Err: context.Canceled}
	plain := errors.New("plain")
	if !c.Add(nil) || !c.Add(fmt.Errorf("while: %w", a)) || !c.Add(List{a, b}) || c.Add(plain) {
		t.Error("Add takes refusals and nil, and nothing else")
	}
	err := c.Err()
	if got, want := err.Error(), "linux/arm64: first\nsecond (x:1)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if !errors.Is(err, context.Canceled) {
		t.Error("the cause isn't found")
	}
	if got := len(All(fmt.Errorf("outer: %w", err))); got != 2 {
		t.Errorf("%d refusals, want 2", got)
	}
	for kind, code := range map[Kind]int{Failed: 1, Usage: 2, Findings: 3, Auth: 4, Unavailable: 5} {
		if kind.ExitCode() != code {
			t.Errorf("kind %d exits with %d, want %d", kind, kind.ExitCode(), code)
		}
	}
}
