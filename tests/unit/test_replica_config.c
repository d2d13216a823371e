/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The file of a replicated volume: what each key comes to, and a table of what is refused, in which line and with which words. */
#include "cli/replica_config.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define RESOURCE "[resource]\nname = r0\nexport = nbd+unix:///?socket=/run/r0\n" /* 3 lines */
#define ALPHA    "[host alpha]\naddress = 10.0.0.1:7789\ndevice = /dev/vg/a\n"
#define BETA     "[host beta]\naddress = 10.0.0.2:7789\ndevice = /dev/vg/b\n"
#define X10      "xxxxxxxxxx"
#define X50      X10 X10 X10 X10 X10

static int parse(
    struct replica_config **ret, const char *text, const char *host, const char *machine, struct error *error)
{
	const struct replica_config_text in = {
	    .path = "/etc/r0.ini", .text = text, .length = strlen(text), .host = host, .machine = machine};

	error->text[0] = '\0';
	return replica_config_parse(ret, &in, error);
}

static struct replica_config *parse_good(const char *text)
{
	struct replica_config *config = NULL;
	struct error error;

	if (parse(&config, text, NULL, "alpha", &error) < 0)
		fail_msg("%s\nin\n%s", error.text, text);
	return config;
}

/* One resource key with a value, and two hosts. */
static struct replica_config *parse_key(const char *line)
{
	char text[8192];

	snprintf(text, sizeof(text), RESOURCE "%s\n" ALPHA BETA, line);
	return parse_good(text);
}

static void test_defaults(void **state)
{
	struct replica_config *config = parse_good(RESOURCE ALPHA BETA);
	const struct replica_config_host *self = replica_config_self(config);
	const struct replica_config_host *other = replica_config_other(config);

	assert_string_equal(config->path, "/etc/r0.ini");
	assert_string_equal(config->name, "r0");
	assert_int_equal(config->ack, REPLICATE_DURABLE);
	assert_int_equal(config->gone, REPLICA_GONE_CONTINUE);
	assert_true(config->detach && config->pull_ahead);
	assert_false(config->compare || config->compress);
	assert_null(config->fence_hook);
	assert_null(config->before_resync);
	assert_null(config->device);
	assert_null(config->tls_psk);
	assert_int_equal(config->governor.max_rate + config->governor.min_rate + config->governor.target_ns +
	                     config->governor.impact + config->verify_every_s,
	    0);
	assert_int_equal(config->queue_max, 16 << 20);
	assert_int_equal(config->timeout_ms, 10000);
	assert_string_equal(self->name, "alpha");
	assert_string_equal(self->address, "10.0.0.1:7789");
	assert_string_equal(self->address_host, "10.0.0.1");
	assert_string_equal(self->address_port, "7789");
	assert_string_equal(self->device, "/dev/vg/a");
	assert_null(self->map);
	assert_string_equal(other->name, "beta");
	assert_string_equal(other->device, "/dev/vg/b");
	assert_int_equal(replica_config_exports(config, other)->count, 1);
	assert_string_equal(replica_config_exports(config, other)->uris[0], "nbd+unix:///?socket=/run/r0");
	replica_config_free(config);
}

/* One line in [resource], and what a number of the config is then. */
struct number_row {
	const char *line;
	size_t offset, size;
	uint64_t value;
};

#define ROW(line, field, value) \
	{ \
		line, offsetof(struct replica_config, field), \
		    sizeof(((struct replica_config *)NULL)->field), value \
	}

