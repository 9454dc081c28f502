package awk

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/anyarch/anyarch/internal/native/command"
)

// class is what is known of a value.
type class uint8

const (
	unset   class = iota // never assigned: both "" and 0
	numberV              // a number
	textV                // a string
	inputV               // a string from outside, which is a number if it looks like one
)

type value struct {
	class class
	n     float64
	s     string
}

func numeric(n float64) value  { return value{class: numberV, n: n} }
func literal(s string) value   { return value{class: textV, s: s} }
func fromInput(s string) value { return value{class: inputV, s: s} }
func truth(b bool) value {
	if b {
		return numeric(1)
	}
	return numeric(0)
}

func isBlank(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

// ambiguous is a text that isn't the same number in every awk.
func (in *interpreter) ambiguous(s string) {
	panic(failure{refuse("%q as a number (which not every awk takes alike)", s)})
}

// leading reads the number that a text begins with, and says whether that is all of
// it.
func (in *interpreter) leading(s string) (n float64, all bool) {
	rest := strings.TrimLeft(s, " \t\n\v\f\r")
	digits := rest
	if digits != "" && (digits[0] == '+' || digits[0] == '-') {
		digits = digits[1:]
	}
	length := decimal(digits)
	if length == 0 {
		if len(digits) >= 3 {
			switch strings.ToLower(digits[:3]) {
			case "nan", "inf":
				in.ambiguous(s)
			}
		}
		return 0, false
	}
	after := digits[length:]
	switch {
	case digits[0] == '0' && length == 1 && len(after) > 1 && after[0]|0x20 == 'x' && strings.IndexByte("0123456789abcdefABCDEF.", after[1]) >= 0:
		in.ambiguous(s)
	case in.prog.busybox && digits[0] == '0' && length > 1 && digits[1] >= '0' && digits[1] <= '9':
		in.ambiguous(s) // some versions take it for octal
	}
	n, err := strconv.ParseFloat(rest[:len(rest)-len(after)], 64)
	if err != nil && !math.IsInf(n, 0) {
		return 0, false
	}
	return n, strings.TrimLeft(after, " \t\n\v\f\r") == ""
}

// looksNumeric says whether a text from outside is a number.
func (in *interpreter) looksNumeric(s string) (float64, bool) {
	if s == "" {
		return 0, false
	}
	// Most texts are none by their first character.
	switch c := s[0]; {
	case c >= '0' && c <= '9', c == '.', c == '+', c == '-', isBlank(c):
	case c|0x20 == 'i' || c|0x20 == 'n':
		switch strings.ToLower(strings.TrimRight(s, " \t\n\v\f\r")) {
		case "inf", "nan", "infinity":
			in.ambiguous(s)
		}
		return 0, false
	default:
		return 0, false
	}
	rest := strings.TrimLeft(s, " \t\n\v\f\r+-")
	if rest != "" && (rest[0] < '0' || rest[0] > '9') && rest[0] != '.' {
		return 0, false
	}
	n, all := in.leading(s)
	return n, all
}

// number gives a value as a number.
func (in *interpreter) number(v value) float64 {
	switch v.class {
	case unset:
		return 0
	case numberV:
		return v.n
	}
	if v.s == "" {
		return 0
	}
	n, _ := in.leading(v.s)
	return n
}

// isTrue is what a condition takes a value for.
func (in *interpreter) isTrue(v value) bool {
	switch v.class {
	case unset:
		return false
	case numberV:
		return v.n != 0
	case inputV:
		if n, ok := in.looksNumeric(v.s); ok {
			return n != 0
		}
	}
	return v.s != ""
}

// maxWhole is the largest whole number that every awk of GNU systems prints as one.
const maxWhole = math.MaxInt32

// format writes a number as CONVFMT or OFMT say, or as a whole one.
func (in *interpreter) format(n float64, layout string) string {
	switch {
	case math.IsNaN(n) || math.IsInf(n, 0):
		panic(failure{refuse("writing a number that is infinite or none (which not every awk does alike)")})
	case n == math.Trunc(n) && math.Abs(n) <= maxWhole, n == math.Trunc(n) && in.prog.busybox && math.Abs(n) < 1<<63:
		return strconv.FormatInt(int64(n), 10)
	case n == math.Trunc(n) && !in.prog.busybox:
		panic(failure{unsupportedWhole})
	case layout == "%.6g":
		return strconv.FormatFloat(n, 'g', 6, 64)
	}
	return in.sprintf(layout, []value{numeric(n)})
}

var unsupportedWhole = &command.Unsupported{Command: "awk", What: "writing whole numbers of more than 31 bits (which not every awk does alike)", Fix: `printf "%.0f"`}

// text gives a value as a string.
func (in *interpreter) text(v value) string {
	if v.class == numberV {
		return in.format(v.n, in.convfmt)
	}
	return v.s
}

// printed gives a value as print writes it.
func (in *interpreter) printed(v value) string {
	if v.class == numberV {
		return in.format(v.n, in.ofmt)
	}
	return v.s
}

// compare compares as numbers if both are some, else as strings.
func (in *interpreter) compare(a, b value) int {
	x, okA := in.comparable(a)
	y, okB := in.comparable(b)
	if okA && okB {
		switch {
		case x < y:
			return -1
		case x > y:
			return 1
		case x == y:
			return 0
		}
		panic(failure{refuse("comparing what is no number (nan)")})
	}
	return strings.Compare(in.text(a), in.text(b))
}

func (in *interpreter) comparable(v value) (float64, bool) {
	switch v.class {
	case unset:
		return 0, true
	case numberV:
		return v.n, true
	case inputV:
		return in.looksNumeric(v.s)
	}
	return 0, false
}

// cell is a variable: a scalar or an array. A parameter that got a variable without
// a value becomes an array together with it.
type cell struct {
	v    value
	arr  *array
	from *cell
}

// array has its elements in some order: that in which busybox goes through them, or
// that in which they came.
type array struct {
	values map[string]*item
	order  []*item // of GNU's; items that were deleted are in it until there are many
	dead   int
	table  *hashTable
}

// item is an element of an array.
type item struct {
	v    value
	key  string
	dead bool
}

func newArray(busybox bool) *array {
	a := &array{values: map[string]*item{}}
	if busybox {
		a.table = newHashTable()
	}
	return a
}

// at gives an element, which is there from now on.
func (a *array) at(key string) *value {
	e := a.values[key]
	if e == nil {
		e = &item{key: key}
		a.values[key] = e
		if a.table != nil {
			a.table.add(key)
		} else {
			a.order = append(a.order, e)
		}
	}
	return &e.v
}

func (a *array) remove(key string) {
	e := a.values[key]
	if e == nil {
		return
	}
	delete(a.values, key)
	if a.table != nil {
		a.table.remove(key)
		return
	}
	e.dead = true
	if a.dead++; a.dead > 16 && a.dead > len(a.order)/2 {
		a.order, a.dead = slices.DeleteFunc(a.order, func(e *item) bool { return e.dead }), 0
	}
}

func (a *array) clear() {
	clear(a.values)
	a.order, a.dead = nil, 0
	if a.table != nil {
		a.table.clear()
	}
}

// keys are the indexes in the order of for … in.
func (a *array) keys() []string {
	if a.table != nil {
		return a.table.keys()
	}
	list := make([]string, 0, len(a.values))
	for _, e := range a.order {
		if !e.dead {
			list = append(list, e.key)
		}
	}
	return list
}

// hashTable is a table as busybox has it (editors/awk.c), of which the order of its
// elements comes.
type hashTable struct {
	buckets []*hashItem
	count   int
	grown   int
}

type hashItem struct {
	key  string
	next *hashItem
}

var hashSizes = []int{61, 251, 1021, 4093, 16381, 65521}

func newHashTable() *hashTable { return &hashTable{buckets: make([]*hashItem, hashSizes[0])} }

func hashOf(key string) uint32 {
	var h uint32
	for i := range len(key) {
		h = uint32(int32(int8(key[i]))) + h*63 //nolint:gosec // characters have a sign there
	}
	return h
}

func (t *hashTable) add(key string) {
	t.count++
	if t.count > len(t.buckets)*8 && t.grown+1 < len(hashSizes) {
		t.grown++
		old := t.buckets
		t.buckets = make([]*hashItem, hashSizes[t.grown])
		for _, item := range old {
			for item != nil {
				next := item.next
				t.put(item)
				item = next
			}
		}
	}
	t.put(&hashItem{key: key})
}

func (t *hashTable) put(item *hashItem) {
	at := hashOf(item.key) % uint32(len(t.buckets)) //nolint:gosec // small
	item.next = t.buckets[at]
	t.buckets[at] = item
}

func (t *hashTable) remove(key string) {
	for p := &t.buckets[hashOf(key)%uint32(len(t.buckets))]; *p != nil; p = &(*p).next { //nolint:gosec // small
		if (*p).key == key {
			*p = (*p).next
			t.count--
			return
		}
	}
}

func (t *hashTable) clear() {
	clear(t.buckets)
	t.count = 0
}

func (t *hashTable) keys() []string {
	list := make([]string, 0, t.count)
	for _, item := range t.buckets {
		for ; item != nil; item = item.next {
			list = append(list, item.key)
		}
	}
	return list
}
