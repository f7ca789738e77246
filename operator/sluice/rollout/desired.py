"""Which revision the spec asks for, as far as it is known."""

from __future__ import annotations

from dataclasses import dataclass

from sluice.api.modelrevision import PackageInfo
from sluice.rollout.identity import identity, short_hash, source_hash
from sluice.rollout.model import Inputs, Resolved, Revision


@dataclass(frozen=True)
class Desired:
    """The wanted source and, once resolved, the revision it amounts to."""

    source: str
    package: PackageInfo | None = None
    revision: str | None = None
    image: str = ""
    known: Revision | None = None


def desired(i: Inputs) -> Desired:
    """Derives the wanted revision from the spec, the records and the resolving job."""
    source = source_hash(i.spec.model)
    records = sorted(
        (r for r in i.revisions.values() if r.source == source), key=lambda r: r.created
    )
    package = records[-1].package if records else _resolved(i, source)
    if package is None:
        return Desired(source)
    image = _image(i, records)
    revision = short_hash(identity(package.digest, image, i.spec.serving))
    return Desired(source, package, revision, image, i.revisions.get(revision))


def to_remember(i: Inputs, want: Desired) -> Resolved | None:
    """What must outlive the fetching job: a package that no record of this source names."""
    if want.package is None or any(r.source == want.source for r in i.revisions.values()):
        return None
    return Resolved(source=want.source, package=want.package)


def _resolved(i: Inputs, source: str) -> PackageInfo | None:
    if i.resolve.state == "Succeeded":
        return i.resolve.package
    known = i.progress.resolved
    return known.package if known is not None and known.source == source else None


def _image(i: Inputs, records: list[Revision]) -> str:
    """The runtime image: the spec's, else the recorded one.

    An operator that was upgraded brings another default; revisions that exist keep theirs, so that
    an upgrade makes no new revision.
    """
    runtime = i.spec.serving.runtime
    if runtime is not None and runtime.image:
        return runtime.image
    return records[-1].runtime_image if records else i.default_image
