# SPDX-License-Identifier: GPL-2.0-or-later
"""Every kind of endpoint over a file of the test's own, which is written and read without the program under test."""
import subprocess



class Volume:
    """A volume with `image` in it. `words` name it on a command line."""

    align = 1          # of sizes
    resizable = False  # by the program
    creatable = False

    def __init__(self, world, name, image):
        self.path = world.folder / name
        self.size = len(image.data)
        image.write(self.path)
        self.words = self.open(world)

    def open(self, world):
        return [self.path]

    def read(self):
        return self.path.read_bytes()


class File(Volume):
    resizable = creatable = True


class Ssh(Volume):
    resizable = creatable = True

    def open(self, world):
        return [f"other:{self.path}"]


class LoopDevice(Volume):
    align = 512

    def open(self, world):
        self.device = world.loops.attach(self.path)
        return [self.device]


class SshLoop(LoopDevice):
    def open(self, world):
        return [f"other:{super().open(world)[0]}"]


class NbdkitUnix(Volume):
    tcp = False

    def open(self, world):
        return [world.servers.nbdkit("file", self.path, tcp=self.tcp).uri]


class NbdkitTcp(NbdkitUnix):
    tcp = True


class QemuUnix(Volume):
    align = 512
    tcp = False

    def open(self, world):
        return [world.servers.qemu(self.path, tcp=self.tcp).uri]


class QemuTcp(QemuUnix):
    tcp = True


class CaptiveNbdkit(Volume):
    def open(self, world):
        return ["[", "nbdkit", "file", self.path, "]"]


class CaptiveQcow2(Volume):
    align = 512

    def open(self, world):
        self.qcow2 = self.path.with_suffix(".qcow2")
        if self.size:
            subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", self.path, self.qcow2], check=True)
        else:
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", self.qcow2, "0"], check=True)
        return ["[", "qemu-nbd", "-f", "qcow2", "--discard=unmap", self.qcow2, "]"]

    def read(self):
        subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", self.qcow2, self.path], check=True)
        return super().read()


KINDS = {"file": File, "loop": LoopDevice, "ssh": Ssh, "ssh-loop": SshLoop, "nbdkit-unix": NbdkitUnix, "nbdkit-tcp": NbdkitTcp,
         "qemu-unix": QemuUnix, "qemu-tcp": QemuTcp, "nbdkit-captive": CaptiveNbdkit, "qcow2-captive": CaptiveQcow2}
