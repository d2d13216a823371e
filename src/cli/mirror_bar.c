/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The status of mirrors in the foreground: see mirror_bar.h. */
#include "cli/mirror_run.h"
#include "cli/status_line.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define INTERVAL_S 10

struct page {
	FILE *to;
	unsigned width, height; /* of the terminal */
	unsigned rows, column; /* that are taken; rows are more than the height when not all has found room */
};

static void erase(struct mirror_bar *bar, FILE *to)
{
	for (unsigned i = 1; i < bar->rows; i++)
		fputs("\033[A", to);
	if (bar->rows)
		fputs("\r\033[J", to);
	bar->rows = 0;
}

void mirror_bar_clear(struct mirror_bar *bar)
{
	erase(bar, stderr);
}

static char *text_of(struct mirror_run *run)
{
	json_t *status = mirror_status_json(run);
	size_t length;
	char *text = NULL;
	FILE *to = status ? open_memstream(&text, &length) : NULL;

	if (to) {
		status_line_print(to, status);
		fclose(to);
	}
	if (text)
		text[strcspn(text, "\n")] = '\0';
	json_decref(status);
	return text;
}

/* Bytes of UTF-8 that begin a character. */
static bool is_first(char byte)
{
	return ((unsigned char)byte & 0xc0) != 0x80;
}

static void put(struct page *page, char byte)
{
	if (page->rows <= page->height)
		putc(byte, page->to);
}

static void next_row(struct page *page)
{
	page->rows++;
	page->column = 0;
	if (page->rows > 1)
		put(page, '\n');
}

/* The last column stays free: terminals differ in what they do behind it. */
static void put_word(struct page *page, const char *word, size_t length)
{
	unsigned columns = 0;

	for (size_t i = 0; i < length; i++)
		columns += is_first(word[i]);
	if (page->column > 0 && page->column + 1 + columns >= page->width)
		next_row(page);
	if (page->column > 0) {
		put(page, ' ');
		page->column++;
	}
	for (size_t i = 0; i < length; i++) {
		if (is_first(word[i]) && page->column + 1 >= page->width)
			next_row(page);
		put(page, word[i]);
		page->column += is_first(word[i]);
	}
}

static void put_text(struct page *page, const char *text)
{
	next_row(page);
	while (*text) {
		size_t length = strcspn(text, " ");

		if (length)
			put_word(page, text, length);
		text += length + (text[length] == ' ');
	}
}

static void draw(struct mirror_process *process)
{
	struct winsize window = {0};
	struct page page = {.width = 80, .height = 24};
	char *frame = NULL;
	size_t length;

	page.to = open_memstream(&frame, &length);
	if (!page.to)
		return;
	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 1 && window.ws_row > 0) {
		page.width = window.ws_col;
		page.height = window.ws_row;
	}
	erase(&process->bar, page.to);
	for (unsigned i = 0; i < process->count; i++) {
		char *text = text_of(&process->mirrors[i]);

		if (text)
			put_text(&page, text);
		free(text);
	}
	process->bar.rows = page.rows < page.height ? page.rows : page.height;
	/* At once, or it flickers. */
	fclose(page.to);
	if (frame)
		fputs(frame, stderr);
	free(frame);
}

void mirror_bar_print(struct mirror_process *process)
{
	for (unsigned i = 0; i < process->count; i++) {
		json_t *status = mirror_status_json(&process->mirrors[i]);

		if (status)
			status_line_print(stderr, status);
		json_decref(status);
	}
}

static void print_lines(struct mirror_process *process)
{
	uint64_t now_ns = ring_now_ns(process->ring), interval_s = process->shared->interval_s;

	if (!process->bar.next_ns)
		process->bar.next_ns = now_ns;
	else if (now_ns >= process->bar.next_ns)
		mirror_bar_print(process);
	else
		return;
	process->bar.next_ns += (interval_s ? interval_s : INTERVAL_S) * UINT64_C(1000000000);
}

void mirror_bar_show(struct mirror_process *process)
{
	if (isatty(STDERR_FILENO))
		draw(process);
	else
		print_lines(process);
}
