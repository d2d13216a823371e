/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the parts of the machine share: replica_state.c (records, links), replica_command.c (orders), replica_lease.c (hand-over), replica_grow.c (sizes), replica_verify.c (comparing), replica_detach.c (a primary whose disk fails), replica_talk.c (what the other says). */
#pragma once

#include "replica/replica_state.h"

void replica_act(struct replica_state *state, enum replica_action_kind kind);
void replica_say(struct replica_state *state, enum replica_say what);
/* The command under way has ended. */
void replica_answer(struct replica_state *state, int res, const char *text);
/* `state->next` is what is to be recorded. */
void replica_record(struct replica_state *state, enum replica_then then);
void replica_settle(struct replica_state *state);
/* Nobody writes any more: what an earlier one finds says nothing. */
void replica_settle_last(struct replica_state *state);
void replica_release(struct replica_state *state);
/* Once what is under way has ended. */
void replica_hear_later(struct replica_state *state, const struct replica_message *message);
/* Nothing can go between the nodes; `why` is a constant. */
void replica_refuse(struct replica_state *state, const char *why);

/* replica_command.c */
/* -EBUSY: another one is under way. */
int replica_command(struct replica_state *state, const struct replica_event *event);

/* replica_lease.c */
void replica_hand_over(struct replica_state *state, uint32_t lease_ms);
/* This node's clients, if they may only read, go. */
void replica_lease_end(struct replica_state *state);
void replica_lease_ended(struct replica_state *state);
/* The link is lost, and nothing else is decided yet. */
void replica_lease_lost(struct replica_state *state);
void replica_hear_lease(struct replica_state *state, const struct replica_message *message);
/* This primary is asked to give way: whether it does. */
bool replica_yield(struct replica_state *state);
/* That is recorded. */
void replica_yielded(struct replica_state *state);
/* That is recorded, and the other cannot be told. */
void replica_ceded(struct replica_state *state);
/* The first write of a client has come. */
void replica_take(struct replica_state *state);
/* What has waited may be possible now. */
void replica_take_over(struct replica_state *state);

/* replica_grow.c */
void replica_resize(struct replica_state *state, uint64_t size);
/* The nodes' volumes differ, and nothing else is in the way. */
void replica_grow_to_meet(struct replica_state *state);
/* That this node grows is recorded. */
void replica_grow(struct replica_state *state);
void replica_grown(struct replica_state *state, uint64_t size, int res);
void replica_grow_lost(struct replica_state *state);
/* The other has, and is gone. */
void replica_grow_second(struct replica_state *state);
void replica_hear_enlarge(struct replica_state *state, const struct replica_message *message);
void replica_hear_enlarged(struct replica_state *state, const struct replica_message *message);

/* replica_verify.c */
/* 0; -ENOTCONN, -EPERM: it is not possible; -EBUSY: not now. */
int replica_verify(struct replica_state *state);
void replica_even(struct replica_state *state);
/* replica_detach.c */
void replica_disk_failed(struct replica_state *state);
/* The other side is flushed, or is not: whether that was for this. */
bool replica_detach_settled(struct replica_state *state, int res);
void replica_hear_detach(struct replica_state *state, const struct replica_message *message);
/* The other may have the name that this node gave it, or not: for the next record. */
void replica_detach_note(struct replica_state *state);
/* Recorded; whether that was in it. */
void replica_detach_noted(struct replica_state *state);
/* What it led to is recorded; or cannot be, at the primary. */
void replica_detach_recorded(struct replica_state *state);
/* Who has no disk is no primary any more, by an order. */
void replica_diskless_rest(struct replica_state *state);
/* The link is lost: before the streams are stopped, and after. */
void replica_diskless_lost(struct replica_state *state);
void replica_detach_lost(struct replica_state *state);
/* An order that cannot be carried out meanwhile: whether it has its answer. */
bool replica_diskless_denies(struct replica_state *state, enum replica_event_kind order);

/* replica_talk.c */
/* Both nodes may have said HELLO by now. */
void replica_meet(struct replica_state *state);
/* This node is primary from now on; ends the command. */
void replica_serve(struct replica_state *state);
/* Whether it may be said now. A node that says anything else is broken, or not of this release. */
bool replica_is_due(const struct replica_state *state, enum replica_say what);
void replica_hear(struct replica_state *state, const struct replica_message *message);
