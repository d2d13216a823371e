/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A cable between two network namespaces, with a delay, a loss and a rate, and that can be cut, also in one direction alone. Packets go through a
 * TUN device in each (Linux, Documentation/networking/tuntap.rst); who calls gives these their addresses.
 *   cable NAMESPACE NAMESPACE
 * Commands come by lines: delay MICROSECONDS, loss PARTS-IN-A-MILLION, rate BYTES-A-SECOND (0: none), cut both|there|back, mend. Each is answered by
 * a line: ok. Ends with its standard input.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define PACKETS 8192u /* under way in one direction; more are lost, as in any queue */
#define MTU     1500u

struct packet {
	uint64_t due_ns;
	unsigned length;
	uint8_t bytes[MTU];
};

struct way {
	int from, to;
	bool cut;
	uint64_t free_ns; /* when the wire has sent what it was given */
	unsigned first, count;
	struct packet packets[PACKETS];
};

struct cable {
	uint64_t delay_ns, loss_ppm, rate;
	uint64_t random;
	struct way ways[2];
};

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void die(const char *what)
{
	fprintf(stderr, "cable: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* A device named "cable" in that namespace; the process is in it from then on. */
static int open_end(const char *name)
{
	struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI, .ifr_name = "cable"};
	char path[300];
	int ns, fd;

	snprintf(path, sizeof(path), "/run/netns/%.200s", name);
	ns = open(path, O_RDONLY | O_CLOEXEC);
	if (ns < 0 || setns(ns, CLONE_NEWNET) < 0)
		die(path);
	close(ns);
	fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0)
		die("/dev/net/tun");
	return fd;
}

/* xorshift64*, Marsaglia and Vigna. */
static uint64_t draw(struct cable *cable)
{
	cable->random ^= cable->random >> 12;
	cable->random ^= cable->random << 25;
	cable->random ^= cable->random >> 27;
	return cable->random * UINT64_C(2685821657736338717);
}

static void take(struct cable *cable, struct way *way)
{
	for (;;) {
		struct packet *packet = &way->packets[(way->first + way->count) % PACKETS], spilt;
		bool lost = way->cut || way->count == PACKETS || draw(cable) % 1000000 < cable->loss_ppm;
		struct packet *into = way->count == PACKETS ? &spilt : packet;
		ssize_t length = read(way->from, into->bytes, MTU);
		uint64_t now = now_ns();

		if (length <= 0)
			return;
		if (lost)
			continue;
		if (way->free_ns < now)
			way->free_ns = now;
		if (cable->rate)
			way->free_ns += (uint64_t)length * 1000000000u / cable->rate;
		packet->length = (unsigned)length;
		packet->due_ns = way->free_ns + cable->delay_ns;
		way->count++;
	}
}

/* Returns when the next one is due; UINT64_MAX: there is none. */
static uint64_t give(struct way *way)
{
	while (way->count > 0) {
		const struct packet *packet = &way->packets[way->first];

		if (packet->due_ns > now_ns())
			return packet->due_ns;
		if (!way->cut && write(way->to, packet->bytes, packet->length) < 0 && errno != EAGAIN &&
		    errno != EIO)
			die("write");
		way->first = (way->first + 1) % PACKETS;
		way->count--;
	}
	return UINT64_MAX;
}

static void obey(struct cable *cable, const char *line)
{
	unsigned long long number = 0;
	char word[16] = "", what[16] = "";

	sscanf(line, "%15s %15s", word, what);
	sscanf(what, "%llu", &number);
	if (strcmp(word, "delay") == 0)
		cable->delay_ns = number * 1000;
	else if (strcmp(word, "loss") == 0)
		cable->loss_ppm = number;
	else if (strcmp(word, "rate") == 0)
		cable->rate = number;
	else if (strcmp(word, "mend") == 0)
		cable->ways[0].cut = cable->ways[1].cut = false;
	else if (strcmp(word, "cut") == 0) {
		cable->ways[0].cut |= strcmp(what, "back") != 0;
		cable->ways[1].cut |= strcmp(what, "there") != 0;
	} else {
		fprintf(stderr, "cable: what is %s?\n", line);
		exit(2);
	}
	puts("ok");
	fflush(stdout);
}

/* False at the end of the input. */
static bool listen_to(struct cable *cable)
{
	char buf[256], *line, *rest = buf;
	ssize_t length = read(STDIN_FILENO, buf, sizeof(buf) - 1);

	if (length <= 0)
		return false;
	buf[length] = '\0';
	while ((line = strsep(&rest, "\n")) && rest)
		obey(cable, line);
	return true;
}

static void wake_at(int timer, uint64_t due_ns)
{
	struct itimerspec when = {0};

	if (due_ns != UINT64_MAX) {
		when.it_value.tv_sec = (time_t)(due_ns / 1000000000u);
		when.it_value.tv_nsec = (long)(due_ns % 1000000000u);
	}
	timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

int main(int argc, char **argv)
{
	static struct cable cable = {.random = 88172645463325252u};
	int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	struct pollfd polls[4];

	if (argc != 3) {
		fprintf(stderr, "usage: cable NAMESPACE NAMESPACE\n");
		return 2;
	}
	cable.ways[0].from = cable.ways[1].to = open_end(argv[1]);
	cable.ways[1].from = cable.ways[0].to = open_end(argv[2]);
	polls[0] = (struct pollfd){.fd = cable.ways[0].from, .events = POLLIN};
	polls[1] = (struct pollfd){.fd = cable.ways[1].from, .events = POLLIN};
	polls[2] = (struct pollfd){.fd = STDIN_FILENO, .events = POLLIN};
	polls[3] = (struct pollfd){.fd = timer, .events = POLLIN};
	puts("ok");
	fflush(stdout);
	for (;;) {
		uint64_t due[2];

		for (unsigned i = 0; i < 2; i++) {
			take(&cable, &cable.ways[i]);
			due[i] = give(&cable.ways[i]);
		}
		wake_at(timer, due[0] < due[1] ? due[0] : due[1]);
		if (poll(polls, 4, -1) < 0 && errno != EINTR)
			die("poll");
		if (polls[2].revents && !listen_to(&cable))
			return 0;
	}
}
