/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Certificates for tests, made by certtool in the test's own folder, as the tools' manuals say. After own_folder.h and shell.h. */
#pragma once

#include <stdio.h>

/* DIR/ca-cert.pem, which signs itself. */
static __attribute__((unused)) void keys_make_authority(const char *dir)
{
	need("certtool");
	run("cd %s && mkdir -p %s && cd %s && certtool --generate-privkey --ecc --outfile ca-key.pem "
	    "2>ca.log && "
	    "printf 'cn = authority\nca\ncert_signing_key\n' >ca.info && certtool --generate-self-signed "
	    "--load-privkey ca-key.pem --template ca.info --outfile ca-cert.pem 2>>ca.log",
	    folder, dir, dir);
}

/* DIR/WHO-cert.pem and DIR/WHO-key.pem, signed by the authority there; `info` are lines of certtool's template. */
static __attribute__((unused)) void keys_sign(const char *dir, const char *who, const char *info)
{
	run("cd %s/%s && printf '%s' >%s.info && certtool --generate-privkey --ecc --outfile %s-key.pem "
	    "2>%s.log && "
	    "printf 'encryption_key\nsigning_key\n' >>%s.info && certtool --generate-certificate "
	    "--load-ca-certificate ca-cert.pem --load-ca-privkey ca-key.pem --load-privkey %s-key.pem "
	    "--template %s.info --outfile %s-cert.pem 2>>%s.log",
	    folder, dir, info, who, who, who, who, who, who, who, who);
}
