package native

import (
	"path"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"

	"github.com/anyarch/anyarch/internal/dockerfile"
)

// clock says how much of the time a build can see: a result that is kept from an
// earlier run was made at another time, and from files with other times.
type clock int

const (
	timeless clock = iota
	byDay          // accounts know the day on which they were made
	byTime         // anything else, such as date, ls or a program of the stage
)

// timelessCommands make the same of the same files at any time and whatever times
// the files have.
var timelessCommands = strings.Fields(`: [ [[ test true false echo printf cd pwd export unset set shift read exit return
	cat cp mv rm mkdir rmdir ln chmod chown chgrp touch install mktemp basename dirname readlink realpath
	sleep tee head tail wc sort uniq cut tr grep egrep fgrep sed sha256sum sha1sum sha512sum md5sum
	wget curl update-ca-certificates id whoami which umask local seq expr cmp comm base64 od xxd nl tac paste fold rev
	printenv uname nproc hostname arch getent`)

// dayCommands write the day into the accounts that they make, or run scripts of
// packages that do.
var dayCommands = strings.Fields(`adduser addgroup useradd groupadd usermod groupmod passwd deluser delgroup userdel groupdel chpasswd apk`)

// timelessGo are go commands that start nothing but the toolchain.
var timelessGo = []string{"build", "install", "mod", "env", "version", "list", "vet", "get", "clean", "work", "fmt", "help"}

// timelessGit are git commands that look at no clock and at no file's time.
var timelessGit = []string{"describe", "rev-parse", "log", "show", "rev-list", "config", "clone", "checkout", "init", "ls-files", "tag", "branch", "remote", "fetch"}

// timeIn are words that look at the time wherever they stand.
var timeIn = []string{"SECONDS", "EPOCH", "RANDOM", "%(", "-nt", "-ot", "--update", "--newer"}

// clockOf is how much a RUN sees of the time.
func clockOf(e *dockerfile.Exec) clock {
	text, _, ok := shellForm(e.Args)
	if !ok {
		return clockOfCall(e.Args)
	}
	for _, word := range timeIn {
		if strings.Contains(text, word) {
			return byTime
		}
	}
	file, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(strings.NewReader(text), "")
	if err != nil {
		return byTime
	}
	sees := timeless
	functions := map[string]bool{}
	syntax.Walk(file, func(n syntax.Node) bool {
		if f, ok := n.(*syntax.FuncDecl); ok {
			functions[f.Name.Value] = true
		}
		return true
	})
	syntax.Walk(file, func(n syntax.Node) bool {
		call, ok := n.(*syntax.CallExpr)
		if !ok || len(call.Args) == 0 {
			return true
		}
		words := make([]string, len(call.Args))
		for i, w := range call.Args {
			words[i] = literal(w)
		}
		if words[0] == "" || !functions[words[0]] {
			sees = max(sees, clockOfCall(words))
		}
		return true
	})
	return sees
}

// clockOfCall is how much one command sees. An empty word isn't known.
func clockOfCall(words []string) clock {
	if len(words) == 0 || words[0] == "" {
		return byTime
	}
	dir, name := path.Split(words[0])
	if dir != "" && !slices.Contains([]string{"/bin/", "/usr/bin/", "/sbin/", "/usr/sbin/", "/usr/local/go/bin/"}, dir) {
		return byTime // a program or script of the stage
	}
	switch {
	case name == "go":
		if slices.Contains(timelessGo, subcommand(words[1:])) {
			return timeless
		}
	case name == "git":
		if len(words) > 1 && slices.Contains(timelessGit, words[1]) {
			return timeless
		}
	case name == "apk" && slices.ContainsFunc(words, func(w string) bool { return w == "" || short(w, "t") || strings.HasPrefix(w, "--vi") }):
		return byTime // a virtual package has the time as its version
	case (name == "curl" || name == "wget") && slices.ContainsFunc(words, func(w string) bool {
		return w == "" || short(w, "zN") || strings.HasPrefix(w, "--time") || strings.HasPrefix(w, "--no-use")
	}):
		return byTime // it asks for what is newer than a file
	case name == "cp" && slices.ContainsFunc(words, func(w string) bool { return short(w, "u") }):
		return byTime
	case slices.Contains([]string{"command", "env", "exec"}, name):
		for i, w := range words[1:] {
			if !strings.HasPrefix(w, "-") && !strings.Contains(w, "=") {
				return clockOfCall(words[1+i:])
			}
		}
		return timeless
	case slices.Contains(dayCommands, name):
		return byDay
	case slices.Contains(timelessCommands, name):
		return timeless
	}
	return byTime
}

// short reports whether a word is short options with one of these letters.
func short(word, letters string) bool {
	return strings.HasPrefix(word, "-") && !strings.HasPrefix(word, "--") && strings.ContainsAny(word, letters)
}
