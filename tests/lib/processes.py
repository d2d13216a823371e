# SPDX-License-Identifier: GPL-2.0-or-later
"""Finding processes: those that a run has started, and agents."""
import os
import subprocess


def children(pid, name):
    """The pids below a process whose command is called so."""
    found = []
    for child in subprocess.run(["pgrep", "-P", str(pid)], stdout=subprocess.PIPE, text=True).stdout.split():
        with open(f"/proc/{child}/comm") as file:
            found += [int(child)] if file.read().strip() == name else []
        found += children(child, name)
    return found


def agents(path):
    """Agents that have this file open."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if file.read().split(b"\0")[1:2] != [b"agent"]:
                    continue
            links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            continue
        found += [int(pid)] if str(path) in links else []
    return found
