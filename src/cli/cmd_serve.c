/* SPDX-License-Identifier: GPL-2.0-or-later */
/* blkmove serve: exports volumes over NBD until it is told to end. */
#include "base/state_dir.h"
#include "cli/cli.h"
#include "cli/devices.h"
#include "cli/listen.h"
#include "cli/signals.h"
#include "filter/overlay.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RING_ENTRIES 1024u
#define VOLUMES_MAX  64u
#define PATIENCE_MS  5000u /* for clients that do not take their last replies */

enum option_key {
	KEY_READ_ONLY = 'r',
	KEY_NAME = 'n',
	KEY_QUIET = 'q',
	KEY_JSON = 832,
	KEY_CACHE,
	KEY_ALLOW,
	KEY_OVERLAY,
	KEY_OVERLAY_DIR
};

struct serve {
	struct cli_options options; /* reaching the volumes, words, the error */
	struct listen listen;
	struct devices devices;
	struct endpoint endpoints[VOLUMES_MAX];
	const char *names[VOLUMES_MAX];
	struct block *blocks[VOLUMES_MAX];
	unsigned endpoints_count, names_count;
	bool read_only, overlay, allow_mounted, allow_held;
	const char *overlay_dir;
	bool cache_said;
	enum cache_mode cache;

	struct ring *ring;
	struct signals *signals;
	struct nbd_server *server;
	bool stopping, refused; /* refused: a device is in use, and the next signal leaves it behind */
	unsigned clients;
	uint64_t answered;
};

static void take_allow(struct serve *serve, const char *arg, struct argp_state *state)
{
	for (size_t length; *arg; arg += length + (arg[length] == ',')) {
		bool mounted = !strncmp(arg, "mounted", length = strcspn(arg, ",")) && length == 7;
		bool held = !strncmp(arg, "held", length) && length == 4;

		if (!mounted && !held)
			argp_failure(
			    state, JOB_TROUBLE, 0, "--allow=%s: choose one or both of mounted, held", arg);
		serve->allow_mounted |= mounted;
		serve->allow_held |= held;
	}
}

static void take_cache(struct serve *serve, const char *arg, struct argp_state *state)
{
	int cache = cli_choose(cli_cache_names, "cache", arg, strlen(arg), &serve->options.error);

	if (cache < 0)
		argp_failure(state, JOB_TROUBLE, 0, "%s", serve->options.error.text);
	serve->cache = (enum cache_mode)cache;
	serve->cache_said = true;
}