static const struct number_row numbers[] = {
    ROW("ack = sent", ack, REPLICATE_SENT),
    ROW("ack = received", ack, REPLICATE_RECEIVED),
    ROW("ack = durable", ack, REPLICATE_DURABLE),
    ROW("ack=sent", ack, REPLICATE_SENT),
    ROW("  \t ack  =\tsent  ", ack, REPLICATE_SENT),
    ROW("ack = sent\r", ack, REPLICATE_SENT),
    ROW("# ack = received\n; ack = durable\n\nack = sent", ack, REPLICATE_SENT),
    ROW("on-split-brain = disconnect", ack, REPLICATE_DURABLE),
    ROW("on-io-error = pass-on", detach, false),
    ROW("on-io-error = detach", detach, true),
    ROW("on-peer-gone = continue", gone, REPLICA_GONE_CONTINUE),
    ROW("on-peer-gone = freeze", gone, REPLICA_GONE_FREEZE),
    ROW("resync-rate = 100M", governor.max_rate, 100 << 20),
    ROW("resync-rate = none", governor.max_rate, 0),
    ROW("resync-min-rate = 4096", governor.min_rate, 4096),
    ROW("resync-rate = 4k\nresync-min-rate = 4k", governor.min_rate, 4096),
    ROW("latency-target = 5ms", governor.target_ns, 5000000),
    ROW("latency-target = 0.5s", governor.target_ns, 500000000),
    ROW("latency-target = none", governor.target_ns, 0),
    ROW("compare = yes", compare, true),
    ROW("compare = no", compare, false),
    ROW("verify-digest = gmac", verify_every_s, 0),
    ROW("verify-every = 7d", verify_every_s, 7 * 86400),
    ROW("verify-every = 2w", verify_every_s, 14 * 86400),
    ROW("verify-every = 12h", verify_every_s, 12 * 3600),
    ROW("verify-every = 1min", verify_every_s, 60),
    ROW("verify-every = 90s", verify_every_s, 90),
    ROW("verify-every = 3650d", verify_every_s, 3650ull * 86400),
    ROW("verify-every = none", verify_every_s, 0),
    ROW("queue = 1M", queue_max, 1 << 20),
    ROW("region-size = 4k", region_size, 4096),
    ROW("region-size = 1M", region_size, 1 << 20),
    ROW("queue = 64G", queue_max, 64ull << 30),
    ROW("congestion = wait", pull_ahead, false),
    ROW("congestion = pull-ahead", pull_ahead, true),
    ROW("compress = yes", compress, true),
    ROW("timeout = 200ms", timeout_ms, 200),
    ROW("timeout = 600s", timeout_ms, 600000),
    ROW("timeout = 3000", timeout_ms, 3000),
};

static void test_numbers(void **state)
{
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		struct replica_config *config = parse_key(numbers[i].line);
		uint64_t value = 0;

		print_message("  %s\n", numbers[i].line);
		memcpy(&value, (const char *)config + numbers[i].offset, numbers[i].size);
		assert_int_equal(value, numbers[i].value);
		replica_config_free(config);
	}
}

static void test_texts(void **state)
{
	/* What follows a ';' is a part of a command, not a comment that is lost in silence. */
	struct replica_config *config =
	    parse_key("fence-hook = /bin/fence --port=3 ; echo 'ü # x'\nbefore-resync = lvcreate -s vg/r0\n"
	              "device = r0.dev\ntls-psk = /etc/k e y\ntls-user = alice");

	assert_string_equal(config->fence_hook, "/bin/fence --port=3 ; echo 'ü # x'");
	assert_string_equal(config->before_resync, "lvcreate -s vg/r0");
	assert_string_equal(config->device, "r0.dev");
	assert_string_equal(config->tls_psk, "/etc/k e y");
	assert_string_equal(config->tls_user, "alice");
	replica_config_free(config);
	config = parse_key("tls-certificates = /etc/pki");
	assert_string_equal(config->tls_certificates, "/etc/pki");
	replica_config_free(config);
	config = parse_good("\xef\xbb\xbf[resource]\ndevice = d\nname = R-1.x_y\n" BETA ALPHA "map = /m");
	assert_string_equal(config->name, "R-1.x_y");
	assert_string_equal(replica_config_self(config)->name, "alpha");
	assert_string_equal(replica_config_self(config)->map, "/m");
	replica_config_free(config);
}

