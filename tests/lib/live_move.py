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
    before = p99_ms(client, begin)
    blkmove("resume", "demo")
    begin = time.monotonic()
    time.sleep(2)
    blkmove("status")
    wait_for(lambda now: now["state"] == "ready")
    during = p99_ms(client, begin)
    blkmove("cutover", "demo")
    pauses_ms = [status()["pause_ms"]]
    begin = time.monotonic()
    time.sleep(PHASE_S)
    after = p99_ms(client, begin)
    for order in "revert", "cutover":
        wait_for(lambda now: now["revertible"] or now["state"] == "ready")
        blkmove(order, "demo")
        pauses_ms.append(status()["pause_ms"])
    wait_for(lambda now: now["revertible"])
    client.stop()
    blkmove("finish", "demo")
    client.check_volume(TARGET)
    equal = subprocess.run(["cmp", SOURCE, TARGET], check=False).returncode == 0
    print(f"    the client wrote {client.writes} times and checked {client.reads} reads; errors and lost connections: {client.reconnects};\n"
          f"    the longest of all: {1000 * client.longest_s:.1f} ms; all that was acknowledged is on the new disk\n")
    print(f"    pause, the longest of 3 switches {max(pauses_ms):8.2f} ms\n"
          f"    p99 before the copy              {before:8.2f} ms\n"
          f"    p99 during the copy              {during:8.2f} ms\n"
          f"    p99 after the cutover            {after:8.2f} ms\n"
          f"    verify (cmp of both disks){'equal' if equal else 'NOT EQUAL':>18}")
    return 0 if equal and not client.reconnects else 1


sys.exit(main())
