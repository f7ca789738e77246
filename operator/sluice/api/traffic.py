"""Traffic: how requests reach the revisions, and who stays with one.

Read by sluice.api.modeldeployment (spec.traffic).
"""

from __future__ import annotations

from pydantic import ConfigDict, Field

from sluice.api.base import Block
from sluice.api.cel import count, must, rules


class Unit(Block):
    """What is assigned to an arm as a whole: the same user always sees the same model."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            must(
                f"{count('header', 'cookie')} == 1",
                "exactly one of header and cookie must be set, for example {header: X-User-Id}",
            ),
            must(
                "!has(self.header) || !self.header.lowerAscii().startsWith('x-sluice-')",
                "header must not begin with X-Sluice-: the router overwrites those; "
                "for example X-User-Id",
                field=".header",
                reason="FieldValueForbidden",
            ),
        )
    )

    header: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z][A-Za-z0-9-]*$",
        description="Request header that names the unit, for example X-User-Id.",
    )
    cookie: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z][A-Za-z0-9_-]*$",
        description="Cookie that names the unit.",
    )


class Traffic(Block):
    """How requests reach the revisions."""

    unit: Unit | None = Field(
        default=None,
        description="What is assigned to a revision as a whole, such as a user. Absent: each "
        "request at random, which needs the fewest requests for a verdict.",
    )
    router_replicas: int = Field(
        default=2, ge=1, le=10, description="Router pods; one is a single point of failure."
    )
