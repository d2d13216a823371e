# SPDX-License-Identifier: GPL-2.0-or-later
"""The program's surface: where it writes what, what digest says, how a signal ends it while it connects, its run folder."""
import hashlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import time

import pytest

from images import Image, first_difference
from program import INTERRUPTED, OK, REFUSED, TROUBLE, wait_until

MIB = 1 << 20


@pytest.fixture
def source(folder, random):
    return Image(random.randbytes(4 * MIB + 1000)).write(folder / "source")


# A stream's data and the events do not mix.

def test_events_stay_out_of_a_stream(program, source):
    done = program("copy", "--json", source, "-")
    assert done.out == source.read_bytes()
    events = [json.loads(line) for line in done.err.splitlines()]
    assert events[-1]["event"] == "end" and events[-1]["exit_code"] == OK


def test_events_of_a_failed_stream_are_all_that_is_said(program, folder):
    done = program("copy", "--json", folder / "nothing", "-", code=TROUBLE)
    events = [json.loads(line) for line in done.err.splitlines()]
    assert done.out == b"" and "nothing" in events[-1]["error"]


def test_events_from_a_stream_go_to_standard_output(program, source, folder):
    done = program("copy", "--json", "-", folder / "target", stdin=source.read_bytes())
    assert done.events()[-1]["event"] == "end" and done.err == ""
    assert first_difference(source.read_bytes(), (folder / "target").read_bytes()) is None


# Standard streams.

@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_gets_nothing_of_the_volumes(program, source, folder, closed):
    """Nor do volumes and pipes get its number, and what is printed."""
    program("copy", source, folder / "target", prefix=["/bin/sh", "-c", f'exec "$@" {closed}', "sh"])
    assert first_difference(source.read_bytes(), (folder / "target").read_bytes()) is None


