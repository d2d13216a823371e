/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The command line's words: captive servers, endpoints, folders. */
#include "cli/cli.h"

#include "base/parse_size.h"
#include "block/block.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define WATCH_MAX_S     3600u
#define DURATION_MAX_MS (10 * 86400 * 1e3)

int cli_fail(enum job_result code, const struct error *error)
{
	fprintf(stderr, "blkmove: %s\n", error->text);
	return code;
}

enum job_result cli_exit_code(int res)
{
	switch (res) {
	case 0:
		return JOB_OK;
	case -EPERM:
	case -EBUSY:
	case -EADDRINUSE:
	case -EEXIST:
		return JOB_REFUSED;
	case -EALREADY:
		return JOB_LOCKED;
	case -ENOTCONN:
		return JOB_LINK_LOST;
	case -ECANCELED:
		return JOB_INTERRUPTED;
	default:
		return JOB_TROUBLE;
	}
}

void cli_print_json(FILE *to, const json_t *json)
{
	json_dumpf(json, to, JSON_COMPACT);
	putc('\n', to);
	fflush(to);
}

/* How many words a captive server takes, with both brackets; 0 when the closing one is missing. */
static int group_length(char **argv)
{
	for (int i = 1; argv[i]; i++)
		if (!strcmp(argv[i], "]"))
			return i + 1;
	return 0;
}

int cli_words_init(struct cli_words *words, int argc, char **argv, struct error *error)
{
	*words = (struct cli_words){.argv = calloc((size_t)argc + 1, sizeof(char *))};
	if (!words->argv)
		return error_set(error, -ENOMEM, "out of memory");
	for (int i = 0; i < argc; i++) {
		int length = 1;

		if (!strcmp(argv[i], "[")) {
			length = group_length(argv + i);
			if (length == 0)
				return error_set(error, -EINVAL,
				    "the captive server '[ %s ...' has no closing ']'",
				    argv[i + 1] ? argv[i + 1] : "");
			if (words->captive_count == 2)
				return error_set(error, -EINVAL, "there are more than two captive servers");
			words->captive[words->captive_count] = argv + i;
			words->captive_length[words->captive_count++] = length;
		}
		words->argv[words->argc++] = argv[i];
		i += length - 1;
	}
	return 0;
}

void cli_words_done(struct cli_words *words)
{
	free(words->argv);
	words->argv = NULL;
}

int cli_take_endpoint(struct cli_words *words, char *word, struct endpoint *ret, struct error *error)
{
	const size_t most = sizeof(((struct block_info *)NULL)->name) - 1;
	bool captive = !strcmp(word, "[");
	int i = captive ? words->captive_taken++ : 0;
	int used, res = captive
	                    ? endpoint_parse(ret, words->captive[i], words->captive_length[i], &used, error)
	                    : endpoint_parse(ret, &word, 1, &used, error);

	if (res == 0 && strlen(ret->name) > most)
		return error_set(error, -ENAMETOOLONG,
		    "the name '%.60s...' has %zu bytes, %zu are the most; name a symbolic link to it, or put "
		    "a "
		    "server's words into a script",
		    ret->name, strlen(ret->name), most);
	return res;
}

int cli_parse_number(const char *option, const char *text, const char *unit, unsigned least, unsigned most,
    unsigned *ret, struct error *error)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (text[0] < '0' || text[0] > '9' || (*end && strcmp(end, unit)) || value < least || value > most)
		return error_set(error, -EINVAL, "--%s=%s: write a %s from %u to %u", option, text,
		    unit[0] ? "percentage" : "number", least, most);
	*ret = (unsigned)value;
	return 0;
}

int cli_parse_rate(const char *option, const char *text, uint64_t *ret, struct error *error)
{
	*ret = 0;
	if (!strcmp(text, "none") || parse_size(text, ret, NULL) == 0)
		return 0;
	return error_set(error, -EINVAL, "%s%s%s%s: write bytes a second, such as 100M, or none",
	    option ? "--" : "", option ? option : "", option ? "=" : "", text);
}

int cli_parse_duration(const char *option, const char *text, uint64_t *ret_ns, struct error *error)
{
	char *end;
	double value_ms = strtod(text, &end);

	if (!strcmp(end, "s"))
		value_ms *= 1e3;
	if (end == text || !(value_ms >= 0) || value_ms > DURATION_MAX_MS ||
	    (*end && strcmp(end, "ms") && strcmp(end, "s")))
		return error_set(error, -EINVAL, "--%s=%s: write a time such as 500ms or 2s", option, text);
	*ret_ns = (uint64_t)(value_ms * 1e6);
	return 0;
}

int cli_parse_watch(const char *text, double *ret_s, struct error *error)
{
	char *end = NULL;

	*ret_s = text ? strtod(text, &end) : 1;
	if (text && (end == text || *end || !(*ret_s >= 0.1 && *ret_s <= WATCH_MAX_S)))
		return error_set(
		    error, -EINVAL, "--watch=%s: write seconds, from 0.1 to %u", text, WATCH_MAX_S);
	return 0;
}
