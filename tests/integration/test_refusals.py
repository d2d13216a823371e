# SPDX-License-Identifier: GPL-2.0-or-later
"""What is refused, with words that name the thing and the next step, a code that is not zero, and the target as it was."""
import fcntl
import os
import shutil
import signal
import subprocess

import pytest

from images import Image, first_difference, noise
from program import INTERRUPTED, LINK_LOST, LOCKED, OK, REFUSED, TROUBLE, executable
from servers import free_port

MIB = 1 << 20
NOBODY = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]


@pytest.fixture
def source(folder, random):
    return Image(random.randbytes(MIB)).write(folder / "source")


@pytest.fixture
def target(folder, random):
    return noise(random, MIB).write(folder / "target")


@pytest.fixture
def refused(program, target):
    """refused(code, words, needles...): runs, and all needles are in the message and the target is unchanged."""
    def check(code, words, *needles, **how):
        before = target.read_bytes()
        done = program(*words, code=code, **how)
        for needle in needles:
            assert str(needle) in done.err, f"'{needle}' is missing\n{done}"
        assert target.read_bytes() == before
        return done
    return check


# Another one at work

def slow(program, source, target):
    Image(b"").write(source)
    with open(source, "r+b") as file:
        file.write(os.urandom(24 * MIB))
    running = program.start("copy", "--rate=2M", "--size-mismatch=truncate", source, target)
    program.wait_for_position(running, 1)
    return running


@pytest.mark.parametrize("kind", ["file", "loop"])
def test_a_second_run_on_the_same_target(kind, program, folder, source, target, loops):
    if kind == "loop":
        with open(target, "r+b") as file:
            file.truncate(24 * MIB)
        target = loops.attach(target)
    running = slow(program, source, target)
    for command in (["copy"], ["sync"], ["copy", "--resume"]):
        done = program(*command, source, target, code=(LOCKED, REFUSED) if kind == "loop" else LOCKED)
        assert str(running.pid) in done.err and str(target) in done.err, str(done)
    running.kill(signal.SIGINT)
    running.end(INTERRUPTED)
    # The lock goes with its holder.
    program("copy", "--resume", source, target)


def test_a_second_run_over_ssh(program, ssh, source, target):
    running = slow(program, source, target)
    done = program("copy", *ssh, source, f"far:{target}", code=LOCKED)
    assert str(running.pid) in done.err, str(done)
    running.kill()
    running.end(-signal.SIGKILL)
    program("copy", *ssh, "--size-mismatch=truncate", source, f"far:{target}")


