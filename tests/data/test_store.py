"""The store of decoded images: what it keeps, when it is made again, and what it survives."""

import errno
import os
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from image_files import pixels
from PIL import Image

from simclr_lib.data import decode, store
from simclr_lib.data.store import fingerprint, open_store, store_places


@pytest.fixture
def files(tmp_path) -> list[str]:
    for i in range(70):  # more than one block of a single worker
        Image.fromarray(pixels(8, 8, 3)).save(tmp_path / f"{i:02}.png")
    return [str(tmp_path / f"{i:02}.png") for i in range(70)]


@pytest.fixture
def place(tmp_path) -> Path:
    return tmp_path / "cache" / "set.key"


def opened(files: list[str], *places: Path, workers: int | None = None) -> tuple[np.ndarray, dict[int, str]]:
    return open_store(files, 8, "squash", places, workers)


def expected_store(files: list[str]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)).transpose(2, 0, 1) for path in files])


def forbid_decoding(monkeypatch) -> None:
    def decode(*_, **__):
        raise AssertionError("decoded again")

    monkeypatch.setattr(store, "decode_or_reason", decode)


# What is kept


@pytest.mark.parametrize("workers", [1, 3, None])
def test_store_keeps_order_and_is_mapped(files, place, workers):
    images, unreadable = opened(files, place, workers=workers)
    assert unreadable == {}
    assert isinstance(images, np.memmap)
    assert np.array_equal(images, expected_store(files))
    assert sorted(os.listdir(place.parent)) == ["set.key.bin", "set.key.json"]


def test_second_opening_decodes_nothing(files, place, monkeypatch):
    first, _ = opened(files, place)
    forbid_decoding(monkeypatch)
    second, _ = opened(files, place)
    assert isinstance(second, np.memmap)
    assert np.array_equal(second, first)


def test_arrays_of_the_right_size_stay_where_they_are(place):
    array = pixels(5, 3, 8, 8)
    images, unreadable = open_store(array, 8, "squash", [place])
    assert images is array
    assert unreadable == {}
    assert not place.parent.exists()


def test_a_store_takes_the_place_of_older_ones_of_its_set(files, tmp_path, place):
    before, _ = opened(files, place)
    second = tmp_path / "second" / place.name
    second.parent.mkdir()
    older = ["set.bin", "set.json", "set.old.bin", "set-5-seed0.key.bin", "set-5-seed0.key.json"]
    others = ["other.key.bin", "settle.key.bin", "notes.txt"]
    for folder in (place.parent, second.parent):
        for name in (*older, *others):
            (folder / name).write_text("")
    images, _ = opened(files[:3], place.with_name("set.new"), second.with_name("set.new"))
    assert np.array_equal(images, expected_store(files[:3]))
    assert sorted(os.listdir(place.parent)) == sorted([*others, "set.new.bin", "set.new.json"])
    assert sorted(os.listdir(second.parent)) == sorted(others)
    assert np.array_equal(before, expected_store(files))  # whoever has the old one open keeps it


def test_a_cache_in_which_nothing_is_left_is_removed(files, tmp_path, place):
    opened(files, tmp_path / "second" / place.name)
    opened(files[:3], place.with_name("set.new"), tmp_path / "second" / "set.new")
    assert not (tmp_path / "second").exists()
    assert place.parent.exists()


def test_drafts_of_killed_processes_are_removed_after_an_hour(files, place):
    ages = {"killed": 7200, "killed while empty": 7200, "alive": 60, "alive and old": 7200}
    for name, age in ages.items():
        draft = place.parent / f".unfinished-{name}"
        draft.mkdir(parents=True)
        if "empty" not in name:
            (draft / "draft.bin").write_bytes(b"pixels")
            written = time.time() - (60 if "alive" in name else 7200)
            os.utime(draft / "draft.bin", (written, written))
        os.utime(draft, (time.time() - age,) * 2)
    opened(files, place)
    left = [name for name in os.listdir(place.parent) if name.startswith(".")]
    assert sorted(left) == [".unfinished-alive", ".unfinished-alive and old"]


def test_writing_to_the_images_leaves_the_store_alone(files, place):
    opened(files, place)[0][:] = 0
    again, _ = opened(files, place)
    assert np.array_equal(again, expected_store(files))
    again[:] = 0
    assert np.array_equal(opened(files, place)[0], expected_store(files))


