/* SPDX-License-Identifier: GPL-2.0-or-later */
/* `blkmove agent`: serves one volume of this machine over standard input and output, as ssh starts it. */
#pragma once

/* argv[0] is for messages. Returns the exit status: 0, 1 when it ended badly, 64 for wrong usage. */
int agent_main(int argc, char **argv);
