# SPDX-License-Identifier: GPL-2.0-or-later
"""The receipt of a switch: what both legs held at it, so that an unchanged copy can be compared with it later."""
import calendar
import json
import os
import shutil
import signal
import socket
import time

import pytest

from live_mirror import Mirror
from nbd_client import Client
from program import REFUSED, TROUBLE, wait_until

NODE = 64 << 10
SIZE = 150 * NODE + 512 * 7


@pytest.fixture
def volumes(folder, random):
    source, target = folder / "source", folder / "target"
    with open(source, "wb") as file:
        file.truncate(SIZE)
        for node in range(0, 151, 3):
            os.pwrite(file.fileno(), random.randbytes(min(NODE, SIZE - node * NODE)), node * NODE)
    target.write_bytes(random.randbytes(SIZE))
    return source, target


def receipt_of(mirror):
    return json.loads((mirror.program.state / "mirrors/m/receipt.json").read_text())


def switched(mirror):
    mirror.wait_for("ready")
    mirror.program("cutover", "m")
    return receipt_of(mirror)


def generation_in(mirror):
    """docs/formats/map.md: the switches that the map knows of."""
    return int.from_bytes((mirror.program.state / "mirrors/m/map").read_bytes()[40:48], "little")


def die_at_switch(mirror, order):
    """Killed once the map knows of the switch, before its receipt could be written."""
    way = mirror.program.state / "mirrors/m/receipt.json.new"
    generation = generation_in(mirror) + 1
    os.mkfifo(way)  # nobody reads it: who opens it waits
    try:
        pid = mirror.status()["pid"]
        mirror.program(order, "m", "--no-wait")
        wait_until(lambda: generation_in(mirror) == generation, "the switch")
        time.sleep(0.3)
        os.kill(pid, signal.SIGKILL)
        mirror.wait_for_gone(pid)
    finally:
        way.unlink()


def root(program, key, path):
    return program("digest", "--root", f"--key={key}", path).out.decode().split()[0]


def test_the_digests_of_a_receipt_are_those_of_the_legs_at_the_switch(program, folder, volumes, random):
    mirror = Mirror(program, folder, *volumes, "--verify")
    mirror.start()
    try:
        receipt = switched(mirror)
        mirror.program("finish", "m")
    finally:
        mirror.end()
    digests = receipt["digests"]
    assert receipt["verified"] and digests["written_since"] == 0 and digests["source"] == digests["target"]
    assert len(digests["key"]) == len(digests["source"]) == 32
    source, target = volumes
    assert source.read_bytes() == target.read_bytes()
    for path in volumes:
        assert root(program, digests["key"], path) == digests["source"]
        assert root(program, digests["key"][::-1], path) != digests["source"]
    assert oct((program.state / "mirrors/m/receipt.json").stat().st_mode & 0o777) == "0o600"
    # Any change shows: a byte, two nodes that changed places, the last byte of all.
    data = source.read_bytes()
    for change in ("byte", "places", "last"):
        other = bytearray(data)
        if change == "places":
            other[0:NODE], other[3 * NODE:4 * NODE] = data[3 * NODE:4 * NODE], data[0:NODE]
        else:
            other[random.randrange(SIZE) if change == "byte" else SIZE - 1] ^= 1
        (folder / "other").write_bytes(other)
        assert root(program, digests["key"], folder / "other") != digests["source"], change


def test_what_was_written_since_the_verification_is_told(program, folder, volumes, random):
    mirror = Mirror(program, folder, *volumes, "--verify")
    mirror.start()
    client = Client(mirror.uri, SIZE, random)
    try:
        mirror.wait_for("ready")
        client.start()
        wait_until(lambda: client.writes > 50, "writes")
        client.stop()
        frozen = folder / "frozen"
        shutil.copy(volumes[0], frozen)
        receipt = switched(mirror)
    finally:
        client.over.set()
        mirror.end()
    digests = receipt["digests"]
    assert digests["source"] == digests["target"]
    assert NODE <= digests["written_since"] <= SIZE
    assert root(program, digests["key"], frozen) != digests["source"]


def test_without_a_verification_there_are_no_digests(program, folder, volumes):
    mirror = Mirror(program, folder, *volumes)
    mirror.start()
    try:
        receipt = switched(mirror)
    finally:
        mirror.end()
    assert receipt["digests"] is None and "--verify" in receipt["digests_missing"] and not receipt["verified"]


def test_what_another_run_verified_is_not_said_of_this_one(program, folder, volumes):
    mirror = Mirror(program, folder, *volumes, "--verify")
    mirror.start()
    try:
        assert switched(mirror)["verified"]
        mirror.kill()
        mirror.resume()
        wait_until(lambda: mirror.status()["revertible"], "that it can revert")
        program("revert", "m")
        receipt = receipt_of(mirror)
    finally:
        mirror.end()
    assert receipt["authoritative"] == "source" and receipt["digests"] is None and not receipt["verified"]


