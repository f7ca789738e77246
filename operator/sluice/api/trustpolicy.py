"""TrustPolicy: which code-bearing packages an administrator admits, and where."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from sluice.api.base import Block, Digest, ObjectName
from sluice.api.cel import SET, count, must, rules

CodeClass = Literal["Restricted", "Code"]


class Admission(Block):
    """Packages admitted by this line."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            must(
                f"{count('packageDigest', 'anyDigest')} == 1",
                "exactly one of packageDigest and anyDigest must be set, for example "
                "{packageDigest: 'sha256:...'} as printed by sluice inspect",
            ),
            must(
                "!has(self.anyDigest) || self.anyDigest",
                "anyDigest must be true or absent; to admit one package write packageDigest, "
                "for example {packageDigest: 'sha256:...'}",
                field=".anyDigest",
            ),
        )
    )

    package_digest: Digest | None = Field(
        default=None,
        description="Digest of the one package that is admitted, as printed by sluice inspect.",
    )
    any_digest: bool | None = Field(
        default=None,
        description="true admits every package: for a development cluster. Shown as trust=Any in "
        "status.",
    )
    classes: Annotated[list[CodeClass], Field(min_length=1, max_length=2)] = Field(
        default=["Code", "Restricted"],
        description="Trust classes that this line admits. Code: loading may run anything "
        "(pickle, joblib). Restricted: loading runs an allow-list. Default both.",
        json_schema_extra=SET,
    )


class TrustPolicySpec(Block):
    """What may load code, and in which namespaces."""

    namespaces: Annotated[list[ObjectName], Field(min_length=1, max_length=64)] = Field(
        description="Namespaces by name; labels are not used, tenants may write those.",
        json_schema_extra=SET,
    )
    admit: Annotated[list[Admission], Field(min_length=1, max_length=64)] = Field(
        description="Packages admitted there; one matching line is enough."
    )
