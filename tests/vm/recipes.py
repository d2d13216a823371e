# SPDX-License-Identifier: GPL-2.0-or-later
"""What docs/recipes has in fences."""
import pathlib
import re

RECIPES = pathlib.Path(__file__).resolve().parents[2] / "docs/recipes"


def blocks(page, heading, names):
    """Of the part of a page below that heading; the first part has none, "". `names`: what stands there, and what is put in."""
    part = re.split(r"^## (.*)\n", "## \n" + (RECIPES / page).read_text(encoding="utf-8"), flags=re.M)
    found = re.findall(r"^```\n(.*?)^```", dict(zip(part[1::2], part[2::2]))[heading], re.M | re.S)
    for name, ours in names.items():
        found = [text.replace(name, ours) for text in found]
    return found
