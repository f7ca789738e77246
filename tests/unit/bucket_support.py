"""Reading from buckets, for the tests of S3, Google Cloud Storage and Azure."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest

from sluice.errors import SourceError
from sluice.sources import Budget, Transferred, copy_to_file, parse
from sluice.sources.base import SELF
from sluice.sources.bucket import Bucket

KEY = base64.b64encode(b"hush-hush" * 7).decode()
"""A secret of these tests; the others have hush in them."""


def get(uri: str, target: Path, name: str = SELF, attempts: int = 2) -> Transferred:
    """Copy one object, with little patience."""

    async def run() -> Transferred:
        source = Bucket(parse(uri), connect_seconds=2, idle_seconds=1)
        return await copy_to_file(
            source, name, target, Budget(1 << 30), attempts=attempts, first_wait=0.01
        )

    return asyncio.run(run())


def refused(uri: str, target: Path) -> SourceError:
    """The error that reading gives: it says what to do, and no secret."""
    with pytest.raises(SourceError) as error:
        get(uri, target)
    assert error.value.hint
    assert "hush" not in str(error.value) and KEY not in str(error.value)
    return error.value
