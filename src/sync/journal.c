/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The journal's format and its writing: see journal.h. Ring thread only. */
#include "sync/journal.h"

#include "base/bytes.h"
#include "base/crc32c.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

/*
 * Header, 4096 bytes: 0 "BLKMJRNL"  8 u32 version  12 u32 description length  16 u64 nonce  24 description
 * 4092 u32 CRC-32C of the bytes before. Record, 32 bytes: 0 u64 number (from 1)  8 u64 offset  16 u64 length
 * 24 u32 kind  28 u32 CRC-32C of nonce and the bytes before. A record of kind 1 is the last of an orderly run: its
 * offset is a hash of the target's change mark, its length 0. One of kind 2 begins a run: its offset is the session.
 */
#define HEADER_BYTES 4096u
#define RECORD_BYTES 32u
#define VERSION      1u
#define READ_BYTES   (64u << 10) /* a multiple of RECORD_BYTES */

enum record_kind { RECORD_RANGE, RECORD_MARK, RECORD_SESSION };

static const char magic[8] = "BLKMJRNL";

struct journal {
	struct ring *ring;
	int fd;
	uint64_t nonce;
	uint64_t records; /* durable or being written */
	bool has_mark;    /* the last record is one of kind RECORD_MARK */
	uint64_t mark;
	uint64_t session; /* of the last run; 0: not noted */

	/* one append */
	struct ring_op op;
	uint8_t *buf;
	size_t length, written;
	void (*done)(void *data, int res);
	void *done_data;
};

static uint32_t record_crc(uint64_t nonce, const uint8_t *record)
{
	uint8_t bytes[8];

	put_le64(bytes, nonce);
	return crc32c(crc32c(0, bytes, sizeof(bytes)), record, 28);
}

/* Reads or writes all of a range; control path. Returns bytes moved (less at the end of the file) or -errno.
 */
static int transfer(
    struct journal *journal, enum ring_opcode opcode, uint64_t offset, uint8_t *buf, size_t length)
{
	size_t at = 0;

	while (at < length) {
		struct ring_op op = {.opcode = opcode,
		    .fd = journal->fd,
		    .offset = offset + at,
		    .buf = buf + at,
		    .length = length - at};
		int res = ring_wait(journal->ring, &op);

		if (res < 0)
			return res;
		if (res == 0)
			break;
		at += (size_t)res;
	}
	return (int)at;
}

static int sync_now(struct journal *journal)
{
	struct ring_op op = {.opcode = RING_FSYNC, .fd = journal->fd};

	return ring_wait(journal->ring, &op);
}

static struct journal *journal_alloc(struct ring *ring, int fd)
{
	struct journal *journal = calloc(1, sizeof(*journal));

	if (journal) {
		journal->ring = ring;
		journal->fd = fd;
	}
	return journal;
}

int journal_new(struct journal **ret, struct ring *ring, int fd, const char *description, struct error *error)
{
	size_t length = strlen(description);
	struct journal *journal = journal_alloc(ring, fd);
	uint8_t header[HEADER_BYTES] = {0};
	int res;

	assert(length < JOURNAL_DESCRIPTION_MAX);
	if (!journal)
		return error_set(error, -ENOMEM, "cannot begin a journal: out of memory");
	if (getrandom(&journal->nonce, sizeof(journal->nonce), 0) != sizeof(journal->nonce))
		journal->nonce = ring_now_ns(ring);
	memcpy(header, magic, sizeof(magic));
	put_le32(header + 8, VERSION);
	put_le32(header + 12, (uint32_t)length);
	put_le64(header + 16, journal->nonce);
	memcpy(header + 24, description, length);
	put_le32(header + HEADER_BYTES - 4, crc32c(0, header, HEADER_BYTES - 4));
	res = transfer(journal, RING_WRITE, 0, header, sizeof(header));
	if (res >= 0)
		res = sync_now(journal);
	if (res < 0) {
		journal_free(journal);
		return error_set(error, res, "cannot write the journal: %s", strerror(-res));
	}
	*ret = journal;
	return 0;
}

static int load_header(struct journal *journal, char *ret_description, struct error *error)
{
	uint8_t header[HEADER_BYTES];
	int res = transfer(journal, RING_READ, 0, header, sizeof(header));
	uint32_t length;

	if (res < 0)
		return error_set(error, res, "cannot read the journal: %s", strerror(-res));
	if (res < (int)sizeof(header) || memcmp(header, magic, sizeof(magic)))
		return error_set(error, -EBADMSG, "the journal is cut short or is none");
	if (get_le32(header + HEADER_BYTES - 4) != crc32c(0, header, HEADER_BYTES - 4))
		return error_set(error, -EBADMSG, "the journal's header is damaged");
	if (get_le32(header + 8) != VERSION)
		return error_set(error, -EBADMSG, "the journal has version %u, this program reads %u",
		    get_le32(header + 8), VERSION);
	length = get_le32(header + 12);
	if (length >= JOURNAL_DESCRIPTION_MAX || memchr(header + 24, '\0', length))
		return error_set(error, -EBADMSG, "the journal's header is damaged");
	memcpy(ret_description, header + 24, length);
	ret_description[length] = '\0';
	journal->nonce = get_le64(header + 16);
	return 0;
}

/* False for what is no whole record, or not the next one. */
static bool record_ok(const struct journal *journal, const uint8_t *record)
{
	uint64_t offset = get_le64(record + 8), length = get_le64(record + 16);

	if (get_le32(record + 28) != record_crc(journal->nonce, record) ||
	    get_le64(record) != journal->records + 1)
		return false;
	if (get_le32(record + 24) == RECORD_MARK || get_le32(record + 24) == RECORD_SESSION)
		return length == 0;
	return get_le32(record + 24) == RECORD_RANGE && length > 0 && offset <= UINT64_MAX - length;
}

