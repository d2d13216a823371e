/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The receipt of a mirror's last switch, receipt.json: blkmove-mirror(1) has its members. */
#include "cli/mirror_newer.h"
#include "cli/mirror_run.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* Which switch it is of: of a later mirror of this name, or after another switch, it is another. */
static json_t *switch_json(const struct mirror_job_status *status)
{
	char text[40];

	snprintf(text, sizeof(text), "%016" PRIx64 "-%" PRIu64, status->nonce, status->generation);
	return json_string(text);
}

static json_t *hex_json(const uint8_t bytes[DIGEST_BYTES])
{
	char text[2 * DIGEST_BYTES + 1];

	for (unsigned i = 0; i < DIGEST_BYTES; i++)
		snprintf(text + (size_t)2 * i, 3, "%02x", bytes[i]);
	return json_string(text);
}

/* What the legs held at the switch, for `blkmove digest --root`; null when nobody has read them. */
static void add_digests(json_t *receipt, const struct mirror_run *run, bool seen)
{
	const struct mirror_job_digests *digests = run->job ? mirror_job_digests(run->job) : NULL;

	json_object_set_new(receipt, "verified", json_boolean(digests && digests->known));
	if (!digests || !digests->known) {
		json_object_set_new(receipt, "digests", json_null());
		json_object_set_new(receipt, "digests_missing",
		    json_string(!seen ? "the mirror's process ended with this switch"
		                : run->command.job.verify
		                    ? "not all was verified before this switch by this run"
		                    : "begun without --verify"));
		return;
	}
	json_object_set_new(receipt, "digests",
	    json_pack("{s:o, s:o, s:o, s:I}", "key", hex_json(digests->key.bytes), "source",
	        hex_json(digests->roots[MIRROR_SOURCE]), "target", hex_json(digests->roots[MIRROR_TARGET]),
	        "written_since", (json_int_t)digests->written_since));
}

static json_t *when_json(void)
{
	char when[40];
	time_t now = time(NULL);
	struct tm utc;

	strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
	return json_string(when);
}

/* Of a switch that this run has not `seen` the map says which leg counts, and nobody the time. */
static int write_receipt(
    struct mirror_run *run, const struct mirror_job_status *status, bool seen, struct error *error)
{
	bool over = status->authoritative == MIRROR_TARGET;
	json_t *judged = mirror_files_load_judged(&run->files), *receipt;

	receipt = json_pack("{s:s, s:o, s:s, s:O*, s:O*, s:O*, s:O*, s:s, s:I, s:o, s:o, s:o}", "mirror",
	    run->name, "when", seen ? when_json() : json_null(), "state", over ? "cutover" : "revert",
	    "source", json_object_get(judged, "source_name"), "target",
	    json_object_get(judged, "target_name"), "source_id", json_object_get(judged, "source"),
	    "target_id", json_object_get(judged, "target"), "authoritative", over ? "target" : "source",
	    "size", (json_int_t)status->size, "pause_ms",
	    seen ? json_real((double)status->pause_ns / 1e6) : json_null(), "cutovers_deferred",
	    seen ? json_integer((json_int_t)status->cutovers_deferred) : json_null(), "switch",
	    switch_json(status));
	json_decref(judged);
	if (receipt)
		add_digests(receipt, run, seen);
	return mirror_files_write(&run->files, MIRROR_RECEIPT, receipt, error);
}

void mirror_receipt_write(void *data)
{
	struct mirror_run *run = data;
	struct mirror_job_status status;
	struct error error;

	mirror_job_status(run->job, &status);
	run->no_receipt[0] = '\0';
	if (write_receipt(run, &status, true, &error) == 0)
		return;
	error_prefix(&error, "the switch is done and recorded, but has no receipt");
	mirror_warn(run, error.text);
	snprintf(run->no_receipt, sizeof(run->no_receipt), "%s", error.text);
}

static int look(
    struct mirror_run *run, const struct mirror_job_status *status, bool *ret_written, struct error *error)
{
	json_t *receipt = mirror_files_read(&run->files, MIRROR_RECEIPT), *last = switch_json(status);
	int res = 0;

	*ret_written = status->generation > 0 && !json_equal(json_object_get(receipt, "switch"), last);
	if (*ret_written)
		res = write_receipt(run, status, false, error);
	json_decref(last);
	json_decref(receipt);
	return res;
}

void mirror_receipt_look(struct mirror_run *run)
{
	struct mirror_job_status status;
	struct error error;
	bool written;

	mirror_job_status(run->job, &status);
	if (look(run, &status, &written, &error) < 0)
		mirror_warn(run, error.text);
}

int mirror_receipt_keep(struct mirror_run *run, struct error *error)
{
	struct mirror_job_status status = {0};
	struct bitmap_super super;
	bool written = false;
	int res;

	if (mirror_newer_super(&run->files, &super) < 0) {
		res = mirror_newer_keep_doubt(&run->files, error);
	} else {
		status.nonce = super.nonce;
		status.generation = super.generation;
		status.size = super.size;
		status.authoritative = super.authoritative;
		res = look(run, &status, &written, error);
		if (res == 0 && written)
			mirror_newer_date_receipt(&run->files);
	}
	if (res == -ENOSPC) {
		struct error why = *error;

		error_set(error, res, "%.500s; make room there", why.text);
	}
	return res;
}
