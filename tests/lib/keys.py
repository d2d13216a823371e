# SPDX-License-Identifier: GPL-2.0-or-later
"""Keys and certificates for TLS, in the layout that QEMU, nbdkit, libnbd and the program share."""
import shutil
import subprocess

import pytest


def need(name):
    if not shutil.which(name):
        pytest.skip(f"{name} is not installed")


def make_psk(path, user):
    """A file with one user's key. Returns its path."""
    need("psktool")
    subprocess.run(["psktool", "-u", user, "-p", path], check=True, capture_output=True)
    return path


def make_certificates(folder, addresses=()):
    """An authority, and what it signed for localhost and for us, and for these addresses."""
    need("certtool")
    pki = folder / "pki"
    pki.mkdir()
    templates = {"ca": "cn = authority\nca\ncert_signing_key\n",
                 "server": "cn = localhost\ndns_name = localhost\ntls_www_server\nencryption_key\nsigning_key\n",
                 "client": "cn = client\ntls_www_client\nencryption_key\nsigning_key\n"}
    own = "".join(f'ip_address = "{address}"\n' for address in addresses)
    for name, template in templates.items():
        (pki / f"{name}.info").write_text(template + (own if name != "ca" else ""))
        subprocess.run(["certtool", "--generate-privkey", "--ecc", "--outfile", pki / f"{name}-key.pem"], check=True, capture_output=True)
        sign = ["--generate-self-signed"] if name == "ca" else ["--generate-certificate", "--load-ca-certificate", pki / "ca-cert.pem",
                                                                "--load-ca-privkey", pki / "ca-key.pem"]
        subprocess.run(["certtool", *sign, "--load-privkey", pki / f"{name}-key.pem", "--template", pki / f"{name}.info",
                        "--outfile", pki / f"{name}-cert.pem"], check=True, capture_output=True)
    return pki
