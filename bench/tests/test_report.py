"""The document's tables."""

from pathlib import Path

from bench.report import section, write
from bench.results_file import Result


def result() -> Result:
    made = Result("prefix", "python -m bench run prefix", machine={"cpu": "a CPU", "cores": 2})
    made.add_arm("conversation", [{"first_ms": 2000.0, "second_ms": 300.0, "load_average": 1.5}])
    made.add_ratio("second over first", 0.15, 0.2, at_least=False)
    made.add_ratio("too slow", 0.5, 0.2, at_least=False)
    return made


def test_a_section_shows_what_was_measured_and_what_missed() -> None:
    text = section(result())
    assert "load average 1.5 to 1.5" in text
    assert "| second over first | 0.15 | at most 0.2: met |" in text
    assert "| too slow | 0.5 | at most 0.2: **missed** |" in text
    assert "| conversation | 2,000 | 300 |" in text


def test_only_what_stands_between_the_marks_is_replaced(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text(
        "before\n<!-- result: prefix -->\nold\n<!-- end -->\nafter\n<!-- result: gpu -->\nnot run\n<!-- end -->\n"
    )
    result().save(tmp_path)
    write(document, tmp_path)
    text = document.read_text()
    assert text.startswith("before\n<!-- result: prefix -->\n`python -m bench run prefix`")
    assert "old" not in text
    assert "after" in text
    assert "not run" in text