static void take_endpoint(struct serve *serve, char *arg, struct argp_state *state)
{
	struct endpoint *endpoint = &serve->endpoints[serve->endpoints_count];

	if (serve->endpoints_count == VOLUMES_MAX)
		argp_failure(state, JOB_TROUBLE, 0, "%u volumes are the most", VOLUMES_MAX);
	if (cli_take_endpoint(&serve->options.words, arg, endpoint, &serve->options.error) < 0)
		argp_failure(state, JOB_TROUBLE, 0, "%s", serve->options.error.text);
	serve->endpoints_count++;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct serve *serve = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &serve->listen;
		state->child_inputs[1] = &serve->devices;
		state->child_inputs[2] = &serve->options;
		break;
	case ARGP_KEY_ARG:
		take_endpoint(serve, arg, state);
		break;
	case ARGP_KEY_END:
		if (serve->endpoints_count == 0)
			argp_failure(state, JOB_TROUBLE, 0, "it is not said what to serve; see `%s --help`",
			    state->name);
		break;
	case KEY_NAME:
		if (serve->names_count == VOLUMES_MAX)
			argp_failure(state, JOB_TROUBLE, 0, "%u names are the most", VOLUMES_MAX);
		serve->names[serve->names_count++] = arg;
		break;
	case KEY_READ_ONLY:
		serve->read_only = true;
		break;
	case KEY_OVERLAY:
		serve->overlay = true;
		break;
	case KEY_OVERLAY_DIR:
		serve->overlay_dir = arg;
		break;
	case KEY_CACHE:
		take_cache(serve, arg, state);
		break;
	case KEY_ALLOW:
		take_allow(serve, arg, state);
		break;
	case KEY_JSON:
		serve->options.json = true;
		break;
	case KEY_QUIET:
		serve->options.quiet = true;
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "Serving:", 1},
    {"name", KEY_NAME, "NAME", 0,
        "the export's name; given once for each volume, in the same order (default: that of --listen, or "
        "none)",
        0},
    {"read-only", KEY_READ_ONLY, NULL, 0, "clients may not write, and the volumes are opened for reading", 0},
    {"overlay", KEY_OVERLAY, NULL, 0,
        "clients may write, but the volumes stay as they are: what is written is gone at the end", 0},
    {"overlay-dir", KEY_OVERLAY_DIR, "DIR", 0, "where it lies until then (default: /var/tmp)", 0},
    {"cache", KEY_CACHE, "HOW", 0, "buffered (default), direct (always past the page cache) or auto", 0},
    {"allow", KEY_ALLOW, "WHAT", 0, "serve for writing what is mounted or held, at your own risk", 0},
    {"json", KEY_JSON, NULL, 0, "say in JSON what is served", 0},
    {"quiet", KEY_QUIET, NULL, 0, "say nothing about clients", 0},
    {0},
};

/* The server's callbacks */

static void clients_changed(void *data, unsigned count)
{
	((struct serve *)data)->clients = count;
}

static void client_failed(void *data, const struct error *why)
{
	struct serve *serve = data;

	if (!serve->options.quiet)
		fprintf(stderr, "blkmove: %s\n", why->text);
}

static void answered(void *data, enum block_op op, uint64_t length, int res, uint64_t ns)
{
	((struct serve *)data)->answered++;
}

static void got_signal(void *data, int number)
{
	struct serve *serve = data;

	if (number == SIGUSR1) {
		fprintf(
		    stderr, "blkmove: %u clients, %" PRIu64 " requests\n", serve->clients, serve->answered);
		return;
	}
	if (serve->stopping || !serve->server) {
		fputs("blkmove: interrupted\n", stderr);
		signals_end_children();
		listen_done(&serve->listen);
		_exit(JOB_INTERRUPTED);
	}
	serve->stopping = true;
}

/* Opening */

/*
 * A device that is only read may be written by others, past its page cache: a mounted file system does. Else the page cache is
 * fast, and nobody else's.
 */
static enum cache_mode cache_of(const struct serve *serve, const struct endpoint *endpoint)
{
	bool reads = serve->read_only || serve->overlay;
	struct stat st;

	if (serve->cache_said)
		return serve->cache;
	return reads && endpoint->kind == ENDPOINT_PATH && stat(endpoint->path, &st) == 0 &&
	               S_ISBLK(st.st_mode)
	           ? CACHE_AUTO
	           : CACHE_BUFFERED;
}

static int open_one(struct serve *serve, unsigned i, struct error *error)
{
	struct block_facts facts;
	char state_dir[4096];
	struct block_open_options open = {.write = !serve->read_only && !serve->overlay,
	    .force_held = serve->allow_held || serve->allow_mounted,
	    .cache = cache_of(serve, &serve->endpoints[i]),
	    .write_at_once = serve->endpoints_count == 1,
	    .link = serve->options.job.link};
	int res = block_open(&serve->blocks[i], serve->ring, &serve->endpoints[i], &open, error);

	if (res == 0)
		res = listen_judge(serve->blocks[i], &serve->endpoints[i], serve->allow_mounted,
		    serve->allow_held, state_dir_path(state_dir, sizeof(state_dir)), &facts, error);
	if (res == 0 && serve->overlay) {
		struct block *below = serve->blocks[i];

		serve->blocks[i] = NULL;
		res = overlay_open(&serve->blocks[i], below, serve->overlay_dir, error);
	}
	return res;
}

