/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A device by ublk, from beginning to end: the kernel's Documentation/block/ublk.rst. The kernel itself is the record of what was left
 * behind: each device carries a number of ours (ublk_mark()).
 */
#include "export/ublk.h"
#include "base/cleanup.h"
#include "export/ublk_control.h"
#include "ring/ring_call.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEVICES      "/sys/class/ublk-char"
#define TAKE_TRIES   1200 /* a process takes a while to die, and the kernel to take its requests back */
#define TAKE_NAP     50000u
#define DELETE_ASYNC 0x14 /* Linux 6.9: does not wait until all have closed it */

/* What this kernel's ublk can. */
static int ask_features(struct ublk_control *control, uint64_t *ret)
{
	return ublk_control_run(
	    control, UBLK_QUESTION(UBLK_NUMBER_FEATURES), UINT32_MAX, ret, sizeof(*ret), 0);
}

static int available(struct error *error)
{
	struct ublk_control control;
	uint64_t features = 0;
	int res = ublk_control_open(&control);

	if (res == -ENOENT) {
		device_load_module("ublk_drv");
		res = ublk_control_open(&control);
	}
	if (res == 0) {
		res = ask_features(&control, &features);
		ublk_control_close(&control);
		if (res == 0 && (features & UBLK_FEATURES_NEEDED) == UBLK_FEATURES_NEEDED)
			return 0;
		return error_set(
		    error, -EOPNOTSUPP, "this kernel's ublk is too old; Linux 6.5 has what is needed");
	}
	if (res == -ENOENT)
		return error_set(error, -EOPNOTSUPP, "this kernel has no ublk (the module ublk_drv)");
	return error_set(error, -EOPNOTSUPP, "ublk cannot be used: /dev/ublk-control: %s", strerror(-res));
}

/* Finding */

static int judge(struct device *device, struct ublk_control *control,
    const struct ublksrv_ctrl_dev_info *info, struct error *error)
{
	const struct device_shape *shape = &device->shape;
	struct ublk_params params = {.len = sizeof(params)};
	unsigned id = info->dev_id;
	char node[32];
	int res;

	snprintf(node, sizeof(node), "/dev/ublkb%u", id);
	if (info->ublksrv_flags != ublk_mark(device->name, device->identity) && !device->options.adopt)
		return device_refuse_other(device, node, error);
	res = ublk_control_run(control, UBLK_QUESTION(UBLK_CMD_GET_PARAMS), id, &params, sizeof(params), 0);
	if (res < 0)
		return error_set(error, res, "cannot ask for %s: %s", node, strerror(-res));
	if (!device_takes_size(device, params.basic.dev_sectors * 512,
	        info->ublksrv_flags == ublk_mark(device->name, device->identity)) ||
	    1u << params.basic.logical_bs_shift != shape->logical ||
	    !(params.basic.attrs & UBLK_ATTR_READ_ONLY) != !shape->read_only)
		return device_refuse_shape(node, error);
	device->index = id;
	return 1;
}

/* 1: this is the one, and it may be taken over; 0: it is not. */
static int look_at(struct device *device, struct ublk_control *control, unsigned id, struct error *error)
{
	struct ublksrv_ctrl_dev_info info = {0};
	uint64_t mark = ublk_mark(device->name, device->identity);

	if (ublk_control_run(control, UBLK_QUESTION(UBLK_CMD_GET_DEV_INFO), id, &info, sizeof(info), 0) < 0 ||
	    info.ublksrv_flags >> 32 != mark >> 32)
		return 0;
	if (info.state != UBLK_S_DEV_DEAD && info.flags & UBLK_F_USER_RECOVERY)
		return judge(device, control, &info, error);
	/* It was never ready, or ended with its process: of no use to anyone. */
	if (ublk_control_run(control, UBLK_COMMAND(UBLK_CMD_STOP_DEV), id, NULL, 0, 0) == 0)
		(void)ublk_control_run(control, UBLK_QUESTION(DELETE_ASYNC), id, NULL, 0, 0);
	return 0;
}

static int find(struct device *device, struct error *error)
{
	struct ublk_control control;
	struct dirent *entry;
	int res = 0;
	DIR *dir = opendir(DEVICES);

	if (!dir || ublk_control_open(&control) < 0) {
		if (dir)
			closedir(dir);
		return 0;
	}
	while (res == 0 && (entry = readdir(dir)))
		if (!strncmp(entry->d_name, "ublkc", 5) && isdigit((unsigned char)entry->d_name[5]))
			res =
			    look_at(device, &control, (unsigned)strtoul(entry->d_name + 5, NULL, 10), error);
	ublk_control_close(&control);
	closedir(dir);
	return res;
}

/* Opening */

