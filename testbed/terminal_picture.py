"""Pictures of a terminal for the documents."""

import io
import os
import re
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme

_THEME = TerminalTheme(
    (27, 34, 35),
    (228, 234, 234),
    [
        (27, 34, 35),
        (240, 147, 139),
        (95, 191, 138),
        (224, 173, 87),
        (91, 184, 197),
        (190, 150, 220),
        (91, 184, 197),
        (228, 234, 234),
    ],
)


def recording() -> Console:
    """A terminal of 80 columns that remembers what it showed."""
    return Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", record=True, width=80)


def keep(console: Console, name: str, command: str) -> None:
    """Writes what it showed to cli/NAME.svg in the folder that PICTURES names, if there is one."""
    if folder := os.environ.get("PICTURES"):
        svg = console.export_svg(title=command, theme=_THEME, unique_id=name)
        # Fonts of somebody's server; the reader's own will do.
        svg = re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)
        (Path(folder) / "cli" / f"{name}.svg").write_text(svg)
