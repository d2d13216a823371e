/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <blkmove/blkmove.h>
#include <stdio.h>
int main(int argc, char **argv) {
	struct blkmove_error error = {0};
	return argc == 3 && blkmove_copy(argv[1], argv[2], NULL, &error) == BLKMOVE_OK ? 0 : (puts(error.text), 1);
}
