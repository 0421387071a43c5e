"""The file of a server's API keys: made here, read by the server (`HEADRACE_API_KEYS`). Holds hashes, never keys."""

import contextlib
import hashlib
import json
import secrets
import string
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from headrace.errors import HeadraceError
from headrace.whole_file import held, replace

ALPHABET = string.ascii_letters + string.digits
KEY_CHARACTERS = 43
"""Of 62 each: 256 random bits."""

Entry = dict[str, Any]


class KeyFileError(HeadraceError):
    """The file of the keys cannot be used, or not in this way."""


def new_key() -> str:
    """`hr_…`, with 256 random bits: nobody guesses it, from its hash either."""
    return "hr_" + "".join(secrets.choice(ALPHABET) for _ in range(KEY_CHARACTERS))


class KeyFile:
    """One file. Each change replaces it as a whole, so that a server never reads half of one, and is made on what the
    changes before it left, whoever makes them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def entries(self) -> list[Entry]:
        """All entries, as the server reads them. Raises KeyFileError."""
        document = self._read()
        entries: list[Entry] = document["keys"]
        return entries

    def create(self, name: str, tenant: str, policy: Entry | str | None, expires: datetime | None) -> str:
        """Adds a key and returns it; nobody can read it again. Raises KeyFileError."""
        key = new_key()
        with self._changed() as document:
            if any(entry["id"] == name for entry in document["keys"]):
                raise KeyFileError(
                    f"{self._path} has a key {name!r} already: `headrace keys rotate` gives it a new secret"
                )
            entry: Entry = {"id": name, "tenant": tenant, "sha256": _sha256(key), "created": _moment(datetime.now(UTC))}
            if expires is not None:
                entry["expires"] = _moment(expires)
            if policy:
                entry["policy"] = policy
            document["keys"].append(entry)
        return key

    def rotate(self, name: str, grace: timedelta) -> str:
        """Gives the key a new secret and returns it; the one before holds for `grace`. Raises KeyFileError."""
        key = new_key()
        with self._changed() as document:
            entry = self._entry(document, name)
            entry.pop("replaced", None)
            if grace > timedelta(0):
                entry["replaced"] = {"sha256": entry["sha256"], "expires": _moment(datetime.now(UTC) + grace)}
            entry["sha256"] = _sha256(key)
        return key

    def revoke(self, name: str) -> None:
        """Removes the key. Raises KeyFileError."""
        with self._changed() as document:
            document["keys"].remove(self._entry(document, name))

    def _entry(self, document: Entry, name: str) -> Entry:
        for entry in document["keys"]:
            if entry["id"] == name:
                found: Entry = entry
                return found
        raise KeyFileError(f"{self._path} has no key {name!r}; `headrace keys list` names them")

    def _read(self) -> Entry:
        try:
            document = json.loads(self._path.read_bytes() or b"{}")
        except FileNotFoundError:
            document = {}
        except OSError as error:
            raise KeyFileError(f"{self._path} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise KeyFileError(f"{self._path} is not JSON: {error}") from None
        if not isinstance(document, dict) or not isinstance(document.setdefault("keys", []), list):
            raise KeyFileError(f'{self._path} is not a file of keys: {{"keys": […]}}')
        if any(isinstance(value, str) for value in document.values()):
            raise KeyFileError(
                f"{self._path} holds keys in plain text. Put new ones into another file, give them out, and let "
                "HEADRACE_API_KEYS name that one"
            )
        if not all(
            isinstance(entry, dict) and {"id", "tenant", "sha256"} <= entry.keys() for entry in document["keys"]
        ):
            raise KeyFileError(f"{self._path}: every entry of `keys` needs id, tenant and sha256")
        return document

    @contextlib.contextmanager
    def _changed(self) -> Iterator[Entry]:
        try:
            with held(self._path):
                document = self._read()
                yield document
                replace(self._path, json.dumps(document, indent=2) + "\n")
        except OSError as error:
            raise KeyFileError(f"{self._path} cannot be written: {error.strerror}") from None


def _sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")
