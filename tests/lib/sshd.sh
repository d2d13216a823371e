#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# "Another machine": a private sshd on 127.0.0.1, with a throw-away key, all of it in one folder. ~/.ssh and /etc/ssh are not touched.
#   sshd.sh start DIR        starts it; DIR/ssh is then a program to give to --ssh, and DIR/ssh-counted one that counts bytes
#   sshd.sh wire DIR         prints what DIR/ssh-counted has carried so far, both ways, in bytes, TCP payload of ssh
#   sshd.sh forget DIR       counts from zero again
#   sshd.sh key DIR WORDS    a further key, for which authorized_keys says WORDS (such as command="..."); prints an ssh program
#   sshd.sh cut DIR          ends every connection, as a lost link does; new ones are taken
#   sshd.sh stop DIR         ends it and removes DIR
# Any host name reaches it: --ssh DIR/ssh other:/dev/x.
set -eu
command=${1:?start, wire, forget, key, cut or stop}
dir=$(realpath -m "${2:?a folder}")
here=$(dirname "$(realpath "$0")")

fail()
{
	echo "sshd.sh: $*" >&2
	exit 1
}

free_port()
{
	/usr/bin/python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# An account locked with "!" is let in by PAM only.
use_pam()
{
	case "$(getent shadow "$(id -un)" 2>/dev/null)" in
	*:!*) echo yes ;;
	*) echo no ;;
	esac
}

write_server_config()
{
	cat >"$dir/sshd_config" <<-END
		Port $1
		ListenAddress 127.0.0.1
		HostKey $dir/host_key
		AuthorizedKeysFile $dir/authorized_keys
		PidFile $dir/sshd.pid
		PermitRootLogin prohibit-password
		PasswordAuthentication no
		KbdInteractiveAuthentication no
		StrictModes no
		UsePAM $(use_pam)
		PrintMotd no
		PrintLastLog no
		MaxStartups 100
		MaxSessions 100
		SetEnv BLKMOVE_TEST_SSHD=$dir
	END
}

# $1 file, $2 key, further lines on standard input
write_client_config()
{
	{
		cat <<-END
			Host *
			HostName 127.0.0.1
			Port $(cat "$dir/port")
			User $(id -un)
			IdentityFile $2
			IdentitiesOnly yes
			IdentityAgent none
			UserKnownHostsFile $dir/known_hosts
			GlobalKnownHostsFile none
			HostKeyAlias here
			StrictHostKeyChecking yes
			BatchMode yes
			LogLevel ERROR
		END
		cat
	} >"$dir/$1.config"
	printf '#!/bin/sh\nexec ssh -F %q "$@"\n' "$dir/$1.config" >"$dir/$1"
	chmod +x "$dir/$1"
}

start_once()
{
	local try
	free_port >"$dir/port"
	write_server_config "$(cat "$dir/port")"
	/usr/sbin/sshd -f "$dir/sshd_config" -E "$dir/sshd.log" </dev/null >/dev/null 2>&1 || return 1
	for try in $(seq 100); do
		[ -s "$dir/sshd.pid" ] && return 0
		sleep 0.05
	done
	return 1
}

start()
{
	local try
	[ -x /usr/sbin/sshd ] || fail "there is no /usr/sbin/sshd; scripts/setup installs it"
	mkdir -p "$dir/wire"
	chmod 700 "$dir"
	# Where it isolates its unprivileged half; systemd would have made it.
	if [ "$(id -u)" = 0 ] && [ ! -d /run/sshd ]; then
		mkdir -m 755 /run/sshd && touch "$dir/made-run-sshd"
	fi
	ssh-keygen -q -t ed25519 -N '' -C blkmove-test -f "$dir/host_key"
	ssh-keygen -q -t ed25519 -N '' -C blkmove-test -f "$dir/key"
	cp "$dir/key.pub" "$dir/authorized_keys"
	echo "here $(cat "$dir/host_key.pub")" >"$dir/known_hosts"
	for try in 1 2 3 4 5; do
		start_once && break
		[ "$try" != 5 ] || fail "sshd does not start: $(tail -n 3 "$dir/sshd.log")"
	done
	write_client_config ssh "$dir/key" </dev/null
	write_client_config ssh-counted "$dir/key" <<-END
		ProxyCommand /usr/bin/python3 $here/wire_count.py 127.0.0.1 $(cat "$dir/port") $dir/wire
	END
	"$dir/ssh" here true || fail "cannot log in: $(tail -n 5 "$dir/sshd.log")"
}

add_key()
{
	local name
	name=key-$(find "$dir" -name 'key-*.pub' | wc -l)
	ssh-keygen -q -t ed25519 -N '' -C blkmove-test -f "$dir/$name"
	echo "$1 $(cat "$dir/$name.pub")" >>"$dir/authorized_keys"
	write_client_config "ssh-$name" "$dir/$name" </dev/null
	echo "$dir/ssh-$name"
}

# The processes below the listener: one or two a connection.
connections()
{
	pgrep -P "$(cat "$dir/sshd.pid")" || true
}

cut()
{
	local pid
	for pid in $(connections); do
		pkill -KILL -P "$pid" || true
		kill -KILL "$pid" 2>/dev/null || true
	done
}

stop()
{
	local pid try
	[ -d "$dir" ] || return 0
	if [ -s "$dir/sshd.pid" ]; then
		pid=$(cat "$dir/sshd.pid")
		cut
		kill "$pid" 2>/dev/null || true
		for try in $(seq 100); do
			kill -0 "$pid" 2>/dev/null || break
			sleep 0.05
		done
	fi
	if [ -e "$dir/made-run-sshd" ] && ! pgrep -x sshd >/dev/null; then
		rmdir /run/sshd 2>/dev/null || true
	fi
	rm -rf "$dir"
}

case "$command" in
start) start ;;
wire) /usr/bin/python3 "$here/wire_count.py" "$dir/wire" ;;
forget) rm -f "$dir/wire"/* ;;
key) add_key "${3:?words for authorized_keys}" ;;
cut) cut ;;
stop) stop ;;
*) fail "unknown command $command" ;;
esac
