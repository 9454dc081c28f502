#!/bin/sh
# The go command of a build stage whose programs run on the machine that builds: what it
# compiles is for the platform of the image, what it runs is for this machine.
go=@GO@
export GOROOT=@GOROOT@

sub= skip=
for a do
	if [ -n "$skip" ]; then
		skip=
		continue
	fi
	case $a in
	-C) skip=1 ;;
	-*) ;;
	*)
		sub=$a
		break
		;;
	esac
done

# Tools that a version is given for are for the next lines to run.
tool=
if [ "$sub" = install ]; then
	for a do
		case $a in
		-* | *' '*) ;;
		*@*) tool=1 ;;
		esac
	done
fi

# What go test only compiles is for the image, as what go build does.
if [ "$sub" = test ]; then
	for a do
		case $a in
		-args | --args) break ;;
		-c | --c | -c=true | --c=true) sub=compile-test ;;
		esac
	done
fi

case $sub in
run | test | generate | tool | vet) tool=1 ;;
compile-test) ;;
build | install | list | env | get)
	[ -n "$tool" ] && [ -n "@PINNED@" ] && tool=
	;;
*) exec "$go" "$@" ;;
esac

if [ -n "$tool" ]; then
	arch=${GOARCH:-@SAVEDARCH@} os=${GOOS:-@SAVEDOS@}
	if [ -z "@PINNED@" ] || [ "${arch:-@HOSTARCH@}" != "@HOSTARCH@" ] || [ "${os:-@HOSTOS@}" != "@HOSTOS@" ]; then
		export GOOS=@HOSTOS@ GOARCH=@HOSTARCH@
		unset GOARM GOAMD64 GO386 GOARM64 GOMIPS GOMIPS64 GOPPC64 GORISCV64
	fi
	exec "$go" "$@"
fi

if [ -z "@BOUND@" ]; then
	# What was thought to be the same for every platform isn't: it begins again.
	echo platform >"@NOTE@/$$"
	exit 1
fi

if [ -z "@PINNED@" ]; then
	: "${GOOS:=@SAVEDOS@}" "${GOARCH:=@SAVEDARCH@}"
	if [ -n "@OVERRIDE@" ]; then
		GOOS=@OS@ GOARCH=@ARCH@
	fi
	export GOOS="${GOOS:-@OS@}" GOARCH="${GOARCH:-@ARCH@}"
	if [ -n "@LEVEL@" ] && [ "$GOARCH" = "@ARCH@" ]; then
		eval "export @LEVEL@=\"\${@LEVEL@:-@VALUE@}\""
	fi
fi
os=${GOOS:-@SAVEDOS@} arch=${GOARCH:-@SAVEDARCH@}
os=${os:-@HOSTOS@} arch=${arch:-@HOSTARCH@}

case $sub in
build | install) ;;
*) exec "$go" "$@" ;;
esac
if [ "$os" = "@HOSTOS@" ] && [ "$arch" = "@HOSTARCH@" ]; then
	exec "$go" "$@"
fi

# cgo for another machine needs a compiler for it.
cross() {
	case $arch in
	amd64) set -- x86_64 gnu musl ;;
	386) set -- i686 gnu musl ;;
	arm64) set -- aarch64 gnu musl ;;
	arm) if [ "${GOARM:-7}" -ge 6 ] 2>/dev/null; then set -- arm gnueabihf musleabihf; else set -- arm gnueabi musleabi; fi ;;
	ppc64le) set -- powerpc64le gnu musl ;;
	mips64le) set -- mips64el gnuabi64 muslabi64 ;;
	loong64) set -- loongarch64 gnu musl ;;
	*) set -- "$arch" gnu musl ;;
	esac
	for cc in "$1-linux-$2-gcc" "$1-linux-$3-gcc" "$1-alpine-linux-$3-gcc"; do
		command -v "$cc" >/dev/null 2>&1 && return
	done
	return 1
}
refuse() {
	printf 'cgo\n%s\n' "$1" >"@NOTE@/$$"
	exit 1
}
cgo=${CGO_ENABLED:-@SAVEDCGO@} compiler=${CC:-@SAVEDCC@}
if [ -z "$cgo" ] && [ -z "@PINNED@" ] && { [ -n "$compiler" ] || command -v gcc >/dev/null 2>&1 || command -v clang >/dev/null 2>&1; }; then
	# A container of that platform would use cgo. It matters where a package of the
	# project has C in it; those of the standard library have the same in Go.
	found=$(
		drop=
		for a do
			shift
			if [ -n "$drop" ]; then
				drop=
				continue
			fi
			case $a in
			-o | --o) drop=1 ;;
			-o=* | --o=*) ;;
			build | install) set -- "$@" list -deps -e -f '{{if and .CgoFiles (not .Standard)}}{{.ImportPath}}{{end}}' ;;
			*) set -- "$@" "$a" ;;
			esac
		done
		CGO_ENABLED=1 "$go" "$@" 2>/dev/null
	)
	export CGO_ENABLED=0
	[ -n "$found" ] && export CGO_ENABLED=1
	cgo=$CGO_ENABLED
fi
if [ "$cgo" = 1 ] && [ -z "$compiler" ]; then
	if [ -n "@PINNED@" ] || ! cross; then
		refuse "$found"
	fi
	export CC="$cc"
	cxx=${cc%gcc}g++
	[ -z "$CXX" ] && command -v "$cxx" >/dev/null 2>&1 && export CXX="$cxx"
fi

if [ "$sub" = install ] && [ -z "@PINNED@" ]; then
	# A container of that platform has it in $GOPATH/bin.
	to=$GOBIN
	unset GOBIN
	"$go" "$@" || exit
	path=$("$go" env GOPATH)
	path=${path%%:*}
	from=$path/bin/${os}_$arch
	if [ -d "$from" ]; then
		to=${to:-$path/bin}
		mkdir -p "$to" && mv "$from"/* "$to" && rmdir "$from"
	fi
	exit
fi
exec "$go" "$@"
