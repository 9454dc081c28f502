package refusal

import "strings"

// Nearest finds the name that was probably meant: the one with the fewest
// typing mistakes, upper and lower case being the same. It is "" if none is
// near: at most two mistakes, and fewer in short names.
func Nearest(name string, names []string) string {
	best, least := "", 1+min(2, len(name)/3)
	for _, known := range names {
		if d := mistakes(strings.ToLower(name), strings.ToLower(known), least); d < least {
			best, least = known, d
		}
	}
	return best
}

// mistakes counts the letters that were left out, added or replaced, two
// letters that were swapped as one; up to limit.
func mistakes(a, b string, limit int) int {
	switch {
	case a == b:
		return 0
	case limit <= 0 || len(a)-len(b) >= limit || len(b)-len(a) >= limit:
		return limit
	case a == "" || b == "":
		return min(limit, len(a)+len(b))
	case a[0] == b[0]:
		return mistakes(a[1:], b[1:], limit)
	}
	d := min(mistakes(a[1:], b, limit-1), mistakes(a, b[1:], limit-1), mistakes(a[1:], b[1:], limit-1))
	if len(a) > 1 && len(b) > 1 && a[0] == b[1] && a[1] == b[0] {
		d = min(d, mistakes(a[2:], b[2:], limit-1))
	}
	return min(limit, d+1)
}
