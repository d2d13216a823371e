# SPDX-License-Identifier: GPL-2.0-or-later
"""A private sshd as another machine, for tests: see sshd.sh.

    with Sshd() as machine:
        run("blkmove", "copy", "--ssh", machine.ssh, "--agent-path", BLKMOVE, "a.img", "other:/tmp/b.img")
"""
import pathlib
import subprocess
import tempfile

SCRIPT = pathlib.Path(__file__).with_name("sshd.sh")


class Sshd:
    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="blkmove-sshd-"))
        self.ssh = str(self.folder / "ssh")
        self.ssh_counted = str(self.folder / "ssh-counted")
        try:
            self._run("start")
        except BaseException:
            self.stop()
            raise

    def _run(self, command, *words):
        done = subprocess.run(["bash", SCRIPT, command, self.folder, *words], stdout=subprocess.PIPE, text=True, check=True,
                              stdin=subprocess.DEVNULL)
        return done.stdout.strip()

    def wire_bytes(self):
        """What ssh_counted has carried, both ways, since the start or forget()."""
        return int(self._run("wire"))

    def forget(self):
        self._run("forget")

    def key(self, words):
        """A further key with a line of its own in authorized_keys, such as 'command="..."'. Returns an ssh program."""
        return self._run("key", words)

    def cut(self):
        """Every connection breaks, as when a link is lost."""
        self._run("cut")

    def stop(self):
        self._run("stop")

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.stop()
