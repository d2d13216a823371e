/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See replica_ledger.h. Numbers of writes to one sector grow with time: clients never have two under way there. */
#include "replica_ledger.h"

#include "base/bytes.h"

#include <stdlib.h>
#include <string.h>

#define STAMP UINT64_C(0x5245504c49430000)

static bool set_has(const struct ledger_set *set, uint32_t number)
{
	return set->words[number / 64] >> number % 64 & 1;
}

static void set_add(struct ledger_set *set, uint32_t number)
{
	set->words[number / 64] |= UINT64_C(1) << number % 64;
}

static void raise(uint32_t *due, const struct ledger_write *write, uint32_t number)
{
	for (uint32_t i = write->first; i < write->first + write->count; i++)
		if (due[i] < number)
			due[i] = number;
}

void ledger_init(struct ledger *ledger, unsigned sectors)
{
	memset(ledger, 0, sizeof(*ledger));
	ledger->sectors = sectors;
	ledger->writes_count = 1;
	for (unsigned i = 0; i < LEDGER_NODES; i++) {
		uint32_t number = ledger_submit(ledger, i, 0, sectors, false);

		ledger->writes[number].acknowledged = true;
		ledger_add(ledger, i, number);
		for (unsigned j = 0; j < sectors; j++)
			ledger->nodes[i].top[j] = ledger->nodes[i].lasting[j] = number;
	}
}

void ledger_fill(uint8_t *data, uint32_t number, uint32_t first, uint32_t count, bool zero)
{
	memset(data, 0, count * LEDGER_SECTOR);
	for (uint32_t i = 0; !zero && i < count; i++) {
		for (unsigned at = 0; at < LEDGER_SECTOR; at += 8)
			put_le64(data + i * LEDGER_SECTOR + at, STAMP | number);
		put_le64(data + i * LEDGER_SECTOR + 8, first + i);
	}
}

uint32_t ledger_submit(struct ledger *ledger, unsigned node, uint32_t first, uint32_t count, bool zero)
{
	if (ledger->writes_count == LEDGER_WRITES)
		return 0;
	ledger->writes[ledger->writes_count] = (struct ledger_write){.first = first,
	    .count = count,
	    .node = (uint8_t)node,
	    .zero = zero,
	    .born = ledger->flushes_count};
	return ledger->writes_count++;
}

uint32_t ledger_enlarge(struct ledger *ledger, unsigned node, uint32_t first, uint32_t count)
{
	uint32_t number = ledger_submit(ledger, node, first, count, false);

	/* It says nothing of what was flushed before. */
	ledger->writes[number].born = 0;
	if (number && ledger->sectors < first + count)
		ledger->sectors = first + count;
	return number;
}

void ledger_add(struct ledger *ledger, unsigned node, uint32_t number)
{
	set_add(&ledger->nodes[node].line, number);
}

bool ledger_has(const struct ledger *ledger, unsigned node, uint32_t number)
{
	return set_has(&ledger->nodes[node].line, number);
}

uint32_t ledger_flushed(struct ledger *ledger, uint64_t gen)
{
	if (ledger->flushes_count + 1 == LEDGER_WRITES)
		abort();
	ledger->flush_gens[++ledger->flushes_count] = gen;
	return ledger->flushes_count;
}

void ledger_cover(struct ledger *ledger, unsigned node, const struct ledger_set *set, uint32_t flush)
{
	for (uint32_t n = 1; n < ledger->writes_count; n++) {
		struct ledger_write *write = &ledger->writes[n];

		if (!set_has(set, n) || !ledger_has(ledger, node, n))
			continue;
		if (!write->cover[node])
			write->cover[node] = flush;
	}
}

/* Generations */

void ledger_begin_gen(struct ledger *ledger, uint64_t name, uint64_t parent)
{
	for (unsigned i = 0; i < ledger->gens_count; i++)
		if (ledger->gens[i].name == name)
			return;
	if (ledger->gens_count == LEDGER_GENS)
		abort();
	ledger->gens[ledger->gens_count++] = (struct ledger_gen){name, parent};
}

bool ledger_is_within(const struct ledger *ledger, uint64_t gen, uint64_t of)
{
	/* Parents are older. */
	for (unsigned i = ledger->gens_count; of && i-- > 0;) {
		if (of == gen)
			return true;
		if (ledger->gens[i].name == of)
			of = ledger->gens[i].parent;
	}
	return gen == 0 || of == gen;
}

void ledger_follow(struct ledger *ledger, unsigned node, unsigned other, uint64_t gen)
{
	struct ledger_node *self = &ledger->nodes[node];

	memset(&self->line, 0, sizeof(self->line));
	for (uint32_t n = 1; n < ledger->writes_count; n++) {
		struct ledger_write *write = &ledger->writes[n];
		uint32_t cover = write->cover[other];

		write->cover[node] = 0;
		if (!ledger_has(ledger, other, n) || !ledger_is_within(ledger, write->gen, gen))
			continue;
		ledger_add(ledger, node, n);
		if (cover && ledger_is_within(ledger, ledger->flush_gens[cover], gen))
			write->cover[node] = cover;
	}
}

