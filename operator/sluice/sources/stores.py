"""What differs between S3, Google Cloud Storage and Azure Blob Storage: variables, names, words.

Called by ``bucket``.  The machine's own identity (instance metadata) is used only when the
environment says so: a model must not silently be fetched with the rights of the machine it landed
on.  Without any credentials requests are anonymous.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obstore.store import AzureStore, GCSStore, S3Store

from sluice.errors import SourceError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore

Environ = Mapping[str, str]

# All patience is in `transfer`, which knows what was already read.
_NO_RETRIES: Any = {"max_retries": 0}
MACHINE_IDENTITY = "SLUICE_MACHINE_IDENTITY"

_S3_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_S3_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
_GCS_ENDPOINTS = ("GOOGLE_BASE_URL", "STORAGE_EMULATOR_HOST")
_GCS_CREDENTIALS = (
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_PATH",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_BEARER_TOKEN",
)
_GCLOUD_LOGIN = Path(".config/gcloud/application_default_credentials.json")
_AZURE_ENDPOINTS = ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")
_AZURE_CREDENTIALS = (
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_ACCESS_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_SAS_KEY",
    "AZURE_STORAGE_TOKEN",
    "AZURE_CLIENT_SECRET",
    "AZURE_FEDERATED_TOKEN_FILE",
)


@dataclass(frozen=True)
class Store:
    """One kind of object store, as its users and its errors name things."""

    name: str
    place: str
    variables: str
    endpoint_variables: tuple[str, ...]
    connect: Callable[[str, Environ, ClientConfig], ObjectStore]
    authority_files: tuple[str, ...] = ("SSL_CERT_FILE",)
    no_place: frozenset[str] = frozenset()
    no_place_words: tuple[str, ...] = ()
    bad_keys: frozenset[str] = frozenset()
    wrong_region: frozenset[str] = frozenset()

    @property
    def endpoint_variable(self) -> str:
        """The variable to name to a person."""
        return self.endpoint_variables[0]

    def endpoint(self, environ: Environ) -> str:
        """The endpoint that the environment gives; empty for the provider's own."""
        return next((environ[name] for name in self.endpoint_variables if environ.get(name)), "")


def _s3(bucket: str, environ: Environ, options: ClientConfig) -> ObjectStore:
    own = environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "false"
    anonymous = not own and not any(environ.get(name) for name in _S3_CREDENTIALS)
    return S3Store(
        bucket,
        config={"skip_signature": True} if anonymous else {},
        client_options=options,
        retry_config=_NO_RETRIES,
    )


def _gcs(bucket: str, environ: Environ, options: ClientConfig) -> ObjectStore:
    config: Any = {}
    if endpoint := GCS.endpoint(environ):
        config["base_url"] = endpoint
    logged_in = Path(environ.get("HOME", "/nonexistent"), _GCLOUD_LOGIN).is_file()
    if not (
        logged_in or _machine_identity(environ) or any(environ.get(n) for n in _GCS_CREDENTIALS)
    ):
        config["skip_signature"] = True
        # Writing asks for a token even so (object_store 0.12), at the machine's metadata server
        # when there is no other: this one is refused by whoever wants one.
        config["bearer_token"] = "anonymous"  # noqa: S105
    return GCSStore(bucket, config=config, client_options=options, retry_config=_NO_RETRIES)


def _azure(container: str, environ: Environ, options: ClientConfig) -> ObjectStore:
    if not environ.get("AZURE_STORAGE_ACCOUNT_NAME"):
        raise SourceError(
            f"The storage account of az://{container} is not known.",
            hint="Set AZURE_STORAGE_ACCOUNT_NAME, in a cluster as a key of the Secret.",
            reason="InvalidAddress",
        )
    config: Any = {}
    if not (_machine_identity(environ) or any(environ.get(n) for n in _AZURE_CREDENTIALS)):
        config["skip_signature"] = True
    return AzureStore(container, config=config, client_options=options, retry_config=_NO_RETRIES)


def _machine_identity(environ: Environ) -> bool:
    return environ.get(MACHINE_IDENTITY, "").lower() in ("1", "true")


S3 = Store(
    name="S3",
    place="bucket",
    variables="AWS_*",
    endpoint_variables=_S3_ENDPOINTS,
    connect=_s3,
    authority_files=("AWS_CA_BUNDLE", "SSL_CERT_FILE"),
    no_place=frozenset({"NoSuchBucket"}),
    bad_keys=frozenset(
        {
            "SignatureDoesNotMatch",
            "InvalidAccessKeyId",
            "ExpiredToken",
            "InvalidToken",
            "XAdminUserNotFound",  # Versity's gateway answers an unknown key with 404
        }
    ),
    wrong_region=frozenset(
        {"AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraint"}
    ),
)
GCS = Store(
    name="Google Cloud Storage",
    place="bucket",
    variables="GOOGLE_*",
    endpoint_variables=_GCS_ENDPOINTS,
    connect=_gcs,
    no_place=frozenset({"NoSuchBucket"}),
    no_place_words=("The specified bucket does not exist",),
    bad_keys=frozenset({"InvalidToken", "ExpiredToken", "AuthenticationRequired"}),
)
AZURE = Store(
    name="Azure Blob Storage",
    place="container",
    variables="AZURE_*",
    endpoint_variables=_AZURE_ENDPOINTS,
    connect=_azure,
    no_place=frozenset({"ContainerNotFound", "ResourceNotFound"}),
    bad_keys=frozenset(
        {"AuthenticationFailed", "InvalidAuthenticationInfo", "NoAuthenticationInformation"}
    ),
)
STORES = {"s3": S3, "gs": GCS, "az": AZURE}
