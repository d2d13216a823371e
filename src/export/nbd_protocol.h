/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The server's side of the NBD protocol as pure functions: bytes to structures and back, no I/O, no memory of their own. After
 * the NBD project's doc/proto.md, fixed newstyle negotiation; big endian. What a client sends is never trusted: each parser says
 * what is wrong, and reads nothing past what it was given.
 */
#pragma once

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NBD_GREETING_BYTES     18u
#define NBD_CLIENT_FLAGS_BYTES 4u
#define NBD_OPTION_BYTES       16u
#define NBD_OPTION_DATA_MAX    32768u /* a name of 4,096 bytes and many queries */
#define NBD_NAME_MAX           4096u
#define NBD_REQUEST_BYTES      28u
#define NBD_REPLY_BYTES        20u
#define NBD_PAYLOAD_MAX        (32u << 20) /* what clients may use that know no limit */

enum nbd_option_type {
	NBD_OPTION_EXPORT_NAME = 1,
	NBD_OPTION_ABORT = 2,
	NBD_OPTION_LIST = 3,
	NBD_OPTION_STARTTLS = 5,
	NBD_OPTION_INFO = 6,
	NBD_OPTION_GO = 7,
	NBD_OPTION_STRUCTURED_REPLY = 8,
	NBD_OPTION_LIST_META_CONTEXT = 9,
	NBD_OPTION_SET_META_CONTEXT = 10,
};

enum nbd_answer_type {
	NBD_ANSWER_ACK = 1,
	NBD_ANSWER_SERVER = 2,
	NBD_ANSWER_INFO = 3,
	NBD_ANSWER_META_CONTEXT = 4,
	NBD_ANSWER_UNSUPPORTED = 1, /* and the following: errors */
	NBD_ANSWER_POLICY = 2,
	NBD_ANSWER_INVALID = 3,
	NBD_ANSWER_TLS_REQUIRED = 5,
	NBD_ANSWER_UNKNOWN = 6,
	NBD_ANSWER_SHUTDOWN = 7,
	NBD_ANSWER_TOO_BIG = 9,
};

#define NBD_ANSWER_ERROR(type) (0x80000000u | (type))

enum nbd_info_type { NBD_INFO_EXPORT, NBD_INFO_NAME, NBD_INFO_DESCRIPTION, NBD_INFO_BLOCK_SIZE };

enum nbd_command {
	NBD_COMMAND_READ = 0,
	NBD_COMMAND_WRITE = 1,
	NBD_COMMAND_DISCONNECT = 2,
	NBD_COMMAND_FLUSH = 3,
	NBD_COMMAND_TRIM = 4,
	NBD_COMMAND_CACHE = 5,
	NBD_COMMAND_WRITE_ZEROES = 6,
	NBD_COMMAND_BLOCK_STATUS = 7,
};

enum nbd_command_flag {
	NBD_FLAG_FUA = 1 << 0,
	NBD_FLAG_NO_HOLE = 1 << 1,
	NBD_FLAG_DF = 1 << 2,
	NBD_FLAG_REQ_ONE = 1 << 3,
	NBD_FLAG_FAST_ZERO = 1 << 4,
};

enum nbd_export_flag {
	NBD_EXPORT_HAS_FLAGS = 1 << 0,
	NBD_EXPORT_READ_ONLY = 1 << 1,
	NBD_EXPORT_FLUSH = 1 << 2,
	NBD_EXPORT_FUA = 1 << 3,
	NBD_EXPORT_TRIM = 1 << 5,
	NBD_EXPORT_WRITE_ZEROES = 1 << 6,
	NBD_EXPORT_DF = 1 << 7,
	NBD_EXPORT_MULTI_CONN = 1 << 8,
	NBD_EXPORT_FAST_ZERO = 1 << 11,
};

enum nbd_chunk_type {
	NBD_CHUNK_NONE = 0,
	NBD_CHUNK_OFFSET_DATA = 1, /* payload: u64 offset, data */
	NBD_CHUNK_OFFSET_HOLE = 2, /* payload: u64 offset, u32 length */
	NBD_CHUNK_BLOCK_STATUS = 5,
	NBD_CHUNK_ERROR = 32769,
};

/* base:allocation */
#define NBD_STATE_HOLE 1u
#define NBD_STATE_ZERO 2u

/* Bytes inside what was parsed; no NUL at the end. */
struct nbd_text {
	const char *text;
	uint32_t length;
};

bool nbd_text_is(struct nbd_text text, const char *word);

/* Negotiation */

struct nbd_option {
	uint32_t type, length;
	const uint8_t *data;
};

