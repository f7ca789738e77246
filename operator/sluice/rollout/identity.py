"""What makes a revision a revision: a versioned hash over our own canonical JSON."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from sluice.api.model import Model
from sluice.api.serving import Serving

HASH_VERSION = 1


def canonical(value: Any) -> bytes:
    """``value`` as canonical JSON: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def short_hash(value: Any) -> str:
    """The first 10 hex digits of sha256 over canonical JSON."""
    return hashlib.sha256(canonical(value)).hexdigest()[:10]


def source_hash(model: Model) -> str:
    """Identifies ``spec.model`` as the user wrote it."""
    return short_hash(model.model_dump(by_alias=True, exclude_none=True))


def identity(digest: str, image: str, serving: Serving) -> dict[str, Any]:
    """The fields whose change makes a new revision.  Placement is not among them."""
    written = serving.model_dump(by_alias=True, exclude_none=True)
    return {
        "packageDigest": digest,
        "runtimeImage": image,
        "timeout": written["timeout"],
        "readinessGate": written["readinessGate"],
        "env": sorted(written.get("env", []), key=lambda e: str(e["name"])),
        "resources": written.get("resources", {}),
    }