static int take_record(struct journal *journal, const uint8_t *record, struct range_set *done)
{
	uint64_t offset = get_le64(record + 8);

	journal->has_mark = get_le32(record + 24) == RECORD_MARK;
	if (get_le32(record + 24) == RECORD_RANGE)
		return range_set_add(done, offset, get_le64(record + 16));
	*(journal->has_mark ? &journal->mark : &journal->session) = offset;
	return 0;
}

/* Takes records as long as they are whole and in order. Returns 1 when there may be more, 0 at the end, or -errno. */
static int load_records(struct journal *journal, const uint8_t *buf, size_t length, struct range_set *done)
{
	for (size_t at = 0; at + RECORD_BYTES <= length; at += RECORD_BYTES) {
		const uint8_t *record = buf + at;
		int res;

		if (!record_ok(journal, record))
			return 0;
		res = take_record(journal, record, done);
		if (res < 0)
			return res;
		journal->records++;
	}
	return length == READ_BYTES;
}

int journal_load(struct journal **ret, struct ring *ring, int fd, char *ret_description,
    struct range_set *ret_done, struct error *error)
{
	struct journal *journal = journal_alloc(ring, fd);
	uint8_t *buf = malloc(READ_BYTES);
	int res = -ENOMEM;

	if (journal && buf)
		res = load_header(journal, ret_description, error);
	else
		error_set(error, res, "cannot read the journal: out of memory");
	for (uint64_t at = HEADER_BYTES; res >= 0; at += READ_BYTES) {
		res = transfer(journal, RING_READ, at, buf, READ_BYTES);
		if (res >= 0)
			res = load_records(journal, buf, (size_t)res, ret_done);
		if (res < 0)
			error_set(error, res, "cannot read the journal: %s", strerror(-res));
		if (res <= 0)
			break;
	}
	free(buf);
	if (res < 0) {
		journal_free(journal);
		return res;
	}
	*ret = journal;
	return 0;
}

static void fill_record(
    struct journal *journal, uint8_t *record, enum record_kind kind, uint64_t offset, uint64_t length)
{
	put_le64(record, ++journal->records);
	put_le64(record + 8, offset);
	put_le64(record + 16, length);
	put_le32(record + 24, kind);
	put_le32(record + 28, record_crc(journal->nonce, record));
}

/* Control path. */
static int note(struct journal *journal, enum record_kind kind, uint64_t value)
{
	uint64_t at = HEADER_BYTES + journal->records * RECORD_BYTES;
	uint8_t record[RECORD_BYTES];
	int res;

	assert(!journal->buf);
	fill_record(journal, record, kind, value, 0);
	res = transfer(journal, RING_WRITE, at, record, sizeof(record));
	return res < 0 ? res : sync_now(journal);
}

int journal_note_mark(struct journal *journal, const char *mark)
{
	return note(journal, RECORD_MARK, crc32c_text(mark));
}

int journal_note_session(struct journal *journal, uint64_t session)
{
	journal->has_mark = false;
	journal->session = session;
	return note(journal, RECORD_SESSION, session);
}

uint64_t journal_session(const struct journal *journal)
{
	return journal->session;
}

bool journal_has_mark(const struct journal *journal)
{
	return journal->has_mark;
}

bool journal_mark_fits(const struct journal *journal, const char *mark)
{
	return !journal->has_mark || journal->mark == crc32c_text(mark);
}

struct journal *journal_free(struct journal *journal)
{
	assert(!journal || !journal->buf);
	free(journal);
	return NULL;
}

static void append_end(struct journal *journal, int res)
{
	if (res < 0)
		journal->records -= journal->length / RECORD_BYTES;
	free(journal->buf);
	journal->buf = NULL;
	journal->done(journal->done_data, res);
}

static void append_next(struct journal *journal)
{
	struct ring_op *op = &journal->op;
	uint64_t start = HEADER_BYTES + journal->records * RECORD_BYTES - journal->length;

	op->fd = journal->fd;
	if (journal->written == journal->length) {
		op->opcode = RING_FSYNC;
	} else {
		op->opcode = RING_WRITE;
		op->offset = start + journal->written;
		op->buf = journal->buf + journal->written;
		op->length = journal->length - journal->written;
	}
	ring_submit(journal->ring, op);
}

static void append_done(struct ring_op *op, int res)
{
	struct journal *journal = container_of(op, struct journal, op);

	if (res < 0 || op->opcode == RING_NOP || op->opcode == RING_FSYNC) {
		append_end(journal, res);
		return;
	}
	journal->written += (size_t)res;
	append_next(journal);
}

void journal_append(
    struct journal *journal, const struct range_set *ranges, void (*done)(void *data, int res), void *data)
{
	assert(!journal->buf);
	journal->done = done;
	journal->done_data = data;
	journal->op.done = append_done;
	journal->length = ranges->count * RECORD_BYTES;
	journal->written = 0;
	journal->buf = calloc(ranges->count + 1, RECORD_BYTES);
	if (!journal->buf) {
		journal->length = 0;
		ring_defer(journal->ring, &journal->op, -ENOMEM);
		return;
	}
	for (size_t i = 0; i < ranges->count; i++)
		fill_record(journal, journal->buf + i * RECORD_BYTES, RECORD_RANGE, ranges->ranges[i].offset,
		    ranges->ranges[i].length);
	append_next(journal);
}
