"""TrustPolicy: which code-bearing packages an administrator admits: whose, where, until when."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from sluice.api.base import Block, Digest, ObjectName
from sluice.api.cel import SET, count, must, rules

CodeClass = Literal["Restricted", "Code"]

TIME_PATTERN = r"^[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]Z$"
_P256 = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE"
_P384 = "MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAE"
_P521 = "MIGbMBAGByqGSM49AgEGBSuBBAAjA4GG"
PUBLIC_KEY_PATTERN = (
    f"^-----BEGIN PUBLIC KEY-----[[:space:]]+({_P256}|{_P384}|{_P521})[A-Za-z0-9+/=[:space:]]+"
    "-----END PUBLIC KEY-----[[:space:]]*$"
)
"""PEM of a public key; the text begins with what DER says of its curve (RFC 5480)."""


class Signer(Block):
    """Who signs: a name for people, and the key that their signatures verify with."""

    name: ObjectName = Field(
        description="Shown in status as trust=Signer with this name; several keys may share it."
    )
    public_key: Annotated[
        str,
        Field(
            min_length=1,
            max_length=1024,
            json_schema_extra=rules(
                must(
                    f"self.matches('{PUBLIC_KEY_PATTERN}')",
                    "must be a public key in PEM on the curve P-256, P-384 or P-521, for example "
                    "what openssl ec -in key.pem -pubout prints",
                )
            ),
        ),
    ] = Field(
        description="Public key in PEM (P-256, P-384 or P-521). To rotate, admit the new key in "
        "a line of its own and keep the old one until nothing signed by it is needed.",
    )


class Admission(Block):
    """Packages admitted by this line."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            must(
                f"{count('packageDigest', 'anyDigest', 'signer')} == 1",
                "exactly one of packageDigest, signer and anyDigest must be set, for example "
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
    signer: Signer | None = Field(
        default=None,
        description="Admits every package that carries a signature (model.sig) by this key.",
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
    expires: Annotated[str, Field(max_length=20, pattern=TIME_PATTERN)] | None = Field(
        default=None,
        description="From this time on (2027-01-31T00:00:00Z) the line admits nothing. What serves "
        "goes on serving.",
    )


class Denial(Block):
    """What no line of any TrustPolicy admits any more."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            must(
                f"{count('packageDigest', 'keyDigest')} == 1",
                "exactly one of packageDigest and keyDigest must be set, for example "
                "{packageDigest: 'sha256:...'} as printed by sluice inspect",
            )
        )
    )

    package_digest: Digest | None = Field(
        default=None, description="Digest of a package that may not start here, data or code."
    )
    key_digest: Digest | None = Field(
        default=None,
        description="A signer's key that counts no more: the SHA-256 of its PEM text, as printed "
        "by sluice verify.",
    )
    reason: str = Field(default="", max_length=128, description="Why; shown to the users.")


class TrustPolicySpec(Block):
    """What may load code, and in which namespaces."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            must(
                "has(self.admit) || has(self.deny)",
                "admit or deny must be set, for example admit: [{packageDigest: 'sha256:...'}]",
                field=".admit",
                reason="FieldValueRequired",
            )
        )
    )

    namespaces: Annotated[list[ObjectName], Field(min_length=1, max_length=64)] = Field(
        description="Namespaces by name; labels are not used, tenants may write those.",
        json_schema_extra=SET,
    )
    admit: Annotated[list[Admission], Field(min_length=1, max_length=64)] = Field(
        default=[], description="Packages admitted there; one matching line is enough."
    )
    deny: Annotated[list[Denial], Field(min_length=1, max_length=256)] = Field(
        default=[],
        description="Packages and keys that are not admitted there, whatever any TrustPolicy "
        "admits.",
    )
