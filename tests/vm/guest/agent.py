#!/usr/bin/python3 -IS
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in a guest: agent.py PORT. Runs commands that come through a virtio port, one JSON object a line; vm.py is the other end.

    -> {"id": 1, "run": ["ls", "-l"], "input": BASE64}      <- {"id": 1, "out": BASE64} ...    <- {"id": 1, "exit": 0}
    -> {"id": 1, "signal": 9}                               to it and all that it has started
First of all it says {"hello": BOOT-ID}. {"stop": true} ends it. A line that is no object is of a conversation before a reset.
"""
import base64
import json
import os
import select
import subprocess
import sys
import threading

PORT = os.open(sys.argv[1], os.O_RDWR)
PART = 64 << 10
PARTS_AFTER_END = 64
lock = threading.Lock()
running = {}


def say(**message):
    data = json.dumps(message).encode() + b"\n"
    with lock:
        while data:
            data = data[os.write(PORT, data):]


def feed(process, data):
    try:
        process.stdin.write(data)
        process.stdin.close()
    except OSError:
        pass  # it did not want all


def pass_output(number, out, pidfd):
    """Until the command has ended, and what it has said by then. Returns whether others still have its output open."""
    parts = PARTS_AFTER_END
    while parts > 0:
        ready = select.select([out, pidfd], [], [])[0]
        if out not in ready:
            return True
        part = os.read(out, PART)
        if not part:
            return False
        say(id=number, out=base64.b64encode(part).decode())
        parts -= pidfd in ready
    return True


def drain(out):
    """A daemon that the command has left behind must not wait, nor be killed, for what it says."""
    while os.read(out, PART):
        pass


def run(number, words, data):
    try:
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0,
                                   start_new_session=True)
    except OSError as error:
        say(id=number, out=base64.b64encode(f"agent: {error}\n".encode()).decode())
        say(id=number, exit=127)
        return
    running[number] = process
    threading.Thread(target=feed, args=(process, data), daemon=True).start()
    pidfd = os.pidfd_open(process.pid)
    if pass_output(number, process.stdout.fileno(), pidfd):
        threading.Thread(target=drain, args=(os.dup(process.stdout.fileno()),), daemon=True).start()
    code = process.wait()
    running.pop(number)
    os.close(pidfd)
    process.stdout.close()
    say(id=number, exit=code)


def obey(message):
    if "run" in message:
        data = base64.b64decode(message.get("input", ""))
        threading.Thread(target=run, args=(message["id"], message["run"], data), daemon=True).start()
    elif "signal" in message and message["id"] in running:
        os.killpg(running[message["id"]].pid, message["signal"])


def main():
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()
    os.write(PORT, b"\n")
    say(hello=boot)
    begun = []  # parts of a line: it may have many
    while True:
        part = os.read(PORT, PART)
        if not part:
            return  # nobody is there any more
        end, *more = part.split(b"\n")
        begun.append(end)
        if not more:
            continue
        lines, begun = [b"".join(begun), *more[:-1]], more[-1:]
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:
                continue
            if message.get("stop"):
                return
            obey(message)


main()