@pytest.mark.parametrize("word", ["--version", "--help"])
def test_what_cannot_be_printed_is_an_error(program, word):
    with open("/dev/full", "wb") as full:
        done = subprocess.run([program.path, word], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == TROUBLE and b"cannot write to standard output" in done.stderr


def test_who_has_gone_away_needs_not_be_told(program):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as gone:
        done = subprocess.run([program.path, "--version"], stdout=gone, stderr=subprocess.PIPE)
    assert done.returncode == OK and done.stderr == b""


# Digests.

def test_digest_prints_its_key(program, source):
    first = program("digest", source).out.decode().splitlines()
    key = re.fullmatch("# key ([0-9a-f]{32})", first[0])[1]
    assert len(first) == 1 + 5
    again = program("digest", f"--key={key}", source)
    assert again.out.decode().splitlines() == first[1:]


def test_digest_keeps_to_its_rate_and_tells(program, source):
    begun = time.monotonic()
    done = program("digest", "--sha256", "--rate=4M", "--interval=1", source)
    assert 0.7 <= time.monotonic() - begun <= 8
    assert done.out.decode().split()[0] == hashlib.sha256(source.read_bytes()).hexdigest()
    running = program.start("digest", "--rate=1M", "--interval=1", source)
    running.wait_for_words("digest ")
    running.kill(signal.SIGUSR1)
    wait_until(lambda: running.err().count(" of 4.0 MiB") >= 2, "two lines")
    assert "same" not in running.err()
    running.kill(signal.SIGINT)
    running.end(INTERRUPTED, timeout_s=60)
    assert program("digest", "--sha256", "--quiet", source).err == ""


@pytest.mark.parametrize("words", [["digest", "--retries=1"], ["digest", "--trust-holes"], ["digest", "--json"]], ids=" ".join)
def test_options_that_would_do_nothing_are_refused(words, program, source):
    assert "unrecognized option" in program(*words, source, code=TROUBLE).err


def test_verify_offers_no_read_holes(program, source):
    assert "--read-holes" in program("verify", "--read-holes", source, source, code=TROUBLE).err


# A signal while it connects.

def sockets(program):
    return list((program.folder / "run").glob("*.sock"))


def silent_port():
    """Takes connections and says nothing."""
    server = socket.create_server(("127.0.0.1", 0))
    return server, server.getsockname()[1]


def interrupt(program, running, number=signal.SIGINT):
    wait_until(lambda: sockets(program), "the control socket")
    time.sleep(0.3)
    begun = time.monotonic()
    running.kill(number)
    done = running.end(INTERRUPTED, timeout_s=60)
    assert time.monotonic() - begun < 20, str(done)
    assert sockets(program) == [] and "once more" not in done.err, str(done)
    return done


@pytest.mark.parametrize("role", ["source", "target"])
@pytest.mark.parametrize("kind", ["ssh", "nbd", "captive"])
def test_one_signal_is_enough_while_connecting(kind, role, program, source, folder):
    listener, port = silent_port()
    ssh = folder / "silent-ssh"
    ssh.write_text("#!/bin/sh\n[ \"$1\" = -G ] || exec sleep 1000\n")
    ssh.chmod(0o755)
    far = {"ssh": [f"--ssh={ssh}", f"far:{folder}/x"], "nbd": [f"nbd://127.0.0.1:{port}"], "captive": ["[", "sleep", "1001", "]"]}[kind]
    folders = set(pathlib.Path("/tmp").glob("blkmove-??????"))
    words = ["copy", *far, folder / "new"] if role == "source" else ["copy", source, *far]
    done = interrupt(program, program.start(*words))
    assert "nothing was written" in done.err, str(done)
    assert not (folder / "new").exists()
    if kind == "captive":
        # Those of other tests, which run at the same time, go away too.
        left = set(pathlib.Path("/tmp").glob("blkmove-??????")) - folders
        wait_until(lambda: not any(path.exists() for path in left), f"the end of {left}")
    listener.close()


def test_one_signal_is_enough_for_digest(program):
    listener, port = silent_port()
    running = program.start("digest", f"nbd://127.0.0.1:{port}")
    time.sleep(0.5)
    running.kill(signal.SIGTERM)
    assert "interrupted" in running.end(INTERRUPTED, timeout_s=60).err
    listener.close()


def test_one_signal_is_enough_while_it_waits_for_a_link(program, source, servers, folder):
    Image(bytes(source.stat().st_size)).write(folder / "target")
    server = servers.nbdkit("file", folder / "target")
    running = program.start("copy", "--rate=1M", source, server.uri)
    program.wait_for_position(running, MIB // 2)
    server.process.kill()
    running.wait_for_words("trying again in 2")
    assert "--resume" in interrupt(program, running).err


def test_two_signals_end_at_once(program, source, folder):
    running = program.start("copy", "--rate=64k", source, folder / "target")
    wait_until(lambda: program.status(running), "an answer")
    program("pause", running.pid)
    running.kill(signal.SIGSTOP)
    running.kill(signal.SIGINT)
    running.kill(signal.SIGTERM)
    running.kill(signal.SIGCONT)
    running.end(INTERRUPTED, timeout_s=60)
    assert sockets(program) == []


# The run folder.

@pytest.mark.parametrize("how", ["mode", "owner", "link", "file"])
def test_a_run_folder_of_others_is_not_used(how, program, source, folder):
    place = folder / "place"
    if how == "file":
        place.write_text("")
    elif how == "link":
        (folder / "elsewhere").mkdir(mode=0o700)
        place.symlink_to(folder / "elsewhere")
    else:
        place.mkdir(mode=0o700)
        place.chmod(0o750 if how == "mode" else 0o700)
    if how == "owner":
        if os.geteuid() != 0:
            pytest.skip("only root gives folders away")
        os.chown(place, 65534, 65534)
    env = {"BLKMOVE_RUN_DIR": str(place)}
    done = program("copy", source, folder / "target", env=env)
    assert done.err.count(f"{place} is not a folder of this user") == 1, str(done)
    assert how == "file" or list(place.iterdir()) == []
    assert "not a folder" in program("status", env=env, code=TROUBLE).err


def test_a_run_folder_is_made_private(program, source, folder):
    assert program("status").out == b""
    program("copy", "--quiet", source, folder / "target", prefix=["sh", "-c", "umask 0; exec \"$@\"", "-"])
    assert (folder / "run").stat().st_mode & 0o7777 == 0o700


# The completion of process ids.

def test_the_completion_finds_runs_where_they_are(folder):
    script = pathlib.Path(__file__).resolve().parents[2] / "completions/blkmove"
    (folder / "blkmove").mkdir()
    for name, env in ((folder / "7.sock", {"BLKMOVE_RUN_DIR": folder}), (folder / "blkmove/8.sock", {"XDG_RUNTIME_DIR": folder})):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(name))
        # EUID cannot be set in bash: the function is told another.
        text = script.read_text().replace("$EUID", "1000")
        done = subprocess.run(["bash", "-c", f"{text}\n_blkmove_pids"], capture_output=True, text=True,
                              env=dict({key: str(value) for key, value in env.items()}, PATH=os.environ["PATH"]))
        assert done.stdout.split() == [name.stem], done
    with open(script) as file:
        assert 'dir="/tmp/blkmove-$EUID"' in file.read()


# Names.

def test_a_name_that_is_too_long_is_refused(program, source, folder):
    for words in ([source, f"{folder}/{'/' * 300}x"], [source, "[", "nbdkit", "file", "x" * 250, "]"], ["nbd://h/" + "x" * 300, folder / "y"]):
        done = program("copy", *words, code=TROUBLE)
        assert "255 are the most" in done.err, str(done)
    assert not (folder / "y").exists()
    link = f"{folder}/{'/' * (253 - len(str(folder)))}x"
    assert len(link) == 255
    program("copy", source, link)


def test_overwrite_of_a_captive_server_as_in_the_manual(program, folder, source):
    subprocess.run(["mkfs.ext4", "-q", folder / "disk", "8M"], check=True)
    Image((folder / "disk").read_bytes()[::-1]).write(folder / "source")
    server = ["[", "nbdkit", "file", str(folder / "disk"), "]"]
    done = program("copy", folder / "source", *server, code=REFUSED)
    hint = re.search(r"--overwrite=('[^']*')", done.err)[0]
    subprocess.run(["sh", "-c", f"'{program.path}' copy {hint} '{folder}/source' {' '.join(server)}"], env=program.env, check=True)
    assert first_difference((folder / "source").read_bytes(), (folder / "disk").read_bytes()) is None