/* A long line is taken as a whole: libinih as it is built cuts it into two. */
static void test_long_line(void **state)
{
	char line[4200];
	struct replica_config *config;

	snprintf(line, sizeof(line), "fence-hook = /%04000d", 7);
	config = parse_key(line);
	assert_int_equal(strlen(config->fence_hook), 4001);
	replica_config_free(config);
}

static void test_exports(void **state)
{
	struct replica_config *config = parse_good(
	    "[resource]\nname = r0\nexport = nbd://10.0.0.5/r0  nbd+unix:///r0?socket=/run/r0\n" ALPHA
	    "export = nbd://[::1]:10810\n" BETA);
	const struct replica_config_exports *exports = replica_config_exports(config, &config->hosts[1]);

	assert_int_equal(exports->count, 2);
	assert_string_equal(exports->uris[0], "nbd://10.0.0.5/r0");
	assert_string_equal(exports->uris[1], "nbd+unix:///r0?socket=/run/r0");
	exports = replica_config_exports(config, &config->hosts[0]);
	assert_int_equal(exports->count, 1);
	assert_string_equal(exports->uris[0], "nbd://[::1]:10810");
	replica_config_free(config);
	/* One host by NBD, the other by NBD, too, but of its own. */
	config = parse_good("[resource]\n" ALPHA "export = nbd://h\n" BETA "export = nbd://h");
	assert_string_equal(config->name, "r0");
	replica_config_free(config);
}

static const struct {
	const char *address, *host, *port;
} addresses[] = {
    {"h:1", "h", "1"},
    {"beta.example.com:65535", "beta.example.com", "65535"},
    {"[fd00::2]:7789", "fd00::2", "7789"},
    {"[fe80::1%eth0]:7789", "fe80::1%eth0", "7789"},
    {"a-b_c:80", "a-b_c", "80"},
};

static void test_addresses(void **state)
{
	for (size_t i = 0; i < sizeof(addresses) / sizeof(addresses[0]); i++) {
		char text[512];
		struct replica_config *config;

		snprintf(text, sizeof(text), RESOURCE ALPHA "[host beta]\ndevice = /b\naddress = %s",
		    addresses[i].address);
		config = parse_good(text);
		assert_string_equal(replica_config_other(config)->address, addresses[i].address);
		assert_string_equal(replica_config_other(config)->address_host, addresses[i].host);
		assert_string_equal(replica_config_other(config)->address_port, addresses[i].port);
		replica_config_free(config);
	}
}