static int add(struct device *device, struct ublk_control *control, struct error *error)
{
	struct ublk *ublk = device->ublk;
	long processors = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned queues = device->options.queues ? device->options.queues : UBLK_QUEUES;
	struct ublk_params params;
	struct ublksrv_ctrl_dev_info info = {
	    .nr_hw_queues = (uint16_t)(queues > DEVICE_QUEUES_MAX ? DEVICE_QUEUES_MAX : queues),
	    .queue_depth = UBLK_DEPTH,
	    .max_io_buf_bytes = UBLK_REQUEST_MAX,
	    .dev_id = UINT32_MAX,
	    .flags = device->options.temporary ? 0 : UBLK_FEATURES_NEEDED,
	    .ublksrv_flags = ublk_mark(device->name, device->identity)};
	int res;

	if (!device->options.queues && processors > 0 && processors < info.nr_hw_queues)
		info.nr_hw_queues = (uint16_t)processors;
	res = ublk_control_run(control, UBLK_COMMAND(UBLK_CMD_ADD_DEV), UINT32_MAX, &info, sizeof(info), 0);
	if (res < 0)
		return error_set(error, res, "ublk makes no device: %s", strerror(-res));
	device->index = info.dev_id;
	ublk->added = true;
	ublk->queues = info.nr_hw_queues;
	ublk->depth = info.queue_depth;
	ublk->request_max = info.max_io_buf_bytes;
	ublk_params_fill(&device->shape, ublk->request_max, &params);
	res = ublk_control_run(
	    control, UBLK_COMMAND(UBLK_CMD_SET_PARAMS), device->index, &params, sizeof(params), 0);
	return res < 0 ? error_set(error, res, "ublk does not take the volume's shape: %s", strerror(-res))
	               : 0;
}

static int take_over(struct device *device, struct ublk_control *control, struct error *error)
{
	struct ublk *ublk = device->ublk;
	struct ublksrv_ctrl_dev_info info = {0};
	int res = -EBUSY;

	/*
	 * -EINVAL: a recovery was begun and did not come so far that the kernel had all commands of a queue. Before Linux 6.15 it is not begun a second
	 * time, and need not be: what it does was done, and stands as long as nothing was mapped.
	 */
	for (unsigned i = 0; i < TAKE_TRIES && res == -EBUSY; i++) {
		if (i)
			usleep(TAKE_NAP);
		res = ublk_control_run(
		    control, UBLK_COMMAND(UBLK_CMD_START_USER_RECOVERY), device->index, NULL, 0, 0);
	}
	ublk->half_way = res == -EINVAL;
	if (res == 0 || ublk->half_way)
		res = ublk_control_run(
		    control, UBLK_QUESTION(UBLK_CMD_GET_DEV_INFO), device->index, &info, sizeof(info), 0);
	if (res == 0 && ublk->half_way && info.state != UBLK_S_DEV_QUIESCED)
		res = -EINVAL;
	if (res == -EBUSY)
		return error_set(error, -EALREADY, "a process serves /dev/ublkb%u already", device->index);
	if (res < 0 || info.nr_hw_queues > DEVICE_QUEUES_MAX)
		return error_set(error, res < 0 ? res : -EINVAL, "cannot take over /dev/ublkb%u: %s",
		    device->index, res < 0 ? strerror(-res) : "it has too many queues");
	ublk->queues = info.nr_hw_queues;
	ublk->depth = info.queue_depth;
	ublk->request_max = info.max_io_buf_bytes;
	return 0;
}

/* It was mapped, or has some of the commands of a process that is no more: the kernel gives it to nobody else. */
static int lost_half_way(const struct device *device, struct error *error)
{
	return error_set(error, -ENOTRECOVERABLE,
	    "the process that was taking over %s was killed in the middle of it, and this kernel (before "
	    "Linux 6.15) does not hand it over any more: its users wait until it is removed, which gives "
	    "them errors: `ublk del -n %u`, or a restart of the machine; then begin anew",
	    device->info.node, device->index);
}

/* Up to where requests can be asked for. */
static int prepare(void *data, struct error *error)
{
	struct device *device = data;
	struct ublk *ublk = device->ublk;
	struct ublk_control control;
	char path[32];
	int res = ublk_control_open(&control);

	if (res < 0)
		return error_set(error, res, "cannot open /dev/ublk-control: %s", strerror(-res));
	res = device->info.taken_over ? take_over(device, &control, error) : add(device, &control, error);
	ublk_control_close(&control);
	if (res < 0)
		return res;
	snprintf(device->info.node, sizeof(device->info.node), "/dev/ublkb%u", device->index);
	snprintf(path, sizeof(path), "/dev/ublkc%u", device->index);
	ublk->fd = device_open_node(path, O_RDWR);
	if (ublk->fd == -EBUSY && ublk->half_way)
		return lost_half_way(device, error);
	if (ublk->fd < 0)
		return error_set(error, ublk->fd, "cannot open %s: %s", path, strerror(-ublk->fd));
	res = ublk_queues_new(ublk);
	if (res == -EINVAL && ublk->half_way)
		return lost_half_way(device, error);
	return res < 0 ? error_set(error, res, "cannot have the memory for its queues: %s", strerror(-res))
	               : 0;
}

