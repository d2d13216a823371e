/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The options of `sync --rounds`. */
#pragma once

#include "cli/cli.h"

extern const struct argp cli_argp_rounds;
/* After all was parsed: -EINVAL with words in options->error. */
int rounds_options_check(struct cli_options *options);