/* What is refused: the words begin with the file, the line (0: none), and have this in them. */
static const struct {
	const char *text;
	unsigned line;
	const char *words;
} bad[] = {
    {"", 0, "there is no section [resource]"},
    {"# nothing\n", 0, "there is no section [resource]"},
    {ALPHA BETA, 0, "there is no section [resource]"},
    {RESOURCE, 0, "there is no host"},
    {RESOURCE ALPHA, 0, "there is one host only"},
    {RESOURCE ALPHA BETA "[host gamma]\naddress = c:1\n", 10, "[host gamma] is one host too many"},
    {RESOURCE ALPHA BETA "[host Alpha]\n", 10, "[host Alpha] is in line 4 already"},
    {RESOURCE ALPHA BETA "[resource]\n", 10, "[resource] is in line 1 already"},
    {RESOURCE "[host]\n", 4, "[host]: write the host's name"},
    {RESOURCE "[host a b]\n", 4, "[host a b]: write the host's name"},
    {RESOURCE "[host \"a\"]\n", 4, "write the host's name"},
    {RESOURCE "[hosts a]\n", 4, "there is no section [hosts a]; write [resource] or [host NAME]"},
    {RESOURCE ALPHA BETA "[Resource]", 10, "there is no section [Resource]"},
    {RESOURCE "[]\n", 4, "there is no section []"},
    {RESOURCE "[host alpha\n", 4, "a section is a line [NAME]"},
    {RESOURCE "[host alpha] # here\n", 4, "nothing stands behind it"},
    {RESOURCE "[a]b]\n", 4, "nothing stands behind it"},
    {RESOURCE "[host " X50 "]\n", 4, "write the host's short name"},
    {"name = r0\n", 1, "'name' is in no section"},
    {"[resource]\nname\n", 2, "neither 'key = value' nor [section] nor a comment"},
    {"[resource]\nname = r0\n   more\n", 3, "neither 'key = value'"},
    {"[resource]\n# x\n\nack r0\n" ALPHA BETA, 4, "neither 'key = value'"},
    {"[resource]\n=\n", 2, "there is no key ''"},
    {"[resource]\n= x\n", 2, "there is no key ''"},
    {"[resource]\nname = a\x01\n", 2, "a control character"},
    {"[resource]\nname = a\rb\n", 2, "a control character"},
    {"[resource]\n\nname = a\xff\n", 3, "not UTF-8"},
    {"[resource]\nname = " X50 X50 X50 X50 "\n", 2, "write 1 to 64 letters"},
    {"[resource]\nakc = sent\n", 2,
        "there is no key 'akc' in [resource]; there are name, ack, on-split-brain"},
    {"[resource]\nAck = sent\n", 2, "there is no key 'Ack'"},
    {"[resource]\naddress = h:1\n", 2, "'address' belongs into [host NAME]; move it there"},
    {RESOURCE "[host alpha]\nack = sent\n", 5, "'ack' belongs into [resource]; move it there"},
    {RESOURCE "[host alpha]\nport = 1\n", 5,
        "there is no key 'port' in [host NAME]; there are address, device, map, export"},
    {RESOURCE "ack = sent\nack = sent\n", 5, "ack is in line 4 already; remove one of them"},
    {RESOURCE ALPHA "device = /x\n", 7, "device is in line 6 already"},
    {"[resource]\nack =\n", 2, "ack has no value"},
    {"[resource]\nname = a/b\n", 2, "name = a/b: write 1 to 64 letters"},
    {"[resource]\nname = \"r0\"\n", 2, "write 1 to 64 letters"},
    {"[resource]\nname = .r0\n", 2, "no '.' first"},
    {"[resource]\nname = 12\n", 2, "not digits alone"},
    {"[resource]\nack = C\n", 2, "ack = C: write sent, received or durable"},
    {"[resource]\nack = durable # C\n", 2, "write sent, received or durable"},
    {"[resource]\non-split-brain = discard-older\n", 2, "discard-older: write disconnect"},
    {"[resource]\non-io-error = panic\n", 2, "write pass-on or detach"},
    {"[resource]\non-peer-gone = wait\n", 2, "write continue or freeze"},
    {"[resource]\ncongestion = block\n", 2, "write wait or pull-ahead"},
    {"[resource]\ncompare = true\n", 2, "write no or yes"},
    {"[resource]\ncompress = zstd\n", 2, "write no or yes"},
    {"[resource]\nverify-digest = md5\n", 2, "write gmac"},
    {"[resource]\nverify-every = 7\n", 2, "write a number and one of s, min, h, d and w"},
    {"[resource]\nverify-every = 59s\n", 2, "from 1min"},
    {"[resource]\nverify-every = 3651d\n", 2, "to 3650d"},
    {"[resource]\nverify-every = 99999999999w\n", 2, "to 3650d"},
    {"[resource]\nverify-every = 999999999999999999999d\n", 2, "to 3650d"},
    {"[resource]\nverify-every = -7d\n", 2, "such as 7d"},
    {"[resource]\nverify-every = d\n", 2, "such as 7d"},
    {"[resource]\nregion-size = 2k\n", 2, "from 4k to 1M"},
    {"[resource]\nregion-size = 2M\n", 2, "from 4k to 1M"},
    {"[resource]\nregion-size = 12k\n", 2, "a power of two"},
    {"[resource]\nregion-size = small\n", 2, "a power of two"},
    {"[resource]\nqueue = 1023k\n", 2, "from 1M to 64G"},
    {"[resource]\nqueue = 65G\n", 2, "from 1M to 64G"},
    {"[resource]\nqueue = much\n", 2, "from 1M to 64G"},
    {"[resource]\nresync-rate = fast\n", 2, "such as 100M, or none"},
    {"[resource]\nresync-rate = 0\n", 2, "such as 100M, or none"},
    {"[resource]\nlatency-target = 5us\n", 2, "such as 500ms or 2s, or none"},
    {"[resource]\ntimeout = 199ms\n", 2, "from 200ms to 600s"},
    {"[resource]\ntimeout = 601s\n", 2, "from 200ms to 600s"},
    {"[resource]\ntimeout = none\n", 2, "from 200ms to 600s"},
    {"[resource]\nexport = /run/r0\n", 2, "write nbd://HOST[:PORT][/NAME]"},
    {"[resource]\nexport = nbd://a, nbd://b\n", 2, "several with blanks between"},
    {"[resource]\nexport = nbd://a/x nbd://b/y\n", 2, "the same export's name"},
    {"[resource]\nexport = nbd://a nbd://a nbd://a nbd://a nbd://a nbd://a nbd://a nbd://a nbd://a\n", 2,
        "8 URIs are the most"},
    {"[resource]\ndevice = /dev/vg/a\n", 2, "the one that is replicated belongs into [host ...]"},
    {"[resource]\ndevice = a b\n", 2, "write 1 to 64 letters"},
    {"[resource]\ntls-psk = keys\n", 2, "write the whole path"},
    {"[resource]\ntls-certificates = ~/pki\n", 2, "write the whole path"},
    {RESOURCE "tls-psk = /k\ntls-certificates = /c\n" ALPHA BETA, 5, "exclude each other"},
    {RESOURCE "tls-user = alice\n" ALPHA BETA, 4, "add tls-psk = FILE"},
    {RESOURCE "\ntls-psk = /k\n" ALPHA BETA, 5, "add tls-user = NAME"},
    {RESOURCE "tls-certificates = /c\ntls-user = alice\n" ALPHA BETA, 5, "add tls-psk = FILE"},
    {RESOURCE "resync-min-rate = 2M\nresync-rate = 1M\n" ALPHA BETA, 4, "is more than resync-rate"},
    {"[resource]\n" ALPHA BETA "export = nbd://b", 2, "nobody could use the volume on host alpha"},
    {"[resource]\n" ALPHA "export = nbd://b\n" BETA, 6, "nobody could use the volume on host beta"},
    {"[resource]\nexport = nbds://a\n" ALPHA BETA, 2, "nbds is TLS; name its keys"},
    {RESOURCE ALPHA BETA "export = nbds+unix:///?socket=/x\n", 10, "nbds is TLS; name its keys"},
    {RESOURCE ALPHA "[host beta]\ndevice = /b\n", 7, "[host beta] has no address; add address = HOST:PORT"},
    {RESOURCE ALPHA "[host beta]\naddress = b:1\n", 7, "[host beta] has no device; add device = PATH"},
    {RESOURCE ALPHA "[host beta]\n", 7, "[host beta] has no address"},
    {RESOURCE ALPHA "[host beta]\naddress = 10.0.0.1:07789\ndevice = /b\n", 8, "[host alpha] has the same"},
    {RESOURCE "[host alpha]\naddress = 10.0.0.1\n", 5, "write HOST:PORT"},
    {RESOURCE "[host alpha]\naddress = :7789\n", 5, "write HOST:PORT"},
    {RESOURCE "[host alpha]\naddress = a:0\n", 5, "a port from 1 to 65535"},
    {RESOURCE "[host alpha]\naddress = a:65536\n", 5, "a port from 1 to 65535"},
    {RESOURCE "[host alpha]\naddress = a:\n", 5, "write HOST:PORT"},
    {RESOURCE "[host alpha]\naddress = a: 1\n", 5, "write HOST:PORT"},
    {RESOURCE "[host alpha]\naddress = a:1x\n", 5, "write HOST:PORT"},
    {RESOURCE "[host alpha]\naddress = -\n", 5, "write HOST:PORT"},
    {RESOURCE "[host alpha]\naddress = fd00::1:7789\n", 5, "an IPv6 address in brackets"},
    {RESOURCE "[host alpha]\naddress = [fd00::1]\n", 5, "write HOST:PORT"},
    {RESOURCE "[host alpha]\naddress = [fd00::1\n", 5, "write HOST:PORT"},
    {RESOURCE "[host alpha]\naddress = []:1\n", 5, "write HOST:PORT"},
    {RESOURCE "[host alpha]\naddress = nbd://a:1\n", 5, "write HOST:PORT"},
    {RESOURCE "[host alpha]\naddress = 0.0.0.0:7789\n", 5, "write the one at which it reaches this host"},
    {RESOURCE "[host alpha]\naddress = [::]:7789\n", 5, "write the one at which it reaches this host"},
    {RESOURCE "[host alpha]\ndevice = vg/a\n", 5, "write the whole path"},
    {RESOURCE "[host alpha]\ndevice = \"/dev/vg/a\"\n", 5, "without quotes"},
    {RESOURCE "[host alpha]\nmap = map\n", 5, "write the whole path"},
};

