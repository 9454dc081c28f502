package awk

import "github.com/anyarch/anyarch/internal/native/command/pattern"

// program is a program that was read.
type program struct {
	begin, end []*block
	rules      []*rule
	functions  []*function
	globals    int // how many variables it has, special ones first
	names      []string
	busybox    bool
}

// rule is a pattern and what is done for the records that match it.
type rule struct {
	from, to expr // to is of a range; from may be nil
	body     *block
	id       int // which range it is
}

type function struct {
	name       string
	parameters int
	body       *block
	defined    bool
}

type block struct{ list []stmt }

// The variables that awk itself knows, by their numbers.
const (
	varNF = iota
	varNR
	varFNR
	varFS
	varOFS
	varORS
	varRS
	varSUBSEP
	varFILENAME
	varRSTART
	varRLENGTH
	varCONVFMT
	varOFMT
	varENVIRON
	varARGC
	varARGV
	varUser // the first one of the program
)

var specials = []string{"NF", "NR", "FNR", "FS", "OFS", "ORS", "RS", "SUBSEP", "FILENAME", "RSTART", "RLENGTH", "CONVFMT", "OFMT", "ENVIRON", "ARGC", "ARGV"}

type expr any

type (
	constant struct{ v value }
	// regex is a regular expression between slashes: by itself, whether $0 matches.
	regex struct {
		re     *pattern.Regexp
		source string
	}
	variable struct {
		local bool
		index int
		name  string
	}
	field   struct{ index expr }
	element struct {
		array *variable
		index []expr
	}
	// grouped is an expression in parentheses.
	grouped struct{ inner expr }
	// tuple is (a, b), of print and in.
	tuple  struct{ list []expr }
	member struct {
		array *variable
		index []expr
	}
	assignment struct {
		op     byte // 0 for =
		target expr
		from   expr
	}
	conditional struct{ when, yes, no expr }
	logical     struct {
		and         bool
		left, right expr
	}
	not    struct{ inner expr }
	sign   struct{ inner expr } // minus
	plus   struct{ inner expr }
	binary struct {
		op          string // + - * / % ^ < <= == != > >= and "" for concatenation
		left, right expr
	}
	matching struct {
		negated     bool
		left, right expr
	}
	increment struct {
		target expr
		by     float64
		prefix bool
	}
	callFunction struct {
		f    *function
		args []expr
	}
	callBuiltin struct {
		name string
		args []expr
	}
	getLine struct {
		target expr // nil for $0
		from   expr // the name of a file; nil for the input
	}
)

type stmt any

type (
	exprStmt  struct{ e expr }
	printStmt struct {
		format bool
		args   []expr
		to     expr
		append bool
	}
	ifStmt struct {
		when    expr
		yes, no stmt
	}
	whileStmt struct {
		when expr
		body stmt
		once bool // do … while
	}
	forStmt struct {
		first, after stmt
		when         expr
		body         stmt
	}
	forInStmt struct {
		key   expr
		array *variable
		body  stmt
	}
	deleteStmt struct {
		array *variable
		index []expr // nil for all of it
	}
	jump struct {
		to flow
		e  expr // of exit and return
	}
)

// flow is how a statement ends.
type flow int

const (
	flowOn flow = iota
	flowBreak
	flowContinue
	flowNext
	flowNextFile
	flowExit
	flowReturn
)
