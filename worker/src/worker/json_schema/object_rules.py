"""The order in which an object's properties may be written, as Lark rules.

Properties come in the order of the schema, optional ones may stay away, those without a name of their own come last. A
rule stands for what may follow: it knows the next property and how many have been written.
"""

import json
from collections.abc import Callable

from worker.json_schema.document_forms import Object, Property, Value
from worker.json_schema.leaf_rules import key_rule

MAX_RULES = 5_000
"""Of one object: where it takes more, its bounds on the number of properties are left to the judge."""

Named = Callable[[tuple[str, bool]], str]
"""The name of the rule with this right side; the flag says that it may be a terminal."""


def object_expression(form: Object, value_of: Callable[[Value], str], named: Named, entries: int) -> str | None:
    """A Lark expression of the object; None when it cannot have as many properties as it must.

    `value_of`: the name of a value's rule. `entries`: most properties that have no name in the schema.
    """
    properties = [entry for entry in form.properties if entry.value.finite]
    fewest, most = form.fewest, form.most
    counted = max(1, fewest) if most is None else most
    if (len(properties) + 1) * (counted + 1) > MAX_RULES:
        fewest, most, counted = 0, None, 1
    taken = [entry.name for entry in form.properties]
    pairs = [f'{named(key_rule(key, taken))} ": " {value_of(value)}' for key, value in form.others if value.finite]
    pair = named((" | ".join(pairs), False)) if pairs else None
    after: list[str | None] = []
    """What may follow, by the number of properties before it; more than `counted` are as good as that."""
    for count in range(counted + 1):
        room = max(entries, fewest) if most is None else min(entries, most - count)
        after.append(_others(pair, count, max(0, fewest - count), room))
    for entry in reversed(properties):
        before: list[str | None] = []
        for count in range(counted + 1):
            taking = after[min(count + 1, counted)] if most is None or count < most else None
            leaving = None if entry.required else after[count]
            before.append(_step(_written(entry, count, value_of), taking, leaving, named))
        after = before
    return None if after[0] is None else f'"{{" {after[0]} "}}"'


def _written(entry: Property, count: int, value_of: Callable[[Value], str]) -> str:
    key = json.dumps(entry.name, ensure_ascii=False) + ": "
    return f"{json.dumps((', ' if count else '') + key)} {value_of(entry.value)}"


def _step(written: str, taking: str | None, leaving: str | None, named: Named) -> str | None:
    """What may stand where a property comes next: it and what follows it, or what follows without it."""
    if taking is None:
        return leaving
    if leaving is None:
        return named((f"{written} {taking}", False))
    if leaving == taking:
        return named((f"({written})? {taking}", False))
    return named((f"({written} {taking})?" if not leaving else f"{written} {taking} | {leaving}", False))


def _others(pair: str | None, count: int, fewest: int, most: int) -> str | None:
    """`fewest` to `most` properties without a name of their own, behind `count` others."""
    if pair is None or most <= 0:
        return None if fewest > 0 else ""
    if count:
        return f'(", " {pair}){{{fewest},{most}}}'
    more = f' (", " {pair}){{{max(0, fewest - 1)},{most - 1}}}' if most > 1 else ""
    return f"{pair}{more}" if fewest else f"({pair}{more})?"
