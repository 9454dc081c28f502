package prove

import (
	"cmp"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/anyarch/anyarch/internal/refusal"
)

// Severity says how much a finding matters.
type Severity string

// The severities. An error means that the image doesn't do what its index says
// on some platform, or that it couldn't be told; a warning that it probably
// won't for somebody; an info explains what looks odd and isn't.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
	Info    Severity = "info"
	// Never is above every finding; it is only for failing on.
	Never Severity = "never"
)

func (s Severity) rank() int {
	return slices.Index([]Severity{Info, Warning, Error, Never}, s)
}

// ParseFailOn reads the severity from which findings count as a failure: error,
// warning or never; the empty string is error. Anything else is a
// [refusal.Error] with code PA502.
func ParseFailOn(text string) (Severity, error) {
	switch s := Severity(text); s {
	case "":
		return Error, nil
	case Error, Warning, Never:
		return s, nil
	}
	return "", badFlag("--fail-on", text, "not a severity to fail on", string(Error), string(Warning), string(Never))
}

// The rules, by the code that `anyarch explain` describes them under.
const (
	RuleEntrypoint  = "PA201"
	RulePrograms    = "PA202"
	RulePlatform    = "PA203"
	RuleRequired    = "PA204"
	RuleMissing     = "PA206"
	RuleShared      = "PA207"
	RuleLibraries   = "PA209"
	RuleAttestation = "PA211"
	RuleRoots       = "PA214"
	RuleDuplicate   = "PA215"
	RuleIntegrity   = "PA216"
	RuleStart       = "PA217"
	RuleNesting     = "PA218"
	RuleUnreadable  = "PA219"
)

// Title is a rule in one line; empty for a code that isn't a rule of this
// package.
func Title(rule string) string {
	switch rule {
	case RuleEntrypoint:
		return "the entrypoint is a program for another machine"
	case RulePrograms:
		return "the image holds programs of another machine"
	case RulePlatform:
		return "index and image disagree about the platform"
	case RuleRequired:
		return "a required platform is missing"
	case RuleMissing:
		return "a manifest or blob of the index is missing"
	case RuleShared:
		return "two platforms share one image or program"
	case RuleLibraries:
		return "a dynamic program without its interpreter or libraries"
	case RuleAttestation:
		return "entries that are attestations"
	case RuleRoots:
		return "no CA roots although the program uses TLS"
	case RuleDuplicate:
		return "a platform is in the index twice"
	case RuleIntegrity:
		return "content doesn't match its digest"
	case RuleStart:
		return "the entrypoint is missing or not executable"
	case RuleNesting:
		return "an index is nested too deeply, or in a circle"
	case RuleUnreadable:
		return "part of the image can't be read"
	}
	return ""
}

// Finding is one thing that is true of an image and that somebody should know.
type Finding struct {
	Rule     string        `json:"rule"` // such as PA201
	Severity Severity      `json:"severity"`
	Platform string        `json:"platform,omitempty"` // OCI platform, if the finding is of one
	Image    string        `json:"image,omitempty"`    // reference that was verified
	Digest   digest.Digest `json:"digest,omitempty"`   // of the manifest or index it is about
	Layer    digest.Digest `json:"layer,omitempty"`    // of the layer that brings Path
	Path     string        `json:"path,omitempty"`     // file in the image
	Summary  string        `json:"summary"`            // what is wrong, one line, no final stop
	Seen     []string      `json:"seen,omitempty"`     // what was seen: lines of detail
	Fix      []string      `json:"fix,omitempty"`      // what to do: lines that can be pasted
	Files    []string      `json:"files,omitempty"`    // every file concerned, if there are several; at most 1000

	order int // of the platform in the index
}

// sortFindings puts findings in the order in which they are shown: worst first,
// then by rule, then by the platform's place in the index.
func sortFindings(list []Finding) {
	slices.SortStableFunc(list, func(a, b Finding) int {
		return cmp.Or(
			cmp.Compare(b.Severity.rank(), a.Severity.rank()),
			cmp.Compare(a.Rule, b.Rule),
			cmp.Compare(a.order, b.order),
			cmp.Compare(a.Path, b.Path),
			cmp.Compare(a.Digest, b.Digest),
			cmp.Compare(a.Summary, b.Summary))
	})
}

// Err is nil unless the report has findings at or above failOn; then it is a
// [refusal.List] of them, of kind [refusal.Findings].
func (r *Report) Err(failOn Severity) error {
	var list refusal.List
	for _, f := range r.Findings {
		if f.Severity.rank() < failOn.rank() {
			continue
		}
		place := f.Image
		if f.Digest != "" {
			place = cmp.Or(place, f.Digest.String())
		}
		list = append(list, &refusal.Error{
			Code: f.Rule, Kind: refusal.Findings, Platform: f.Platform,
			Place: place, Summary: f.Summary, Seen: f.Seen, Fix: f.Fix,
		})
	}
	if len(list) == 0 {
		return nil
	}
	return list
}

func badFlag(flag, text, why string, known ...string) error {
	e := &refusal.Error{Code: "PA502", Kind: refusal.Usage, Place: flag + " " + text, Summary: why}
	for _, k := range known {
		e.Fix = append(e.Fix, flag+" "+k)
	}
	return e
}
