"""What a URI says: scheme, place, content address; and how to show it without its secrets.

Pure.  Called by every source and by ``sluice.jobs``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

from sluice.errors import SourceError

SCHEMES = ("file", "pvc", "http", "https", "s3")
MAX_URI = 2048

_CONTENT_ADDRESS = re.compile(r"(?:^|/)sha256-([0-9a-f]{64})(?:/|$)")
_CLAIM = re.compile(r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")


@dataclass(frozen=True)
class Address:
    """One place, already checked; ``shown`` is safe to print, ``uri`` may hold a signature."""

    scheme: str
    host: str
    path: str
    query: str

    @property
    def uri(self) -> str:
        """The whole address, as given."""
        return urlunsplit((self.scheme, self.host, self.path, self.query, ""))

    @property
    def shown(self) -> str:
        """The address for people: a query may be a signature, so it is left out."""
        return urlunsplit((self.scheme, self.host, self.path, "", "")) + (
            "?…" if self.query else ""
        )

    @property
    def name(self) -> str:
        """The last part of the path, decoded: the file's name."""
        last = self.path.rstrip("/").rpartition("/")[2]
        return last if self.scheme in ("file", "pvc", "s3") else unquote(last)

    @property
    def content_digest(self) -> str | None:
        """``sha256:…`` when the address names the content, as ``sluice push`` writes it."""
        found = _CONTENT_ADDRESS.search(self.path)
        return f"sha256:{found.group(1)}" if found else None

    def child(self, relative: str) -> Address:
        """The address of ``relative`` below this one; the query goes along (it may sign both)."""
        tail = relative if self.scheme in ("file", "pvc", "s3") else quote(relative)
        path = f"{self.path.rstrip('/')}/{tail}"
        return Address(self.scheme, self.host, path, self.query)

    def parent(self) -> Address:
        """The directory this address is in."""
        path = self.path.rstrip("/").rpartition("/")[0] or "/"
        return Address(self.scheme, self.host, path, self.query)


def parse(text: str) -> Address:
    """The address that ``text`` means; a plain path is a file.  Raises SourceError."""
    if "\0" in text:
        raise _invalid("The address holds a NUL character", "Correct the address.")
    if "://" not in text:
        return Address("file", "", str(Path(text).absolute()), "")
    _check_characters(text)
    try:
        parts = urlsplit(text)
        _ = parts.port  # a port that is no number is found only when asked for
    except ValueError as error:
        raise _invalid("The address cannot be read", f"{error}.") from error
    if parts.scheme not in SCHEMES:
        raise SourceError(
            f"The scheme {parts.scheme!r} is not supported.",
            hint="Use file://, pvc://CLAIM/PATH, http(s):// or s3://BUCKET/KEY.",
            reason="UnsupportedScheme",
        )
    if (parts.query or parts.fragment) and parts.scheme not in ("http", "https"):
        raise _invalid(
            f"The address has a '?' or '#', which means nothing after {parts.scheme}://",
            "Pin bytes by `digest`; percent-encode the character if it is part of a file's name.",
        )
    if "@" in parts.netloc:
        raise _invalid(
            "The address holds a user name or password",
            "Put credentials into a Secret and name it in credentialsRef; locally use the "
            "environment (docs/sources.md).",
        )
    return {"file": _file, "pvc": _pvc, "s3": _s3}.get(parts.scheme, _http)(parts)


def _check_characters(text: str) -> None:
    if len(text) > MAX_URI:
        raise _invalid("The address is too long", f"At most {MAX_URI} characters.")
    if any(ord(c) < 33 or ord(c) == 127 or c == "\\" for c in text):
        raise _invalid(
            "The address holds a blank, control character or backslash", "Percent-encode it."
        )


def _file(parts: SplitResult) -> Address:
    if parts.netloc not in ("", "localhost"):
        raise _invalid(
            f"file://{parts.netloc}… names a host", "Write three slashes: file:///path/to/package."
        )
    return Address("file", "", _unquoted(parts.path) or "/", "")


def _unquoted(path: str) -> str:
    decoded = unquote(path)
    if "\0" in decoded:
        raise _invalid("The address holds a NUL character", "Correct the address.")
    return decoded


def _pvc(parts: SplitResult) -> Address:
    if not _CLAIM.match(parts.netloc):
        raise _invalid(
            f"{parts.netloc!r} is not a claim's name", "Write pvc://CLAIM/path/in/the/volume."
        )
    path = _unquoted(parts.path)
    if ".." in path.split("/"):
        raise _invalid("The path leaves the volume", "Write a path without '..'.")
    return Address("pvc", parts.netloc, path or "/", "")


def _s3(parts: SplitResult) -> Address:
    if not parts.netloc:
        raise _invalid("The address names no bucket", "Write s3://BUCKET/KEY.")
    key = parts.path.strip("/")
    if any(segment in ("", ".", "..") for segment in key.split("/")) and key:
        raise _invalid(
            "The key has an empty, '.' or '..' segment",
            "Keys with such segments are not supported.",
        )
    return Address("s3", parts.netloc, f"/{key}", "")


def _http(parts: SplitResult) -> Address:
    if not parts.hostname:
        raise _invalid("The address names no host", "Write https://HOST/path.")
    return Address(parts.scheme, parts.netloc, parts.path or "/", parts.query)


def _invalid(what: str, hint: str) -> SourceError:
    return SourceError(f"{what}.", hint=hint, reason="InvalidAddress")
