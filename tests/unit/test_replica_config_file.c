/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where the files of replicated volumes lie, reading one, and how it is shown. What is in it: test_replica_config.c. */
#include "cli/replica_config.h"

#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "own_folder.h"

#define RESOURCE "[resource]\nname = r0\nexport = nbd+unix:///?socket=/run/r0\n"
#define ALPHA    "[host alpha]\naddress = 10.0.0.1:7789\ndevice = /dev/vg/a\n"
#define BETA     "[host beta]\naddress = 10.0.0.2:7789\ndevice = /dev/vg/b\n"
static struct replica_config *parse_good(const char *text)
{
	const struct replica_config_text in = {
	    .path = "/etc/r0.ini", .text = text, .length = strlen(text), .machine = "alpha"};
	struct replica_config *config = NULL;

	assert_int_equal(replica_config_parse(&config, &in, NULL), 0);
	return config;
}

static void put(const char *name, const char *text)
{
	char path[256];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	file = fopen(path, "w");
	assert_non_null(file);
	assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
	assert_int_equal(fclose(file), 0);
}

/* By its name, in a folder of its own; by its path, whatever it is called. */
static void test_load(void **state)
{
	struct replica_config *config = NULL;
	struct error error;
	char path[256];

	setenv("BLKMOVE_REPLICA_DIR", folder, 1);
	put("r0.ini", RESOURCE ALPHA BETA);
	put("r1.ini", RESOURCE ALPHA BETA);
	put("r2.ini", "[resource]\ndevice = x\n" ALPHA BETA);
	assert_int_equal(replica_config_load(&config, "r0", "beta", &error), 0);
	assert_string_equal(config->name, "r0");
	assert_string_equal(replica_config_self(config)->name, "beta");
	replica_config_free(config);
	assert_int_equal(replica_config_load(&config, "r2", "beta", &error), 0);
	assert_string_equal(config->name, "r2");
	replica_config_free(config);
	config = NULL;
	assert_int_equal(replica_config_load(&config, "r1", "beta", &error), -EINVAL);
	assert_non_null(strstr(error.text, "r1.ini:2: name = r0: this is the file of 'r1'"));
	snprintf(path, sizeof(path), "%s/r1.ini", folder);
	assert_int_equal(replica_config_load(&config, path, "beta", &error), 0);
	assert_string_equal(config->name, "r0");
	replica_config_free(config);
	config = NULL;
	assert_int_equal(replica_config_load(&config, "r0", "gamma", &error), -EINVAL);
	assert_non_null(strstr(error.text, "--host=gamma: "));
	assert_int_equal(replica_config_load(&config, "r9", NULL, &error), -ENOENT);
	assert_non_null(strstr(error.text, "there is no resource 'r9'"));
	assert_int_equal(replica_config_load(&config, "/nowhere/r9", NULL, &error), -ENOENT);
	assert_int_equal(replica_config_load(&config, folder, NULL, &error), -EINVAL);
	assert_non_null(strstr(error.text, "is not a file"));
	assert_null(config);
}

static void test_this_machine(void **state)
{
	char name[256], text[1024];
	struct replica_config *config = NULL;
	struct error error;

	assert_int_equal(gethostname(name, sizeof(name)), 0);
	name[strcspn(name, ".")] = '\0';
	snprintf(text, sizeof(text),
	    RESOURCE "[host %.44s]\naddress = c:1\ndevice = /c\n[host other]\naddress = b:1\ndevice = /b\n",
	    name);
	setenv("BLKMOVE_REPLICA_DIR", folder, 1);
	put("r0.ini", text);
	assert_int_equal(replica_config_load(&config, "r0", NULL, &error), 0);
	assert_string_equal(replica_config_self(config)->device, "/c");
	replica_config_free(config);
	put("r0.ini",
	    RESOURCE "[host no1]\naddress = c:1\ndevice = /c\n[host no2]\naddress = b:1\ndevice = /b\n");
	assert_int_equal(replica_config_load(&config, "r0", NULL, &error), -EINVAL);
	assert_true(strstr(error.text, name) && strstr(error.text, "no1 and no2"));
}

static void test_large_file(void **state)
{
	static char text[70000];
	struct replica_config *config = NULL;
	struct error error;

	memset(text, '\n', sizeof(text) - 1);
	memcpy(text, RESOURCE ALPHA BETA, strlen(RESOURCE ALPHA BETA));
	setenv("BLKMOVE_REPLICA_DIR", folder, 1);
	put("r0.ini", text);
	assert_int_equal(replica_config_load(&config, "r0", "beta", &error), -EFBIG);
	text[65536] = '\0';
	put("r0.ini", text);
	assert_int_equal(replica_config_load(&config, "r0", "beta", &error), 0);
	replica_config_free(config);
}