static int add_exports(struct serve *serve, struct error *error)
{
	int res = 0;

	for (unsigned i = 0; i < serve->endpoints_count && res == 0; i++) {
		const struct nbd_export export = {.name = serve->names[i],
		    .description = block_info(serve->blocks[i])->name,
		    .block = serve->blocks[i],
		    .read_only = serve->read_only};

		res = nbd_server_add(serve->server, &export, error);
	}
	return res;
}

static int make_devices(struct serve *serve, struct error *error)
{
	int res = 0;

	for (unsigned i = 0; i < serve->endpoints_count && res == 0; i++) {
		struct device_options device = {.block = serve->blocks[i],
		    .read_only = serve->read_only,
		    .temporary = serve->overlay,
		    .data = serve,
		    .failed = client_failed};

		res = devices_open(&serve->devices, i, serve->ring, &device, error);
	}
	return res;
}

static int check_overlay(const struct serve *serve, struct error *error)
{
	if (serve->overlay && serve->read_only)
		return error_set(error, -EINVAL, "--overlay is for writing; leave out --read-only");
	return 0;
}

static int check_names(struct serve *serve, struct error *error)
{
	if (serve->names_count == 0 && serve->endpoints_count == 1)
		serve->names[serve->names_count++] = listen_name(&serve->listen);
	for (unsigned i = serve->names_count; i == serve->names_count && i < serve->devices.count; i++)
		serve->names[serve->names_count++] = serve->devices.names[i];
	if (serve->names_count != serve->endpoints_count)
		return error_set(error, -EINVAL,
		    "%u volumes have %u names; give --name once for each volume, in the same order",
		    serve->endpoints_count, serve->names_count);
	if (listen_name(&serve->listen)[0] && strcmp(listen_name(&serve->listen), serve->names[0]))
		return error_set(error, -EINVAL,
		    "--listen names the export '%s', and --name '%s'; leave one of them out",
		    listen_name(&serve->listen), serve->names[0]);
	return 0;
}

static int set_up(struct serve *serve, struct error *error)
{
	struct nbd_server_options server = {.data = serve,
	    .clients_changed = clients_changed,
	    .client_failed = client_failed,
	    .answered = answered};
	int res = listen_check(&serve->listen, error);

	server.paced = true;
	for (unsigned i = 0; i < serve->endpoints_count; i++)
		server.paced &= serve->endpoints[i].kind == ENDPOINT_PATH;
	if (res == 0)
		res = check_overlay(serve, error);
	serve->listen.optional = serve->devices.count > 0;
	if (res == 0)
		res = devices_check(&serve->devices, serve->endpoints_count, error);
	if (res == 0)
		res = check_names(serve, error);
	if (res == 0)
		res = ring_new(&serve->ring, RING_ENTRIES, error);
	if (res == 0)
		res = signals_new(&serve->signals, serve->ring, got_signal, serve, error);
	if (res == 0)
		res = listen_bind(&serve->listen, serve->names[0], error);
	for (unsigned i = 0; i < serve->endpoints_count && res == 0; i++)
		res = open_one(serve, i, error);
	if (res < 0)
		return res;
	listen_fill(&serve->listen, &server);
	res = nbd_server_new(&serve->server, serve->ring, &server, error);
	if (res == 0)
		res = add_exports(serve, error);
	if (res == 0)
		res = make_devices(serve, error);
	return res == 0 ? listen_start(&serve->listen, serve->server, error) : res;
}

