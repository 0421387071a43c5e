"""What may stand in each place of a document, as far as a grammar can say it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from worker.json_schema.leaf_rules import Leaf, Literals, Number, String


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a document where its schema does not."""

    string: int
    """Characters of a string without maxLength."""
    entries: int
    """Entries of a list without maxItems; properties of an object beside those that are named."""
    most: int
    """Entries of any list: no answer has more."""


@dataclass(frozen=True, slots=True)
class Array:
    """A list: `first` entries of their own kind, then `rest`."""

    first: Sequence["Value"]
    rest: "Value"
    fewest: int
    most: int | None
    distinct: bool


@dataclass(frozen=True, slots=True)
class Property:
    """A property with a name."""

    name: str
    value: "Value"
    required: bool


@dataclass(frozen=True, slots=True)
class Object:
    """An object: properties in their order, then `others`, each a kind of key and its kind of value."""

    properties: Sequence[Property]
    others: Sequence[tuple[String, "Value"]]
    fewest: int
    most: int | None


Form = Leaf | Array | Object


@dataclass(eq=False, slots=True)
class Value:
    """What may stand in one place: any of its forms, or whatever one of `ways` allows."""

    number: int
    forms: list[Form] = field(default_factory=list)
    ways: list["Value"] = field(default_factory=list)
    free: bool = False
    """Any JSON value."""
    shortest: int | None = None
    """Characters of its shortest text, about; None when no text comes to an end."""

    @property
    def finite(self) -> bool:
        """Whether something can be written for it that comes to an end."""
        return self.shortest is not None


def shortest_of(form: Form) -> int | None:
    """Characters of the form's shortest text, about; None while none is known."""
    match form:
        case Literals(texts):
            return min(map(len, texts))
        case Number():
            return 1
        case String(shortest=shortest, patterns=patterns, formats=formats):
            return 2 + shortest + (8 if patterns or formats else 0)
    length = 2
    for place, entry, times in parts_needed(form):
        if entry.shortest is None:
            return None
        length += times * (len(place) + entry.shortest + 2)
    return length


def parts_needed(form: Form) -> list[tuple[str, Value, int]]:
    """What the form cannot be written without: its place, its value, and how many of it."""
    match form:
        case Array(first, rest, fewest):
            entries = [(f"[{at}]", entry, 1) for at, entry in enumerate(first[:fewest])]
            return entries + ([(f"[{len(first)}]", rest, fewest - len(first))] if fewest > len(first) else [])
        case Object(properties):
            return [(f".{entry.name}", entry.value, 1) for entry in properties if entry.required]
        case _:
            return []
