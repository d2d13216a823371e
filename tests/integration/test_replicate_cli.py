# SPDX-License-Identifier: GPL-2.0-or-later
"""blkmove replicate: what is refused, with words that name the thing and the next step; maps that are made, shown and kept."""
import fcntl
import json
import os
import pathlib
import re

import pytest

from program import LOCKED, OK, REFUSED, TROUBLE, wait_until
from replica_hosts import addresses

MIB = 1 << 20
DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"
PAGES = ["../README.md", *sorted(str(path.relative_to(DOCS)) for path in (DOCS / "recipes").iterdir()
                                                             if "blkmove replicate" in path.read_text())]
VERBS = "create up down primary secondary connect disconnect verify resync resolve hand-over resize fenced show".split()


class Resource:
    """vm1, of the hosts here (this machine) and there."""

    def __init__(self, folder, program):
        self.folder, self.program = folder, program
        self.files = folder / "replicas"
        self.files.mkdir()
        self.volume = folder / "volume"
        self.volume.write_bytes(os.urandom(MIB))
        self.map = folder / "state/replicas/vm1/map"
        program.env["BLKMOVE_REPLICA_DIR"] = str(self.files)
        self.write()

    def write(self, **more):
        keys = "".join(f"{key} = {value}\n" for key, value in more.items())
        here, there = addresses()
        (self.files / "vm1.ini").write_text(
            f"[resource]\nname = vm1\nexport = nbd+unix:///?socket={self.folder}/vm1.sock\n{keys}"
            f"[host here]\naddress = {here}:7811\ndevice = {self.volume}\n"
            f"[host there]\naddress = {there}:7811\ndevice = {self.volume}2\n")

    def __call__(self, verb, *words, **how):
        return self.program("replicate", verb, *words, **how)

    def create(self, *words, **how):
        return self("create", "--host=here", "vm1", *words, **how)

    def show(self):
        return json.loads(self("show", "--json", "--host=here", "vm1").out)


@pytest.fixture
def vm1(folder, program):
    return Resource(folder, program)


# The command line

@pytest.mark.parametrize("words, needle", [
    ([], "it is not said what to do; see `blkmove replicate --help`"),
    (["mount", "vm1"], "there is no sub-command 'mount'"),
    (["primary"], "it is not said which resource"),
    (["primary", "vm1", "vm2"], "'vm2' is one name too many"),
    (["primary", "--rate=1M", "vm1"], "unrecognized option"),
    (["up", "--all", "vm1"], "it takes names or --all, not both"),
    (["resync", "--pause", "--continue", "vm1"], "are opposites"),
    (["resync", "--rate=fast", "vm1"], "fast"),
    (["verify", "--stop", "--wait", "vm1"], "--stop takes no other option"),
    (["hand-over", "--lease=1s", "--at-once", "vm1"], "are opposites"),
    (["hand-over", "--lease=soon", "vm1"], "write a time such as"),
    (["hand-over", "--lease=0s", "vm1"], "no lease is --at-once"),
    (["hand-over", "--lease=0.5ms", "vm1"], "from 1ms to 600s"),
    (["hand-over", "--lease=700s", "vm1"], "from 1ms to 600s"),
    (["verify", "--json", "vm1"], "--wait"),
    (["status", "--watch=0", "vm1"], "write seconds, from 0.1 to 3600"),
    (["status", "--watch=5m", "vm1"], "write seconds, from 0.1 to 3600"),
    (["status", "--watch=1e9", "vm1"], "write seconds, from 0.1 to 3600"),
])
def test_a_wrong_command_line(vm1, program, words, needle):
    assert needle in program("replicate", *words, code=TROUBLE).err


@pytest.mark.parametrize("verb", VERBS)
def test_each_sub_command_says_what_it_takes(vm1, verb):
    said = vm1(verb, "--help").out.decode()
    assert f"blkmove replicate {verb} [OPTION...] NAME" in said
    assert vm1(verb, "--help").out.decode().count("--discard-mine") == (verb in ("create", "resolve"))


@pytest.mark.parametrize("verb", VERBS)
def test_a_resource_that_is_not_there(vm1, verb, folder):
    said = vm1(verb, "vm2", code=TROUBLE).err
    assert f"there is no resource 'vm2': {folder}/replicas/vm2.ini is missing; write it, see blkmove-replica(5)" in said


@pytest.mark.parametrize("words", [["primary"], ["secondary"], ["connect"], ["disconnect"], ["verify"], ["fenced"], ["resize"], ["down"],
                                   ["resync"], ["resync", "--pause"], ["resolve", "--discard-mine=vm1"], ["hand-over", "--to=there"]])