void nbd_greeting_build(uint8_t ret[NBD_GREETING_BYTES]);
/* 0, or -EPROTO with words when the client asks for what was not offered. *ret_no_zeroes: EXPORT_NAME's answer is short. */
int nbd_client_flags_parse(
    const uint8_t data[NBD_CLIENT_FLAGS_BYTES], bool *ret_no_zeroes, struct error *error);
/*
 * 1: an option, and *ret_used bytes are its; 0: more bytes are needed; -EPROTO with words: no option at all; -E2BIG with words: its
 * data has more than NBD_OPTION_DATA_MAX bytes (ret->type is set).
 */
int nbd_option_parse(
    const uint8_t *data, size_t length, struct nbd_option *ret, size_t *ret_used, struct error *error);

/* INFO and GO. */
struct nbd_go {
	struct nbd_text name;
	bool wants_name, wants_description, wants_block_size;
};

/* 0, or -EINVAL with words. */
int nbd_go_parse(const struct nbd_option *option, struct nbd_go *ret, struct error *error);

/* LIST_META_CONTEXT and SET_META_CONTEXT. */
struct nbd_meta {
	struct nbd_text name;
	uint32_t queries_count;
	const uint8_t *queries, *end;
};

/* 0, or -EINVAL with words; all queries are checked, too. */
int nbd_meta_parse(const struct nbd_option *option, struct nbd_meta *ret, struct error *error);
/* The next query; false when there is none left. */
bool nbd_meta_next(struct nbd_meta *meta, struct nbd_text *ret);

/* Answers go one after the other into memory of the caller; when it is full `overflow` is set and nothing more is added. */
struct nbd_answers {
	uint8_t *data;
	size_t size, used;
	bool overflow;
};

/* `type` is an enum nbd_answer_type, or NBD_ANSWER_ERROR() of one. */
void nbd_answer_build(
    struct nbd_answers *answers, uint32_t option, uint32_t type, const void *data, uint32_t length);
void nbd_answer_server(
    struct nbd_answers *answers, uint32_t option, const char *name, const char *description);
void nbd_answer_info_export(struct nbd_answers *answers, uint32_t option, uint64_t size, uint16_t flags);
void nbd_answer_info_text(
    struct nbd_answers *answers, uint32_t option, enum nbd_info_type type, const char *text);
void nbd_answer_info_block_size(
    struct nbd_answers *answers, uint32_t option, uint32_t least, uint32_t preferred, uint32_t most);
void nbd_answer_meta_context(struct nbd_answers *answers, uint32_t option, uint32_t id, const char *name);
/* EXPORT_NAME's answer, which is like no other. */
void nbd_answer_export_name(struct nbd_answers *answers, uint64_t size, uint16_t flags, bool no_zeroes);

/* Transmission */

struct nbd_request {
	uint16_t flags, type;
	uint64_t cookie, offset;
	uint32_t length;
};

/* 0, or -EPROTO with words when it is no request, or data follow that nobody can want: then nothing after it makes sense. */
int nbd_request_parse(const uint8_t data[NBD_REQUEST_BYTES], struct nbd_request *ret, struct error *error);

/* What a request is judged by. */
struct nbd_shape {
	uint64_t size;
	uint32_t request_align;
	uint16_t flags;  /* set of nbd_export_flag */
	bool structured; /* replies; DF and BLOCK_STATUS need them */
	bool allocation; /* the client asked for base:allocation */
};

/* 0, or the -errno to answer with. */
int nbd_request_check(const struct nbd_request *request, const struct nbd_shape *shape);
/* The protocol's number for an -errno, and 0 for 0. */
uint32_t nbd_error_number(int res);

/* Each returns how many bytes of `ret` it filled; NBD_REPLY_BYTES + 12 always suffice. */
size_t nbd_simple_reply_build(uint8_t *ret, uint64_t cookie, int res);
/* A structured reply's only chunk, or its last; `length` bytes of payload follow. */
size_t nbd_chunk_build(uint8_t *ret, uint64_t cookie, enum nbd_chunk_type type, uint32_t length);
size_t nbd_chunk_error_build(uint8_t *ret, uint64_t cookie, int res);
/* READ: `length` bytes of data follow. */
size_t nbd_chunk_data_build(uint8_t *ret, uint64_t cookie, uint64_t offset, uint32_t length);
/* BLOCK_STATUS: `count` descriptors of 8 bytes follow. */
size_t nbd_chunk_status_build(uint8_t *ret, uint64_t cookie, uint32_t context, uint32_t count);
void nbd_descriptor_build(uint8_t ret[8], uint32_t length, uint32_t state);
