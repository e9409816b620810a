"""Files appear whole or not at all."""

from __future__ import annotations

import multiprocessing
import os

import pytest

from studio.writing import aside_of, check_place, written


def names(folder):
    return sorted(item.name for item in folder.iterdir())


def test_names_aside_are_never_the_same(tmp_path):
    found = {aside_of(tmp_path / "a.json").name for _ in range(3)}
    assert len(found) == 3
    assert all(name.startswith(f".a.json.{os.getpid()}.") and name.endswith(".part") for name in found)


def test_a_file_has_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    with written(path) as aside:
        aside.write_text("half")
        assert not path.exists()
        aside.write_text("whole")
    assert path.read_text() == "whole"
    with written(path) as aside:
        aside.write_text("another")
        assert path.read_text() == "whole"
    assert path.read_text() == "another"
    assert names(tmp_path) == ["a.txt"]


def _fail(path, error):
    path.write_text("half")
    raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_what_was_there_stays(tmp_path, error):
    path = tmp_path / "a.txt"
    for before in ([], ["a.txt"]):
        with pytest.raises(error), written(path) as aside:
            _fail(aside, error)
        assert names(tmp_path) == before
        path.write_text("old")
    assert path.read_text() == "old"


def test_what_was_never_written_replaces_nothing(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), written(path):
        pass
    assert path.read_text() == "old"


def _write(path, letter):
    for _ in range(50):
        with written(path) as aside, aside.open("w") as file:
            for _ in range(100):
                file.write(letter * 100)


def test_of_two_processes_each_file_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    context = multiprocessing.get_context("fork" if os.name == "posix" else "spawn")
    writers = [context.Process(target=_write, args=(path, letter)) for letter in "ab"]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        if path.exists():
            assert path.read_text() in ("a" * 10_000, "b" * 10_000)
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert names(tmp_path) == ["a.txt"]


def test_where_a_file_may_lie(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    assert check_place(tmp_path / "new", force=False, remedy="say so") == tmp_path / "new"
    assert check_place(tmp_path / "file", force=True, remedy="say so") == tmp_path / "file"
    with pytest.raises(FileExistsError, match="exists; name another file, or say so"):
        check_place(tmp_path / "file", force=False, remedy="say so")
    with pytest.raises(FileExistsError, match="is a folder; name a file in it"):
        check_place(tmp_path / "folder", force=True, remedy="say so")
    with pytest.raises(FileNotFoundError, match="create it first"):
        check_place(tmp_path / "nowhere" / "a", force=True, remedy="say so")
