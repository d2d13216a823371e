/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The negotiation with one client, an option at a time: nothing is read while answers are on their way. */
#include "export/nbd_server_private.h"

#include "base/bytes.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define ALLOCATION     "base:allocation"
#define BLOCK_FAVOURED 4096u

static void send_answers(struct nbd_client *client, enum nbd_phase next)
{
	assert(!client->answers.overflow && client->answers.used > 0);
	client->phase_next = next;
	client->answers_sent = 0;
	client->iov[0] = (struct iovec){.iov_base = client->answers.data, .iov_len = client->answers.used};
	nbd_stream_write(&client->stream, client->iov, 1);
}

void nbd_handshake_begin(struct nbd_client *client)
{
	nbd_greeting_build(client->answers.data);
	client->answers.used = NBD_GREETING_BYTES;
	send_answers(client, NBD_PHASE_FLAGS);
}

static void answer(struct nbd_client *client, const struct nbd_option *option, uint32_t type)
{
	nbd_answer_build(&client->answers, option->type, type, NULL, 0);
}

static void refuse(
    struct nbd_client *client, const struct nbd_option *option, enum nbd_answer_type type, const char *words)
{
	nbd_answer_build(
	    &client->answers, option->type, NBD_ANSWER_ERROR((uint32_t)type), words, (uint32_t)strlen(words));
}

static uint16_t export_flags(const struct nbd_client *client, const struct nbd_served *export)
{
	uint16_t flags = NBD_EXPORT_HAS_FLAGS | NBD_EXPORT_FLUSH | NBD_EXPORT_FUA | NBD_EXPORT_MULTI_CONN;

	if (client->structured)
		flags |= NBD_EXPORT_DF;
	if (export->read_only)
		return flags | NBD_EXPORT_READ_ONLY;
	return flags | NBD_EXPORT_TRIM | NBD_EXPORT_WRITE_ZEROES | NBD_EXPORT_FAST_ZERO;
}

static void choose(struct nbd_client *client, const struct nbd_served *export)
{
	const struct block_info *info = block_info(export->block);

	client->export = export;
	client->shape = (struct nbd_shape){.size = info->size,
	    .request_align = info->request_align,
	    .flags = export_flags(client, export),
	    .structured = client->structured,
	    .allocation = client->allocation_of == export};
}

/* INFO and GO. */
static enum nbd_phase handle_go(struct nbd_client *client, const struct nbd_option *option)
{
	struct nbd_answers *answers = &client->answers;
	const struct nbd_served *export;
	const struct block_info *info;
	struct error error;
	struct nbd_go go;

	if (nbd_go_parse(option, &go, &error) < 0) {
		refuse(client, option, NBD_ANSWER_INVALID, error.text);
		return NBD_PHASE_OPTIONS;
	}
	export = nbd_server_find(client->server, go.name);
	if (!export) {
		refuse(client, option, NBD_ANSWER_UNKNOWN, "there is no export of that name");
		return NBD_PHASE_OPTIONS;
	}
	info = block_info(export->block);
	nbd_answer_info_export(answers, option->type, info->size, export_flags(client, export));
	if (go.wants_name)
		nbd_answer_info_text(answers, option->type, NBD_INFO_NAME, export->name);
	if (go.wants_description && export->description[0])
		nbd_answer_info_text(answers, option->type, NBD_INFO_DESCRIPTION, export->description);
	/* Unasked, too, where a client must know. */
	if (go.wants_block_size || info->request_align > 1)
		nbd_answer_info_block_size(answers, option->type, info->request_align,
		    (uint32_t)max_u64(BLOCK_FAVOURED, info->request_align), NBD_PAYLOAD_MAX);
	answer(client, option, NBD_ANSWER_ACK);
	if (option->type == NBD_OPTION_INFO)
		return NBD_PHASE_OPTIONS;
	choose(client, export);
	return NBD_PHASE_REQUESTS;
}

/* The old way in: a wrong name is answered by the end of the link. */
static enum nbd_phase handle_export_name(struct nbd_client *client, const struct nbd_option *option)
{
	struct nbd_text name = {(const char *)option->data, option->length};
	const struct nbd_served *export = nbd_server_find(client->server, name);
	struct error error;

	if (!export) {
		error_set(&error, -ENOENT, "it asked for an export that there is not");
		nbd_client_end(client, &error);
		return NBD_PHASE_OPTIONS;
	}
	choose(client, export);
	nbd_answer_export_name(&client->answers, client->shape.size, client->shape.flags, client->no_zeroes);
	return NBD_PHASE_REQUESTS;
}

static void handle_list(struct nbd_client *client, const struct nbd_option *option)
{
	const struct nbd_server *server = client->server;

	if (option->length > 0) {
		refuse(client, option, NBD_ANSWER_INVALID, "LIST has no data");
		return;
	}
	for (unsigned i = 0; i < server->exports_count; i++)
		if (!server->exports[i]->leaving)
			nbd_answer_server(&client->answers, option->type, server->exports[i]->name,
			    server->exports[i]->description);
	answer(client, option, NBD_ANSWER_ACK);
}

static void handle_structured(struct nbd_client *client, const struct nbd_option *option)
{
	if (option->length > 0 || client->structured) {
		refuse(client, option, NBD_ANSWER_INVALID, "it has no data, and comes once");
		return;
	}
	client->structured = true;
	answer(client, option, NBD_ANSWER_ACK);
}