void ledger_last(const struct ledger *ledger, unsigned node, bool covered, uint32_t *ret)
{
	memset(ret, 0, ledger->sectors * sizeof(*ret));
	for (uint32_t n = 1; n < ledger->writes_count; n++)
		if (ledger_has(ledger, node, n) && (!covered || ledger->writes[n].cover[node]))
			raise(ret, &ledger->writes[n], n);
}

/* Disks */

/* A sector of zeros is of the last write of zeros there. */
static uint32_t last_zero(const struct ledger *ledger, uint32_t sector)
{
	for (uint32_t n = ledger->writes_count; n-- > 1;)
		if (ledger->writes[n].zero && sector - ledger->writes[n].first < ledger->writes[n].count)
			return n;
	return LEDGER_NOTHING;
}

uint32_t ledger_stamp(const struct ledger *ledger, const uint8_t *sector, uint32_t index)
{
	uint64_t stamp = get_le64(sector), place = get_le64(sector + 8);
	uint32_t number = (uint32_t)(stamp & 0xffff);

	for (unsigned at = 16; at < LEDGER_SECTOR; at += 8)
		if (get_le64(sector + at) != stamp)
			return LEDGER_NOTHING;
	if (stamp == 0 && place == 0)
		return last_zero(ledger, index);
	if (stamp >> 16 != STAMP >> 16 || place != index || number == 0 || number >= ledger->writes_count)
		return LEDGER_NOTHING;
	return number;
}

void ledger_scan(const struct ledger *ledger, const uint8_t *data, uint32_t sectors, uint32_t *ret_seen)
{
	for (uint32_t i = 0; i < ledger->sectors; i++)
		ret_seen[i] = i < sectors ? ledger_stamp(ledger, data + i * LEDGER_SECTOR, i) : 0;
}

static bool is_seen(const struct ledger_write *write, uint32_t number, const uint32_t *seen)
{
	for (uint32_t i = write->first; i < write->first + write->count; i++)
		if (seen[i] == LEDGER_NOTHING || seen[i] < number)
			return false;
	return true;
}

static bool lasts(const struct ledger_node *node, const struct ledger_write *write, uint32_t number)
{
	for (uint32_t i = write->first; i < write->first + write->count; i++)
		if (node->lasting[i] < number)
			return false;
	return true;
}

void ledger_go_on(struct ledger *ledger, unsigned node, const uint32_t *seen, bool stable)
{
	struct ledger_node *self = &ledger->nodes[node];

	memcpy(self->top, seen, ledger->sectors * sizeof(*seen));
	memset(self->memory, 0, sizeof(self->memory));
	if (stable)
		memcpy(self->lasting, seen, ledger->sectors * sizeof(*seen));
	for (uint32_t n = 1; n < ledger->writes_count; n++) {
		if (!ledger_has(ledger, node, n))
			continue;
		if (!is_seen(&ledger->writes[n], n, seen))
			self->line.words[n / 64] &= ~(UINT64_C(1) << n % 64);
		if (!lasts(self, &ledger->writes[n], n))
			ledger->writes[n].cover[node] = 0;
	}
}

void ledger_lower(struct ledger *ledger, unsigned node, const uint32_t *seen)
{
	struct ledger_node *self = &ledger->nodes[node];

	for (uint32_t i = 0; i < ledger->sectors; i++) {
		self->top[i] = (uint32_t)min_u64(self->top[i], seen[i]);
		self->memory[i] = (uint32_t)min_u64(self->memory[i], seen[i]);
	}
	for (uint32_t n = 1; n < ledger->writes_count; n++)
		if (ledger_has(ledger, node, n) && !is_seen(&ledger->writes[n], n, seen))
			self->line.words[n / 64] &= ~(UINT64_C(1) << n % 64);
}

uint32_t ledger_missing(const struct ledger *ledger, const uint32_t *seen, const uint32_t *due)
{
	for (uint32_t i = 0; i < ledger->sectors; i++)
		if (seen[i] == LEDGER_NOTHING || seen[i] < due[i])
			return i;
	return ledger->sectors;
}

uint32_t ledger_disorder(const struct ledger *ledger, unsigned node, const uint32_t *seen, uint32_t *ret_due)
{
	uint32_t newest = 0, due[LEDGER_SECTORS] = {0}, at;

	for (uint32_t i = 0; i < ledger->sectors; i++)
		/* Of zeros nobody knows of which write they are. */
		if (seen[i] != LEDGER_NOTHING && !ledger->writes[seen[i]].zero &&
		    ledger->writes[seen[i]].born > newest)
			newest = ledger->writes[seen[i]].born;
	for (uint32_t n = 1; n < ledger->writes_count; n++) {
		const struct ledger_write *write = &ledger->writes[n];

		if (write->cover[node] && write->cover[node] <= newest && ledger_has(ledger, node, n))
			raise(due, write, n);
	}
	at = ledger_missing(ledger, seen, due);
	if (at < ledger->sectors)
		*ret_due = due[at];
	return at;
}
