/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A circular doubly linked list whose nodes lie in the elements. A node alone points to itself. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct list_node {
	struct list_node *next, *previous;
};

#define container_of(pointer, type, member) ((type *)((char *)(pointer)-offsetof(type, member)))

#define list_for_each(node, head) \
	for (struct list_node *node = (head)->next; node != (head); node = node->next)

/* The body may remove `node` itself. */
#define list_for_each_safe(node, head) \
	for (struct list_node *node = (head)->next, *node##_next = node->next; node != (head); \
	     node = node##_next, node##_next = node->next)

static inline void list_init(struct list_node *node)
{
	node->next = node->previous = node;
}

static inline bool list_empty(const struct list_node *head)
{
	return head->next == head;
}

static inline void list_append(struct list_node *head, struct list_node *node)
{
	node->next = head;
	node->previous = head->previous;
	head->previous->next = node;
	head->previous = node;
}

static inline void list_prepend(struct list_node *head, struct list_node *node)
{
	list_append(head->next, node);
}

/* The node is left alone in a list of its own, so a second removal does no harm. */
static inline void list_remove(struct list_node *node)
{
	node->previous->next = node->next;
	node->next->previous = node->previous;
	list_init(node);
}

/* Removes and returns the first node, or NULL. */
static inline struct list_node *list_pop(struct list_node *head)
{
	struct list_node *node = head->next;

	if (node == head)
		return NULL;
	list_remove(node);
	return node;
}

/* All of the list, in its order: `ret` heads it from now on, whatever it was before, and the list is empty. */
static inline void list_take(struct list_node *ret, struct list_node *head)
{
	list_init(ret);
	if (list_empty(head))
		return;
	list_append(head, ret);
	list_remove(head);
}
