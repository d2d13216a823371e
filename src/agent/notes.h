/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Who wrote to a volume last: a small file a volume in the run folder, which a reboot empties. */
#pragma once

#include "export/agent_server.h"

extern const struct agent_notes agent_file_notes;