static void test_names(void **state)
{
	struct error error;
	char path[128], **names;

	setenv("BLKMOVE_REPLICA_DIR", folder, 1);
	put("r0.ini", "");
	put("R1.ini", "");
	put("a-2.ini", "");
	put(".r3.ini", "");
	put("r4.ini~", "");
	put(".ini", "");
	assert_int_equal(replica_config_names(&names, &error), 0);
	assert_string_equal(names[0], "R1");
	assert_string_equal(names[1], "a-2");
	assert_string_equal(names[2], "r0");
	assert_null(names[3]);
	replica_config_names_free(names);
	snprintf(path, sizeof(path), "%s/none", folder);
	setenv("BLKMOVE_REPLICA_DIR", path, 1);
	assert_int_equal(replica_config_names(&names, &error), 0);
	assert_null(names[0]);
	replica_config_names_free(names);
	snprintf(path, sizeof(path), "%s/r0.ini", folder);
	setenv("BLKMOVE_REPLICA_DIR", path, 1);
	assert_int_equal(replica_config_names(&names, &error), -ENOTDIR);
	assert_non_null(strstr(error.text, path));
}

static void test_folder(void **state)
{
	char buf[PATH_MAX];

	setenv("BLKMOVE_REPLICA_DIR", "/x", 1);
	assert_string_equal(replica_config_dir(buf, sizeof(buf)), "/x");
	setenv("BLKMOVE_REPLICA_DIR", "", 1);
	setenv("XDG_CONFIG_HOME", "/conf", 1);
	setenv("HOME", "/home/u", 1);
	assert_string_equal(replica_config_dir(buf, sizeof(buf)),
	    geteuid() == 0 ? "/etc/blkmove/replicas" : "/conf/blkmove/replicas");
	unsetenv("XDG_CONFIG_HOME");
	assert_string_equal(replica_config_dir(buf, sizeof(buf)),
	    geteuid() == 0 ? "/etc/blkmove/replicas" : "/home/u/.config/blkmove/replicas");
}

static void test_map(void **state)
{
	struct replica_config *config = parse_good(RESOURCE ALPHA BETA "map = /srv/b.map");
	char buf[PATH_MAX];

	assert_string_equal(replica_config_map(config, "/state", buf, sizeof(buf)), "/state/replicas/r0/map");
	config->self = 1;
	assert_string_equal(replica_config_map(config, "/state", buf, sizeof(buf)), "/srv/b.map");
	replica_config_free(config);
}

/* Showing */

static void assert_json(const json_t *json, const char *expected)
{
	json_t *other = json_loads(expected, 0, NULL);
	char *text = json_dumps(json, JSON_SORT_KEYS);

	assert_non_null(json);
	assert_non_null(other);
	if (!json_equal(json, other))
		fail_msg("%s", text);
	free(text);
	json_decref(other);
}

static void test_json(void **state)
{
	static const char host[] =
	    "{'name':'%s', 'address':'10.0.0.%u:7789', 'device':'/dev/vg/%s', "
	    "'map':'/state/replicas/r0/map', 'export':['nbd+unix:///?socket=/run/r0'], "
	    "'node':%lld, 'self':%s}";
	struct replica_config *config = parse_good(RESOURCE ALPHA BETA);
	json_t *json = replica_config_json(config, "/state");
	char alpha[512], beta[512], all[2048];

	snprintf(alpha, sizeof(alpha), host, "alpha", 1, "a", (long long)config->hosts[0].number, "true");
	snprintf(beta, sizeof(beta), host, "beta", 2, "b", (long long)config->hosts[1].number, "false");
	snprintf(all, sizeof(all),
	    "{'name':'r0', 'file':'/etc/r0.ini', 'ack':'durable', 'on_split_brain':'disconnect', "
	    "'on_io_error':'detach', 'on_peer_gone':'continue', 'fence_hook':null, 'before_resync':null, "
	    "'resync_rate':null, 'resync_min_rate':null, 'latency_target_ms':null, 'compare':false, "
	    "'verify_digest':'gmac', 'verify_every_s':null, 'queue':16777216, 'congestion':'pull-ahead', "
	    "'compress':false, 'timeout_ms':10000, 'region_size':null, 'device':null, 'tls_psk':null, "
	    "'tls_user':null, "
	    "'tls_certificates':null, 'hosts':[%s, %s]}",
	    alpha, beta);
	for (char *at = all; *at; at++)
		*at = *at == '\'' ? '"' : *at;
	assert_json(json, all);
	json_decref(json);
	replica_config_free(config);
}

static void assert_member(const json_t *json, const char *key, const char *expected)
{
	char *text = json_dumps(json_object_get(json, key), JSON_ENCODE_ANY);

	assert_non_null(text);
	assert_string_equal(text, expected);
	free(text);
}

/* That it is one; scripts/check-docs sees that every key is in it. */
static void test_example(void **state)
{
	struct replica_config *config = NULL;
	struct error error;
	json_t *json;

	if (replica_config_load(&config, REPLICA_EXAMPLE, "beta", &error) < 0)
		fail_msg("%s", error.text);
	json = replica_config_json(config, "/state");
	assert_member(json, "name", "\"replica\"");
	assert_member(json, "ack", "\"durable\"");
	assert_int_equal(json_array_size(json_object_get(json, "hosts")), 2);
	json_decref(json);
	replica_config_free(config);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_load, own_folder_make, own_folder_remove),
	    cmocka_unit_test_setup_teardown(test_this_machine, own_folder_make, own_folder_remove),
	    cmocka_unit_test_setup_teardown(test_large_file, own_folder_make, own_folder_remove),
	    cmocka_unit_test_setup_teardown(test_names, own_folder_make, own_folder_remove),
	    cmocka_unit_test(test_folder),
	    cmocka_unit_test(test_map),
	    cmocka_unit_test(test_json),
	    cmocka_unit_test(test_example),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
