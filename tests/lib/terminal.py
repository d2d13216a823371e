# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs the program on a terminal, and says what a person sees there."""
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading

from program import wait_until

CONTROL = re.compile(r"\033\[(\d*)([A-Z])")


class Terminal:
    """Output and errors on the terminal. What it understands is what the program uses; other controls fail."""

    def __init__(self, program, *words, columns=100, rows=24):
        self.columns, self.text, self.words = columns, b"", words
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process = subprocess.Popen([program.path, *map(str, words)], stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
                                        env=program.env, start_new_session=True)
        os.close(theirs)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        while True:
            try:
                data = os.read(self.ours, 65536)
            except OSError:  # nobody has the other end any more
                return
            if not data:
                return
            self.text += data

    def screen(self):
        """The lines, those that were scrolled away among them."""
        lines, row, column, at = [""], 0, 0, 0
        text = self.text.decode(errors="ignore")
        text = text[:text.rfind("\033")] if re.search(r"\033\[?\d*\Z", text) else text
        while at < len(text):
            control, char = CONTROL.match(text, at), text[at]
            at = control.end() if control else at + 1
            if control:
                what = control[2] + control[1]
                assert what in ("A", "J", "K", "H", "J2"), repr(control[0])
                row, column = (row - 1, column) if what == "A" else (0, 0) if what == "H" else (row, column)
                assert row >= 0
                if what == "J2":
                    lines = [""] * (row + 1)
                elif what in ("J", "K"):
                    lines[row] = lines[row][:column]
                    lines = lines[:row + 1] if what == "J" else lines
            elif char == "\r":
                column = 0
            elif char == "\n" or column == self.columns:
                row, column = row + 1, column if char == "\n" else 0
                lines += [""] * (row + 1 - len(lines))
            if not control and char not in "\r\n":
                lines[row] = lines[row][:column].ljust(column) + char + lines[row][column + 1:]
                column += 1
        return lines

    def wait_for(self, pattern, timeout_s=120):
        """Until it stands there, wherever lines end. Returns the match."""
        try:
            return wait_until(lambda: re.search(pattern, " ".join(" ".join(self.screen()).split())), pattern, timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error} on this screen:\n" + "\n".join(self.screen())) from None

    def end(self, number=signal.SIGINT):
        """Returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(30)
        self.reader.join(10)
        os.close(self.ours)
        return code
