# SPDX-License-Identifier: GPL-2.0-or-later
"""Full copies: to a new file on the same disk, to a loop device, over ssh on loopback."""
import contextlib
import os
import subprocess

import contest
import volumes
from contest import Entrant, MIB, Section, at_least, at_most

# What blkmove asks ssh for; peers run with ssh's own choice and with this one.
AES_GCM, CHACHA = "aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com"


def _local_entrants(bench, target):
    a = bench.a
    return [
        Entrant("blkmove copy", bench.blkmove("copy", a, target)),
        Entrant("blkmove copy --cache=buffered", bench.blkmove("copy", "--cache=buffered", a, target)),
        Entrant("cp --sparse=always, sync", f"cp --sparse=always {a} {target} && sync {target}", "cp"),
        Entrant("nbdcopy --flush", ["nbdcopy", "--flush", a, target], "nbdcopy"),
        Entrant("qemu-img convert, sync", f"qemu-img convert -n -f raw -O raw {a} {target} && sync {target}", "qemu-img"),
        Entrant("dd conv=sparse,fsync", f"dd if={a} of={target} bs=1M conv=sparse,fsync status=none", "dd"),
    ]


def _local_targets(results, what):
    best = results.best("wall_s", ("cp --sparse=always, sync", "nbdcopy --flush"))
    return [
        at_most(f"{what}: wall, blkmove ÷ the faster of cp and nbdcopy", results.first.wall / best, 1.0, "×"),
        at_most(f"{what}: peak memory", results.first.peak / MIB, 64, " MiB", 1),
    ]


def copy_to_file(bench):
    target = bench.folder / "copy.img"
    for cache in ("cold", "warm"):
        def prepare(entrant):
            volumes.forget(target)
            if "qemu-img" in entrant.name:  # -n wants it to be there, and makes the two kinds of target alike
                with open(target, "wb") as file:
                    file.truncate(os.path.getsize(bench.a))
            (volumes.drop_cache if cache == "cold" else volumes.warm_cache)(bench.a)

        results = contest.race(bench, _local_entrants(bench, target), prepare, lambda _: volumes.equal(bench.a, target))
        note = f"A ({bench.size_text}) to a new file; the source is {'not ' if cache == 'cold' else ''}in the page cache; the data are on " \
               "stable storage at the end."
        yield Section(f"Copy to a new file on the same disk, {cache}", note, results, _local_targets(results, f"copy to a file, {cache}"))
    volumes.forget(target)


@contextlib.contextmanager
def loop_device(path):
    device = subprocess.run(["losetup", "--find", "--show", "--direct-io=on", path], check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def copy_to_device(bench):
    if os.geteuid() != 0:
        yield Section("Copy to a loop device", "Left out: loop devices need root.")
        return
    backing = bench.folder / "loop.img"
    with open(backing, "wb") as file:
        file.truncate(os.path.getsize(bench.a))
    with loop_device(backing) as device:
        def prepare(_):
            # Empty anew: cp and dd leave out zeros, and would be wrong on a device that was in use.
            subprocess.run(["blkdiscard", "-f", device], check=True, stderr=subprocess.DEVNULL)
            subprocess.run(["sync", "-f", backing.parent], check=True)
            volumes.drop_cache(bench.a, backing)

        def check(_):
            subprocess.run(["blockdev", "--flushbufs", device], check=True)
            return volumes.equal(bench.a, backing)

        results = contest.race(bench, _local_entrants(bench, device), prepare, check)
    volumes.forget(backing)
    note = f"A ({bench.size_text}) to an empty loop device (direct I/O) on the same disk; the source is not in the page cache."
    yield Section("Copy to a loop device", note, results, _local_targets(results, "copy to a loop device"))


def _ssh_peers(bench, target):
    """Each with ssh's own choice of cipher, then with blkmove's."""
    a, remote = bench.a, f"other:{target}"
    for mark, ssh in (("", bench.ssh), (", AES-GCM", f"{bench.ssh} -c {AES_GCM}")):
        yield Entrant("dd | ssh dd" + mark,
                      f"dd if={a} bs=1M status=none | {ssh} other dd of={target} bs=1M iflag=fullblock conv=sparse,fsync status=none", "dd", not mark)
        yield Entrant("dd | zstd -1 | ssh zstd -d | dd" + mark,
                      f"dd if={a} bs=1M status=none | zstd -q -1 | {ssh} other 'zstd -q -d | "
                      f"dd of={target} bs=1M iflag=fullblock conv=sparse,fsync status=none'", "zstd", not mark)
        yield Entrant("rsync -S --zstd" + mark, ["rsync", "-S", "-z", "--zc=zstd", "--fsync", "-e", ssh, a, remote], "rsync", not mark)
        yield Entrant("rsync -S, not compressed" + mark, ["rsync", "-S", "--fsync", "-e", ssh, a, remote], "rsync", not mark)


def copy_over_ssh(bench):
    target = bench.folder / "copy.img"
    remote = f"other:{target}"
    entrants = [
        Entrant("blkmove copy", bench.blkmove_ssh("copy", bench.a, remote)),
        Entrant("blkmove copy --compress=none", bench.blkmove_ssh("copy", "--compress=none", bench.a, remote)),
        Entrant("blkmove copy --compress=zstd", bench.blkmove_ssh("copy", "--compress=zstd", bench.a, remote)),
        Entrant("blkmove copy, ssh's own cipher", bench.blkmove_ssh("copy", f"--ssh-option=-c{CHACHA}", bench.a, remote)),
        *_ssh_peers(bench, target),
    ]

    def prepare(_):
        volumes.forget(target)
        volumes.drop_cache(bench.a)

    results = contest.race(bench, entrants, prepare, lambda _: volumes.equal(bench.a, target))
    volumes.forget(target)
    named = ["dd | ssh dd", "dd | zstd -1 | ssh zstd -d | dd", "rsync -S --zstd"]
    first, allocated = results.first, volumes.data_bytes(bench.a)
    targets = [
        at_least("copy over ssh: wall, best of the peers ÷ blkmove", results.best("wall_s", named) / first.wall, 1.5, "×"),
        at_most("copy over ssh: bytes on the wire ÷ allocated bytes", first.wire / allocated, 1.0),
        at_most("copy over ssh: peak memory", first.peak / MIB, 64, " MiB", 1),
    ]
    aes = results.best("wall_s", [name + ", AES-GCM" for name in named])
    if aes == aes:
        targets.append(at_least("copy over ssh: the same, peers with blkmove's cipher", aes / first.wall, 1.5, "×"))
    note = f"A ({bench.size_text}) to a new file through an sshd on loopback. Peers with ssh's own choice of cipher (chacha20-poly1305) and " \
           f"with the one that blkmove asks for ({AES_GCM}). The source is not in the page cache; the data are on stable storage at the end."
    yield Section("Copy over ssh on loopback", note, results, targets)


SCENARIOS = {"copy-file": copy_to_file, "copy-device": copy_to_device, "copy-ssh": copy_over_ssh}
