/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Clients of a mirror's job that write random bytes, each one request after the other; none may fail. Header-only. After cmocka.h. */
#pragma once

#include "base/bytes.h"
#include "ring/ring.h"
#include "sync/mirror_job.h"

#define JOB_CLIENTS_MAX 8u

struct job_client {
	struct block_io io;
	uint8_t buf[16384];
	bool busy;
	struct job_clients *clients;
};

struct job_clients {
	/* set by the test: where a write goes to, by its `offset` and `length` */
	struct rand *rand;
	void (*place)(struct block_io *io);

	struct block *block;
	bool serving;
	uint64_t writes; /* that have ended */
	struct job_client all[JOB_CLIENTS_MAX];
};

static inline void job_client_begin(struct job_client *client);

static inline void job_client_done(struct block_io *io, int res)
{
	struct job_client *client = container_of(io, struct job_client, io);

	assert_int_equal(res, 0);
	client->busy = false;
	client->clients->writes++;
	if (client->clients->serving)
		job_client_begin(client);
}

static inline void job_client_begin(struct job_client *client)
{
	client->io = (struct block_io){.op = BLOCK_WRITE, .buf = client->buf, .done = job_client_done};
	client->clients->place(&client->io);
	rand_bytes(client->clients->rand, client->buf, client->io.length);
	client->busy = true;
	block_submit(client->clients->block, &client->io);
}

/* So many; until job_clients_drain(), or `serving` is false. */
static inline void job_clients_serve(struct job_clients *clients, struct mirror_job *job, unsigned count)
{
	clients->block = mirror_job_block(job);
	clients->serving = true;
	for (unsigned i = 0; i < count; i++) {
		clients->all[i].clients = clients;
		job_client_begin(&clients->all[i]);
	}
}

static inline void job_clients_drain(struct job_clients *clients, struct ring *ring)
{
	clients->serving = false;
	for (unsigned i = 0; i < JOB_CLIENTS_MAX; i++)
		while (clients->all[i].busy)
			assert_int_equal(ring_step(ring), 0);
}
