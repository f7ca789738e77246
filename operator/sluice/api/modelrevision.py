"""ModelRevision: an immutable record of what ran, and its verdict.  Made by the operator."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from sluice.api.base import Block, Digest
from sluice.api.cel import OPAQUE, must, rules


class PackageInfo(Block):
    """What fetching found out about the package."""

    digest: Digest = Field(description="The package digest.")
    name: str = Field(default="", max_length=253, description="Name given when it was packaged.")
    format: str = Field(default="", max_length=64, description="Format of the file that is loaded.")
    trust_class: Literal["Data", "Restricted", "Code"] = Field(
        default="Code", alias="class", description="What loading it may do."
    )
    size: int = Field(default=0, ge=0, le=1 << 50, description="Bytes of all files.")
    imports: Annotated[list[Annotated[str, Field(max_length=253)]], Field(max_length=64)] = Field(
        default_factory=list, description="What loading it would import (class Code)."
    )
    mutable_source: bool = Field(
        default=False, description="The address can be overwritten with other bytes."
    )
    signature: str = Field(
        default="",
        max_length=4096,
        description="The signature that came with it, compressed. Nobody is believed for it: it "
        "counts when it verifies with a TrustPolicy's key and states this digest.",
    )
    signature_problem: str = Field(
        default="", max_length=512, description="Why the signature that came with it is unusable."
    )


class RevisionSpec(Block):
    """Everything that identifies the revision.  Immutable."""

    deployment: str = Field(max_length=63, description="The ModelDeployment this belongs to.")
    source: str = Field(max_length=64, description="Hash of spec.model as the user wrote it.")
    uri: str = Field(max_length=2048, description="Where the package was fetched from.")
    package: PackageInfo = Field(description="The package.")
    runtime_image: str = Field(max_length=512, description="The runtime image.")
    hash_version: int = Field(ge=1, le=1000, description="Version of the identity hash.")
    identity: dict[str, Any] = Field(
        description="The fields that the revision's name is a hash of.",
        json_schema_extra=OPAQUE,
    )
    pod_template: dict[str, Any] = Field(
        description="The pod template as rendered when the revision was made.",
        json_schema_extra=OPAQUE,
    )


class Verdict(Block):
    """What became of the revision.  Failed is left only by the retry command."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            must(
                "!has(self.phase) || self.phase != 'Failed' || has(self.scope)",
                "scope must be set when phase is Failed, for example scope: Package",
                field=".scope",
                reason="FieldValueRequired",
            )
        )
    )

    phase: Literal["New", "Validated", "Passed", "Failed", "Withdrawn"] = Field(
        default="New",
        description="New: gates pending. Validated: gates passed. Passed: promoted at least once. "
        "Failed: quarantined. Withdrawn: no verdict, tried again later.",
    )
    scope: Literal["Package", "Revision"] | None = Field(
        default=None,
        description="What a failure quarantines: every revision with this package, or this one.",
    )
    check: str = Field(default="", max_length=128, description="Gate or check that decided.")
    reason: str = Field(default="", max_length=128, description="CamelCase reason.")
    message: str = Field(default="", max_length=512, description="One sentence.")
    at: str = Field(default="", max_length=32, description="When, RFC 3339.")
    attempts: int = Field(default=0, ge=0, le=1000, description="Withdrawn attempts.")
    retries: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="How often the retry command lifted a failure. Failed is left only together "
        "with a rise of this number.",
    )
    anchors: Annotated[dict[str, float], Field(max_length=32)] = Field(
        default_factory=dict, description="Estimated change per check since the last anchor."
    )
