#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Moves a volume while a client writes to it and checks all that it reads: live_move.py BLKMOVE SOURCE TARGET FOLDER. For the demo."""
import json
import pathlib
import random
import subprocess
import sys
import time

from nbd_client import Client

BLKMOVE, SOURCE, TARGET, FOLDER = sys.argv[1:]
URI = f"nbd+unix:///?socket={FOLDER}/socket"
PHASE_S = 4


def blkmove(*words):
    print("$ blkmove", " ".join(word.replace(FOLDER + "/", "") for word in words))
    done = subprocess.run([BLKMOVE, *words], stdout=subprocess.PIPE, text=True, check=True)
    for line in done.stdout.replace(FOLDER + "/", "").splitlines():
        print("   ", line)


def status():
    return json.loads(subprocess.run([BLKMOVE, "status", "demo", "--json"], stdout=subprocess.PIPE, check=True).stdout)


def wait_for(condition):
    while not condition(status()):
        time.sleep(0.05)


def p99_ms(client, begin):
    times = sorted(seconds for when, seconds in client.latencies if when >= begin)
    return 1000 * times[len(times) * 99 // 100] if times else float("nan")


def main():
    size = pathlib.Path(SOURCE).stat().st_size or int(subprocess.check_output(["blockdev", "--getsize64", SOURCE]))
    blkmove("mirror", "--name", "demo", "--listen", URI, "--max-rate=40M", SOURCE, TARGET)
    blkmove("pause", "demo")
    client = Client(URI, size, random.Random(1), pause_s=0.0005)
    client.start()
    begin = time.monotonic()
    time.sleep(PHASE_S)
    figures = [("before (no copy)", p99_ms(client, begin))]
    blkmove("resume", "demo")
    begin = time.monotonic()
    time.sleep(2)
    blkmove("status")
    wait_for(lambda now: now["state"] == "ready")
    figures.append(("while it is copied", p99_ms(client, begin)))
    blkmove("cutover", "demo")
    begin = time.monotonic()
    time.sleep(PHASE_S)
    figures.append(("after the cutover", p99_ms(client, begin)))
    blkmove("revert", "demo")
    wait_for(lambda now: now["state"] == "ready")
    blkmove("cutover", "demo")
    wait_for(lambda now: now["revertible"])
    client.stop()
    blkmove("finish", "demo")
    client.check_volume(TARGET)
    print(f"    the client wrote {client.writes} times and checked {client.reads} reads; errors: 0, connections lost: {client.reconnects}")
    for name, p99 in figures:
        print(f"    p99 of its requests {name}: {p99:.2f} ms")
    print(f"    the longest of all: {1000 * client.longest_s:.1f} ms; all that was acknowledged is on the new disk")
    return 1 if client.reconnects else 0


sys.exit(main())
