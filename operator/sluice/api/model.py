"""Model: where the bytes of a model are, and who may fetch them.

Read by sluice.api.modeldeployment (spec.model); the rule and the reference for credentials by
sluice.api.validation too.
"""

from __future__ import annotations

from pydantic import ConfigDict, Field

from sluice.api.base import Block, Digest, ObjectName, Uri
from sluice.api.cel import must, rules

CREDENTIALS = must(
    "!has(self.credentialsRef) || !self.uri.matches('^(file|pvc)://')",
    "credentialsRef must not be set for file:// and pvc:// addresses: they are mounted, "
    "not fetched; remove it or use, for example, s3://bucket/key",
    field=".credentialsRef",
    reason="FieldValueForbidden",
)


class SecretRef(Block):
    """A Secret in the same namespace."""

    name: ObjectName = Field(description="Name of the Secret, in the ModelDeployment's namespace.")


class Model(Block):
    """Where the model is. Changing it makes a new revision."""

    model_config = ConfigDict(json_schema_extra=rules(CREDENTIALS))

    uri: Uri = Field(
        description="Address of a model package, an MLflow model directory or a bare model file: "
        "s3://bucket/key, gs://bucket/key, az://container/key, oci://registry/repository:tag, "
        "https://host/path, hf://org/repository/path, mlflow://models/name@alias, "
        "pvc://claim/path or file:///path. "
        "Changing it makes a new revision: gated, stepped, judged and watched.",
    )
    digest: Digest | None = Field(
        default=None,
        description="sha256 of the bytes as published: of sluice.json for a package, of the file "
        "for a bare model. Anything else at the address is refused. Absent: what is found first "
        "is pinned. When set, change it together with uri.",
    )
    credentials_ref: SecretRef | None = Field(
        default=None,
        description="Secret whose keys become environment variables of the fetching container, "
        "and of no other: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL "
        "for s3; GOOGLE_SERVICE_ACCOUNT_KEY for gs; AZURE_STORAGE_ACCOUNT_NAME and "
        "AZURE_STORAGE_ACCOUNT_KEY for az; a kubernetes.io/dockerconfigjson Secret for oci; "
        "HF_TOKEN for hf; MLFLOW_TRACKING_URI and MLFLOW_TRACKING_TOKEN for mlflow; "
        "SLUICE_HTTP_TOKEN, or SLUICE_HTTP_USERNAME and SLUICE_HTTP_PASSWORD, for http(s). "
        "docs/sources.md lists all.",
    )