static void test_refusals(void **state)
{
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct replica_config *config = NULL;
		struct error error;
		char where[32];

		print_message("  %s\n", bad[i].words);
		assert_int_equal(parse(&config, bad[i].text, NULL, "alpha", &error), -EINVAL);
		assert_null(config);
		snprintf(
		    where, sizeof(where), bad[i].line ? "/etc/r0.ini:%u: " : "/etc/r0.ini: ", bad[i].line);
		if (strncmp(error.text, where, strlen(where)) || !strstr(error.text, bad[i].words))
			fail_msg(
			    "not '%s' '%s', but '%s' for\n%s", where, bad[i].words, error.text, bad[i].text);
		assert_int_equal(parse(&config, bad[i].text, NULL, "alpha", &(struct error){0}), -EINVAL);
	}
}

/* A NUL ends what C takes for a text: what stands behind it is not passed over. */
static void test_nul(void **state)
{
	static const char text[] = RESOURCE ALPHA BETA "map = /x\0/y\n";
	const struct replica_config_text in = {
	    .path = "f", .text = text, .length = sizeof(text) - 1, .machine = "alpha"};
	struct replica_config *config = NULL;
	struct error error;

	assert_int_equal(replica_config_parse(&config, &in, &error), -EINVAL);
	assert_string_equal(error.text, "f:10: there is a control character in this line; remove it");
	assert_int_equal(replica_config_parse(&config, &in, NULL), -EINVAL);
}

