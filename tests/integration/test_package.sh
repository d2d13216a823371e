#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Builds the Debian packages from a copy of the tree, looks at them with lintian, unpacks (as root: installs) them, and uses what was
# installed: the program, its manual and completion, and the library from the example of docs/examples.
set -eu
cd "$(dirname "$(realpath "$0")")/../.."
command -v dpkg-buildpackage >/dev/null || {
	echo "there is no dpkg-buildpackage here"
	exit 77
}
dir=$(mktemp -d "${TMPDIR:-/tmp}/blkmove-package-XXXXXX")
installed=
clean_up()
{
	[ -z "$installed" ] || dpkg -P $installed >/dev/null 2>&1 || true
	rm -rf "$dir"
}
trap clean_up EXIT
trap 'exit 130' INT TERM HUP

fail()
{
	echo "FAILED: $*" >&2
	exit 1
}

# What git would give to somebody else, or all but builds where this is no checkout.
copy_tree()
{
	mkdir "$dir/tree"
	if git rev-parse --git-dir >/dev/null 2>&1; then
		git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' name; do
			[ ! -e "$name" ] || printf '%s\0' "$name"
		done | tar -c --null -T - | tar -x -C "$dir/tree"
	else
		tar -c --exclude './build*' --exclude ./.git . | tar -x -C "$dir/tree"
	fi
}

build()
{
	(cd "$dir/tree" && DEB_BUILD_OPTIONS="nocheck parallel=$(nproc) noddebs" dpkg-buildpackage -us -uc -b >"$dir/build.log" 2>&1) ||
		{ tail -n 60 "$dir/build.log" && fail "dpkg-buildpackage"; }
	ls "$dir"/*.deb
	if command -v lintian >/dev/null; then
		lintian --allow-root --fail-on error "$dir"/*.changes || fail "lintian"
	fi
}

# Into a folder of its own always; onto this machine too, when that disturbs nobody.
unpack()
{
	local deb
	for deb in "$dir"/*.deb; do
		dpkg-deb -x "$deb" "$dir/root"
	done
	lib=$(dirname "$(find "$dir/root/usr/lib" -name libblkmove.so.0)")
	if [ "$(id -u)" = 0 ] && ! dpkg-query -W blkmove libblkmove0 libblkmove-dev >/dev/null 2>&1; then
		installed="libblkmove-dev libblkmove0 blkmove"
		dpkg -i "$dir"/*.deb >"$dir/install.log" 2>&1 || { cat "$dir/install.log" && fail "dpkg -i"; }
	fi
}

# use NAME PROGRAM COMPILER-WORDS...: a copy by the program and one by the library.
use()
{
	local name=$1 program=$2
	shift 2
	echo "using what is $name"
	rm -f "$dir"/copy-?.img
	"$program" --version
	"$program" copy --no-journal --verify "$dir/volume.img" "$dir/copy-1.img" || fail "$name: copy"
	cmp "$dir/volume.img" "$dir/copy-1.img" || fail "$name: the copy differs"
	"$program" verify "$dir/volume.img" "$dir/copy-1.img" || fail "$name: verify"
	cc -Wall -Wextra -Werror -o "$dir/example" docs/examples/copy.c "$@" || fail "$name: the example does not build"
	"$dir/example" "$dir/volume.img" "$dir/copy-2.img" || fail "$name: the example"
	cmp "$dir/volume.img" "$dir/copy-2.img" || fail "$name: the example's copy differs"
}

# check_unit FILE PROGRAM WORDS: it is a unit that systemd takes, runs that program with these words, and nobody has enabled it.
check_unit()
{
	local words unit
	unit=$(basename "$1")
	grep -qxF "ExecStart=/usr/bin/blkmove $3" "$1" || fail "$1 does not run blkmove $3"
	[ -z "$(find "$dir/root" /etc/systemd/system -name "${unit%.service}*" -type l 2>/dev/null)" ] || fail "$1 is enabled"
	if command -v systemd-analyze >/dev/null; then
		mkdir -p "$dir/unit"
		sed "s#/usr/bin/blkmove#$2#" "$1" >"$dir/unit/$unit"
		words=$(systemd-analyze verify --man=no "$dir/unit/$(echo "$unit" | sed 's/@/@web/')" 2>&1) || fail "systemd-analyze: $words"
		case $words in *"${unit%.service}"*) fail "systemd-analyze: $words" ;; esac
	fi
}

# check_units FOLDER PROGRAM
check_units()
{
	check_unit "$1/blkmove-recover.service" "$2" "recover --all"
	"$2" recover --all >/dev/null || fail "$2 recover --all"
	check_unit "$1/blkmove-replica@.service" "$2" "replicate up --foreground %i"
	check_unit "$1/blkmove-replicas.service" "$2" "replicate up --foreground --all \$BLKMOVE_UP"
}

check_contents()
{
	local name
	for name in blkmove blkmove-copy blkmove-sync blkmove-verify blkmove-digest blkmove-serve blkmove-control blkmove-agent blkmove-pause; do
		[ -e "$dir/root/usr/share/man/man1/$name.1.gz" ] || [ -h "$dir/root/usr/share/man/man1/$name.1.gz" ] ||
			fail "there is no manual $name.1"
	done
	[ -e "$dir/root/usr/share/man/man5/blkmove-replica.5.gz" ] || fail "there is no manual blkmove-replica.5"
	[ -e "$dir/root/usr/share/doc/blkmove/examples/replica.ini" ] || fail "there is no example of a resource"
	[ -d "$dir/root/etc/blkmove/replicas" ] || fail "there is no folder for resources"
	[ -e "$dir/root/usr/share/bash-completion/completions/blkmove" ] || fail "there is no completion"
	check_units "$dir/root/lib/systemd/system" "$dir/root/usr/bin/blkmove"
	# Nothing but the public names may be seen.
	if nm -D --defined-only "$lib/libblkmove.so.0" | awk '{ print $3 }' | sed 's/@.*//' | grep -v '^blkmove_'; then
		fail "libblkmove.so.0 shows names that are not in blkmove.h"
	fi
}

copy_tree
build
unpack
export BLKMOVE_RUN_DIR=$dir/run BLKMOVE_STATE_DIR=$dir/state
export LD_LIBRARY_PATH=$lib
check_contents
head -c 3000001 /dev/urandom >"$dir/volume.img"
truncate -s 9000001 "$dir/volume.img"
use unpacked "$dir/root/usr/bin/blkmove" -I "$dir/root/usr/include" -L "$lib" -lblkmove
unset LD_LIBRARY_PATH
if [ -n "$installed" ]; then
	check_units /lib/systemd/system /usr/bin/blkmove
	use installed /usr/bin/blkmove $(pkg-config --cflags --libs blkmove)
	man -w blkmove-pause >/dev/null 2>&1 || [ -e /etc/dpkg/dpkg.cfg.d/docker ] || [ -e /etc/dpkg/dpkg.cfg.d/excludes ] ||
		fail "man does not find blkmove-pause"
	dpkg -P $installed >"$dir/remove.log" 2>&1 || { cat "$dir/remove.log" && fail "dpkg -P"; }
	installed=
	[ ! -e /usr/bin/blkmove ] || fail "removal left /usr/bin/blkmove"
fi
echo "the packages work"
