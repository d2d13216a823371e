/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A small io_uring of its own for each conversation: these commands need longer entries than the data path's ring has. */
#include "export/ublk_control.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define LOOK_NS 100000000 /* how often it is seen that the command shall not go on */

int ublk_control_open(struct ublk_control *ret)
{
	struct ublk_control control = {.fd = open("/dev/ublk-control", O_RDWR | O_CLOEXEC)};
	int res;

	if (control.fd < 0)
		return -errno;
	res = io_uring_queue_init(4, &control.ring, IORING_SETUP_SQE128);
	if (res < 0) {
		close(control.fd);
		return res;
	}
	*ret = control;
	return 0;
}

void ublk_control_close(struct ublk_control *control)
{
	/* Ends a command that waits, too. */
	io_uring_queue_exit(&control->ring);
	close(control->fd);
}

static int await(struct ublk_control *control)
{
	struct __kernel_timespec patience = {.tv_nsec = LOOK_NS};
	struct io_uring_cqe *cqe;
	int res;

	do {
		res = io_uring_wait_cqe_timeout(&control->ring, &cqe, &patience);
		if (res == -ETIME && control->give_up && atomic_load(control->give_up))
			return -ECANCELED;
	} while (res == -ETIME || res == -EINTR);
	if (res < 0)
		return res;
	res = cqe->res;
	io_uring_cqe_seen(&control->ring, cqe);
	return res;
}

int ublk_control_run(struct ublk_control *control, unsigned operation, unsigned device, void *buf,
    size_t length, uint64_t data)
{
	const struct ublksrv_ctrl_cmd command = {.dev_id = device,
	    .queue_id = UINT16_MAX,
	    .len = (uint16_t)length,
	    .addr = (uint64_t)(uintptr_t)buf,
	    .data = {data}};
	struct io_uring_sqe *sqe = io_uring_get_sqe(&control->ring);
	int res;

	if (!sqe)
		return -EBUSY;
	memset(sqe, 0, 128);
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = control->fd;
	sqe->off = operation;                                /* cmd_op */
	memcpy((char *)sqe + 48, &command, sizeof(command)); /* cmd */
	do {
		res = io_uring_submit(&control->ring);
	} while (res == -EINTR);
	return res < 0 ? res : await(control);
}
