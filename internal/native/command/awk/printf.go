package awk

import (
	"math"
	"strconv"
	"strings"
)

// sprintf writes values as a format says. What is not written alike by every awk,
// such as numbers of more than 31 bits with %d, is refused.
func (in *interpreter) sprintf(format string, args []value) string {
	var out strings.Builder
	next := func() (value, bool) {
		if len(args) == 0 {
			if !in.prog.busybox {
				in.runtime("not enough arguments passed to printf(%q)", format)
			}
			return value{}, false
		}
		v := args[0]
		args = args[1:]
		return v, true
	}
	for i := 0; i < len(format); i++ {
		if format[i] != '%' {
			out.WriteByte(format[i])
			continue
		}
		d, length := in.directive(format[i:], func() int {
			v, _ := next()
			return int(in.number(v))
		})
		i += length - 1
		if d.verb == '%' {
			out.WriteByte('%')
			continue
		}
		v, _ := next()
		out.WriteString(in.formatted(d, v))
		in.bound(out.Len())
	}
	return out.String()
}

// directive is %-5.2f and the like.
type directive struct {
	minus, plus, space, alternate, zero bool
	width, precision                    int // precision -1 if there is none
	verb                                byte
}

const maxWidth = 1 << 20

// directive reads one, and says how long it is; star gives the number of a *.
func (in *interpreter) directive(s string, star func() int) (d directive, length int) {
	bad := func() {
		panic(failure{refuse("the format %q", s)})
	}
	d.precision = -1
	i := 1
	flag := true
	for flag && i < len(s) {
		switch s[i] {
		case '-':
			d.minus = true
		case '+':
			d.plus = true
		case ' ':
			d.space = true
		case '#':
			d.alternate = true
		case '0':
			d.zero = true
		default:
			flag = false
			continue
		}
		i++
	}
	amount := func() int {
		if i < len(s) && s[i] == '*' {
			if in.prog.busybox {
				panic(failure{refuse("* in a format")})
			}
			i++
			return star()
		}
		from := i
		for i < len(s) && s[i] >= '0' && s[i] <= '9' {
			i++
		}
		n, err := strconv.Atoi("0" + s[from:i])
		if err != nil || n > maxWidth {
			bad()
		}
		return n
	}
	if d.width = amount(); d.width < 0 {
		d.minus, d.width = true, -d.width
	}
	if i < len(s) && s[i] == '.' {
		i++
		d.precision = amount()
	}
	if i == len(s) || d.width > maxWidth || d.precision > maxWidth || d.width < 0 {
		bad()
	}
	d.verb = s[i]
	if d.verb == '%' && i > 1 || strings.IndexByte("%diouxXeEfFgGcs", d.verb) < 0 {
		bad()
	}
	return d, i + 1
}

func (in *interpreter) formatted(d directive, v value) string {
	switch d.verb {
	case 's':
		s := in.text(v)
		if d.precision >= 0 && d.precision < len(s) {
			s = s[:d.precision]
		}
		return d.pad(s)
	case 'c':
		return d.pad(in.character(v))
	case 'd', 'i', 'o', 'x', 'X', 'u':
		return in.whole(d, in.number(v))
	}
	n := in.number(v)
	if math.IsNaN(n) || math.IsInf(n, 0) {
		panic(failure{refuse("writing a number that is infinite or none (which not every awk does alike)")})
	}
	return d.float(n)
}

// character is what %c writes: the first one of a string, or that of a number.
func (in *interpreter) character(v value) string {
	n, isNumber := v.n, v.class == numberV
	if v.class == inputV {
		n, isNumber = in.looksNumeric(v.s)
	}
	switch {
	case isNumber && (n < 0 || n > 127 && !in.prog.busybox || n > 255):
		panic(failure{refuse("the character of the number %v (which not every awk writes alike)", n)})
	case isNumber:
		return string([]byte{byte(n)})
	case v.s == "":
		panic(failure{refuse("%%c with an empty string (which not every awk writes alike)")})
	case v.s[0] > 127 && !in.prog.busybox:
		panic(failure{refuse("%%c with a character that isn't ASCII")})
	}
	return v.s[:1]
}

func (in *interpreter) whole(d directive, n float64) string {
	n = math.Trunc(n)
	signed := d.verb == 'd' || d.verb == 'i'
	if math.IsNaN(n) || math.Abs(n) > maxWhole || !signed && n < 0 {
		panic(failure{unsupportedWhole})
	}
	base := map[byte]int{'o': 8, 'x': 16, 'X': 16}[d.verb]
	if base == 0 {
		base = 10
	}
	digits := strconv.FormatInt(int64(math.Abs(n)), base)
	if d.verb == 'X' {
		digits = strings.ToUpper(digits)
	}
	if d.precision == 0 && n == 0 {
		digits = ""
	}
	if missing := d.precision - len(digits); missing > 0 {
		digits = strings.Repeat("0", missing) + digits
	}
	prefix := ""
	switch {
	case d.alternate && d.verb == 'o' && !strings.HasPrefix(digits, "0"):
		prefix = "0"
	case d.alternate && base == 16 && n != 0:
		prefix = "0" + string(d.verb)
	case signed:
		prefix = d.sign(n < 0)
	}
	if d.zero && !d.minus && d.precision < 0 {
		if missing := d.width - len(digits) - len(prefix); missing > 0 {
			digits = strings.Repeat("0", missing) + digits
		}
	}
	return d.pad(prefix + digits)
}

func (d directive) sign(negative bool) string {
	switch {
	case negative:
		return "-"
	case d.plus:
		return "+"
	case d.space:
		return " "
	}
	return ""
}

// float writes %e, %f and %g as C does.
func (d directive) float(n float64) string {
	precision := d.precision
	if precision < 0 {
		precision = 6
	}
	verb := d.verb | 0x20
	abs := math.Abs(n)
	var digits string
	switch verb {
	case 'g':
		if precision == 0 {
			precision = 1
		}
		digits = strconv.FormatFloat(abs, 'g', precision, 64)
		if d.alternate {
			digits = withZeros(digits, precision)
		}
	default:
		digits = strconv.FormatFloat(abs, verb, precision, 64)
		if d.alternate && precision == 0 {
			mantissa, exponent, has := strings.Cut(digits, "e")
			digits = mantissa + "."
			if has {
				digits += "e" + exponent
			}
		}
	}
	if d.verb < 'a' {
		digits = strings.ToUpper(digits)
	}
	prefix := d.sign(math.Signbit(n))
	if d.zero && !d.minus {
		if missing := d.width - len(digits) - len(prefix); missing > 0 {
			digits = strings.Repeat("0", missing) + digits
		}
	}
	return d.pad(prefix + digits)
}

// withZeros is what %#g keeps: all digits, and the point.
func withZeros(digits string, precision int) string {
	mantissa, exponent, has := strings.Cut(digits, "e")
	if !strings.Contains(mantissa, ".") {
		mantissa += "."
	}
	significant := len(strings.TrimLeft(strings.Replace(mantissa, ".", "", 1), "0"))
	if significant == 0 {
		significant = 1 // the number 0
	}
	if significant < precision {
		mantissa += strings.Repeat("0", precision-significant)
	}
	if has {
		mantissa += "e" + exponent
	}
	return mantissa
}

func (d directive) pad(s string) string {
	missing := d.width - len(s)
	switch {
	case missing <= 0:
		return s
	case d.minus:
		return s + strings.Repeat(" ", missing)
	}
	return strings.Repeat(" ", missing) + s
}