def test_locked_by_another_program(refused, source, target):
    with open(target, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused(LOCKED, ["copy", source, target], target, os.getpid(), "wait for it")


def test_held_exclusively(refused, source, target, loops):
    device = loops.attach(target)
    fd = os.open(device, os.O_RDONLY | os.O_EXCL)
    try:
        refused((REFUSED, TROUBLE), ["copy", source, device], device, "in use", "name another target")
    finally:
        os.close(fd)


def test_open_for_writing_by_another(refused, source, target):
    with open(target, "r+b"):
        refused(REFUSED, ["copy", source, target], target, os.getpid(), "--allow=held")


def test_a_move_offers_no_option_that_it_does_not_have(refused, source, target, folder, random, loops):
    """Whatever the source is, the target is judged first."""
    def refused_without_an_option(source, target, needle):
        said = refused(REFUSED, ["move", source, target], target, needle).err
        assert "--allow" not in said and "--size-mismatch" not in said, said

    refused_without_an_option(target, target, "name another target")
    with open(target, "r+b"):
        refused_without_an_option(source, target, "stop that")
    refused_without_an_option(noise(random, 2 * MIB).write(folder / "larger"), target, "name a larger one")
    blank = loops.attach(Image(bytes(MIB)).write(folder / "blank"), "-b", "4096")
    refused_without_an_option(loops.attach(source), blank, "of 4096")


def test_under_a_loop_device(refused, source, target, loops):
    device = loops.attach(target)
    refused(REFUSED, ["copy", source, target], target, os.path.basename(device))


def test_swap(refused, source, folder, program, loops):
    path = Image(bytes(4 * MIB)).write(folder / "swap")
    os.chmod(path, 0o600)
    subprocess.run(["mkswap", path], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    device = loops.attach(path)
    if subprocess.run(["swapon", device], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("this machine lets nobody add swap")
    try:
        done = program("copy", f"--overwrite={device}", source, device, "--size-mismatch=zero-tail", code=(REFUSED, TROUBLE))
        assert "swap" in done.err, str(done)
    finally:
        subprocess.run(["swapoff", device], check=True)


# A source in motion

def file_system(path):
    Image(bytes(8 * MIB)).write(path)
    subprocess.run(["mkfs.ext4", "-q", "-F", path], check=True, stdout=subprocess.DEVNULL)
    return path


def test_a_mounted_source(program, folder, loops, mounts):
    device = loops.attach(file_system(folder / "source"))
    point = mounts(device)
    for command in ("copy", "sync"):
        done = program(command, device, folder / "target", code=REFUSED)
        assert str(point) in done.err and "snapshot" in done.err and "--allow=live-source" in done.err, str(done)
        assert not (folder / "target").exists()
    program("copy", "--allow=live-source", device, folder / "target")
    assert (folder / "target").stat().st_size == 8 * MIB


def test_a_source_mounted_for_reading_only(program, folder, loops, mounts):
    path = file_system(folder / "source")
    device = loops.attach(path, "-r")
    mounts("-o", "ro,noload", device)
    done = program("copy", device, folder / "target", code=(OK, REFUSED))
    if done.code == OK:
        assert first_difference(path.read_bytes(), (folder / "target").read_bytes()) is None


def test_a_source_open_for_writing(refused, source, target):
    with open(source, "r+b"):
        refused(REFUSED, ["copy", source, target], source, os.getpid(), "--allow=live-source")


def test_a_source_that_is_written_meanwhile(program, folder, random):
    source = Image(random.randbytes(24 * MIB)).write(folder / "source")
    running = program.start("copy", "--rate=12M", source, folder / "target")
    program.wait_for_position(running, MIB)
    with open(source, "r+b") as file:
        file.write(b"now")
    done = running.end(TROUBLE)
    assert "written while it was read" in done.err, str(done)


# A target that was made in vain

def test_a_target_made_in_vain_is_taken_back_or_named(program, source, folder, ssh):
    (folder / "no-folder").write_text("")
    options = [f"--state-dir={folder}/no-folder"]
    program("copy", *options, source, folder / "new", code=TROUBLE)
    assert not (folder / "new").exists()
    done = program("copy", *ssh, *options, source, f"far:{folder}/new", code=TROUBLE)
    assert "cannot write a journal" in done.err and f"far:{folder}/new, which this run has made" in done.err, str(done)
    assert (folder / "new").stat().st_blocks == 0
    # What was there before is nobody's to remove.
    done = program("copy", *ssh, *options, source, f"far:{folder}/new", code=TROUBLE)
    assert "remove it" not in done.err, str(done)


# The same volume twice

@pytest.mark.parametrize("command", ["copy", "sync"])
def test_the_same_volume(command, refused, program, source, folder, target, loops, ssh):
    before = source.read_bytes()
    (folder / "link").symlink_to(source)
    os.link(source, folder / "hard")
    device = loops.attach(source)
    for other in (source, folder / "link", folder / "hard", f"{folder}/../{folder.name}/source", device):
        refused((REFUSED, LOCKED), [command, source, other], other)
        refused((REFUSED, LOCKED), [command, other, source], source)
    refused((REFUSED, LOCKED), [command, *ssh, f"far:{source}", f"far:{folder}/link"], "same volume")
    assert source.read_bytes() == before


def test_two_loop_devices_over_one_file(program, source, loops):
    devices = [loops.attach(source), loops.attach(source)]
    before = source.read_bytes()
    done = program("copy", *devices, code=(REFUSED, TROUBLE))
    assert devices[1] in done.err, str(done)
    assert source.read_bytes() == before


# What is not a volume, or not there

def test_a_missing_source(refused, folder, target):
    refused(TROUBLE, ["copy", folder / "nothing", target], folder / "nothing", "no such file", "check the name")
    assert not (folder / "nothing").exists()


def test_a_missing_folder(refused, source, folder):
    refused(TROUBLE, ["copy", source, folder / "no/target"], folder / "no/target", "no such file")


def test_what_is_no_volume(refused, folder, source, target):
    (folder / "folder").mkdir()
    os.mkfifo(folder / "fifo")
    for name in (folder / "folder", folder / "fifo", "/dev/null", "/dev/zero"):
        for words in ([source, name], [name, target]):
            refused(TROUBLE, ["copy", *words], name, timeout_s=20)


def test_a_read_only_file_system(program, source, mounts, folder):
    point = mounts("-t", "tmpfs", "none")
    (point / "target").write_bytes(b"x" * 100)
    subprocess.run(["mount", "-o", "remount,ro", point], check=True)
    for name in ("target", "new"):
        done = program("copy", source, point / name, code=TROUBLE)
        assert str(point / name) in done.err and "read-only" in done.err and "another target" in done.err, str(done)


def test_a_read_only_device(refused, source, target, loops):
    device = loops.attach(target, "-r")
    refused(TROUBLE, ["copy", source, device], device)


def test_a_read_only_server(refused, source, target, servers):
    uri = servers.nbdkit("-r", "file", target).uri
    refused((REFUSED, TROUBLE), ["copy", source, uri], uri, "read-only")


def test_not_permitted(program, source, target, folder):
    """As nobody, who may run the program."""
    os.chmod(folder, 0o755)
    shutil.copy(program.path, folder / "blkmove")
    os.chmod(folder / "blkmove", 0o755)
    program.path = str(folder / "blkmove")
    (folder / "own").mkdir()
    shutil.chown(folder / "own", "nobody", "nogroup")
    env = {"BLKMOVE_STATE_DIR": f"{folder}/own/state", "BLKMOVE_RUN_DIR": f"{folder}/own/run", "HOME": f"{folder}/own"}
    os.chmod(source, 0o600)
    os.chmod(target, 0o644)
    before = target.read_bytes()
    done = program("copy", source, folder / "own/new", prefix=NOBODY, env=env, code=TROUBLE)
    assert "permission denied" in done.err and str(source) in done.err and "reading" in done.err, str(done)
    os.chmod(source, 0o644)
    done = program("copy", source, target, prefix=NOBODY, env=env, code=TROUBLE)
    assert "permission denied" in done.err and str(target) in done.err and "writing" in done.err, str(done)
    assert target.read_bytes() == before
    # What is permitted works without root, too.
    program("copy", "--verify", source, folder / "own/new", prefix=NOBODY, env=env)
    assert first_difference(source.read_bytes(), (folder / "own/new").read_bytes()) is None


# The far side

def test_an_unreachable_machine(program, source, folder):
    port = free_port()
    done = program("copy", f"--ssh-option=-p{port}", "--ssh-option=-oBatchMode=yes", "--timeout=5", source, f"127.0.0.1:{folder}/target",
                   code=(TROUBLE, LINK_LOST))
    assert "127.0.0.1" in done.err and "refused" in done.err, str(done)


def test_no_ssh(program, source, folder):
    done = program("copy", "--ssh=/nonexistent/ssh", source, f"far:{folder}/target", code=(TROUBLE, LINK_LOST))
    assert "/nonexistent/ssh" in done.err, str(done)


def test_a_wrong_agent_path(program, sshd, source, folder):
    done = program("copy", "--ssh", sshd.ssh, "--agent-path=/nonexistent/blkmove", source, f"far:{folder}/target",
                   code=(TROUBLE, LINK_LOST))
    assert "/nonexistent/blkmove" in done.err and "far" in done.err, str(done)
    assert "--agent-path" in done.err or "install" in done.err, str(done)


@pytest.mark.parametrize("script", ["echo hello; cat", "exit 0", "exec cat /dev/zero", "kill $$", "printf 'BLKM%04d' 9; sleep 5",
                                    "head -c 100000 /dev/urandom"])
def test_an_agent_that_is_none(script, program, sshd, source, folder):
    fake = folder / "fake"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    done = program("copy", "--ssh", sshd.ssh, "--agent-path", fake, "--timeout=3", source, f"far:{folder}/target",
                   code=(TROUBLE, LINK_LOST), timeout_s=60)
    assert "far:" in done.err, str(done)


def test_a_missing_file_there(refused, ssh, folder, target):
    refused(TROUBLE, ["copy", *ssh, f"far:{folder}/nothing", target], f"far:{folder}/nothing", "no such file")


def test_a_refusal_there_names_the_far_volume(refused, ssh, source, target):
    with open(target, "r+b"):
        refused(REFUSED, ["copy", *ssh, source, f"far:{target}"], f"far:{target}", os.getpid())


def test_no_server_at_an_address(refused, target, folder):
    port = free_port()
    refused((TROUBLE, LINK_LOST), ["copy", f"nbd://127.0.0.1:{port}", target], f"127.0.0.1:{port}", "refused")
    refused((TROUBLE, LINK_LOST), ["copy", f"nbd+unix:///?socket={folder}/none", target], f"{folder}/none")


def test_captive_servers_that_do_not_serve(refused, source, target):
    for server, word in ((["/nonexistent/server"], "/nonexistent/server"), (["false"], "false"), (["true"], "true"),
                         (["nbdkit", "file", "/nonexistent"], "nbdkit"), (["sh", "-c", "kill -9 $$"], "sh")):
        refused((TROUBLE, LINK_LOST), ["copy", "[", *server, "]", target], word, timeout_s=60)
        refused((TROUBLE, LINK_LOST), ["copy", source, "[", *server, "]"], word, timeout_s=60)


# Words that do not fit

@pytest.mark.parametrize("words", [
    [], ["copy"], ["copy", "one"], ["copy", "a", "b", "c"], ["dance"], ["copy", "--dance", "a", "b"], ["copy", "--rate=fast", "a", "b"],
    ["copy", "--cache=maybe", "a", "b"], ["copy", "--compress=zip", "a", "b"], ["copy", "--compress=zstd:99", "a", "b"],
    ["copy", "--size-mismatch=ignore", "a", "b"], ["copy", "--allow=everything", "a", "b"], ["copy", "--interval=-1", "a", "b"],
    ["copy", "[", "nbdkit", "a"], ["copy", "a", "]"], ["copy", "[", "]", "b"], ["copy", "", "b"], ["copy", "ftp://x/y", "b"],
    ["copy", ":a", "b"], ["copy", "-host:a", "b"], ["copy", "h:", "b"], ["sync", "--changes=guess", "a", "b"], ["sync", "--changes=digests", "a", "b"],
    ["sync", "--compare-block=5", "a", "b"], ["sync", "-", "b"], ["sync", "a", "-"], ["verify", "-", "b"], ["verify", "--resume", "a", "b"],
    ["digest"], ["digest", "--key=12", "a"], ["digest", "-"]], ids=" ".join)
def test_words_that_do_not_fit(words, program, folder):
    (folder / "empty").mkdir()
    done = subprocess.run([executable(), *words], cwd=folder / "empty", env=program.env, capture_output=True, text=True, timeout=20,
                          stdin=subprocess.DEVNULL)
    assert done.returncode == TROUBLE, done
    assert done.stderr.strip() and "Sanitizer" not in done.stderr, done
    assert os.listdir(folder / "empty") == []
