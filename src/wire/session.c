/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A session's life: handshake, keepalive, deadlines, credits, and its end. It ends in steps: operations are
 * cancelled; when the last has come back, sends get their sent() and closed() runs, so that no memory of the
 * caller is in use.
 */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "wire/control.h"
#include "wire/session_private.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TIMEOUT_MS_DEFAULT 30000u
#define FAREWELL_NS        1000000000ull
#define PATIENT_TIMES      10u
#define PINGS_MAX          1000u /* between two ticks of the timer */

void session_maybe_closed(struct session *session)
{
	if (session->state != SESSION_BROKEN || session->receiver.op.active || session->sender.op.active ||
	    session->sender.later.active || session->timer.active)
		return;
	session->state = SESSION_CLOSED;
	session_sender_drop(session);
	session->closed = true;
	session->options.closed(session->options.data);
}

void session_break(struct session *session, const struct error *error)
{
	if (session->state >= SESSION_BROKEN)
		return;
	if (session->state == SESSION_LIVE && error != &session->error)
		session->error = *error;
	session->state = SESSION_BROKEN;
	ring_cancel(session->ring, &session->receiver.op);
	ring_cancel(session->ring, &session->sender.op);
	/* The timer is always under way, so that the end comes from the loop. */
	ring_cancel(session->ring, &session->timer);
}

void session_broke(struct session *session, int code, const char *format, ...)
{
	struct error error = {.code = code};
	va_list args;

	va_start(args, format);
	vsnprintf(error.text, sizeof(error.text), format, args);
	va_end(args);
	session_break(session, &error);
}

void session_break_soon(struct session *session, int code, const char *words)
{
	if (session->state == SESSION_FAREWELL) {
		session_break(session, &session->error);
	} else if (session->state == SESSION_LIVE && !session->end_ns) {
		error_set(&session->error, code, "the connection to the %s broke: %s", session->peer, words);
		session->end_ns = ring_now_ns(session->ring) + FAREWELL_NS;
		session_set_timer(session);
	}
}

/* JSON on its way out. */
struct json_send {
	struct session_send send;
	struct session *session;
	char *text;
	bool last; /* the farewell */
};

static void json_sent(struct session_send *send, int res)
{
	struct json_send *json = container_of(send, struct json_send, send);

	if (json->last)
		session_break(json->session, &json->session->error);
	free(json->text);
	free(json);
}

static struct json_send *json_send_new(
    struct session *session, enum frame_type type, uint64_t id, json_t *object)
{
	_cleanup_(control_cleanup) json_t *owned = object;
	struct json_send *json = calloc(1, sizeof(*json));

	if (!json)
		return NULL;
	json->session = session;
	json->text = owned ? json_dumps(owned, JSON_COMPACT) : NULL;
	if (owned && !json->text) {
		free(json);
		return NULL;
	}
	json->send.frame.type = type;
	json->send.frame.id = id;
	json->send.frame.payload_length = json->text ? (uint32_t)strlen(json->text) : 0;
	json->send.payload = json->text;
	json->send.sent = json_sent;
	assert(json->send.frame.payload_length <= FRAME_JSON_MAX);
	return json;
}

int session_send_json(
    struct session *session, enum frame_type type, uint64_t id, json_t *json, struct error *error)
{
	struct json_send *send = json_send_new(session, type, id, json);

	if (!send)
		return error_set(error, -ENOMEM, "no memory for a message to the %s", session->peer);
	session_send(session, &send->send);
	return 0;
}

void session_dismiss(struct session *session, const struct error *error)
{
	struct json_send *send;
	json_t *words;

	if (session->state != SESSION_LIVE)
		return;
	words = control_error(error->code, error->text);
	send = words ? json_send_new(session, FRAME_ERROR, 0, words) : NULL;
	if (!send || session->sender.dead) {
		if (send)
			json_sent(&send->send, -ENOTCONN);
		session_break(session, error);
		return;
	}
	session->error = *error;
	session->state = SESSION_FAREWELL;
	session->end_ns = ring_now_ns(session->ring) + FAREWELL_NS;
	ring_cancel(session->ring, &session->receiver.op);
	session_sender_drop(session);
	send->last = true;
	session_send(session, &send->send);
	session_set_timer(session);
}

