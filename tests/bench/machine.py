# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine that the figures are of: its description, and the network that the runs have for themselves."""
import os
import pathlib
import subprocess
import sys

PEERS = ("coreutils", "rsync", "libnbd-bin", "qemu-utils", "openssh-client", "zstd", "perl-base", "casync", "fio", "nbdkit",
         "qemu-system-common")
IN_NAMESPACE = "BLKMOVE_BENCH_NAMESPACE"


def enter_own_network():
    """Starts this program again in a network namespace of its own, if that is allowed: its loopback carries nothing but our bytes."""
    if os.environ.get(IN_NAMESPACE) or os.geteuid() != 0:
        return
    if subprocess.run(["unshare", "--net", "ip", "link", "set", "lo", "up"], capture_output=True).returncode == 0:
        os.environ[IN_NAMESPACE] = "1"
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])


def prepare_own_network():
    """Returns whether loopback is ours alone."""
    if not os.environ.get(IN_NAMESPACE):
        return False
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    return True


def output(*words):
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _cpu():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), os.uname().machine)


def _memory():
    return int(pathlib.Path("/proc/meminfo").read_text().split()[1]) / (1 << 20)


def _file_system(folder):
    words = output("findmnt", "-n", "-o", "FSTYPE,SOURCE", "-T", folder).split()
    return f"{words[0]} on {words[1]}" if len(words) == 2 else "unknown"


def _versions():
    lines = output("dpkg-query", "-W", "-f", "${Package} ${Version}\n", *PEERS)
    return ", ".join(lines.splitlines()) or "unknown"


def processor():
    """A line of Markdown."""
    return f"- Processor: {_cpu()}, {os.cpu_count()} of them; memory: {_memory():.0f} GiB; Linux {os.uname().release}"


def describe(folder):
    """Lines of Markdown."""
    return [
        processor(),
        f"- Volumes on: {_file_system(folder)}; read and written there by fio: see the last table",
        f"- Peers: {_versions()}",
    ]
