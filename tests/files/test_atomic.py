"""Files are there whole or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pastalm.files.atomic import new_folder, write_json, write_text, writing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_changes_at_the_end_and_at_once(tmp_path: Path):
    path = tmp_path / "a.txt"
    write_text(path, "before\n")
    with writing(path) as file:
        file.write("after\r\n")
        assert path.read_text() == "before\n"
    assert path.read_bytes() == b"after\r\n" and names(tmp_path) == ["a.txt"]
    write_json(path, {"é": "\ud800"})
    assert json.loads(path.read_text()) == {"é": "?"}


def test_an_error_leaves_what_was_there(tmp_path: Path):
    path = tmp_path / "a.txt"
    write_text(path, "before")
    with pytest.raises(RuntimeError), writing(path) as file:
        file.write("half")
        raise RuntimeError
    assert path.read_text() == "before" and names(tmp_path) == ["a.txt"]


def test_errors_name_the_file_that_was_asked_for(tmp_path: Path):
    with pytest.raises(FileNotFoundError) as error:
        write_text(tmp_path / "no" / "a.txt", "x")
    assert error.value.filename == str(tmp_path / "no" / "a.txt")


def test_a_full_disk_leaves_what_was_there(tmp_path: Path):
    """A limit on the size of files stands for the disk: the same write fails in the same way."""
    path = tmp_path / "a.txt"
    write_text(path, "before")
    program = (
        "import resource, signal, sys\nfrom pastalm.files.atomic import write_text\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n    write_text(sys.argv[1], 'x' * 100_000)\nexcept OSError as error:\n    print(error.filename)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True)
    assert done.stdout.strip() == str(path), done.stderr
    assert path.read_text() == "before" and names(tmp_path) == ["a.txt"]


def test_links_and_pipes_stay_what_they_are(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "a.txt", tmp_path / "link.txt"
    target.write_text("before")
    link.symlink_to(target)
    write_text(link, "after")
    assert link.is_symlink() and target.read_text() == "after"
    write_text("/dev/null", "gone")
    assert Path("/dev/null").is_char_device()


def test_a_folder_is_there_when_it_is_complete(tmp_path: Path):
    place = tmp_path / "model"
    with pytest.raises(RuntimeError), new_folder(place) as part:
        (part / "half").write_text("")
        raise RuntimeError
    assert not place.exists()
    with new_folder(place) as part:
        assert names(part) == []
        with new_folder(place, leads=False) as other:
            (other / "weights").write_text("all")
    assert names(place) == ["weights"] and names(tmp_path) == ["model"]