/* Keepalive */

static void ping_sent(struct session_send *send, int res)
{
	container_of(send, struct session, ping)->pinging = false;
}

static void pong_sent(struct session_send *send, int res)
{
	container_of(send, struct session, pong)->ponging = false;
}

static void send_ping(struct session *session)
{
	if (session->pinging || session->ping_due || session->state != SESSION_LIVE)
		return;
	session->pinging = session->ping_due = true;
	session->ping.frame = (struct frame){.type = FRAME_PING, .id = ++session->ping_id};
	session->ping.sent = ping_sent;
	session_send(session, &session->ping);
}

/* One answer at a time: while it waits, further pings are answered by the next one only. */
static int ping_received(struct session *session, const struct frame *frame, struct error *error)
{
	if (++session->pings_heard > PINGS_MAX)
		return error_set(error, -EPROTO, "pings without end");
	if (session->ponging)
		return 0;
	session->ponging = true;
	session->pong.frame = (struct frame){.type = FRAME_PONG, .id = frame->id};
	session->pong.sent = pong_sent;
	session_send(session, &session->pong);
	return 0;
}

static int pong_received(struct session *session, const struct frame *frame, struct error *error)
{
	if (!session->ping_due || frame->id != session->ping_id)
		return error_set(error, -EPROTO, "PONG without a ping");
	session->ping_due = false;
	return 0;
}

/* The peer gave up, and says why. */
static int farewell_received(
    struct session *session, const struct frame *frame, const void *payload, struct error *error)
{
	struct error said;

	if (control_error_parse(payload, frame->payload_length, &said, error) < 0)
		return -EPROTO;
	session_broke(session, said.code, "the %s gave up: %.400s", session->peer, said.text);
	return 0;
}

int session_housekeeping(
    struct session *session, const struct frame *frame, const void *payload, struct error *error)
{
	switch (frame->type) {
	case FRAME_HELLO:
		return session_hello_received(session, frame, payload, error);
	case FRAME_PING:
		return ping_received(session, frame, error);
	case FRAME_PONG:
		return pong_received(session, frame, error);
	case FRAME_ERROR:
		return frame->id == 0 ? farewell_received(session, frame, payload, error) : 1;
	default:
		return 1;
	}
}

static uint64_t silence_ns(const struct session *session)
{
	return session->timeout_ns * (session->patient ? PATIENT_TIMES : 1);
}

static uint64_t next_deadline_ns(const struct session *session)
{
	uint64_t next_ns = session->heard_ns + silence_ns(session);

	if (session->end_ns)
		return session->end_ns;
	if (!session->greeted)
		return session->start_ns + (uint64_t)session->options.handshake_ms * 1000000;
	if (!session->ping_due && !session->pinging)
		next_ns = session->heard_ns + session->timeout_ns / 3;
	/* Also a beat for tick(). */
	return min_u64(
	    next_ns, max_u64(session->timer.deadline_ns, session->start_ns) + session->timeout_ns / 3);
}

/* Submits it, or has it come back to be set anew. */
void session_set_timer(struct session *session)
{
	if (session->timer.active) {
		ring_cancel(session->ring, &session->timer);
		return;
	}
	session->timer.opcode = RING_TIMER;
	session->timer.deadline_ns = next_deadline_ns(session);
	ring_submit(session->ring, &session->timer);
}

static void not_greeted(struct session *session)
{
	struct error words;

	if (session_got_text(session, &words))
		session_break(session, &words);
	else
		session_broke(session, -ENOTCONN, "the %s did not greet within %u s", session->peer,
		    (session->options.handshake_ms + 999) / 1000);
}