def test_an_order_to_one_that_is_not_up(vm1, words):
    vm1.write()
    said = vm1(*words, "vm1", code=TROUBLE).err
    assert "vm1 is not up on this machine; `blkmove replicate up vm1` starts it" in said


def test_an_order_goes_to_a_name(vm1, folder):
    assert "goes by the name of the resource" in vm1("primary", folder / "replicas/vm1.ini", code=TROUBLE).err


# create

def test_create_makes_a_map_and_says_what_is_next(vm1):
    before = vm1.volume.read_bytes()
    said = vm1.create().out.decode()
    assert str(vm1.map) in said
    assert f"else those of there replace all that is on {vm1.volume} now" in said
    assert "those of there" in said and "`blkmove replicate up vm1`" in said and "`blkmove replicate primary --force vm1`" in said
    shown = vm1.show()
    assert shown["map"]["state"] == "new" and shown["map"]["generation"] == "0" * 16 and shown["map"]["size"] == MIB, shown
    assert vm1.volume.read_bytes() == before


def test_create_keeps_a_map_that_there_is(vm1):
    vm1.create()
    before = vm1.map.read_bytes()
    said = vm1.create(code=REFUSED).err
    assert f"vm1 has a map already, {vm1.map}" in said and "add --overwrite=vm1" in said
    said = vm1.create("--overwrite=vm2", code=REFUSED).err
    assert "--overwrite=vm2 is not the resource's name, vm1" in said
    assert vm1.map.read_bytes() == before
    vm1.create("--overwrite=vm1")
    assert vm1.map.read_bytes() != before and vm1.show()["map"]["state"] == "new"
    assert [path.name for path in vm1.map.parent.iterdir()] == ["map"]


def test_create_of_the_first_bytes(vm1):
    assert "has 1.0 MiB, and --size wants 2.0 MiB of it" in vm1.create("--size=2M", code=REFUSED).err
    vm1.create("--size=512k")
    assert vm1.show()["map"]["size"] == MIB // 2


def test_create_takes_no_other_file_for_a_map(vm1, folder):
    vm1.volume.rename(folder / "elsewhere")
    vm1.volume.symlink_to(folder / "elsewhere")
    assert str(vm1.volume) in vm1("create", "--host=there", "vm1", code=TROUBLE).err
    (folder / "replicas/vm1.ini").write_text((folder / "replicas/vm1.ini").read_text().replace("[host there]", f"map = {folder}\n[host there]"))
    assert "is no regular file" in vm1.create("--overwrite=vm1", code=REFUSED).err


def test_create_does_not_overwrite_the_volume_with_its_map(vm1, folder):
    data = vm1.volume.read_bytes()
    (folder / "link").symlink_to(vm1.volume)
    text = (folder / "replicas/vm1.ini").read_text()
    for path in (vm1.volume, folder / "link"):
        (folder / "replicas/vm1.ini").write_text(text.replace("[host there]", f"map = {path}\n[host there]"))
        for words in ([], ["--overwrite=vm1"]):
            assert f"{path} is to be the map, and is the volume itself" in vm1.create(*words, code=REFUSED).err
    assert vm1.volume.read_bytes() == data


def test_a_map_is_of_one_resource(vm1, folder):
    """Also where the files of two name the same one."""
    text = (folder / "replicas/vm1.ini").read_text().replace("[host there]", f"map = {folder}/map\n[host there]")
    (folder / "replicas/vm1.ini").write_text(text)
    (folder / "volume2").write_bytes(vm1.volume.read_bytes())
    (folder / "replicas/vm2.ini").write_text(text.replace("vm1", "vm2").replace(f"device = {vm1.volume}\n", f"device = {folder}/volume2\n"))
    vm1.create()
    running = vm1.program.start("replicate", "up", "--foreground", "--host=here", "vm1")
    wait_until(lambda: vm1("status", "--json", "--host=here", "vm1").events()[0]["state"] == "up", "up")
    inode = os.stat(folder / "map").st_ino
    for verb, *words in (("create", "--overwrite=vm2"), ("up",)):
        assert f"{folder}/map: it is in use by another blkmove" in vm1(verb, "--host=here", *words, "vm2", code=(LOCKED, TROUBLE)).err
    assert os.stat(folder / "map").st_ino == inode
    running.kill()


