/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What <linux/ublk_cmd.h> of Debian 12 (Linux 6.1) does not have yet. The numbers are those of the kernel's
 * include/uapi/linux/ublk_cmd.h since 6.5: commands are numbered as ioctls are, and the kernel says what it can.
 */
#pragma once

#include <linux/ublk_cmd.h>
#include <sys/ioctl.h>

#define UBLK_COMMAND(number)     ((unsigned)_IOWR('u', number, struct ublksrv_ctrl_cmd))
#define UBLK_QUESTION(number)    ((unsigned)_IOR('u', number, struct ublksrv_ctrl_cmd))
#define UBLK_IO(number)          ((unsigned)_IOWR('u', number, struct ublksrv_io_cmd))
#define UBLK_NUMBER_FEATURES     0x13 /* data: 64 bits, as the flags of a device */
#define UBLK_NUMBER_UPDATE_SIZE  0x15 /* Linux 6.16; data: sectors of 512 bytes */
#define UBLK_NUMBER_TRY_STOP     0x17 /* -EBUSY when it is open */
#define UBLK_FEATURE_UPDATE_SIZE (UINT64_C(1) << 10)
#define UBLK_FEATURE_SAFE_STOP   (UINT64_C(1) << 17)
#define UBLK_FEATURES_NEEDED     ((uint64_t)(UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE))
#define UBLK_QUEUE_STRIDE \
	(UBLK_MAX_QUEUE_DEPTH * sizeof(struct ublksrv_io_desc)) /* between queues, in what is mapped */
