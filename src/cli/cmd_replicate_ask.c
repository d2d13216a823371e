/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Speaks to the process of a resource, by its control socket replica-NAME: see cmd_replicate.h. */
#include "base/state_dir.h"
#include "cli/cmd_replicate.h"
#include "cli/control_client.h"
#include "cli/replica_config.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define PREFIX      "replica-"
#define CLEAR_NS    20000000
#define CLEAR_TRIES 250u

const char *replicate_state_dir(const struct replicate_command *command, char *buf, size_t length)
{
	if (!command->state_dir)
		return state_dir_path(buf, length);
	snprintf(buf, length, "%s", command->state_dir);
	return buf;
}

/* Of the control socket. */
static int name_socket(const char *name, char *buf, size_t length, struct error *error)
{
	if (strchr(name, '/'))
		return error_set(error, -EINVAL,
		    "'%.200s' is a file: what runs goes by the name of the resource, see `blkmove replicate "
		    "status`",
		    name);
	if (snprintf(buf, length, PREFIX "%s", name) >= (int)length)
		return error_set(error, -EINVAL, "the name '%.60s...' is too long", name);
	return 0;
}

/* Nothing runs: is there such a resource at all? */
static void explain_absence(const char *name, struct error *error)
{
	struct replica_config *config = NULL;

	if (replica_config_load(&config, name, NULL, error) != -ENOENT)
		error_set(error, -ENOENT, "%s is not up on this machine; `blkmove replicate up %s` starts it",
		    name, name);
	replica_config_free(config);
}

static void take_prefix_off(struct error *error)
{
	const size_t length = strlen(PREFIX);

	if (!strncmp(error->text, PREFIX, length))
		memmove(error->text, error->text + length, strlen(error->text + length) + 1);
}

static bool nobody_is_there(int res)
{
	return res == -ENOENT || res == -ECONNREFUSED;
}

json_t *replicate_ask(const char *name, json_t *take_request, struct error *error)
{
	bool status = !strcmp(control_string(take_request, "command"), "status");
	char socket[REPLICA_CONFIG_NAME_MAX + 16];
	json_t *reply;

	if (name_socket(name, socket, sizeof(socket), error) < 0) {
		json_decref(take_request);
		return NULL;
	}
	reply = control_ask(socket, take_request, error);
	if (!reply && nobody_is_there(error->code))
		explain_absence(name, error);
	else if (!reply && error->code == -EPROTO)
		error->code = -EPERM;
	else if (!reply && error->code == -ETIMEDOUT && !status)
		error_set(error, -ETIMEDOUT,
		    "%s gives no answer; it may have done it all the same: see `blkmove replicate status "
		    "--json "
		    "%s` before you tell it again",
		    name, name);
	/* The resource is called so, and not its socket. */
	if (!reply)
		take_prefix_off(error);
	return reply;
}

json_t *replicate_ask_status(const char *name, struct error *error)
{
	return replicate_ask(name, json_pack("{s:s}", "command", "status"), error);
}

/* What failed has nothing any more but the name, which keeps others from starting. */
static int clear_away(const char *name, struct error *error)
{
	const struct timespec pause = {.tv_nsec = CLEAR_NS};
	json_t *status;

	for (unsigned i = 0; i < CLEAR_TRIES; i++) {
		json_decref(replicate_ask(name, json_pack("{s:s}", "command", "down"), error));
		nanosleep(&pause, NULL);
		status = replicate_ask_status(name, error);
		json_decref(status);
		if (!status && error->code == -ENOENT)
			return 0;
	}
	return error_set(error, -EALREADY,
	    "%s has failed, and its process does not let it go; `blkmove replicate status %s` has words",
	    name, name);
}

int replicate_check_down(const char *name, struct error *error)
{
	json_t *status = replicate_ask_status(name, error);
	int res = status ? -EALREADY : error->code;
	bool failed = status && !strcmp(control_string(status, "state"), "failed");

	if (status)
		error_set(error, res, "%s is up, as process %d; `blkmove replicate down %s` ends it", name,
		    (int)control_number(status, "pid"), name);
	json_decref(status);
	if (failed)
		res = clear_away(name, error);
	return res == -ENOENT ? 0 : res;
}

int replicate_follow(const char *name, struct error *error)
{
	char socket[REPLICA_CONFIG_NAME_MAX + 16];
	int res = name_socket(name, socket, sizeof(socket), error);

	return res < 0 ? res : control_follow(socket, json_pack("{s:s}", "command", "events"), error);
}

static bool has_name(const json_t *names, const char *name)
{
	const json_t *one;
	size_t i;

	json_array_foreach((json_t *)names, i, one) if (!strcmp(json_string_value(one), name)) return true;
	return false;
}

void replicate_add_name(void *names, const json_t *status)
{
	const char *name = control_string(status, "name");

	if (!strcmp(control_string(status, "kind"), "replica") && !has_name(names, name))
		json_array_append_new(names, json_string(name));
}
