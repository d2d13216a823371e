#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# build.sh PAGE.scd SCDOC: the page with its parts put in, as roff on standard output.
set -eu
dir=$(dirname "$1")
while IFS= read -r line || [ -n "$line" ]; do
	case "$line" in
	@*@)
		part=${line#@}
		cat "$dir/${part%@}.inc"
		;;
	*) printf '%s\n' "$line" ;;
	esac
done <"$1" | "$2"
