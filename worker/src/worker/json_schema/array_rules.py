"""The entries of a list, as Lark rules."""

import json
from collections.abc import Callable
from itertools import combinations

from worker.json_schema.document_forms import Array, Limits, Value
from worker.json_schema.leaf_rules import Literals
from worker.json_schema.object_rules import Named

MAX_DISTINCT = 6
"""Listed values whose repetition the grammar forbids: it has a rule for every set of those that were written."""


def array_expression(form: Array, value_of: Callable[[Value], str], named: Named, limits: Limits) -> str | None:
    """A Lark expression of the list; None when it cannot have as many entries as it must.

    The entries of their own kind each stand inside what follows the one before; then come all others.
    """
    most = max(limits.entries, form.fewest, len(form.first)) if form.most is None else form.most
    most = min(most, max(limits.most, form.fewest))
    known = _listed(form.rest)
    if form.distinct and known and not form.first and len(known) <= MAX_DISTINCT:
        return _distinct(known, form.fewest, most, named)
    possible = next((at for at, entry in enumerate(form.first) if not entry.finite), len(form.first))
    first = form.first[: min(possible, most)]
    room = most - len(first) if possible == len(form.first) and form.rest.finite else 0
    if form.fewest > len(first) + room:
        return None
    inside = ""
    if room > 0:
        rest, least = value_of(form.rest), max(0, form.fewest - len(first))
        if first:
            inside = f'(", " {rest}){{{least},{room}}}'
        else:
            inside = rest + (f' (", " {rest}){{{max(0, least - 1)},{room - 1}}}' if room > 1 else "")
            inside = inside if least else f"({inside})?"
    for at in reversed(range(len(first))):
        comma = '", " ' if at else ""
        inside = f"{comma}{value_of(first[at])} {inside}"
        if at >= form.fewest:
            inside = f"({inside})?"
    return f'"[" {inside} "]"'


def _listed(value: Value) -> list[str]:
    """The texts of a value that has no others."""
    if value.free or value.ways or not all(isinstance(form, Literals) for form in value.forms):
        return []
    return [text for form in value.forms if isinstance(form, Literals) for text in form.texts]


def _distinct(texts: list[str], fewest: int, most: int, named: Named) -> str | None:
    """Each of the texts at most once, in any order."""
    most = min(most, len(texts))
    if fewest > most:
        return None
    everything = range(len(texts))
    after: dict[tuple[int, ...], str] = {}
    """What may follow when these have been written."""
    for count in reversed(range(most + 1)):
        for written in combinations(everything, count):
            options = [
                f"{json.dumps((', ' if written else '') + texts[at])} {after[tuple(sorted((*written, at)))]}"
                for at in everything
                if at not in written and count < most
            ]
            rule = " | ".join(options)
            if count >= fewest:
                rule = f"({rule})?" if rule else '""'
            after[written] = named((rule, False))
    return f'"[" {after[()]} "]"'
