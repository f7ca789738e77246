"""A real S3 server for the tests: Versity's gateway over a temporary directory.

    with s3_server() as s3:
        environ = s3.environ            # AWS_ENDPOINT_URL, keys, region
        s3.make_bucket("models")

The program is built once from the pinned ``tests/tools/s3/go.mod`` (40 s on two cores) into
``~/.cache/sluice/bin``.
"""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.tools import goserver
from tests.tools.ports import free_port

MODULE = Path(__file__).parent / "s3"
PROGRAM = "github.com/versity/versitygw/cmd/versitygw"


@dataclass(frozen=True)
class S3Server:
    """A running server."""

    endpoint: str
    access_key: str
    secret_key: str
    root: Path
    pid: int
    region: str = "us-east-1"

    @property
    def environ(self) -> dict[str, str]:
        """What a client needs in its environment."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
        }

    def make_bucket(self, name: str) -> str:
        """Create a bucket; the gateway takes any directory of its root for one."""
        (self.root / name).mkdir(exist_ok=True)
        return f"s3://{name}"

    def object_path(self, bucket: str, key: str) -> Path:
        """Where an object's bytes lie, so that a test can damage them behind the server's back."""
        return self.root / bucket / key


@contextlib.contextmanager
def s3_server(host: str = "127.0.0.1", workdir: Path | None = None) -> Iterator[S3Server]:
    """Run the server on a free port of ``host``; it ends with the block."""
    program = build()
    with tempfile.TemporaryDirectory(prefix="sluice-s3-", dir=workdir) as directory:
        root, sidecar = Path(directory, "buckets"), Path(directory, "metadata")
        root.mkdir()
        sidecar.mkdir()
        port = free_port()
        access, secret = "test" + secrets.token_hex(6), secrets.token_hex(20)
        argv = [str(program), "--quiet", "--keep-alive", "--port", f"{host}:{port}"]
        argv += ["posix", "--sidecar", str(sidecar), str(root)]
        keys = {"ROOT_ACCESS_KEY_ID": access, "ROOT_SECRET_ACCESS_KEY": secret}
        home = Path(directory)
        with goserver.running(argv, host=host, port=port, home=home, environ=keys) as process:
            yield S3Server(f"http://{host}:{port}", access, secret, root, process.pid)


def build() -> Path:
    """The program, built at most once for a given ``go.mod``."""
    return goserver.build(MODULE, PROGRAM)


if __name__ == "__main__":
    print(build())
    with s3_server() as server:
        server.make_bucket("models")
        print("\n".join(f"export {k}={v}" for k, v in server.environ.items()), flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            input("The server runs until you press Enter. ")