def test_a_receipt_says_all_of_its_switch(program, folder, volumes, random):
    mirror = Mirror(program, folder, *volumes)
    begun = int(time.time())
    mirror.start()
    client = Client(mirror.uri, SIZE, random, pause_s=0)
    try:
        mirror.wait_for("ready")
        client.start()
        wait_until(lambda: client.writes > 50, "writes")
        pauses = []
        for order in ("cutover", "revert", "cutover"):
            wait_until(lambda: (now := mirror.status())["revertible"] or now["state"] == "ready", "that it can switch")
            program(order, "m")
            # It is there when the order is done.
            receipt = receipt_of(mirror)
            assert receipt["pause_ms"] == mirror.status()["pause_ms"]
            pauses.append(receipt["pause_ms"])
            assert begun <= calendar.timegm(time.strptime(receipt["when"], "%Y-%m-%dT%H:%M:%SZ")) <= time.time()
            nonce, generation = receipt["switch"].split("-")
            assert int(generation) == len(pauses) and nonce == (program.state / "mirrors/m/map").read_bytes()[16:24][::-1].hex()
            assert receipt["cutovers_deferred"] >= 0
            for key in ("when", "pause_ms", "switch", "cutovers_deferred"):
                del receipt[key]
            assert str(volumes[0].stat().st_ino) in receipt.pop("source_id") and str(volumes[1].stat().st_ino) in receipt.pop("target_id")
            assert receipt == {"mirror": "m", "state": order, "source": str(volumes[0]), "target": str(volumes[1]), "size": SIZE,
                               "authoritative": "source" if order == "revert" else "target", "verified": False,
                               "digests": None, "digests_missing": "begun without --verify"}
        assert any(pauses)
    finally:
        client.over.set()
        mirror.end()


@pytest.mark.parametrize("orders", [["cutover"], ["cutover", "revert"]])
def test_a_switch_that_its_process_did_not_survive_has_a_receipt_after_the_resume(program, folder, volumes, orders):
    mirror = Mirror(program, folder, *volumes, "--verify")
    mirror.start()
    try:
        mirror.wait_for("ready")
        for order in orders[:-1]:
            program(order, "m")
            assert receipt_of(mirror)["verified"]
            wait_until(lambda: mirror.status()["revertible"], "that it can revert")
        die_at_switch(mirror, orders[-1])
        mirror.resume()
        counts = mirror.status()["authoritative"]
        receipt = receipt_of(mirror)
        assert receipt.pop("switch").endswith(f"-{len(orders)}") and receipt.pop("source_id") and receipt.pop("target_id")
        assert receipt == {"mirror": "m", "state": orders[-1], "source": str(volumes[0]), "target": str(volumes[1]), "size": SIZE,
                           "authoritative": counts, "when": None, "pause_ms": None, "cutovers_deferred": None, "verified": False,
                           "digests": None, "digests_missing": "the mirror's process ended with this switch"}
        assert counts == ("target" if orders[-1] == "cutover" else "source")
    finally:
        mirror.end()


def test_h16_who_forgets_a_switch_without_a_receipt_writes_one(program, folder, volumes):
    """Else nobody would know any more that the target is the newer one."""
    mirror = Mirror(program, folder, *volumes)
    mirror.start()
    mirror.wait_for("ready")
    die_at_switch(mirror, "cutover")
    assert f"the target {volumes[1]} is the volume" in program("mirror", "--forget", "m").out.decode()
    receipt = receipt_of(mirror)
    assert receipt["authoritative"] == "target" and receipt["when"] is None and receipt["source"] == str(volumes[0])
    assert "is newer than the source" in mirror.start(code=REFUSED).err


def test_a_receipt_that_is_there_stays_after_a_resume(program, folder, volumes):
    mirror = Mirror(program, folder, *volumes, "--verify")
    mirror.start()
    try:
        receipt = switched(mirror)
        mirror.kill()
        mirror.resume()
        assert receipt_of(mirror) == receipt
    finally:
        mirror.end()


def test_the_receipt_of_an_earlier_mirror_of_the_name_is_not_taken_for_this_ones(program, folder, volumes):
    mirror = Mirror(program, folder, *volumes)
    mirror.start()
    try:
        first = switched(mirror)
        program("finish", "m")
        mirror.kill(signal.SIGTERM)
        mirror.start(f"--overwrite-newer={mirror.target}", f"--overwrite={mirror.target}")
        mirror.wait_for("ready")
        assert receipt_of(mirror) == first
        die_at_switch(mirror, "cutover")
        mirror.resume()
        assert receipt_of(mirror)["switch"] != first["switch"] and receipt_of(mirror)["pause_ms"] is None
    finally:
        mirror.end()


def test_an_order_that_follows_at_once_takes_no_receipt_away(program, folder, volumes):
    mirror = Mirror(program, folder, *volumes)
    mirror.start()
    control = socket.socket(socket.AF_UNIX)
    try:
        mirror.wait_for("ready")
        control.connect(str(folder / "run/m.sock"))
        lines = control.makefile("rw")

        def ask(command):
            lines.write(json.dumps({"command": command}) + "\n")
            lines.flush()
            return json.loads(lines.readline())

        assert ask("cutover")["ok"]
        while not ask("finish")["ok"]:
            pass
        wait_until((program.state / "mirrors/m/receipt.json").exists, "a receipt")
        assert receipt_of(mirror)["state"] == "cutover" and receipt_of(mirror)["authoritative"] == "target"
    finally:
        control.close()
        mirror.end()


def test_a_root_alone_says_its_key(program, volumes):
    key, line = program("digest", "--root", volumes[0]).out.decode().splitlines()
    assert key.startswith("# key ") and root(program, key.split()[2], volumes[0]) == line.split()[0]
    assert "--root excludes" in program("digest", "--root", "--sha256", volumes[0], code=TROUBLE).err
