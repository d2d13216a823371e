/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Endpoints as a person names them. Pure text: nothing here looks at the disk or the network. The rules are
 * those of scp and rsync (a colon before any slash means a host), stricter where a slip of the keyboard would
 * name something else.
 */
#include "block/endpoint.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char *const nbd_schemes[] = {
    "nbd://",
    "nbds://",
    "nbd+unix://",
    "nbds+unix://",
    "nbd+vsock://",
    "nbds+vsock://",
};

static int set_string(char **at, const char *text, size_t length, struct error *error)
{
	*at = strndup(text, length);
	return *at ? 0 : error_set(error, -ENOMEM, "out of memory");
}

/* Joins words with blanks, for messages. */
static char *join_words(char *const *words, int count)
{
	size_t length = 1;
	char *text, *at;

	for (int i = 0; i < count; i++)
		length += strlen(words[i]) + 1;
	text = at = malloc(length);
	if (!text)
		return NULL;
	*at = '\0';
	for (int i = 0; i < count; i++) {
		if (i > 0)
			*at++ = ' ';
		at = stpcpy(at, words[i]);
	}
	return text;
}

static int parse_captive(
    struct endpoint *endpoint, char *const *words, int count, int *ret_used, struct error *error)
{
	int end = 1;

	while (end < count && strcmp(words[end], "]") != 0)
		end++;
	if (end == count)
		return error_set(error, -EINVAL,
		    "'[' begins an NBD server's command line, but no ']' ends it; write [ SERVER ARGS ], "
		    "each bracket a word "
		    "of its own");
	if (end == 1 || words[1][0] == '\0')
		return error_set(error, -EINVAL,
		    "there is no server between '[' and ']'; write [ qemu-nbd -f qcow2 FILE ]");
	endpoint->kind = ENDPOINT_CAPTIVE;
	endpoint->argv = calloc((size_t)end, sizeof(char *));
	endpoint->name = join_words(words, end + 1);
	if (!endpoint->argv || !endpoint->name)
		return error_set(error, -ENOMEM, "out of memory");
	for (int i = 1; i < end; i++)
		if (set_string(&endpoint->argv[i - 1], words[i], strlen(words[i]), error) < 0)
			return -ENOMEM;
	*ret_used = end + 1;
	return 0;
}

static bool has_control_or_space(const char *text, size_t length)
{
	for (size_t i = 0; i < length; i++)
		if (isspace((unsigned char)text[i]) || iscntrl((unsigned char)text[i]))
			return true;
	return false;
}

/* A scheme as RFC 3986 has it, "://" behind it: returns its length, or 0. */
static size_t scheme_length(const char *word)
{
	size_t length = 0;

	if (!isalpha((unsigned char)word[0]))
		return 0;
	while (isalnum((unsigned char)word[length]) || (word[length] && strchr("+-.", word[length])))
		length++;
	return strncmp(word + length, "://", 3) == 0 ? length : 0;
}

static int parse_uri(struct endpoint *endpoint, const char *word, struct error *error)
{
	for (size_t i = 0; i < sizeof(nbd_schemes) / sizeof(nbd_schemes[0]); i++) {
		if (strncmp(word, nbd_schemes[i], strlen(nbd_schemes[i])) != 0)
			continue;
		if (has_control_or_space(word, strlen(word)))
			return error_set(error, -EINVAL,
			    "cannot use '%s': an NBD URI has no blanks; write a blank as %%20", word);
		endpoint->kind = ENDPOINT_NBD;
		return set_string(&endpoint->path, word, strlen(word), error);
	}
	return error_set(error, -EINVAL,
	    "cannot use '%s': of URIs only nbd://, nbds://, nbd+unix://, nbds+unix:// and nbd+vsock:// are "
	    "known; over ssh "
	    "write [user@]host:PATH",
	    word);
}

/*
 * Finds the host of "[user@]host:PATH" or "[user@][v6]:PATH". Returns 1 with the length up to the colon, 0
 * when the word is a path, -EINVAL with words when it was meant as a host.
 */
static int find_host(const char *word, size_t *ret_length, struct error *error)
{
	size_t plain = strcspn(word, ":/");
	size_t bracket = strcspn(word, "[");
	size_t close;

	if (bracket < plain && (bracket == 0 || word[bracket - 1] == '@')) {
		close = bracket + strcspn(word + bracket, "]/");
		if (word[close] == ']' && word[close + 1] == ':') {
			*ret_length = close + 1;
			return 1;
		}
		return error_set(error, -EINVAL,
		    "cannot use '%s': write [v6-address]:PATH for a host, [ SERVER ARGS ] with blanks at the "
		    "brackets for an "
		    "NBD server, or ./%s for a file of that name",
		    word, word);
	}
	if (word[plain] != ':')
		return 0;
	*ret_length = plain;
	return 1;
}

