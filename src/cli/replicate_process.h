/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The inside of replicate_run.h: replicate_run.c (the process), replicate_resource.c (the life of a resource), replicate_port.c (who dials
 * this host), replicate_peer.c (dialling the other one), replicate_tls.c, replicate_stream.c (what both say first), replicate_serve.c (clients), replicate_device.c (the block device),
 * replicate_hooks.c (the user's programs), replicate_verify.c, replicate_control.c (requests), replicate_status.c (what is told of a resource),
 * replicate_orders.c (orders that take time). One ring, one thread. What belongs to a resource ends with it; ports and NBD servers are shared.
 */
#pragma once

#include "cli/cli.h"
#include "cli/control.h"
#include "cli/mirror_trust.h"
#include "cli/replica_config.h"
#include "cli/replicate_orders.h"
#include "cli/replicate_run.h"
#include "cli/signals.h"
#include "export/device.h"
#include "replica/replica_greeting.h"
#include "replica/replica_node.h"
#include "ring/fiber.h"
#include "ring/ticker.h"
#include "sync/budget.h"

#include <sys/socket.h>

#define REPLICATE_ADDRESSES_MAX 8u
#define REPLICATE_RANGES_MAX    32u /* in a status; it has room for so many */

struct replicate_process;
struct replicate_port;
struct replicate_front;
struct replicate_tls;
struct tls;

enum replicate_state {
	REPLICATE_STARTING,
	REPLICATE_UP,
	REPLICATE_STOPPING,
	REPLICATE_FAILED, /* with words; only its control socket is left */
	REPLICATE_DOWN,   /* nothing is left */
};

struct replicate_address {
	struct sockaddr_storage address;
	socklen_t length;
};

struct replicate_peer {
	struct replicate_port *port; /* where the other host dials; NULL: not open */
	struct replicate_address
	    addresses[REPLICATE_ADDRESSES_MAX]; /* the other's, as they were found last */
	unsigned addresses_count;
	struct fiber *fiber; /* that dials, or looks for the addresses */
	bool sought, wake, closing;
	int fd; /* being connected or greeted by the fiber; -1: none */
	unsigned failures;
	uint64_t next_ns; /* when it is tried again */
	char trying[512]; /* what was said last of a link that cannot be made; "" */
};

struct replicate_export {
	struct replicate_front *front;
	char name[256];
};

struct replicate_hook {
	struct ring_op later;
	struct fiber *fiber;
	bool running, cancelled;
};

struct replicate_verify {
	bool known; /* there was one */
	bool running;
	bool unwanted;                        /* somebody has stopped it */
	int res;                              /* of its end */
	uint64_t position, differing, unread; /* at its end; bytes */
	uint64_t told;                        /* ranges */
	int64_t at_s;                         /* when the last one ended */
	uint64_t from;                        /* where the next one by the clock begins */
	uint64_t retry_ns;
	struct {
		uint64_t offset, length;
	} ranges[REPLICATE_RANGES_MAX]; /* the first ones */
};

/* Of the device, after the volume. */
struct replicate_growth {
	struct fiber *fiber; /* that asks the kernel, or did */
	uint64_t tried;      /* bytes; 0: never */
	char why[512];       /* it is smaller than the volume, and stays so; "" */
};

struct replicate_pace {
	uint64_t look_ns, done; /* at the last look; bytes */
	double rate;            /* bytes per second, smoothed */
};

struct replicate_resource {
	struct replicate_process *process;
	const struct replica_config *config;
	const char *name;
	enum replicate_state state;
	struct error error; /* why it failed */
	struct mirror_files files;
	int map_fd;
	struct replica_node *node;
	struct fiber *fiber; /* of the node */
	bool node_ended;
	int node_res;
	struct fiber *ending; /* goes down; NULL: does not */
	bool leave_device;
	struct control *control;
	bool changed; /* its status, since it was told */
	uint64_t told_ns;
	struct replicate_orders orders;
	struct replicate_peer peer;
	struct replicate_export exports[LISTEN_MAX];
	unsigned exports_count;
	bool serving;
	struct device *device;
	struct replicate_growth growth;
	struct replicate_hook fence;
	struct governor_options governor;
	struct replicate_pace pace;
	struct replicate_verify verify;
	char trouble[512];
	/* As they were told last, on standard error. */
	enum replica_role said_role;
	enum replica_flow said_flow;
	const char *said_refusal;
	bool said_good;
};

struct replicate_process {
	const struct replicate_up_options *options;
	struct ring *ring;
	struct signals *signals;
	struct replicate_resource *resources;
	unsigned count;
	struct budget budget, *common; /* of all resyncs together; common: it, or NULL without limits */
	struct list_node ports, fronts, tls_streams, credentials;
	struct ticker ticker;
	bool detached;          /* what is printed goes to the log */
	bool wake;              /* somebody has something for the loop outside of fibers to do */
	bool stopping, insists; /* a signal came; a second one */
};

/* replicate_resource.c */
/* Opens all of it and lets it live, or it is REPLICATE_FAILED. Not in a fiber. */
void replicate_resource_up(struct replicate_resource *resource);
/* Goes down in good order, in a fiber of its own. `leave_device`: also when its block device is in use, which stays behind. */
void replicate_resource_down(struct replicate_resource *resource, bool leave_device);
/* Frees what has ended. Not in a fiber; often. */
void replicate_resource_look(struct replicate_resource *resource);
/* Whatever state it is in: nothing of it is left. Not in a fiber. */
void replicate_resource_done(struct replicate_resource *resource);
/* Kept for the status, and printed. */
void replicate_say(struct replicate_resource *resource, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void replicate_warn(struct replicate_resource *resource, const char *text);
/* What a line on standard error begins with: the program, in the log behind the time. Returns buf. */
const char *replicate_prefix(const struct replicate_process *process, char buf[48]);

/* replicate_stream.c; all in fibers or control paths. */
/* Text to addresses. A name is looked up on a thread; `ring` NULL: only what takes no time, and is none. */
int replicate_stream_resolve(struct ring *ring, const struct replica_config_host *host,
    struct replicate_address ret[REPLICATE_ADDRESSES_MAX], unsigned *ret_count, struct error *error);
/* Whether it is one of those, whatever the port. */
bool replicate_stream_is_from(
    const struct sockaddr_storage *address, const struct replicate_address *addresses, unsigned count);
/* NODELAY, keepalive, and how long what was sent may stay unanswered. */
void replicate_stream_tune(int fd, unsigned timeout_ms);
/* A line without its end, at most so long; nothing behind it is read. How long it is, or -errno with words. */
int replicate_stream_read_line(
    struct ring *ring, int fd, uint64_t deadline_ns, char ret[REPLICA_GREETING_MAX], struct error *error);
/* A line, which fits what a fresh socket takes. */
int replicate_stream_write_line(int fd, const char *line, size_t length, struct error *error);
/* "[::1]:7800". Returns buf. */
const char *replicate_stream_name(const struct sockaddr_storage *address, char *buf, size_t length);

/* replicate_tls.c */
/* Whether two files name the same keys, or none. */
bool replicate_tls_is_same(const struct replica_config *a, const struct replica_config *b);
/* The keys that the file names, loaded once; NULL: it names none. */
int replicate_tls_find(struct replicate_process *process, const struct replica_config *config,
    struct tls **ret, struct error *error);
/*
 * Puts TLS on a connected socket: *fd, which is taken also on failure, becomes the plain end. replicate_tls_let_go() in any case after success.
 * peer_name as tls_stream_new() has it.
 */
int replicate_tls_wrap(struct replicate_process *process, struct tls *credentials, bool server,
    const char *peer_name, int *fd, struct replicate_tls **ret, struct error *error);
/* What happens to it is not of interest any more. If it failed so far, *error (or NULL) says why. Takes NULL. */
void replicate_tls_let_go(struct replicate_tls *tls, struct error *error);
/* Frees those that are over. Not in a fiber. */
void replicate_tls_look(struct replicate_process *process);
/* All of them, and the keys. Not in a fiber. */
void replicate_tls_done(struct replicate_process *process);

/* replicate_port.c */
/* The port of the resource's address: there already, or bound now. */
int replicate_port_use(struct replicate_resource *resource, struct error *error);
/* The last one closes it. Not in a fiber. */
void replicate_port_leave(struct replicate_resource *resource);
/* Frees those whose greeting is over. Not in a fiber. */
void replicate_ports_look(struct replicate_process *process);

/* replicate_peer.c */
/* A number never drawn before, from 1 to REPLICA_NAME_MAX. */
uint64_t replicate_draw(void);
/* What is in the way of a link, "" when nothing is: for the status, and said, but again and again the same is said once. */
void replicate_peer_note(struct replicate_resource *resource, const char *text);
int replicate_peer_open(struct replicate_resource *resource, struct error *error);
/* For replica_node_options. */
void replicate_peer_seek(void *resource, bool on);
int replicate_peer_dial(void *resource, uint64_t link, int *ret_fd, struct error *error);
/* Gives the node the link that it seeks. Takes the descriptor. */
int replicate_peer_take_link(
    struct replicate_resource *resource, int fd, bool server, uint64_t link, struct error *error);
/* Every so often. */
void replicate_peer_tick(struct replicate_resource *resource);
/* Runs the ring. Not in a fiber. */
void replicate_peer_close(struct replicate_resource *resource);

/* replicate_serve.c */
/* The NBD servers of its URIs: there already, or bound now. */
int replicate_serve_open(struct replicate_resource *resource, struct error *error);
/* For replica_node_options: exports and the device come or go. */
void replicate_serve(void *resource, bool open);
unsigned replicate_serve_clients(const struct replicate_resource *resource);
/* "nbd://..." of the i-th export. */
const char *replicate_serve_uri(
    const struct replicate_resource *resource, unsigned i, char *buf, size_t length);
/* Runs the ring. Not in a fiber. */
void replicate_serve_close(struct replicate_resource *resource);

/* replicate_device.c */
/* The device is removed now; -EBUSY with words: somebody uses it. */
int replicate_device_remove(struct replicate_resource *resource, struct error *error);
/* It stays behind, and is not ours any more. */
void replicate_device_let_go(struct replicate_resource *resource);
/* It is there again, if it should be. */
void replicate_device_restore(struct replicate_resource *resource);
/* Every so often: it becomes larger when the volume has. */
void replicate_device_tick(struct replicate_resource *resource);
/* In a fiber: waits until it is as large as the volume, or it is known that it stays as it is. */
void replicate_device_settle(struct replicate_resource *resource);
/* Runs the ring. Not in a fiber. */
void replicate_device_close(struct replicate_resource *resource);

/* replicate_hooks.c */
/* For replica_node_options. */
void replicate_hook_fence(void *resource);
int replicate_hook_before_resync(void *resource, struct error *error);
/* Ends them. Runs the ring. Not in a fiber. */
void replicate_hooks_close(struct replicate_resource *resource);

/* replicate_verify.c */
/* -errno with words when it cannot be. */
int replicate_verify_begin(
    struct replicate_resource *resource, uint64_t from, uint64_t rate, bool resync, struct error *error);
void replicate_verify_stop(struct replicate_resource *resource);
/* What an earlier process kept of it. */
void replicate_verify_recall(struct replicate_resource *resource);
/* Every so often: as often as the file says. */
void replicate_verify_tick(struct replicate_resource *resource);
json_t *replicate_verify_json(
    const struct replicate_resource *resource, const struct mirror_job_status *status);

/* replicate_control.c */
json_t *replicate_answer(void *resource, const json_t *request);

/* replicate_status.c */
json_t *replicate_status_json(struct replicate_resource *resource);
/* Who follows it on the control socket, and who reads standard error. Every so often. */
void replicate_status_tick(struct replicate_resource *resource);
