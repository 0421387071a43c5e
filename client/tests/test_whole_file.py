"""Changes of one file by several processes and threads."""

import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from headrace import whole_file
from headrace.whole_file import held, replace


def test_changes_at_the_same_time_are_made_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "new" / "numbers"
    start = threading.Barrier(16)

    def add(number: int) -> None:
        start.wait(10)
        with held(path):
            before = path.read_text() if path.exists() else ""
            replace(path, f"{before}{number}\n")

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(add, range(16)))
    assert sorted(map(int, path.read_text().split())) == list(range(16))


def test_one_that_stays_taken_is_an_error_in_bounded_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_file, "WAIT_SECONDS", 0.1)
    path = tmp_path / "file"
    with held(path), pytest.raises(TimeoutError, match=r"another process has held it for 0.1 s"), held(path):
        pass
    with held(path):
        pass


def test_what_cannot_be_written_leaves_the_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace(path, "before")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(UnicodeEncodeError):
        replace(path, "\ud800")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_one_and_rights_stay(tmp_path: Path) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_text("before")
    path.chmod(0o640)
    link.symlink_to(path)
    with held(link):
        replace(link, "after")
    assert link.is_symlink()
    assert path.read_text() == "after"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