/* The kernel waits for our requests; then it reads the partition table by them. */
static int go(void *data, struct error *error)
{
	struct device *device = data;
	unsigned number = device->info.taken_over ? UBLK_CMD_END_USER_RECOVERY : UBLK_CMD_START_DEV;
	struct ublk_control control;
	int res = ublk_control_open(&control);

	if (res == 0) {
		control.give_up = &device->ublk->broken;
		res = ublk_control_run(
		    &control, UBLK_COMMAND(number), device->index, NULL, 0, (uint64_t)getpid());
		ublk_control_close(&control);
	}
	return res < 0 ? error_set(error, res, "ublk does not start it: %s", strerror(-res)) : 0;
}

static int open_ublk(struct device *device, struct error *error)
{
	int res;

	device->ublk = calloc(1, sizeof(*device->ublk));
	if (!device->ublk)
		return error_set(error, -ENOMEM, "out of memory");
	device->ublk->device = device;
	device->ublk->fd = -1;
	device->ublk->ended = device->ublk->idle = true;
	res = ring_call(device->ring, prepare, device, error);
	if (res < 0)
		return res;
	ublk_queues_start(device->ublk);
	return ring_call(device->ring, go, device, error);
}

static int grow(struct device *device, uint64_t size, struct error *error)
{
	struct ublk_control control;
	uint64_t features = 0;
	int res = ublk_control_open(&control);

	if (res == 0) {
		res = ask_features(&control, &features);
		if (res == 0 && !(features & UBLK_FEATURE_UPDATE_SIZE))
			res = -EOPNOTSUPP;
		if (res == 0)
			res = ublk_control_run(&control, UBLK_COMMAND(UBLK_NUMBER_UPDATE_SIZE), device->index,
			    NULL, 0, size / 512);
		ublk_control_close(&control);
	}
	if (res == -EOPNOTSUPP)
		return error_set(
		    error, res, "this kernel's ublk makes no device larger (that of Linux 6.16 does)");
	return res < 0 ? error_set(error, res, "ublk makes it no larger: %s", strerror(-res)) : 0;
}

/* The end */

static int command(unsigned operation, unsigned id, struct error *error)
{
	struct ublk_control control;
	int res = ublk_control_open(&control);

	if (res == 0) {
		res = ublk_control_run(&control, operation, id, NULL, 0, 0);
		ublk_control_close(&control);
	}
	return res < 0 ? error_set(error, res, "ublk does not end it: %s", strerror(-res)) : 0;
}

static int stop_requests(void *data, struct error *error)
{
	struct device *device = data;
	int res = command(UBLK_COMMAND(UBLK_CMD_STOP_DEV), device->index, error);

	cleanup_close(&device->claim_fd);
	device->claim_fd = -1;
	return res;
}

static int delete (void *data, struct error *error)
{
	return command(UBLK_COMMAND(UBLK_CMD_DEL_DEV), ((struct device *)data)->index, error);
}

static int delete_soon(void *data, struct error *error)
{
	return command(UBLK_QUESTION(DELETE_ASYNC), ((struct device *)data)->index, error);
}

static int stop(struct device *device, bool hurry, struct error *error)
{
	struct ublk *ublk = device->ublk;
	int res;

	if (!ublk || (!ublk->added && !device->info.taken_over))
		return 0;
	ublk->stopping = true;
	res = ring_call(device->ring, stop_requests, device, error);
	if (res == 0)
		res = ring_run_until(device->ring, &ublk->ended);
	if (res < 0)
		return res;
	ublk_queues_done(ublk);
	return ring_call(device->ring, hurry ? delete_soon : delete, device, error);
}

static void free_ublk(struct device *device)
{
	struct ublk *ublk = device->ublk;

	device->ublk = NULL;
	if (!ublk)
		return;
	ublk->device = NULL;
	ublk->open++;
	(void)ring_run_until(device->ring, &ublk->idle);
	/* Else with the last of the commands, when the ring ends. */
	if (--ublk->open == 0) {
		ublk_queues_done(ublk);
		free(ublk);
	}
}

const struct device_ops ublk_ops = {
    .find = find, .available = available, .open = open_ublk, .grow = grow, .stop = stop, .free = free_ublk};