static void handle_meta(struct nbd_client *client, const struct nbd_option *option)
{
	bool list = option->type == NBD_OPTION_LIST_META_CONTEXT, offer;
	const struct nbd_served *export;
	struct nbd_text query;
	struct nbd_meta meta;
	struct error error;

	/* Whatever becomes of it, what was set before is void. */
	if (!list)
		client->allocation_of = NULL;
	if (!client->structured) {
		refuse(client, option, NBD_ANSWER_INVALID, "structured replies come first");
		return;
	}
	if (nbd_meta_parse(option, &meta, &error) < 0) {
		refuse(client, option, NBD_ANSWER_INVALID, error.text);
		return;
	}
	export = nbd_server_find(client->server, meta.name);
	if (!export) {
		refuse(client, option, NBD_ANSWER_UNKNOWN, "there is no export of that name");
		return;
	}
	offer = list && meta.queries_count == 0;
	while (nbd_meta_next(&meta, &query))
		offer |= nbd_text_is(query, ALLOCATION) || (list && nbd_text_is(query, "base:"));
	if (offer)
		nbd_answer_meta_context(
		    &client->answers, option->type, list ? 0 : NBD_ALLOCATION_ID, ALLOCATION);
	if (offer && !list)
		client->allocation_of = export;
	answer(client, option, NBD_ANSWER_ACK);
}

static enum nbd_phase handle_tls(struct nbd_client *client, const struct nbd_option *option)
{
	struct error error;

	if (option->length > 0 || client->stream.tls) {
		refuse(client, option, NBD_ANSWER_INVALID, "STARTTLS has no data, and comes once");
		return NBD_PHASE_OPTIONS;
	}
	if (!client->server->options.tls) {
		refuse(client, option, NBD_ANSWER_POLICY, "this server has no TLS");
		return NBD_PHASE_OPTIONS;
	}
	/* What somebody else may have slipped in before the encryption must not count as if it came after. */
	if (client->in_start != client->in_end) {
		error_set(&error, -EPROTO, "it sent more behind STARTTLS");
		nbd_client_end(client, &error);
		return NBD_PHASE_OPTIONS;
	}
	client->structured = false;
	client->allocation_of = NULL;
	answer(client, option, NBD_ANSWER_ACK);
	return NBD_PHASE_TLS;
}

static bool needs_tls(const struct nbd_client *client, const struct nbd_option *option)
{
	return client->server->options.tls_required && !client->stream.tls &&
	       option->type != NBD_OPTION_STARTTLS && option->type != NBD_OPTION_ABORT;
}

/* Answers an option, or ends the client; returns what comes after the answers. */
static enum nbd_phase handle(struct nbd_client *client, const struct nbd_option *option)
{
	struct error error;

	if (needs_tls(client, option)) {
		if (option->type != NBD_OPTION_EXPORT_NAME)
			refuse(client, option, NBD_ANSWER_TLS_REQUIRED, "this server asks for TLS first");
		else
			nbd_client_end(client, (error_set(&error, -EPERM, "it went on without TLS"), &error));
		return NBD_PHASE_OPTIONS;
	}
	switch (option->type) {
	case NBD_OPTION_EXPORT_NAME:
		return handle_export_name(client, option);
	case NBD_OPTION_ABORT:
		answer(client, option, NBD_ANSWER_ACK);
		client->end_next = true;
		return NBD_PHASE_OPTIONS;
	case NBD_OPTION_LIST:
		handle_list(client, option);
		return NBD_PHASE_OPTIONS;
	case NBD_OPTION_STARTTLS:
		return handle_tls(client, option);
	case NBD_OPTION_INFO:
	case NBD_OPTION_GO:
		return handle_go(client, option);
	case NBD_OPTION_STRUCTURED_REPLY:
		handle_structured(client, option);
		return NBD_PHASE_OPTIONS;
	case NBD_OPTION_LIST_META_CONTEXT:
	case NBD_OPTION_SET_META_CONTEXT:
		handle_meta(client, option);
		return NBD_PHASE_OPTIONS;
	default:
		refuse(client, option, NBD_ANSWER_UNSUPPORTED, "this server does not know the option");
		return NBD_PHASE_OPTIONS;
	}
}

static enum nbd_step take_flags(struct nbd_client *client)
{
	struct error error;

	if (client->in_end - client->in_start < NBD_CLIENT_FLAGS_BYTES)
		return NBD_STEP_MORE;
	if (nbd_client_flags_parse(client->in + client->in_start, &client->no_zeroes, &error) < 0) {
		nbd_client_end(client, &error);
		return NBD_STEP_END;
	}
	client->in_start += NBD_CLIENT_FLAGS_BYTES;
	client->phase = NBD_PHASE_OPTIONS;
	return NBD_STEP_ON;
}

static enum nbd_step take_option(struct nbd_client *client)
{
	struct nbd_option option;
	enum nbd_phase next = NBD_PHASE_OPTIONS;
	struct error error;
	size_t used;
	int res = nbd_option_parse(
	    client->in + client->in_start, client->in_end - client->in_start, &option, &used, &error);

	if (res == 0)
		return NBD_STEP_MORE;
	if (res == -E2BIG) {
		/* Its data are not waited for: they may be gigabytes. */
		refuse(client, &option, NBD_ANSWER_TOO_BIG, error.text);
		client->end_next = true;
	} else if (res < 0) {
		nbd_client_end(client, &error);
	} else {
		client->in_start += used;
		next = handle(client, &option);
	}
	if (client->ending)
		return NBD_STEP_END;
	send_answers(client, next);
	return NBD_STEP_WAIT;
}

enum nbd_step nbd_handshake_step(struct nbd_client *client)
{
	if (client->stream.write_op.active || client->phase == NBD_PHASE_TLS)
		return NBD_STEP_WAIT;
	return client->phase == NBD_PHASE_FLAGS ? take_flags(client) : take_option(client);
}
