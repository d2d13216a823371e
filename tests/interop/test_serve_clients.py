# SPDX-License-Identifier: GPL-2.0-or-later
"""Each client of others, over TLS by keys and by certificates; and qemu-nbd, which serves to others what it has from us."""
import json
import os
import pathlib
import shutil
import tempfile
import types
import urllib.parse

import pytest

from keys import make_certificates, make_psk, need
from serving import run

nbd = pytest.importorskip("nbd")

MIB = 1 << 20
SIZE = MIB + 512 * 7
NOBODY = 65534


class Secrets:
    """Of one kind, in a folder as all of these clients expect it."""

    def __init__(self, kind, folder):
        self.kind, self.folder = kind, folder
        if kind == "psk":
            make_psk(folder / "keys.psk", "alice")
            self.server = ["--tls-psk", folder / "keys.psk"]
        else:
            self.folder = make_certificates(folder)
            self.server = [f"--tls-certificates={self.folder}", "--tls-verify-peer"]
        self.home = folder

    def for_nobody(self):
        """Words before a command that runs it as another user, who has certificates where libnbd looks by itself: root has no such place."""
        place = self.home / ".pki/libnbd"
        shutil.copytree(self.folder, place)
        if os.geteuid():
            return []
        os.chmod(self.home, 0o755)
        for path in place.iterdir():
            os.chown(path, NOBODY, NOBODY)
        return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]

    def uri(self, port):
        """As libnbd's tools take it."""
        if self.kind == "psk":
            return f"nbds://alice@localhost:{port}/?tls-psk-file={self.folder}/keys.psk"
        return f"nbds://localhost:{port}/?tls-certificates={self.folder}"

    def qemu(self, port):
        kind = "tls-creds-psk,username=alice" if self.kind == "psk" else "tls-creds-x509,verify-peer=yes"
        return ["--object", f"{kind},id=t,dir={self.folder},endpoint=client", "--image-opts", f"driver=nbd,host=localhost,port={port},tls-creds=t"]


@pytest.fixture(scope="module")
def secrets(request):
    with tempfile.TemporaryDirectory(prefix="blkmove-it-") as folder:
        yield Secrets(request.param, pathlib.Path(folder))


def by_nbdinfo(place, data, **_):
    info = json.loads(run("nbdinfo", "--json", place.uri))
    assert info["TLS"] and info["exports"][0]["export-size"] == len(data)


def by_nbddump(place, data, **_):
    assert data[:16].hex(" ") in run("nbddump", "--length=16", place.uri).replace("  ", " ")


def by_nbdcopy(place, data, folder, **_):
    run("nbdcopy", place.uri, folder / "read")
    assert (folder / "read").read_bytes() == data
    (folder / "write").write_bytes(data[::-1])
    run("nbdcopy", folder / "write", place.uri)
    return data[::-1]


def by_libnbd(place, data, **_):
    handle = nbd.NBD()
    handle.set_uri_allow_local_file(True)
    handle.connect_uri(place.uri)
    assert handle.get_tls_negotiated() and handle.pread(len(data), 0) == data
    handle.pwrite(b"libnbd" * 100, 1000, nbd.CMD_FLAG_FUA)
    handle.shutdown()
    return data[:1000] + b"libnbd" * 100 + data[1600:]


def by_qemu_img(place, data, folder, **_):
    run("qemu-img", "convert", *place.qemu[:2], "--image-opts", "-O", "raw", place.qemu[3], folder / "read")
    assert (folder / "read").read_bytes() == data


def by_qemu_io(place, data, **_):
    said = run("qemu-io", *place.qemu, "-c", "write -f -P 7 4096 70000", "-c", "read -P 7 4096 70000")
    assert "rror" not in said and "failed" not in said, said
    return data[:4096] + b"\7" * 70000 + data[74096:]


def by_qemu_nbd(place, data, servers, **_):
    front = servers.qemu_of(place.qemu)
    handle = nbd.NBD()
    handle.connect_uri(front.uri)
    assert handle.pread(len(data), 0) == data
    handle.pwrite(b"q" * 4096, 8192)
    handle.flush()
    handle.shutdown()
    return data[:8192] + b"q" * 4096 + data[12288:]


def by_fio(place, data, secrets, **_):
    """It lets no URI name files, so that they can only be where libnbd looks by itself: certificates."""
    if "nbd" not in run("fio", "--enghelp"):
        pytest.skip("this fio has no nbd engine")
    run(*secrets.for_nobody(), "fio", "--name=x", "--ioengine=nbd", f"--uri=nbds://localhost:{place.port}/", "--rw=randwrite", "--bs=4k",
        "--iodepth=8", "--size=1M", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--verify_state_save=0", cwd="/",
        env={"HOME": str(secrets.home), "PATH": "/usr/bin:/bin"})
    return None


PEERS = {"nbdinfo": by_nbdinfo, "nbddump": by_nbddump, "nbdcopy": by_nbdcopy, "libnbd": by_libnbd, "qemu-img": by_qemu_img,
         "qemu-io": by_qemu_io, "qemu-nbd": by_qemu_nbd, "fio": by_fio}
EACH = [(kind, peer) for kind in ("psk", "x509") for peer in PEERS if (kind, peer) != ("psk", "fio")]


@pytest.mark.parametrize("secrets,peer", EACH, indirect=["secrets"])
def test_tls_with_each(secrets, peer, random, folder, serve, servers):
    """None of them gets in without, and what each reads and writes is so."""
    if peer != "libnbd":
        need(peer)
    data = random.randbytes(SIZE)
    (folder / "image").write_bytes(data)
    server = serve(folder / "image", *secrets.server, listen="nbds://localhost:0")
    port = urllib.parse.urlparse(server.uri).port
    place = types.SimpleNamespace(port=port, uri=secrets.uri(port), qemu=secrets.qemu(port))
    with pytest.raises(nbd.Error):
        nbd.NBD().connect_tcp("localhost", str(port))
    expected = PEERS[peer](place, data, folder=folder, servers=servers, secrets=secrets)
    server.stop()
    got = (folder / "image").read_bytes()
    assert got != data if peer == "fio" else got == (expected or data)


@pytest.mark.parametrize("form", ["uri", "json"])
def test_qemu_nbd_serves_on_what_it_has_from_us(form, random, folder, serve, servers):
    """What is written through either is read through the other."""
    need("qemu-nbd")
    model = bytearray(random.randbytes(SIZE))
    (folder / "image").write_bytes(model)
    server = serve(folder / "image")
    image = server.uri
    if form == "json":
        image = "json:" + json.dumps({"driver": "raw", "file": {"driver": "nbd", "server": {"type": "unix", "path": str(server.socket)}}})
    front = servers.qemu(image)
    through, direct = nbd.NBD(), server.connect()
    through.connect_uri(front.uri)
    assert through.get_size() == SIZE and through.pread(SIZE, 0) == model
    for step in range(40):
        one, other = (through, direct) if step % 2 else (direct, through)
        length = random.choice((512, 4096, 70000, 300000)) // 512 * 512
        offset = random.randrange((SIZE - length) // 512) * 512
        if random.random() < 0.3:
            one.zero(length, offset)
            model[offset:offset + length] = bytes(length)
        else:
            model[offset:offset + length] = random.randbytes(length)
            one.pwrite(bytes(model[offset:offset + length]), offset)
        assert other.pread(length, offset) == model[offset:offset + length]
    through.trim(65536, 0)
    model[:65536] = direct.pread(65536, 0)
    through.flush()
    through.shutdown()
    front.stop()
    server.stop()
    assert (folder / "image").read_bytes() == model
