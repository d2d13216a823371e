/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* CRC-32C (Castagnoli), as RFC 3720 (iSCSI) uses it. Continue a running value by passing it in; begin with 0. */
#pragma once

#include <stddef.h>
#include <stdint.h>

uint32_t crc32c(uint32_t running, const void *data, size_t length);