static void test_too_long(void **state)
{
	char text[4300];
	struct replica_config *config = NULL;
	struct error error;

	snprintf(text, sizeof(text), "[resource]\nfence-hook = %04100d\n", 7);
	assert_int_equal(parse(&config, text, NULL, "alpha", &error), -EINVAL);
	assert_non_null(strstr(error.text, ":2: a line of 4113 bytes; 4093 are the most"));
}

/* Which host this machine is: --host, the machine's name, and the hosts in the file. */
static const struct {
	const char *host, *machine, *first, *second;
	int self; /* -1: refused */
} selves[] = {
    {NULL, "alpha", "alpha", "beta", 0},
    {NULL, "beta", "alpha", "beta", 1},
    {NULL, "BETA", "alpha", "beta", 1},
    {NULL, "beta.example.com", "alpha", "beta", 1},
    {NULL, "beta", "alpha.example.com", "beta.example.com", 1},
    {NULL, "beta.example.com", "alpha.example.com", "beta.example.com", 1},
    {NULL, "node.b", "node.a", "node.b", 1},
    {NULL, "node", "node.a", "node.b", -1},
    {NULL, "node.c", "node.a", "node.b", -1},
    {NULL, "alpha.x", "alpha.y", "beta.y", -1},
    {NULL, "node", "node.a", "node", 1},
    {NULL, "node.a", "node", "node.a", 1},
    {NULL, "alph", "alpha", "beta", -1},
    {NULL, "alphabet", "alpha", "beta", -1},
    {NULL, "", "alpha", "beta", -1},
    {NULL, "gamma", "alpha", "beta", -1},
    {"beta", "alpha", "alpha", "beta", 1},
    {"Alpha", "beta", "alpha", "beta", 0},
    {"gamma", "alpha", "alpha", "beta", -1},
    {"beta.example.com", "alpha", "alpha", "beta", -1},
    {"", "alpha", "alpha", "beta", -1},
};

