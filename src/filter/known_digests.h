/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A volume of which saved digests say what it holds: with their key it is asked for digests without being read, but where it was
 * written to through this filter. Nobody else may write to it meanwhile. All else, and digests with other keys, come from the volume.
 */
#pragma once

#include "block/block.h"

/*
 * Takes both blocks, also when it fails (-ENOMEM). `take_saved` is saved_digests_open()'s, checked against `take_below` as it is now, and
 * marked as in use: it covers the volume's first bytes, and no digests are asked for behind them. `key` is its key.
 */
int known_digests_new(struct block **ret, struct block *take_below, struct block *take_saved,
    const struct digest_key *key, struct error *error);
