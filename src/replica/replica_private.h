/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the parts of the machine share: replica_state.c (records, links), replica_command.c (orders), replica_talk.c (what the other says). */
#pragma once

#include "replica/replica_state.h"

void replica_act(struct replica_state *state, enum replica_action_kind kind);
void replica_say(struct replica_state *state, enum replica_say what);
/* The command under way has ended. */
void replica_answer(struct replica_state *state, int res, const char *text);
/* `state->next` is what is to be recorded. */
void replica_record(struct replica_state *state, enum replica_then then);
void replica_settle(struct replica_state *state);
void replica_release(struct replica_state *state);
/* Nothing can go between the nodes; `why` is a constant. */
void replica_refuse(struct replica_state *state, const char *why);

/* replica_command.c */
/* -EBUSY: another one is under way. */
int replica_command(struct replica_state *state, const struct replica_event *event);

/* replica_talk.c */
/* Both nodes may have said HELLO by now. */
void replica_meet(struct replica_state *state);
/* This node is primary from now on; ends the command. */
void replica_serve(struct replica_state *state);
/* Whether it may be said now. A node that says anything else is broken, or not of this release. */
bool replica_is_due(const struct replica_state *state, enum replica_say what);
void replica_hear(struct replica_state *state, const struct replica_message *message);