/* One line: where clients find it. */
static void say_ready(const struct serve *serve)
{
	json_t *json, *uris = json_array(), *exports = json_array();

	for (unsigned i = 0; i < serve->listen.fds_count; i++) {
		json_array_append_new(uris, json_string(serve->listen.shown[i]));
		if (!serve->options.json)
			printf("%s%s", i ? " " : "", serve->listen.shown[i]);
	}
	for (unsigned i = 0; i < serve->devices.count && !serve->options.json; i++)
		printf("%s%s", i + serve->listen.fds_count ? " " : "", devices_path(&serve->devices, i));
	for (unsigned i = 0; i < serve->endpoints_count; i++) {
		const struct block_info *info = block_info(serve->blocks[i]);

		json_array_append_new(exports,
		    json_pack("{s:s, s:s, s:I, s:b, s:s?}", "name", serve->names[i], "volume", info->name,
		        "size", (json_int_t)info->size, "read_only", serve->read_only || !info->writable,
		        "device", devices_path(&serve->devices, i)));
	}
	json = json_pack("{s:s, s:o, s:o}", "event", "ready", "uris", uris, "exports", exports);
	if (serve->options.json)
		cli_print_json(stdout, json);
	else
		putchar('\n');
	fflush(stdout);
	json_decref(json);
	listen_tell_manager();
}

/* Until a signal ends it, and no device is in use any more; or a second one. */
static int run(struct serve *serve, struct error *error)
{
	for (;;) {
		int res = ring_run_until(serve->ring, &serve->stopping);

		if (res == 0)
			res = devices_stop(&serve->devices, error);
		if (res != -EBUSY)
			return res;
		if (serve->refused)
			return error_set(error, -ECANCELED,
			    "interrupted: what goes to the device waits until the same command takes it "
			    "over");
		fprintf(stderr, "blkmove: %s; a second signal leaves it behind, and what goes to it waits\n",
		    error->text);
		serve->refused = true;
		serve->stopping = false;
	}
}

static int tear_down(struct serve *serve, int res)
{
	struct error error;

	devices_free(&serve->devices);
	if (serve->server && res == 0 && nbd_server_stop(serve->server, PATIENCE_MS, &error) < 0)
		res = error_set(&serve->options.error, error.code, "%s", error.text);
	nbd_server_free(serve->server);
	for (unsigned i = 0; i < serve->endpoints_count; i++) {
		block_free(serve->blocks[i]);
		endpoint_done(&serve->endpoints[i]);
	}
	listen_done(&serve->listen);
	signals_free(serve->signals);
	ring_free(serve->ring);
	return res;
}

int command_serve(int argc, char **argv)
{
	static const struct argp_child children[] = {{&cli_argp_listen, 0, NULL, 0},
	    {&cli_argp_device, 0, NULL, 0}, {&cli_argp_reach, 0, NULL, 0}, {0}};
	static const struct argp argp = {.options = options,
	    .parser = parse,
	    .children = children,
	    .args_doc = "DEV...",
	    .doc = "Exports volumes over NBD, until SIGTERM or SIGINT ends it in good order. Prints where "
	           "clients "
	           "find it as soon as they do.\v"
	           "DEV: /dev/x, file.img, [user@]host:PATH, nbd://..., or [ SERVER ARGS ]."};
	struct serve *serve = calloc(1, sizeof(*serve));
	struct error *error = serve ? &serve->options.error : NULL;
	char name[] = "blkmove serve";
	int res;

	if (!serve)
		return JOB_TROUBLE;
	argp_err_exit_status = JOB_TROUBLE;
	serve->overlay_dir = "/var/tmp";
	res = cli_words_init(&serve->options.words, argc, argv, error);
	if (res == 0) {
		serve->options.words.argv[0] = name;
		res = argp_parse(&argp, serve->options.words.argc, serve->options.words.argv, 0, NULL, serve);
	}
	if (res == 0)
		res = set_up(serve, error);
	if (res == 0) {
		say_ready(serve);
		res = run(serve, error);
	}
	res = tear_down(serve, res);
	res = res < 0 ? cli_fail(cli_exit_code(res), error) : JOB_OK;
	cli_words_done(&serve->options.words);
	free(serve);
	return res;
}
