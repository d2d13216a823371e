/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The program: the first word names a command. */
#include "agent/agent.h"
#include "cli/cli.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *help; /* NULL: another name of the line above */
} commands[] = {
    {"copy", command_copy, "SRC DST   copy all of a volume"},
    {"sync", command_sync, "SRC DST   make a target equal, sending only what differs"},
    {"verify", command_verify, "A B     compare two volumes: exit 0 same, 1 differs, 2 trouble"},
    {"digest", command_digest, "SRC     digests of a volume, saved or printed"},
    {"serve", command_serve, "DEV...   export volumes over NBD"},
    {"mirror", command_mirror, "SRC DST   export a volume and move it meanwhile"},
    {"move", command_move, "DEV NEWDEV   move a device-mapper device while it is in use"},
    {"replicate", command_replicate, "SUB-COMMAND   a volume on two machines"},
    {"recover", command_recover, "[DST]   complete an interrupted round of sync --atomic"},
    {"status", command_control, "[NAME]  what runs on this machine: jobs by pid, mirrors by name"},
    {"pause", command_control, "NAME     hold a job, or a mirror's sync"},
    {"resume", command_control, "NAME    let it go on"},
    {"throttle", command_control, "NAME [RATE]   change its limits"},
    {"cutover", command_control, "NAME   make a mirror's target the authoritative leg"},
    {"revert", command_control, "NAME    go back to the source, with all that was written since"},
    {"finish", command_control, "NAME    let the old source go"},
    {"abort", command_control, "NAME     end a mirror before its cutover"},
    {"agent", agent_main, "         the far side of a copy over ssh; started by the near side"},
};

static void usage(FILE *to)
{
	fputs("Usage: blkmove COMMAND [OPTIONS] ...\n\n", to);
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		fprintf(to, "  blkmove %s %s\n", commands[i].name, commands[i].help);
	fputs("\nAn endpoint is /dev/x, file.img, [user@]host:PATH, nbd://..., [ SERVER ARGS ], or - for a "
	      "stream.\n"
	      "`blkmove COMMAND --help` lists options; `man blkmove` tells all.\n",
	    to);
}

/* Else what is opened first takes the number of a stream that the caller has closed, and gets what is printed. To use these fails. */
static int open_standard_streams(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 &&
		    open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) != fd)
			return -1;
	return 0;
}

/* Whoever reads what was printed is not to take a part of it for the whole; who has gone away does not read. */
static int end_output(int code)
{
	struct pollfd gone = {.fd = STDOUT_FILENO};
	bool failed = ferror(stdout);

	failed |= fflush(stdout) != 0;
	if (!failed || (poll(&gone, 1, 0) > 0 && (gone.revents & POLLERR)))
		return code;
	fputs("blkmove: cannot write to standard output: it is full, or closed\n", stderr);
	return code == JOB_OK ? JOB_TROUBLE : code;
}

int main(int argc, char **argv)
{
	if (open_standard_streams() < 0)
		return JOB_TROUBLE;
	/* A reader that went away is an error of that write, not a death. */
	signal(SIGPIPE, SIG_IGN);
	if (argc < 2) {
		usage(stderr);
		return JOB_TROUBLE;
	}
	if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
		puts("blkmove " BLKMOVE_VERSION);
		return end_output(JOB_OK);
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
		usage(stdout);
		return end_output(JOB_OK);
	}
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (!strcmp(argv[1], commands[i].name))
			return end_output(commands[i].run(argc - 1, argv + 1));
	fprintf(stderr, "blkmove: there is no command '%s'; `blkmove --help` lists them\n", argv[1]);
	return JOB_TROUBLE;
}
