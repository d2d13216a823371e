#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Carries one TCP connection over standard input and output, as ssh's ProxyCommand, and counts it.

    wire_count.py HOST PORT FOLDER    carries; FOLDER/PID holds two 64-bit counts (sent, received), right at every moment
    wire_count.py FOLDER              prints the sum of all counts
"""
import mmap
import os
import pathlib
import socket
import struct
import sys
import threading

COUNTS = struct.Struct("<QQ")


def carry(read, write, counts, index):
    while True:
        data = read()
        if not data:
            return
        struct.pack_into("<Q", counts, index * 8, struct.unpack_from("<Q", counts, index * 8)[0] + len(data))
        write(data)


def write_all(data):
    while data:
        data = data[os.write(1, data):]


def proxy(host, port, folder):
    with open(pathlib.Path(folder) / str(os.getpid()), "w+b") as file:
        file.write(bytes(COUNTS.size))
        file.flush()
        counts = mmap.mmap(file.fileno(), COUNTS.size)
    link = socket.create_connection((host, int(port)))
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def up():
        try:
            carry(lambda: os.read(0, 1 << 18), link.sendall, counts, 0)
            link.shutdown(socket.SHUT_WR)
        except OSError:
            os._exit(1)

    threading.Thread(target=up, daemon=True).start()
    try:
        carry(lambda: link.recv(1 << 18), write_all, counts, 1)
    except OSError:
        return 1
    return 0


def total(folder):
    return sum(sum(COUNTS.unpack(path.read_bytes()[:COUNTS.size])) for path in pathlib.Path(folder).iterdir())


if __name__ == "__main__":
    if len(sys.argv) == 2:
        print(total(sys.argv[1]))
    else:
        os._exit(proxy(*sys.argv[1:]))