def test_up_says_what_can_be_done_about_a_map(vm1, folder):
    vm1.create()
    good = vm1.map.read_bytes()
    vm1.map.write_bytes(b"\1" * len(good))
    said = vm1("up", "--host=here", "vm1", code=TROUBLE).err
    assert f"the map is damaged, or is none: {vm1.map}" in said and "`blkmove replicate create vm1 --overwrite=vm1`" in said
    vm1.map.write_bytes(good)
    (folder / "copy").write_bytes(vm1.volume.read_bytes())
    (folder / "copy").rename(vm1.volume)
    said = vm1("up", "--host=here", "vm1", code=TROUBLE).err
    assert "is another volume" in said and "; put the right one there; else `blkmove replicate create vm1 --overwrite=vm1` makes" in said
    assert said.endswith("what only this node has is lost to what there has\n")


def test_create_refuses_a_volume_that_is_open_elsewhere(vm1):
    with open(vm1.volume, "r+b"):
        said = vm1.create(code=REFUSED).err
    assert f"{vm1.volume} is open for writing by pid {os.getpid()}" in said and "would not be replicated" in said
    assert not vm1.map.exists()


def test_create_refuses_a_volume_of_another_blkmove(vm1):
    with open(vm1.volume, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert f"in use by pid {os.getpid()}" in vm1.create(code=LOCKED).err
    assert not vm1.map.exists()


def test_create_refuses_a_mounted_device(vm1, folder, mounts, loops):
    device = loops.attach(vm1.volume)
    os.system(f"mkfs.ext2 -q {device}")
    vm1.volume = device
    vm1.write()
    point = mounts(device)
    said = vm1.create(code=REFUSED).err
    assert str(device) in said and str(point) in said
    assert not vm1.map.exists()


def test_create_where_a_map_has_no_room(vm1, mounts):
    state = mounts("-t", "tmpfs", "-o", "size=100k", "none")
    ended = vm1.create(f"--state-dir={state}", code=TROUBLE)
    assert f"No space left on device; make room in {state}/replicas/vm1, or name another file as `map` in {vm1.files}/vm1.ini" in ended.err
    assert list(state.rglob("map*")) == []


def test_create_where_no_map_can_be(vm1, folder):
    (folder / "state").mkdir()
    (folder / "state/replicas").symlink_to("/dev/null/none")
    assert f"{folder}/state/replicas/vm1" in vm1.create(code=TROUBLE).err


# show and status of what is not up

def test_show_is_the_file_and_what_was_not_said(vm1):
    shown = vm1.show()
    assert shown["ack"] == "durable" and [host["self"] for host in shown["hosts"]] == [True, False], shown
    assert shown["map"]["state"] == "missing", shown
    words = vm1("show", "--host=here", "vm1").out.decode()
    assert "ack = durable" in words and "[map]" in words and "state = missing" in words
    # All that there is, also what is no whole number, and what is not.
    vm1.write(**{"latency-target": "2.5ms"})
    words = vm1("show", "--host=here", "vm1").out.decode()
    assert "latency_target_ms = 2.5\n" in words and "fence_hook = none\n" in words, words
    words = words.split("\n[")[0]
    assert {key for key in shown if key not in ("hosts", "map")} == set(re.findall("^(\\w+) = ", words, re.M)), words


def test_show_of_a_damaged_map(vm1):
    vm1.create()
    vm1.map.write_bytes(b"\1" * vm1.map.stat().st_size)
    assert vm1.show()["map"]["state"] == "damaged"
    assert "its map is damaged" in vm1("status", "--host=here", "vm1").out.decode()


def test_status_of_what_is_down(vm1, folder):
    assert "next: `blkmove replicate create vm1`" in vm1("status", "--host=here").out.decode()
    vm1.create()
    assert "vm1: down; by its map this node's data are new\n  next: `blkmove replicate up vm1`" in vm1("status", "--host=here").out.decode()
    status, = vm1("status", "--host=here", "--json").events()
    assert (status["kind"], status["name"], status["state"], status["map"]["state"]) == ("replica", "vm1", "down", "new"), status


def test_status_of_one_with_a_wrong_file(vm1):
    vm1.write(colour="red")
    said = vm1("status", "vm1", code=TROUBLE).err
    assert "vm1.ini:4" in said and "colour" in said
    # Of all of them, it is one among others.
    assert "vm1: broken: " in vm1("status", code=OK).out.decode()


def test_status_without_any(program, folder):
    assert program("replicate", "status", env={"BLKMOVE_REPLICA_DIR": str(folder / "none")}).out == b""


# The pages

def commands_of(page):
    """Each `blkmove replicate ...` of a page, in fences and in sentences, up to what a shell makes of the rest."""
    found = re.findall(r"blkmove replicate ([a-z-]+(?: +[-\w=.]+)*)", page.read_text())
    return [words.split() for words in found]


@pytest.mark.parametrize("page", PAGES)
def test_pages_name_real_commands_and_options(program, page):
    commands = commands_of(DOCS / page)
    assert commands
    for words in commands:
        program("replicate", *words, "--help")
