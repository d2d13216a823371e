/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Runs one fuzz target over files and folders of inputs, without libFuzzer: what a fuzzer once found stays
 * found. Each input is also tried in damaged forms, the same ones in every run; BLKMOVE_SEED takes others,
 * BLKMOVE_FUZZ_FORMS says how many.
 */
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INPUT_MAX     (8u << 20)
#define FORMS_DEFAULT 20

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t random_state;

static uint64_t random_next(void)
{
	uint64_t z = (random_state += 0x9e3779b97f4a7c15u);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

/* On the heap and of the exact size, so that a read past the end is seen by the address sanitizer. */
static void run_once(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1);

	if (!copy)
		abort();
	if (size)
		memcpy(copy, data, size);
	LLVMFuzzerTestOneInput(copy, size);
	free(copy);
}

/* Flips bits, overwrites a number, or cuts. */
static void run_damaged(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size);
	unsigned changes = 1 + (unsigned)(random_next() % 4);

	if (!copy)
		abort();
	memcpy(copy, data, size);
	while (changes--) {
		uint64_t random = random_next();
		size_t at = (size_t)(random >> 8) % size;

		if (random % 4 == 0)
			size = at + 1;
		else if (random % 4 == 1)
			copy[at] = (uint8_t)(random >> 40);
		else if (random % 4 == 2 && size - at >= 4)
			memset(copy + at, random & 16 ? 0xff : 0, 4);
		else
			copy[at] ^= (uint8_t)(1u << ((random >> 40) % 8));
	}
	run_once(copy, size);
	free(copy);
}

static unsigned run_file(const char *path, unsigned forms)
{
	FILE *file = fopen(path, "rb");
	uint8_t *data = malloc(INPUT_MAX);
	size_t size;

	if (!file || !data) {
		fprintf(stderr, "replay: cannot read %s: %s\n", path, strerror(errno));
		exit(2);
	}
	size = fread(data, 1, INPUT_MAX, file);
	fclose(file);
	/* Seen last before a crash. */
	fprintf(stderr, "%s\n", path);
	run_once(data, size);
	for (unsigned i = 0; i < forms && size; i++)
		run_damaged(data, size);
	free(data);
	return 1;
}

static unsigned run_path(const char *path, unsigned forms)
{
	struct dirent **entries;
	int count = scandir(path, &entries, NULL, alphasort);
	unsigned inputs = 0;

	if (count < 0)
		return errno == ENOTDIR ? run_file(path, forms) : 0;
	for (int i = 0; i < count; i++) {
		char name[4096];

		if (entries[i]->d_name[0] != '.') {
			snprintf(name, sizeof(name), "%s/%s", path, entries[i]->d_name);
			inputs += run_path(name, forms);
		}
		free(entries[i]);
	}
	free(entries);
	return inputs;
}

int main(int argc, char **argv)
{
	const char *seed = getenv("BLKMOVE_SEED"), *forms = getenv("BLKMOVE_FUZZ_FORMS");
	unsigned inputs = 0;

	random_state = seed ? strtoull(seed, NULL, 0) : 1;
	run_once(NULL, 0);
	for (int i = 1; i < argc; i++)
		inputs += run_path(argv[i], forms ? (unsigned)atoi(forms) : FORMS_DEFAULT);
	printf("%u inputs\n", inputs);
	if (inputs)
		return 0;
	fprintf(stderr, "replay: there is no input; a target needs a folder in tests/fuzz/corpus\n");
	return 1;
}
