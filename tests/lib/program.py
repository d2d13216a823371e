# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs the program under test (env BLKMOVE, or the build folder's) with a state and a run folder of its own.

What a sanitizer or an assertion says fails the test, whatever the exit code was meant to be.
"""
import json
import os
import pathlib
import signal
import subprocess
import time

OK, DIFFERS, TROUBLE, REFUSED, INTERRUPTED, BAD_RANGES, LINK_LOST, LOCKED = range(8)
PATIENCE_S = 120
ALARMS = ("Sanitizer", "runtime error:", "Assertion", "corrupted", "double free")


def executable():
    named = os.environ.get("BLKMOVE")
    path = pathlib.Path(named) if named else pathlib.Path(__file__).resolve().parents[2] / "build/src/cli/blkmove"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; build it, or name the program in BLKMOVE")
    return str(path.resolve())


def wait_until(condition, what, timeout_s=PATIENCE_S):
    """Polls; returns what condition() returned at last."""
    end = time.monotonic() + timeout_s
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, f"waited {timeout_s} s in vain for {what}"
        time.sleep(0.01)


class Result:
    def __init__(self, words, code, out, err):
        self.words, self.code, self.out, self.err = words, code, out, err

    def events(self):
        return [json.loads(line) for line in self.out.decode().splitlines()]

    def __str__(self):
        return f"{' '.join(map(str, self.words))}\nexit {self.code}\n{self.out[-2000:].decode(errors='replace')}\n{self.err[-3000:]}"


def _check(result, code):
    assert not any(alarm in result.err for alarm in ALARMS), str(result)
    allowed = (code,) if isinstance(code, int) else code
    assert allowed is None or result.code in allowed, f"expected exit {code}\n{result}"
    # No end but a good one may be called done, and none is silent. (A killed one may have been at its end.)
    if result.code >= 0 and result.code not in (OK, DIFFERS, BAD_RANGES):
        assert " done:" not in result.err, str(result)
        assert result.err.strip() or b'"error"' in result.out, str(result)
    return result


class Running:
    """A program in the background; its output goes to files, so that it never waits for us."""

    def __init__(self, program, words, stdin=None, env=None, prefix=()):
        self.words = words
        program.count += 1
        self.out_path = program.folder / f"run-{program.count}.out"
        self.err_path = program.folder / f"run-{program.count}.err"
        with open(self.out_path, "wb") as out, open(self.err_path, "wb") as err:
            self.process = subprocess.Popen([*prefix, program.path, *map(str, words)], stdin=stdin or subprocess.DEVNULL, stdout=out,
                                            stderr=err, env=dict(program.env, **(env or {})), start_new_session=True)
        self.pid = self.process.pid
        program.running.append(self)

    def err(self):
        return self.err_path.read_text(errors="replace")

    def out(self):
        return self.out_path.read_bytes()

    def kill(self, number=signal.SIGKILL):
        self.process.send_signal(number)

    def is_running(self):
        return self.process.poll() is None

    def wait_for_words(self, words, timeout_s=PATIENCE_S):
        def said():
            assert self.is_running() or words in self.err(), f"ended without saying '{words}':\n{self.err()}"
            return words in self.err()
        wait_until(said, f"'{words}' in\n{self.err()}", timeout_s)

    def end(self, code=OK, timeout_s=PATIENCE_S):
        """Waits for the end. A killed one has its signal's number, negative, as code."""
        self.process.wait(timeout_s)
        return _check(Result(self.words, self.process.returncode, self.out(), self.err()), code)


class Program:
    def __init__(self, folder, path=None):
        self.folder = pathlib.Path(folder)
        self.path = str(path or executable())
        self.state = self.folder / "state"
        self.count = 0
        self.running = []
        self.defaults = []
        self.env = {key: value for key, value in os.environ.items() if not key.startswith("BLKMOVE_")}
        self.env.update(BLKMOVE_STATE_DIR=str(self.state), BLKMOVE_RUN_DIR=str(self.folder / "run"), LC_ALL="C.UTF-8")

    def __call__(self, *words, code=OK, stdin=None, env=None, prefix=(), timeout_s=PATIENCE_S):
        """Runs to the end and insists on the exit code (one, several, or None for any)."""
        done = subprocess.run([*prefix, self.path, *map(str, words)], env=dict(self.env, **(env or {})), capture_output=True,
                              timeout=timeout_s, **({"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin or subprocess.DEVNULL}))
        return _check(Result(words, done.returncode, done.stdout, done.stderr.decode(errors="replace")), code)

    def start(self, *words, **how):
        return Running(self, words, **how)

    def status(self, running):
        """What a running job says of itself, or None while it does not answer yet."""
        done = self("status", running.pid, "--json", code=None)
        return json.loads(done.out) if done.code == OK else None

    def wait_for_position(self, running, bytes_done):
        """Until the job has decided about so many bytes."""
        def there():
            assert running.is_running(), running.err()
            now = self.status(running)
            return now if now and now["position"] >= bytes_done else None
        return wait_until(there, f"position {bytes_done}")

    def journals(self):
        return sorted(self.state.glob("*.journal"))

    def close(self):
        for running in self.running:
            if running.is_running():
                running.kill()
                running.process.wait()
