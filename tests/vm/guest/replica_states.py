#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in a guest: says when the state of a replicated volume changes, for tests/vm/bench_replica.py. A line for each: seconds since 1970, and

    apart       there is no other node, or neither knows whose data are good
    resync      the other node gets what it lacks
    in-sync     both have the same

    replica_states.py drbd|blkmove
"""
import json
import socket
import sys
import time

EVERY_S = 0.05  # more often would keep an emulated processor busy


def states_of_drbd():
    """Its events would come by a program of their own, which takes longer than this."""
    while True:
        with open("/proc/drbd", encoding="ascii") as file:
            words = dict(word.split(":", 1) for word in file.read().split() if ":" in word)
        if words.get("cs", "").startswith(("Sync", "PausedSync")):
            yield "resync"
        else:
            yield "in-sync" if (words.get("cs"), words.get("ds")) == ("Connected", "UpToDate/UpToDate") else "apart"
        time.sleep(EVERY_S)


def states_of_blkmove():
    """Its events: docs/wire/control.md."""
    with socket.socket(socket.AF_UNIX) as control:
        control.connect("/run/blkmove/replica-r0.sock")
        control.sendall(b'{"command": "events"}\n')
        with control.makefile("rb") as lines:
            for line in lines:
                yield {"sending": "resync", "equal": "in-sync"}.get(json.loads(line).get("flow"), "apart")


def main():
    last = None
    for state in {"drbd": states_of_drbd, "blkmove": states_of_blkmove}[sys.argv[1]]():
        if state != last:
            print(f"{time.time():.3f} {state}", flush=True)
            last = state


main()