static void test_self(void **state)
{
	for (size_t i = 0; i < sizeof(selves) / sizeof(selves[0]); i++) {
		struct replica_config *config = NULL;
		struct error error;
		char text[512], both[64];
		int res;

		snprintf(text, sizeof(text),
		    RESOURCE "[host %s]\naddress = a:1\ndevice = /a\n[host %s]\naddress = b:1\ndevice = /b\n",
		    selves[i].first, selves[i].second);
		snprintf(both, sizeof(both), "%s and %s", selves[i].first, selves[i].second);
		res = parse(&config, text, selves[i].host, selves[i].machine, &error);
		print_message("  %s %s: %d\n", selves[i].host ? selves[i].host : "-", selves[i].machine, res);
		assert_int_equal(res, selves[i].self < 0 ? -EINVAL : 0);
		if (res < 0)
			assert_true(strstr(error.text, both) && strstr(error.text, "--host"));
		else
			assert_int_equal(config->self, selves[i].self);
		replica_config_free(config);
	}
}

/* What both machines come to, without asking each other. */
static void test_numbers_of_nodes(void **state)
{
	struct replica_config *config = parse_good(RESOURCE ALPHA BETA), *other;
	uint64_t alpha = config->hosts[0].number, beta = config->hosts[1].number;

	/* They are part of what nodes say: a new version must come to the same. */
	assert_true(alpha == 0x1b8b93f13e70efda && beta == 0x137858592e6d357b);
	replica_config_free(config);
	other = parse_good(RESOURCE "[host BETA]\naddress = b:1\ndevice = /b\n" ALPHA);
	assert_true(other->hosts[0].number == beta && other->hosts[1].number == alpha);
	replica_config_free(other);
	other = parse_good("[resource]\nname = r1\ndevice = r1\n" ALPHA BETA);
	assert_true(other->hosts[0].number != alpha && other->hosts[1].number != beta);
	replica_config_free(other);
}

static void test_numbers_are_possible(void **state)
{
	for (unsigned i = 0; i < 2000; i++) {
		char text[512], host[16];
		struct replica_config *config = NULL;
		struct error error;
		uint64_t first, second;

		snprintf(host, sizeof(host), "h%u", i);
		snprintf(text, sizeof(text),
		    RESOURCE
		    "[host %s]\naddress = a:1\ndevice = /a\n[host g%u]\naddress = b:1\ndevice = /b\n",
		    host, i * 7);
		assert_int_equal(parse(&config, text, host, "", &error), 0);
		first = config->hosts[0].number;
		second = config->hosts[1].number;
		assert_true(first > 0 && first < 1ull << 62 && second > 0 && second < 1ull << 62);
		assert_true(first != second);
		replica_config_free(config);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_defaults),
	    cmocka_unit_test(test_numbers),
	    cmocka_unit_test(test_texts),
	    cmocka_unit_test(test_long_line),
	    cmocka_unit_test(test_exports),
	    cmocka_unit_test(test_addresses),
	    cmocka_unit_test(test_refusals),
	    cmocka_unit_test(test_nul),
	    cmocka_unit_test(test_too_long),
	    cmocka_unit_test(test_self),
	    cmocka_unit_test(test_numbers_of_nodes),
	    cmocka_unit_test(test_numbers_are_possible),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
