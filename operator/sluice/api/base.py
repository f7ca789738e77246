"""The base of every model, and the types that several models share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from sluice.api.cel import must, rules

DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"
NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
URI_PATTERN = r"^(file|pvc|https?|s3|gs|az|oci|hf|mlflow)://[^\s\\]+$"
QUANTITY_PATTERN = r"^[0-9]{1,12}([.][0-9]{1,6})?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"

Digest = Annotated[str, Field(pattern=DIGEST_PATTERN, max_length=71)]
ObjectName = Annotated[str, Field(pattern=NAME_PATTERN, min_length=1, max_length=63)]


def _shape(scheme: str, shape: str, example: str) -> dict[str, str]:
    return must(
        f"!self.startsWith('{scheme}://') || self.matches('^{scheme}://{shape}$')",
        f"must be of the form {example}",
    )


Uri = Annotated[
    str,
    Field(
        min_length=1,
        max_length=2048,
        pattern=URI_PATTERN,
        json_schema_extra=rules(
            must(
                "!self.matches('^(s3|gs|az)://') || "
                "self.matches('^(s3|gs|az)://[^/?#]+(/[^/?#]+)+/?$')",
                "must be of the form s3://bucket/key, gs://bucket/key or az://container/key, for "
                "example s3://models/iris/v2",
            ),
            _shape(
                "oci",
                "[][A-Za-z0-9.:-]+(/[a-z0-9]+([._-]+[a-z0-9]+)*)+"
                "(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?",
                "oci://registry/repository:tag, for example oci://registry.example/team/iris:v2",
            ),
            _shape(
                "hf",
                "[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*"
                "(@[A-Za-z0-9][A-Za-z0-9._-]*)?(/[^/?#]+)+",
                "hf://org/repository/path, for example hf://acme/iris@v2/model.onnx",
            ),
            _shape(
                "mlflow",
                "models/[^/?#@]+(@[^/?#@]+|/[0-9]+)",
                "mlflow://models/name@alias or mlflow://models/name/version, for example "
                "mlflow://models/churn/3",
            ),
            _shape("pvc", "[a-z0-9][-a-z0-9.]*/[^?#]+", "pvc://claim/path, for example pvc://m/v2"),
            _shape("file", "/[^?#]+", "file:///path, for example file:///models/iris/v2"),
            must(
                "!self.matches('^https?://') || "
                "self.matches('^https?://([^/?#]*@)?([^][/?#:@]+|[[][0-9a-fA-F:.]+[]])"
                "(:[0-9]{1,5})?/.+$')",
                "must be of the form https://host/path, for example https://m.example/iris/v2",
            ),
            must(
                "!self.matches('(/|%2[fF])([.]|%2[eE]){1,2}([/?#]|%2[fF]|$)')",
                "must not contain a '.' or '..' segment; write the path it leads to, "
                "for example s3://models/iris/v2",
            ),
            must(
                "!self.matches('^(https?|s3|gs|az|oci|hf|mlflow)://[^/?#]*@')",
                "must not contain a user name or password, for example https://host/path: "
                "put them into a Secret and name it in credentialsRef",
                reason="FieldValueForbidden",
            ),
        ),
    ),
]
"""Where bytes are.  One scheme, one form; no credentials and no way out of the path."""


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Quantity = Annotated[
    str,
    BeforeValidator(_as_text),
    Field(
        pattern=QUANTITY_PATTERN,
        max_length=20,
        json_schema_extra=rules(
            must(
                f"string(self).matches('{QUANTITY_PATTERN}')",
                "must be a Kubernetes quantity, for example 250m, 2 or 256Mi",
            ),
            **{"x-kubernetes-int-or-string": True},
        ),
    ),
]
"""An amount of compute as pods write it: ``250m``, ``0.5``, ``2``, ``256Mi``."""


class Block(BaseModel):
    """A part of an object.

    The operator ignores fields it does not know, so that an object written by a newer version
    survives a downgrade; the API server prunes and the CLI rejects them.
    """

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True
    )
