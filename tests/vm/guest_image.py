# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes guests out of Debian packages: a kernel, an initramfs that finds the root, and a root image that is never written.

The cache folder ($BLKMOVE_VM_CACHE, else ~/.cache/blkmove-vm) holds, and may be deleted at any time when no guest runs:
  apt/, debs/      a private apt: the host's own Debian suites and the backports of its release. Nothing of /etc changes.
  KERNEL-HASH/     one guest: vmlinuz, initramfs, root.ext4, busybox. HASH is of the recipe; those not used for a while are removed.
Needs no root, no loop device, and the network only for what the cache does not hold yet.
"""
import contextlib
import fcntl
import hashlib
import lzma
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time
from typing import NamedTuple

HERE = pathlib.Path(__file__).resolve().parent
STALE_S = 7 * 24 * 3600
# What apt may take: a network that is too slow for it is none.
FETCH_S = 900

# The userland: what tests call, the volume managers that a volume may lie under, and the libraries that blkmove links.
PACKAGES = """
    busybox-static bash dash coreutils diffutils findutils grep sed gawk procps util-linux mount kmod iproute2 iputils-ping xxd socat strace
    python3 e2fsprogs xfsprogs mdadm dmsetup lvm2 thin-provisioning-tools cryptsetup-bin drbd-utils nbd-client nbdkit libnbd-bin qemu-utils fio
    openssh-client openssh-server liburing2 libaio1 libnbd0 libgnutls30 libzstd1 libjansson4 libblkid1 libisal2""".split()

# Modules, or folders of them, that a guest can load.
MODULES = """
    arch/x86/crypto block crypto fs lib mm net/9p net/core net/sched net/ipv4 net/ipv6 net/netfilter net/802 net/llc net/bridge net/packet
    net/tls net/sunrpc drivers/block drivers/md drivers/nvme drivers/target drivers/scsi drivers/virtio drivers/char drivers/ata
    drivers/vhost drivers/dca drivers/cdrom drivers/dax drivers/nvdimm drivers/uio drivers/net/virtio_net drivers/net/net_failover
    drivers/net/dummy drivers/net/veth drivers/net/tun""".split()

# Those that find and mount the root, with what they need, are in the initramfs.
BOOT_MODULES = "virtio_blk virtio_pci ext4 crc32c_generic overlay".split()

ROOT_FOLDERS = "dev proc sys run tmp mnt root etc/lvm".split()
ROOT_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\n",
    "etc/group": "root:x:0:\n",
    "etc/nsswitch.conf": "hosts: files\n",
    "etc/hosts": "127.0.0.1 localhost\n10.77.0.1 node1\n10.77.0.2 node2\n",
    # There is no udevd to wait for.
    "etc/lvm/lvmlocal.conf": "activation { udev_sync = 0 udev_rules = 0 monitoring = 0 }\n"
                             "devices { obtain_device_list_from_udev = 0 }\n",
}
DOCUMENTS = [f"--exclude=./usr/share/{name}/*" for name in ("doc", "man", "locale", "info")]


class NoGuest(Exception):
    """No guest can be made here; the text says why and what to do."""


class Image(NamedTuple):
    """Files of one guest. busybox is static: it makes cpio archives on any host."""
    vmlinuz: pathlib.Path
    initramfs: pathlib.Path
    root: pathlib.Path
    busybox: pathlib.Path


def cache_folder():
    named = os.environ.get("BLKMOVE_VM_CACHE")
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(named or f"{caches}/blkmove-vm").absolute()


def run(*words, **how):
    """Returns what it prints."""
    # mke2fs is in sbin, which is not in everybody's path.
    env = dict(os.environ, PATH=os.environ.get("PATH", "") + ":/usr/sbin:/sbin", LC_ALL="C.UTF-8", **how.pop("env", {}))
    try:
        return subprocess.run([str(word) for word in words], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=True,
                              text=True, **how).stdout
    except FileNotFoundError as error:
        raise NoGuest(f"cannot make a guest: there is no {words[0]} here; scripts/setup vm installs what is needed") from error
    except subprocess.TimeoutExpired as error:
        raise NoGuest(f"cannot make a guest: {' '.join(map(str, words[:2]))} took longer than {error.timeout:.0f} s") from error
    except subprocess.CalledProcessError as error:
        raise NoGuest(f"cannot make a guest: {words[0]} failed with {error.returncode}: {cause_of(error.stderr)}") from error


def cause_of(text):
    """One line of what a program said: apt's first error, or the last line of another's."""
    lines = text.strip().splitlines() or ["it says nothing"]
    return next((line for line in lines if line.startswith("E: ")), lines[-1])


def pack_cpio(folder, archive, busybox):
    run("sh", "-c", 'find . | "$1" cpio -o -H newc > "$2"', "sh", busybox, archive, cwd=folder)


class Apt:
    """An apt of its own with an empty dpkg status: each set of packages is complete, whatever the host has installed."""

    def __init__(self, cache):
        self.folder, self.debs = cache / "apt", cache / "debs"
        self.conf, self.sources = self.folder / "conf", self.folder / "sources.list"
        self.empty = self.folder / "none"
        for path in self.folder / "lists/partial", self.empty / "partial", self.debs / "partial":
            path.mkdir(parents=True, exist_ok=True)

    def __call__(self, *words):
        return run(*words, env={"APT_CONFIG": str(self.conf)}, timeout=FETCH_S).splitlines()

    def _suites(self):
        """(URI, suite) pairs of the host's own release, and its backports, which have the newer kernel."""
        try:
            release = pathlib.Path("/etc/os-release").read_text(encoding="utf-8")
        except OSError:
            release = ""
        codename = re.search(r'^VERSION_CODENAME="?(\w+)', release, re.M)
        if not codename:
            raise NoGuest("cannot make a guest: this is no Debian, and guests are made of the host's packages")
        codename = codename[1]
        rows = run("apt-get", "indextargets", "--no-release-info", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages")
        suites = {tuple(row.split()) for row in rows.splitlines() if row.strip()}
        mirrors = sorted(uri for uri, suite in suites if suite == codename)
        if not mirrors:
            raise NoGuest(f"cannot make a guest: this machine's apt knows no suite {codename}; apt-get update may help")
        own = {(uri, suite) for uri, suite in suites if suite.startswith(codename)}
        return sorted(own | {(mirrors[0], f"{codename}-backports")})

    def update(self):
        key = "/usr/share/keyrings/debian-archive-keyring.gpg"
        self.sources.write_text("".join(f"deb [signed-by={key}] {uri} {suite} main\n" for uri, suite in self._suites()))
        (self.folder / "status").write_text("")
        settings = {
            "Dir::State": self.folder, "Dir::State::lists": self.folder / "lists", "Dir::State::status": self.folder / "status",
            "Dir::Cache": self.folder, "Dir::Cache::archives": self.debs, "Dir::Etc::sourcelist": self.sources,
            "Dir::Etc::sourceparts": self.empty, "Dir::Etc::preferencesparts": self.empty, "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "", "Acquire::Languages": "none", "Acquire::Retries": "2", "Acquire::http::Timeout": "20",
            "Acquire::https::Timeout": "20", "Acquire::ForceHash": "sha256",
        }
        self.conf.write_text("".join(f'{name} "{value}";\n' for name, value in settings.items()))
        self("apt-get", "-qq", "--error-on=any", "update")

    def fetch(self, kernel, packages):
        """Downloads the newest kernel whose version begins so, and the packages with all they need: (the kernel's file, the others').

        Without a network, what was downloaded before will do, if it is all there."""
        trouble = None
        try:
            self.update()
        except NoGuest as error:
            trouble = error
        try:
            return self._fetch_listed(kernel, packages)
        except NoGuest as error:
            raise trouble or error from None

    def _fetch_listed(self, kernel, packages):
        records = "\n".join(self("apt-cache", "show", "linux-image-amd64"))
        found = re.search(rf"^Depends: (linux-image-{re.escape(kernel)}[.-]\S*) \(= (\S+)\)", records, re.M)
        if not found:
            raise NoGuest(f"cannot make a guest: no kernel {kernel} in this machine's Debian suites or backports")
        install = ["apt-get", "install", "-qqy", f"{found[1]}={found[2]}", *packages]
        # With an empty archive folder the plan names what is downloaded already, too.
        plan = [row.split() for row in self(*install, "--print-uris", "-o", f"Dir::Cache::archives={self.empty}") if row.startswith("'")]
        for _, name, _, hash_of_it in plan:
            # apt checks what it downloads, but takes an older file by its size.
            path = self.debs / name
            if path.exists() and hash_of_it != "SHA256:" + hashlib.sha256(path.read_bytes()).hexdigest():
                path.unlink()
        self(*install, "--download-only")
        files = [self.debs / name for _, name, *_ in plan]
        image = next(path for path in files if path.name.startswith(found[1] + "_"))
        return image, [path for path in files if path != image]


class Recipe:
    """Makes one guest in a folder of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.root, self.kernel, self.initramfs = folder / "root", folder / "kernel", folder / "initramfs"
        self.version = None
        self.modules = None

    def make(self, kernel_deb, debs):
        self._unpack(debs)
        self._unpack_kernel(kernel_deb)
        shutil.copy(self.root / "bin/busybox", self.folder / "busybox")
        self._fill_initramfs()
        pack_cpio(self.initramfs, self.folder / "initramfs.cpio", self.folder / "busybox")
        self._make_root_image()
        return Image(self.kernel / f"boot/vmlinuz-{self.version}", self.folder / "initramfs.cpio", self.folder / "root.ext4",
                     self.folder / "busybox")

    def _unpack(self, debs):
        """No maintainer's script is run; what little of /etc is needed is ours."""
        for name in ("bin", "sbin", "lib", "lib64"):
            (self.root / "usr" / name).mkdir(parents=True)
            (self.root / name).symlink_to(f"usr/{name}")
        for deb in debs:
            with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as tar:
                run("tar", "-C", self.root, "--keep-directory-symlink", "--no-same-owner", *DOCUMENTS, "-xf", "-", stdin=tar.stdout)
        for name in ROOT_FOLDERS:
            (self.root / name).mkdir(parents=True, exist_ok=True)
        for name, text in ROOT_FILES.items():
            (self.root / name).write_text(text)

    def _unpack_kernel(self, deb):
        run("dpkg-deb", "-x", deb, self.kernel)
        source = next((self.kernel / "lib/modules").iterdir())
        self.version = source.name
        self.modules = self.root / "lib/modules" / self.version
        self.modules.mkdir(parents=True)
        for path in source.glob("modules.*"):
            shutil.copy(path, self.modules)
        for name in MODULES:
            folder, copy = source / "kernel" / name, self.modules / "kernel" / name
            if folder.is_dir():
                shutil.copytree(folder, copy)
            for path in folder.parent.glob(f"{folder.name}.ko*"):
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, copy.parent)
        # The guest's own depmod: the host may have none.
        run(self.root / "lib64/ld-linux-x86-64.so.2", "--library-path", self.root / "lib/x86_64-linux-gnu", "--argv0", "depmod",
            self.root / "bin/kmod", "-b", self.root, self.version)

    def _boot_modules(self):
        """Paths of the boot modules, each after what it needs."""
        rows = (row.rstrip().split(":", 1) for row in (self.modules / "modules.dep").read_text().splitlines())
        needs = {path: words.split() for path, words in rows}
        order = []
        for wanted in BOOT_MODULES:
            # One that is not found is built into this kernel.
            for path in (path for path in needs if module_name(path) == wanted):
                order += [module for module in (*reversed(needs[path]), path) if module not in order]
        return order

    def _fill_initramfs(self):
        for name in ("bin", "dev", "sys", "proc", "low", "rw", "new", "mods"):
            (self.initramfs / name).mkdir(parents=True)
        shutil.copy(self.root / "bin/busybox", self.initramfs / "bin")
        order = self._boot_modules()
        for path in order:
            data = (self.modules / path).read_bytes()
            (self.initramfs / "mods" / module_name(path)).write_bytes(lzma.decompress(data) if path.endswith(".xz") else data)
        (self.initramfs / "mods/order").write_text("\n".join(map(module_name, order)))
        shutil.copy(HERE / "guest/initramfs-init", self.initramfs / "init")

    def _make_root_image(self):
        used_mib = int(run("du", "-sm", self.root).split()[0])
        run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m0", "-d", self.root, self.folder / "root.ext4",
            f"{used_mib * 5 // 4 + 64}M")


