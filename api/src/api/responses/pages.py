"""Lists of items, a page at a time."""

from collections.abc import Mapping, Sequence

from api.errors import InvalidParams
from api.http.openapi import query
from api.responses.open_item import Json

MOST = 100
"""Items of one page."""
USUAL = 20

PAGING = query(
    limit=({"type": "integer", "minimum": 1, "maximum": MOST, "default": USUAL}, "Items of the page."),
    order=({"enum": ["asc", "desc"], "default": "desc"}, "Oldest or newest first."),
    after=({"type": "string"}, "The last item of the page before."),
)
"""For `openapi_extra` of routes that list."""


def page(items: Sequence[Json], query: Mapping[str, str]) -> Json:
    """The items behind `after` in the `order` that is asked for, newest first unless it is `asc`; `limit` of them.

    Raises InvalidParams.
    """
    limit, order, after = query.get("limit", str(USUAL)), query.get("order", "desc"), query.get("after")
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= MOST):
        raise InvalidParams(f"must be 1 to {MOST}", place=("limit",))
    if order not in ("asc", "desc"):
        raise InvalidParams("must be asc or desc", place=("order",))
    ordered = list(items) if order == "asc" else list(reversed(items))
    if after is not None:
        places = [at for at, item in enumerate(ordered) if item["id"] == after]
        if not places:
            raise InvalidParams("names an item that is not there (any more)", place=("after",))
        ordered = ordered[places[0] + 1 :]
    shown = ordered[: int(limit)]
    return {
        "object": "list",
        "data": [*shown],
        "first_id": shown[0]["id"] if shown else "",
        "last_id": shown[-1]["id"] if shown else "",
        "has_more": len(ordered) > len(shown),
    }
