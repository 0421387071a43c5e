"""The pages with generated tables: what stands between `<!-- table: NAME -->` and `<!-- end -->` is written anew."""

import re
from collections.abc import Mapping
from pathlib import Path

from docs.generate.configuration import settings_tables
from docs.generate.doors import door_tables, responses_tables
from docs.generate.rooms import rooms_table
from docs.generate.rpc import rpc_tables

DOCS = Path(__file__).parents[1]

_TABLE = re.compile(r"<!-- table: (.+?) -->\n.*?<!-- end -->", re.DOTALL)


def generated(docs: Path = DOCS) -> dict[Path, str]:
    """Path -> text of each page that has generated tables."""
    tables = {
        "architecture.md": {"rooms": rooms_table()},
        "configuration.md": settings_tables(),
        "openai.md": door_tables(),
        "responses.md": responses_tables(),
        "rpc.md": rpc_tables(),
    }
    return {docs / page: with_tables((docs / page).read_text(), its) for page, its in tables.items()}


def with_tables(page: str, tables: Mapping[str, str]) -> str:
    """The page with these tables. Raises ValueError when it lacks a place for one, or has one for none."""
    places = _TABLE.findall(page)
    if sorted(places) != sorted(tables):
        raise ValueError(f"the page has places for {sorted(places)}, the tables are {sorted(tables)}")
    return _TABLE.sub(lambda place: f"<!-- table: {place[1]} -->\n{tables[place[1]]}\n<!-- end -->", page)
