# SPDX-License-Identifier: GPL-2.0-or-later
"""A mirror that is begun over the legs of an earlier one: never from the older onto the newer, unless the user says so."""
import pytest

from live_mirror import Mirror
from program import REFUSED, wait_until

SIZE = (3 << 20) + 512 * 77


def write(path, random):
    """By who uses the volume."""
    with open(path, "r+b") as file:
        file.seek(random.randrange(SIZE - 5000))
        file.write(random.randbytes(5000))
    return path.read_bytes()


def end(mirror, *orders):
    """Carries them out; then nobody uses the volume any more."""
    mirror.wait_for("ready", "switched")
    for order in orders:
        wait_until(lambda: (now := mirror.status())["revertible"] or now["state"] == "ready", "that it can switch")
        mirror.program(order, mirror.name)
    mirror.kill()


def refused(mirror):
    before = mirror.target.read_bytes()
    done = mirror.start(code=REFUSED)
    assert f"{mirror.target} is newer than the source {mirror.source}" in done.err and f"--overwrite={mirror.target}" in done.err, str(done)
    assert mirror.target.read_bytes() == before
    return done.err


def becomes(mirror, content, *words):
    mirror.start(*words)
    mirror.wait_for("ready")
    mirror.kill()
    assert mirror.target.read_bytes() == mirror.source.read_bytes() == content
    mirror.program("mirror", "--forget", mirror.name)


@pytest.fixture
def back(program, folder, volumes):
    mirror = Mirror(program, folder, volumes[1], volumes[0], name="back")
    yield mirror
    mirror.end()


@pytest.fixture
def elsewhere(folder, volumes, program):
    """The same volumes by other names."""
    for volume in volumes:
        (folder / f"link-{volume.name}").symlink_to(volume)
    mirror = Mirror(program, folder, folder / "link-source", folder / "link-target", name="elsewhere")
    yield mirror
    mirror.end()


def test_h16_a_killed_cutover_is_not_undone_by_its_first_words(mirror, elsewhere, back, random):
    mirror.start()
    end(mirror, "cutover")
    done = mirror.start(code=REFUSED)
    assert f"has not ended, and the target {mirror.target} is the volume" in done.err, str(done)
    newer = write(mirror.target, random)
    assert "which has not ended: `blkmove mirror --resume m`" in refused(elsewhere)
    done = mirror.program("mirror", "--forget", "m")
    assert done.out.decode() == f"m: forgotten; the target {mirror.target} is the volume\n"
    refused(mirror)
    refused(elsewhere)
    becomes(back, newer)
    older = write(mirror.source, random)
    refused(mirror)
    becomes(mirror, older, f"--overwrite={mirror.target}")


def test_h16_after_the_end_a_mirror_goes_back_and_not_forth(mirror, elsewhere, back, random):
    mirror.start()
    end(mirror, "cutover", "finish")
    newer = write(mirror.target, random)
    refused(mirror)
    refused(elsewhere)
    back.start()
    end(back, "cutover", "finish")
    assert mirror.source.read_bytes() == newer
    # The last word counts, whatever the mirrors were called.
    refused(back)
    becomes(mirror, write(mirror.source, random))


def test_h16_what_was_reverted_or_never_cut_over_goes_forth_and_not_back(mirror, back, random):
    mirror.start()
    end(mirror)
    newer = write(mirror.source, random)
    refused(back)
    mirror.program("mirror", "--forget", "m")
    mirror.start()
    end(mirror, "cutover", "revert", "abort")
    refused(back)
    becomes(mirror, newer)


def test_a_new_file_of_the_name_is_no_earlier_target(mirror):
    mirror.start()
    end(mirror, "cutover", "finish")
    mirror.target.unlink()
    becomes(mirror, mirror.source.read_bytes())
    mirror.target.unlink()
    mirror.target.write_bytes(bytes(SIZE))
    becomes(mirror, mirror.source.read_bytes())