/* Splits "user@host" of `length` bytes: an empty piece or a host that ssh would take for an option is
 * refused. */
static int check_host(const char *word, size_t length, struct error *error)
{
	const char *at = memrchr(word, '@', length);
	const char *host = at ? at + 1 : word;
	size_t host_length = length - (size_t)(host - word);

	if (at == word)
		return error_set(error, -EINVAL, "cannot use '%s': there is no user before the '@'", word);
	if (host_length == 0 || (host_length == 2 && memcmp(host, "[]", 2) == 0))
		return error_set(error, -EINVAL,
		    "cannot use '%s': there is no host before the ':'; write host:PATH, or ./%s for a file "
		    "of that name",
		    word, word);
	/* Taking the brackets off must not uncover another beginning. */
	if (memchr(word, '[', (size_t)(host - word)))
		return error_set(
		    error, -EINVAL, "cannot use '%s': write a v6 address as user@[ADDRESS]:PATH", word);
	if (word[0] == '-' || host[0] == '-' || (host[0] == '[' && host[1] == '-'))
		return error_set(
		    error, -EINVAL, "cannot use '%s': a host or user cannot begin with '-'", word);
	if (has_control_or_space(word, length))
		return error_set(error, -EINVAL,
		    "cannot use '%s': a host has no blanks; write ./%s for a file of that name", word, word);
	return 0;
}

/* Stores "user@host" without the brackets of a v6 address, as ssh takes it. */
static int store_host(struct endpoint *endpoint, const char *word, size_t length, struct error *error)
{
	const char *bracket = word[length - 1] == ']' ? memchr(word, '[', length) : NULL;
	size_t user = bracket ? (size_t)(bracket - word) : 0;

	if (!bracket)
		return set_string(&endpoint->host, word, length, error);
	if (set_string(&endpoint->host, word, length - 1, error) < 0)
		return -ENOMEM;
	memmove(endpoint->host + user, endpoint->host + user + 1, length - 1 - user);
	return 0;
}

static int parse_path_or_host(struct endpoint *endpoint, const char *word, struct error *error)
{
	size_t length = 0;
	int res = find_host(word, &length, error);

	if (res < 0)
		return res;
	if (res == 0) {
		endpoint->kind = ENDPOINT_PATH;
		return set_string(&endpoint->path, word, strlen(word), error);
	}
	res = check_host(word, length, error);
	if (res < 0)
		return res;
	if (word[length + 1] == '\0')
		return error_set(error, -EINVAL,
		    "cannot use '%s': there is no path after the ':'; write host:PATH, or ./%s for a file of "
		    "that name",
		    word, word);
	endpoint->kind = ENDPOINT_SSH;
	res = store_host(endpoint, word, length, error);
	return res < 0 ? res
	               : set_string(&endpoint->path, word + length + 1, strlen(word + length + 1), error);
}

static int parse_word(struct endpoint *endpoint, const char *word, struct error *error)
{
	int res = set_string(&endpoint->name, word, strlen(word), error);

	if (res < 0)
		return res;
	if (strcmp(word, "-") == 0) {
		endpoint->kind = ENDPOINT_STREAM;
		return 0;
	}
	if (strcmp(word, "]") == 0)
		return error_set(error, -EINVAL, "there is a ']' without a '[' before it");
	if (scheme_length(word) > 0)
		return parse_uri(endpoint, word, error);
	return parse_path_or_host(endpoint, word, error);
}

int endpoint_parse(struct endpoint *ret, char *const *words, int count, int *ret_used, struct error *error)
{
	struct endpoint endpoint = {0};
	int used = 1, res;

	if (count < 1 || words[0][0] == '\0')
		return error_set(error, -EINVAL,
		    "the name of a volume is empty; write a path, [user@]host:PATH, an NBD URI, [ SERVER "
		    "ARGS ] or -");
	if (strcmp(words[0], "[") == 0)
		res = parse_captive(&endpoint, words, count, &used, error);
	else
		res = parse_word(&endpoint, words[0], error);
	if (res < 0) {
		endpoint_done(&endpoint);
		return res;
	}
	*ret = endpoint;
	*ret_used = used;
	return 0;
}

void endpoint_done(struct endpoint *endpoint)
{
	free(endpoint->name);
	free(endpoint->host);
	free(endpoint->path);
	for (char **word = endpoint->argv; word && *word; word++)
		free(*word);
	free(endpoint->argv);
	*endpoint = (struct endpoint){0};
}
