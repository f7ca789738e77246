"""TrustPolicy: which code-bearing packages an administrator admits, and where."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sluice.api.base import Block, Digest, ObjectName


class Admission(Block):
    """Packages admitted by this line."""

    package_digest: Digest | None = Field(default=None, description="Exactly this package.")
    any_digest: bool | None = Field(
        default=None,
        description="Every package: for a development cluster. Shown as trust=Any in status.",
    )
    classes: Annotated[list[Literal["Restricted", "Code"]], Field(min_length=1, max_length=2)] = (
        Field(
            default_factory=lambda: ["Code", "Restricted"],
            description="Trust classes this line admits.",
        )
    )


class TrustPolicySpec(Block):
    """What may load code, and in which namespaces."""

    namespaces: Annotated[list[ObjectName], Field(min_length=1, max_length=64)] = Field(
        description="Namespaces by name; labels are not used, tenants may write those."
    )
    admit: Annotated[list[Admission], Field(min_length=1, max_length=64)] = Field(
        description="Packages admitted there; one matching line is enough."
    )
