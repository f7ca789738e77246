"""What a URI says: scheme, place, content address; and how to show it without its secrets.

Pure.  Called by every source and by ``sluice.jobs``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

from sluice.errors import SourceError

SCHEMES = ("file", "pvc", "http", "https", "s3", "gs", "az", "oci", "hf", "mlflow")
STORES = ("s3", "gs", "az")
MAX_URI = 2048
CONTENT_TAG = "sluice-"
"""Before the package's digest in the tag that ``sluice push`` gives an artifact by itself.  Not
``sha256-``: registries keep referrers under such tags."""

_CONTENT_ADDRESS = re.compile(r"(?:^|/)sha256-([0-9a-f]{64})(?:/|$)")
_CONTENT_TAG = re.compile(rf":{CONTENT_TAG}([0-9a-f]{{64}})(?:@|$)")
_CLAIM = re.compile(r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")
# Names as in the OCI distribution specification.
_COMPONENT = r"[a-z0-9]+(?:(?:[.]|_|__|-+)[a-z0-9]+)*"
_ARTIFACT = re.compile(
    rf"/(?P<repository>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_HUB = re.compile(
    r"/(?P<repository>[A-Za-z0-9][A-Za-z0-9._-]{0,95})"
    r"(?:@(?P<revision>[A-Za-z0-9][A-Za-z0-9._-]{0,127}))?(?P<file>(?:/[^/]+)*)"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REGISTERED = re.compile(
    r"/(?P<name>[^/@]{1,256})(?:@(?P<alias>[^/@]{1,255})|/(?P<version>[0-9]{1,18}))"
)


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
        if self.scheme == "oci":
            return re.split("[:@]", last)[0]
        return unquote(last) if self.scheme in ("http", "https") else last

    @property
    def content_digest(self) -> str | None:
        """``sha256:…`` when the address names the content, as ``sluice push`` writes it."""
        named = _CONTENT_TAG if self.scheme == "oci" else _CONTENT_ADDRESS
        found = named.search(self.path)
        return f"sha256:{found.group(1)}" if found else None

    @property
    def immutable(self) -> bool:
        """Whether the address itself says which bytes it means, so that nobody can change them."""
        if self.scheme == "oci" and self.artifact.digest:
            return True
        if self.scheme == "hf" and _COMMIT.fullmatch(self.hub_file.revision):
            return True
        return self.content_digest is not None

    @property
    def artifact(self) -> Artifact:
        """What an ``oci`` address says."""
        found = _ARTIFACT.fullmatch(self.path)
        if found is None:
            raise _not_an_artifact()
        return Artifact(found["repository"], found["tag"] or "", found["digest"] or "")

    @property
    def hub_file(self) -> HubFile:
        """What an ``hf`` address says."""
        found = _HUB.fullmatch(self.path)
        if found is None:
            raise _not_in_the_hub()
        return HubFile(
            f"{self.host}/{found['repository']}",
            found["revision"] or "main",
            found["file"].strip("/"),
        )

    @property
    def registered(self) -> Registered:
        """What an ``mlflow`` address says."""
        found = _REGISTERED.fullmatch(self.path)
        if found is None:
            raise _not_registered()
        return Registered(
            unquote(found["name"]), unquote(found["alias"] or ""), found["version"] or ""
        )

    def child(self, relative: str) -> Address:
        """The address of ``relative`` below this one; the query goes along (it may sign both)."""
        tail = quote(relative) if self.scheme in ("http", "https") else relative
        path = f"{self.path.rstrip('/')}/{tail}"
        return Address(self.scheme, self.host, path, self.query)

    def parent(self) -> Address:
        """The directory this address is in."""
        path = self.path.rstrip("/").rpartition("/")[0] or "/"
        return Address(self.scheme, self.host, path, self.query)


@dataclass(frozen=True)
class Artifact:
    """A repository of a registry, and which of its artifacts; the digest wins over the tag."""

    repository: str
    tag: str
    digest: str

    @property
    def reference(self) -> str:
        """What to ask the registry for."""
        return self.digest or self.tag or "latest"


@dataclass(frozen=True)
class HubFile:
    """A file or directory of a repository of the Hub, at a branch, tag or commit."""

    repository: str
    revision: str
    file: str


@dataclass(frozen=True)
class Registered:
    """A version of a model in an MLflow registry, by alias or by number."""

    name: str
    alias: str
    version: str


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
            hint="Use file://, pvc://CLAIM/PATH, http(s)://, s3://BUCKET/KEY, gs://BUCKET/KEY, "
            "az://CONTAINER/KEY, oci://REGISTRY/REPOSITORY:TAG, hf://ORG/REPOSITORY/PATH or "
            "mlflow://models/NAME@ALIAS.",
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
    return _BY_SCHEME.get(parts.scheme, _http)(parts)


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


def _store(parts: SplitResult) -> Address:
    if not parts.netloc:
        place = "container" if parts.scheme == "az" else "bucket"
        raise _invalid(
            f"The address names no {place}", f"Write {parts.scheme}://{place.upper()}/KEY."
        )
    key = parts.path.strip("/")
    _check_segments(key)
    return Address(parts.scheme, parts.netloc, f"/{key}", "")


def _check_segments(path: str) -> None:
    if path and any(segment in ("", ".", "..") for segment in path.split("/")):
        raise _invalid(
            "The key has an empty, '.' or '..' segment",
            "Keys with such segments are not supported.",
        )


def _oci(parts: SplitResult) -> Address:
    if not parts.hostname or not _ARTIFACT.fullmatch(parts.path):
        raise _not_an_artifact()
    return Address("oci", parts.netloc, parts.path, "")


def _hf(parts: SplitResult) -> Address:
    path = _unquoted(parts.path).rstrip("/")
    _check_segments(path.strip("/"))
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}", parts.netloc) or not _HUB.fullmatch(
        path
    ):
        raise _not_in_the_hub()
    return Address("hf", parts.netloc, path, "")


def _mlflow(parts: SplitResult) -> Address:
    if parts.netloc != "models" or not _REGISTERED.fullmatch(parts.path):
        raise _not_registered()
    _unquoted(parts.path)
    return Address("mlflow", parts.netloc, parts.path, "")


def _http(parts: SplitResult) -> Address:
    if not parts.hostname:
        raise _invalid("The address names no host", "Write https://HOST/path.")
    return Address(parts.scheme, parts.netloc, parts.path or "/", parts.query)


_BY_SCHEME: dict[str, Callable[[SplitResult], Address]] = {
    "file": _file,
    "pvc": _pvc,
    **dict.fromkeys(STORES, _store),
    "oci": _oci,
    "hf": _hf,
    "mlflow": _mlflow,
}


def _not_an_artifact() -> SourceError:
    return _invalid(
        "The address is not one of an artifact in a registry",
        "Write oci://REGISTRY/REPOSITORY:TAG or oci://REGISTRY/REPOSITORY@sha256:…, in lower case.",
    )


def _not_in_the_hub() -> SourceError:
    return _invalid(
        "The address is not one of a file in the Hub",
        "Write hf://ORG/REPOSITORY/PATH or hf://ORG/REPOSITORY@COMMIT/PATH.",
    )


def _not_registered() -> SourceError:
    return _invalid(
        "The address is not one of a registered model",
        "Write mlflow://models/NAME@ALIAS or mlflow://models/NAME/VERSION.",
    )


def _invalid(what: str, hint: str) -> SourceError:
    return SourceError(f"{what}.", hint=hint, reason="InvalidAddress")
