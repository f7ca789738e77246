"""The base of every model: camelCase on the wire, unknown fields ignored on read."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"
NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"

Digest = Annotated[str, Field(pattern=DIGEST_PATTERN, max_length=71)]
ObjectName = Annotated[str, Field(pattern=NAME_PATTERN, min_length=1, max_length=63)]


class Block(BaseModel):
    """A part of an object.

    The operator ignores fields it does not know, so that an object written by a newer version
    survives a downgrade; the API server prunes and the CLI rejects them.
    """

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True
    )