static void beat(struct session *session, uint64_t now_ns)
{
	struct error error = {0};

	session->pings_heard = 0;
	/* This process itself was stopped or very late: what the peer said meanwhile waits to be read. */
	if (now_ns > session->timer.deadline_ns + session->timeout_ns / 8)
		session->heard_ns = now_ns;
	if (session->end_ns && now_ns >= session->end_ns)
		session_break(session, &session->error);
	else if (session->end_ns)
		return;
	else if (!session->greeted && now_ns >= next_deadline_ns(session))
		not_greeted(session);
	else if (session->greeted && now_ns >= session->heard_ns + silence_ns(session))
		session_broke(session, -ENOTCONN, "no answer for %llu s",
		    (unsigned long long)(silence_ns(session) / 1000000000));
	else if (session->options.tick && session->options.tick(session->options.data, &error) < 0)
		session_break(session, &error);
	else if (session->greeted && now_ns >= session->heard_ns + session->timeout_ns / 3)
		send_ping(session);
}

static void timer_done(struct ring_op *op, int res)
{
	struct session *session = container_of(op, struct session, timer);

	if (session->state < SESSION_BROKEN && res == 0)
		beat(session, ring_now_ns(session->ring));
	if (session->state < SESSION_BROKEN)
		session_set_timer(session);
	session_maybe_closed(session);
}

/* Life */

/* A peer that goes away must not end the whole program; whoever set a handler of its own keeps it. */
static void ignore_sigpipe(void)
{
	struct sigaction action;

	if (sigaction(SIGPIPE, NULL, &action) == 0 && action.sa_handler == SIG_DFL)
		signal(SIGPIPE, SIG_IGN);
}

static void close_fds(struct ring *ring, const struct session_options *options)
{
	if (ring->simulated)
		return;
	close(options->fd_in);
	if (options->fd_out != options->fd_in)
		close(options->fd_out);
}

static void dispose(struct session *session)
{
	close_fds(session->ring, &session->options);
	session_sender_done(session);
	session_receiver_done(session);
	free(session);
}

int session_new(
    struct session **ret, struct ring *ring, const struct session_options *options, struct error *error)
{
	struct session *session = calloc(1, sizeof(*session));
	int res;

	if (!session) {
		close_fds(ring, options);
		return error_set(error, -ENOMEM, "no memory for a connection");
	}
	session->ring = ring;
	session->options = *options;
	if (!session->options.timeout_ms)
		session->options.timeout_ms = TIMEOUT_MS_DEFAULT;
	if (!session->options.handshake_ms)
		session->options.handshake_ms = session->options.timeout_ms;
	session->timeout_ns = (uint64_t)session->options.timeout_ms * 1000000;
	session->peer = options->peer ? options->peer : options->server ? "client" : "agent";
	session->limit = options->offer;
	session->timer.done = timer_done;
	session->start_ns = session->heard_ns = ring_now_ns(ring);
	session_sender_init(session);
	res = session_receiver_init(session, error);
	if (res == 0)
		res = session_hello_send(session, error);
	if (res < 0) {
		dispose(session);
		return res;
	}
	ignore_sigpipe();
	session_set_timer(session);
	session_receiver_start(session);
	*ret = session;
	return 0;
}

struct session *session_free(struct session *session)
{
	if (!session)
		return NULL;
	session_broke(session, -ECANCELED, "closed on this side");
	/* If the loop itself broke, the kernel may still use the memory: better to keep it. */
	if (ring_run_until(session->ring, &session->closed) == 0)
		dispose(session);
	return NULL;
}

int session_error(const struct session *session, struct error *error)
{
	if (session->state == SESSION_LIVE)
		return 0;
	if (error)
		*error = session->error;
	return session->error.code;
}

bool session_ended(const struct session *session)
{
	return session->ended;
}

void session_set_patient(struct session *session, bool patient)
{
	session->patient = patient;
}
