#!/bin/sh
# The clock of a build stands still: date says when the sources are from, unless it is
# asked about another time.
PATH=${PATH#@BIN@:}
for a do
	case $a in
	-d* | --date* | -f* | --file* | -r* | --reference* | -s* | --set*) exec date "$@" ;;
	-[!-]*[dfrs]*) exec date "$@" ;;
	esac
done
exec date -d @@SECONDS@ "$@"
