# SPDX-License-Identifier: GPL-2.0-or-later
"""A mirror that is begun over the legs of an earlier one: never from the older onto the newer, unless the user says so."""
import shutil

import pytest

from live_mirror import Mirror
from program import REFUSED, TROUBLE, wait_until

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
    done = mirror.start(f"--overwrite={mirror.target}", code=REFUSED)
    assert f"{mirror.target} is newer than the source {mirror.source}" in done.err and f"--overwrite-newer={mirror.target}" in done.err, str(done)
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
    becomes(mirror, older, f"--overwrite-newer={mirror.target}")


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


@pytest.mark.parametrize("how", ["abort", "forget"])
def test_h16_what_was_overwritten_though_it_was_newer_is_not_newer_any_more(mirror, back, random, how):
    """Whatever became of the mirror that did it, and whatever the old receipt says."""
    mirror.start()
    end(mirror, "cutover", "finish")
    write(mirror.target, random)
    mirror.start(f"--overwrite-newer={mirror.target}", "--max-rate=1M")
    if how == "abort":
        mirror.program("abort", "m")
        mirror.kill()
    else:
        mirror.kill()
        mirror.program("mirror", "--forget", "m")
    assert "was to be overwritten by the mirror m" in refused(back)
    becomes(mirror, mirror.source.read_bytes())
    # And a later switch counts again.
    mirror.start()
    end(mirror, "cutover", "finish")
    refused(mirror)
    becomes(back, mirror.target.read_bytes())


def test_h16_a_switch_whose_map_is_lost_is_asked_about_until_somebody_knows(mirror, elsewhere, back):
    """Though a receipt says something."""
    mirror.start()
    end(mirror, "cutover", "revert", "cutover")
    (mirror.program.state / "mirrors/m/map").write_bytes(b"garbage")
    for other in (elsewhere, back):
        said = refused(other)
        assert "cannot be known" in said and "`blkmove mirror --forget m`" in said
    mirror.program("mirror", "--forget", "m")
    for other in (mirror, elsewhere, back):
        assert "cannot be known" in refused(other)
    becomes(back, mirror.target.read_bytes(), f"--overwrite-newer={back.target}")
    refused(mirror)


def test_h16_a_mirror_that_another_one_overtook_is_not_resumed(mirror, elsewhere, random):
    mirror.start("--paused")
    mirror.kill()
    elsewhere.start()
    end(elsewhere, "cutover", "finish")
    newer = write(mirror.target, random)
    done = mirror.resume(code=REFUSED)
    assert "stopped before the mirror elsewhere, since which the target is the newer one" in done.err and "--forget m" in done.err, str(done)
    assert mirror.target.read_bytes() == newer
    mirror.program("mirror", "--forget", "m")
    refused(mirror)


def test_h16_a_late_receipt_is_no_later_word(mirror, back, random):
    """It is written when its mirror is forgotten, and says what was so long ago."""
    mirror.start()
    end(mirror, "cutover")
    back.start()
    end(back, "cutover", "finish")
    newer = write(mirror.source, random)
    (mirror.program.state / "mirrors/m/receipt.json").unlink()
    mirror.program("mirror", "--forget", "m")
    refused(back)
    becomes(mirror, newer)


def test_a_full_disk_forgets_nothing_and_says_what_to_do(mirror, program, mounts):
    mirror.start()
    end(mirror, "cutover")
    (program.state / "mirrors/m/receipt.json").unlink()
    disk = mounts("-t", "tmpfs", "-o", "size=4M", "none")
    shutil.copytree(program.state / "mirrors", disk / "mirrors")
    room = disk / "room"
    with pytest.raises(OSError), open(room, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    forget = "mirror", "--forget", "m", "--state-dir", disk
    assert "receipt.json" in (said := program(*forget, code=TROUBLE).err) and "make room there" in said, said
    room.unlink()
    assert b"m: forgotten; the target" in program(*forget).out