def test_unreadable_images_are_left_out_and_remembered(files, place, monkeypatch):
    jpeg = BytesIO()
    Image.fromarray(pixels(40, 40, 3)).save(jpeg, "JPEG")
    Path(files[0]).write_bytes(b"")
    Path(files[5]).write_bytes(b"no image")
    Path(files[65]).write_bytes(jpeg.getvalue()[:-200])
    os.truncate(files[66], os.path.getsize(files[66]) - 30)
    os.remove(files[9])
    images, unreadable = opened(files, place)
    assert sorted(unreadable) == [0, 5, 9, 65, 66]
    assert "truncated" in unreadable[65]
    assert np.array_equal(images, expected_store([path for i, path in enumerate(files) if i not in unreadable]))
    forbid_decoding(monkeypatch)
    again, still_unreadable = opened(files, place)
    assert still_unreadable == unreadable
    assert np.array_equal(again, images)


def test_nothing_readable_is_not_cached(tmp_path, place):
    images, unreadable = opened([str(tmp_path / "none.png")], place)
    assert images.shape == (0, 3, 8, 8)
    assert set(unreadable) == {0}
    assert os.listdir(place.parent) == []


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), MemoryError()])
def test_trouble_of_the_machine_is_not_blamed_on_the_file(files, place, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(decode, "decode", fail)
    with pytest.raises(type(error)):
        opened(files, place)
    assert os.listdir(place.parent) == []


# Stores that are not whole


def cut_short(path):
    os.truncate(path, os.path.getsize(path) - 1)


def cut_by_an_image(path):
    os.truncate(path, os.path.getsize(path) - 3 * 8 * 8)


def lengthen(path):
    os.truncate(path, os.path.getsize(path) + 3 * 8 * 8)


def empty(path):
    os.truncate(path, 0)


@pytest.mark.parametrize("harm", [cut_short, cut_by_an_image, lengthen, empty])
def test_a_wrong_size_is_noticed_and_the_store_made_again(files, place, harm, recwarn):
    opened(files, place)
    harm(f"{place}.bin")
    with pytest.warns(UserWarning, match=r"set\.key\.bin.* made again"):
        images, _ = opened(files, place)
    assert np.array_equal(images, expected_store(files))
    recwarn.clear()
    opened(files, place)
    assert not recwarn


@pytest.mark.parametrize("suffix", [".bin", ".json"])
def test_half_of_a_store_is_none(files, place, suffix):
    opened(files, place)
    os.remove(f"{place}{suffix}")
    assert np.array_equal(opened(files, place)[0], expected_store(files))
    assert sorted(os.listdir(place.parent)) == ["set.key.bin", "set.key.json"]


def test_a_note_that_a_crash_left_empty_is_made_again(files, place):
    os.remove(files[3])
    opened(files, place)
    empty(f"{place}.json")
    assert set(opened(files, place)[1]) == {3}
    assert set(opened(files, place)[1]) == {3}


@pytest.mark.parametrize("whole", [0, 1])
def test_a_crash_before_both_files_have_their_names_leaves_no_store(files, place, monkeypatch, whole):
    os.remove(files[3])
    renamed, replace = [], os.replace

    def crash(source, target):
        if len(renamed) == whole:
            raise KeyboardInterrupt
        renamed.append(target)
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            opened(files, place)
    assert not os.path.exists(f"{place}.bin")
    images, unreadable = opened(files, place)
    assert set(unreadable) == {3}
    assert np.array_equal(images, expected_store(files[:3] + files[4:]))


def test_an_unfinished_store_lies_beside_its_place_under_another_name(files, place, monkeypatch):
    seen = []
    whole = store.decode_or_reason

    def watched(*arguments, **options):
        seen.extend(os.listdir(place.parent))  # on the same disk, for the renaming to be possible
        return whole(*arguments, **options)

    monkeypatch.setattr(store, "decode_or_reason", watched)
    opened(files, place)
    assert len(seen) == len(files)
    assert all(name.startswith(".unfinished-") for name in seen)


def test_several_may_make_one_store_at_once(files, place, monkeypatch):
    together, remove = threading.Barrier(4), store.remove_stores

    def remove_together(*arguments):
        together.wait()  # all have decoded, and none has seen the store of another
        remove(*arguments)

    monkeypatch.setattr(store, "remove_stores", remove_together)
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(lambda _: opened(files, place), range(4)))
    assert all(np.array_equal(images, expected_store(files)) for images, _ in stores)
    assert sorted(os.listdir(place.parent)) == ["set.key.bin", "set.key.json"]
    forbid_decoding(monkeypatch)
    assert np.array_equal(opened(files, place)[0], expected_store(files))


# Places