def module_name(path):
    return os.path.basename(path).split(".ko")[0].replace("-", "_")


class Cache:
    """The guests that there are, and how to have another."""

    def __init__(self, folder=None):
        self.folder = folder or cache_folder()

    def _guest_folder(self, kernel):
        recipe = hashlib.sha256(pathlib.Path(__file__).read_bytes())
        recipe.update((HERE / "guest/initramfs-init").read_bytes())
        return self.folder / f"{kernel}-{recipe.hexdigest()[:12]}"

    def image(self, kernel):
        """The guest with that kernel ("6.1", "6.12"), made if need be. One at a time makes one. Raises NoGuest."""
        folder = self._guest_folder(kernel)
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                self._make(kernel, folder)
            os.utime(folder)
            self._remove_stale(folder)
        return Image(folder / "vmlinuz", folder / "initramfs.cpio", folder / "root.ext4", folder / "busybox")

    def _make(self, kernel, folder):
        with tempfile.TemporaryDirectory(prefix="new-", dir=self.folder) as work:
            work = pathlib.Path(work)
            made = Recipe(work).make(*Apt(self.folder).fetch(kernel, PACKAGES))
            whole = work / "whole"
            whole.mkdir()
            for path, name in zip(made, ("vmlinuz", "initramfs.cpio", "root.ext4", "busybox")):
                path.rename(whole / name)
            # Only a whole one gets the name.
            whole.rename(folder)

    def _remove_stale(self, used):
        for folder in self.folder.glob("[0-9]*-*"):
            if folder != used and time.time() - folder.stat().st_mtime > STALE_S:
                with contextlib.suppress(OSError):
                    shutil.rmtree(folder)
