/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How ssh is called: see ssh_command.h. What the remote shell sees is quoted for it. */
#include "wire/ssh_command.h"

#include "base/cleanup.h"
#include "wire/child.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#define OWN_WORDS       24u
#define PRINT_BYTES     65536u
#define PRINT_MS        5000u
#define AES_GCM_FIRST   "Ciphers=^aes128-gcm@openssh.com,aes256-gcm@openssh.com"
#define PLAIN_IN_SHELLS "_-+./:@%,=" /* besides letters and digits */

static const char *program_of(const struct ssh_options *options)
{
	return options->program ? options->program : "ssh";
}

static size_t count_words(const char *const *words)
{
	size_t count = 0;

	while (words && words[count])
		count++;
	return count;
}

static bool printable(const char *text)
{
	for (; *text; text++)
		if (iscntrl((unsigned char)*text))
			return false;
	return true;
}

static int check_host(const char *host, struct error *error)
{
	const char *name = strrchr(host, '@');

	name = name ? name + 1 : host;
	if (host[0] == '-' || name[0] == '-' || !name[0] || !printable(host) || strpbrk(host, " "))
		return error_set(
		    error, -EINVAL, "'%s' is not the name of a machine; write [user@]host:PATH", host);
	return 0;
}

static bool plain(const char *text)
{
	for (; *text; text++)
		if (!isalnum((unsigned char)*text) && !strchr(PLAIN_IN_SHELLS, *text))
			return false;
	return true;
}

/* In single quotes, which sh, bash, zsh, csh and fish read alike; a leading ~/ stays outside them. */
static char *quote(const char *path)
{
	char *quoted = malloc(4 * strlen(path) + sizeof("'' agent"));
	char *at = quoted;

	if (!quoted)
		return NULL;
	if (!strncmp(path, "~/", 2)) {
		at = stpcpy(at, "~/");
		path += 2;
	}
	if (plain(path)) {
		at = stpcpy(at, path);
	} else {
		*at++ = '\'';
		for (; *path; path++) {
			if (*path == '\'')
				at = stpcpy(at, "'\\''");
			else
				*at++ = *path;
		}
		*at++ = '\'';
	}
	strcpy(at, " agent");
	return quoted;
}

static int check_path(const char *path, struct error *error)
{
	if (!path[0] || path[0] == '-' || !printable(path))
		return error_set(error, -EINVAL, "'%s' is not the path of a program (--agent-path)", path);
	return 0;
}

static void fill(struct ssh_command *command, const struct ssh_options *options, bool fast_cipher)
{
	static const char *const fixed[] = {
	    "-T", "-x", "-e", "none", "-o", "Compression=no", "-o", "ClearAllForwardings=yes"};
	unsigned timeout_s = (options->timeout_ms + 999) / 1000;
	char **at = command->argv;

	snprintf(command->alive, sizeof(command->alive), "ServerAliveInterval=%u",
	    timeout_s > 3 ? timeout_s / 3 : 1);
	snprintf(command->connect, sizeof(command->connect), "ConnectTimeout=%u", timeout_s);
	*at++ = (char *)program_of(options);
	for (size_t i = 0; i < count_words(options->ssh_options); i++)
		*at++ = (char *)options->ssh_options[i];
	for (size_t i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++)
		*at++ = (char *)fixed[i];
	*at++ = (char *)"-o";
	*at++ = command->alive;
	*at++ = (char *)"-o";
	*at++ = command->connect;
	if (fast_cipher) {
		*at++ = (char *)"-o";
		*at++ = (char *)AES_GCM_FIRST;
	}
	*at++ = (char *)"--";
	*at++ = (char *)options->host;
	*at++ = command->words;
	*at = NULL;
}

int ssh_command_make(
    struct ssh_command *ret, const struct ssh_options *options, bool fast_cipher, struct error *error)
{
	const char *path = options->agent_path ? options->agent_path : "blkmove";

	*ret = (struct ssh_command){0};
	if (check_host(options->host, error) < 0 || check_path(path, error) < 0)
		return -EINVAL;
	ret->argv = calloc(count_words(options->ssh_options) + OWN_WORDS, sizeof(*ret->argv));
	ret->words = quote(path);
	if (!ret->argv || !ret->words) {
		ssh_command_done(ret);
		return error_set(error, -ENOMEM, "cannot start ssh: out of memory");
	}
	fill(ret, options, fast_cipher);
	return 0;
}

void ssh_command_done(struct ssh_command *command)
{
	free(command->argv);
	free(command->words);
	*command = (struct ssh_command){0};
}

bool ssh_command_ciphers(const char *printed, char *ret, unsigned size)
{
	static const char key[] = "ciphers ";

	for (const char *line = printed; line && *line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncasecmp(line, key, sizeof(key) - 1) == 0) {
			const char *value = line + sizeof(key) - 1;
			size_t length = strcspn(value, "\n");

			if (length == 0 || length >= size)
				return false;
			memcpy(ret, value, length);
			ret[length] = '\0';
			return true;
		}
	}
	return false;
}

static bool processor_has_aes(void)
{
#if defined(__x86_64__)
	return __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul");
#elif defined(__aarch64__)
	return getauxval(AT_HWCAP) & HWCAP_AES;
#else
	return false;
#endif
}

/* What ssh would use, with the user's words and configuration, or with none. */
static bool ask(
    const struct ssh_options *options, struct ring *ring, bool configured, char *ret, unsigned size)
{
	size_t count = configured ? count_words(options->ssh_options) : 0;
	_cleanup_(cleanup_free) char **argv = calloc(count + OWN_WORDS, sizeof(*argv));
	_cleanup_(cleanup_free) char *printed = malloc(PRINT_BYTES);
	char **at = argv;

	if (!argv || !printed)
		return false;
	*at++ = (char *)program_of(options);
	for (size_t i = 0; i < count; i++)
		*at++ = (char *)options->ssh_options[i];
	*at++ = (char *)"-G";
	if (!configured) {
		*at++ = (char *)"-F";
		*at++ = (char *)"none";
	}
	*at++ = (char *)"--";
	*at = (char *)options->host;
	return child_capture(argv, ring, printed, PRINT_BYTES, PRINT_MS) == 0 &&
	       ssh_command_ciphers(printed, ret, size);
}

bool ssh_command_ciphers_are_default(const struct ssh_options *options, struct ring *ring)
{
	char configured[2048], unconfigured[2048];
	struct error error;

	return processor_has_aes() && check_host(options->host, &error) == 0 &&
	       ask(options, ring, true, configured, sizeof(configured)) &&
	       ask(options, ring, false, unconfigured, sizeof(unconfigured)) &&
	       !strcmp(configured, unconfigured) && strstr(configured, "aes128-gcm@openssh.com");
}