def test_falls_back_to_the_next_place_then_to_a_temporary_file(files, tmp_path, monkeypatch):
    (tmp_path / "blocked").write_text("a file where a folder is needed: not even root can write there")
    blocked, free = tmp_path / "blocked" / "set.key", tmp_path / "elsewhere" / "set.key"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images, _ = opened(files, blocked, free)
    assert sorted(os.listdir(free.parent)) == ["set.key.bin", "set.key.json"]
    with pytest.warns(UserWarning, match="no cache can be written in .*blocked"):
        temporary, _ = opened(files, blocked)
    assert isinstance(temporary, np.memmap)
    assert np.array_equal(images, temporary)
    assert np.array_equal(images, expected_store(files))
    forbid_decoding(monkeypatch)
    assert np.array_equal(opened(files, blocked, free)[0], images)


def test_a_warning_names_its_file_and_others_stay_what_they_are(files, tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(store, "say_once", lines.append)
    Image.new("RGB", (30, 30)).save(files[3])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 800)  # Pillow warns above it, and refuses above twice as many
    images, missing = opened(files)
    assert (len(images), missing) == (len(files), {})
    (line,) = lines
    assert line.startswith(f"read all the same, with a warning: 1 ('{files[3]}': Image size (900 pixels) exceeds limit")
    with pytest.warns(UserWarning, match="of another"):
        warnings.warn("of another", stacklevel=1)


def test_without_a_place_nothing_is_said_or_left(files, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images, _ = opened(files)
    assert np.array_equal(images, expected_store(files))
    assert os.listdir(tmp_path / "temporary") == []


def test_store_places(files, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    root = str(tmp_path)
    with_data, users = store_places(root, "name", files)
    assert with_data == tmp_path / ".simclr_cache" / f"name.{fingerprint(files, root)}"
    assert users.is_relative_to("/caches/simclr")
    assert users.name == with_data.name
    assert users.parent != store_places("/other", "name", files)[1].parent
    monkeypatch.setenv("XDG_CACHE_HOME", "~/caches")
    assert store_places(root, "name", files)[1].is_relative_to(Path.home() / "caches/simclr")


@pytest.mark.parametrize(
    ("data", "root", "first", "second"),
    [
        ("/data", "/data/photos", "/data/.simclr_cache", "/caches/simclr"),
        ("/data", "/data/photos/cats", "/data/.simclr_cache", "/caches/simclr"),
        ("/data", "/database/photos", "/caches/simclr", "/data/.simclr_cache"),
        ("/data", "/home/me/photos", "/caches/simclr", "/data/.simclr_cache"),
        ("/data", "/data", "/caches/simclr", None),
        ("/data/sets", "/data", "/caches/simclr", None),
        ("/data", "/caches", "/data/.simclr_cache", None),
    ],
)
def test_the_places_of_a_folder_are_not_in_it(monkeypatch, data, root, first, second):
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    monkeypatch.setenv("SIMCLR_DATA", data)
    places = store_places(root, "folder-all-8-squash", [], within=False)
    assert [str(place.parent.parent) for place in places] == [place for place in (first, second) if place]
    assert len({place.parent.name for place in places}) == 1
    assert not any(place.is_relative_to(root) for place in places)


# The fingerprint


def test_fingerprint_follows_the_files(files, tmp_path):
    root = str(tmp_path)
    seen = [fingerprint(files, root)]
    assert fingerprint(files, root) == seen[0]

    os.utime(files[4], ns=(0, 0))  # touched
    seen.append(fingerprint(files, root))
    os.truncate(files[4], 10)  # another size, at the same time
    os.utime(files[4], ns=(0, 0))
    seen.append(fingerprint(files, root))
    os.chmod(files[7], 0o400)
    seen.append(fingerprint(files, root))
    seen += [fingerprint(files[:-1], root), fingerprint(files[::-1], root)]
    os.rename(files[6], tmp_path / "renamed.png")
    seen += [fingerprint(files, root), fingerprint([*files[:6], str(tmp_path / "renamed.png"), *files[7:]], root)]
    assert len(set(seen)) == len(seen)


def test_fingerprint_survives_a_move(files, tmp_path):
    before = fingerprint(files[:2], str(tmp_path))
    moved = tmp_path / "moved"
    moved.mkdir()
    paths = [os.path.join(moved, os.path.basename(path)) for path in files[:2]]
    for old, new in zip(files[:2], paths, strict=True):
        os.rename(old, new)
    assert fingerprint(paths, str(moved)) == before


def test_fingerprint_sees_a_link_mended(tmp_path):
    link = tmp_path / "link.png"
    link.symlink_to(tmp_path / "target.png")
    broken = fingerprint([str(link)], str(tmp_path))
    Image.fromarray(pixels(4, 4, 3)).save(tmp_path / "target.png")
    assert fingerprint([str(link)], str(tmp_path)) != broken
