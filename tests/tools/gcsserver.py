"""A server that speaks Google Cloud Storage, for the tests: fake-gcs-server over a directory.

It checks no credentials; what a wrong one does is tested with a server that refuses.  It knows no
PUT of the XML interface, which the client writes with, so that one request is translated to the
JSON interface on its way; reads reach the server as they are.
"""

from __future__ import annotations

import contextlib
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.tools import goserver
from tests.tools.ports import free_port
from tests.tools.webserver import Request, web_server

MODULE = Path(__file__).parent / "gcs"
PROGRAM = "github.com/fsouza/fake-gcs-server"


@dataclass(frozen=True)
class GcsServer:
    """A running server; ``writable`` is the endpoint with the translated PUT."""

    endpoint: str
    writable: str
    root: Path

    def make_bucket(self, name: str) -> None:
        """Create a bucket; a directory of the root is one."""
        (self.root / name).mkdir(exist_ok=True)


@contextlib.contextmanager
def gcs_server(home: Path) -> Iterator[GcsServer]:
    """Run the server below ``home`` on a free port; it ends with the block."""
    program = goserver.build(MODULE, PROGRAM)
    root = home / "gcs"
    root.mkdir()
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    argv = [str(program), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
    argv += ["-filesystem-root", str(root), "-external-url", endpoint]
    argv += ["-public-host", f"127.0.0.1:{port}", "-log-level", "error"]
    with (
        goserver.running(argv, host="127.0.0.1", port=port, home=home),
        web_server(lambda request: _pass_on(request, endpoint)) as front,
    ):
        yield GcsServer(endpoint, front.url, root)


def _pass_on(request: Request, endpoint: str) -> None:
    target, body = f"{endpoint}{request.path}", None
    if request.command == "PUT":
        body = request.rfile.read(int(request.headers["Content-Length"]))
        bucket, _, key = request.path.lstrip("/").partition("/")
        target = f"{endpoint}/upload/storage/v1/b/{bucket}/o?uploadType=media&name={key}"
    names = ("Range", "If-Match", "Content-Type")
    headers = {name: request.headers[name] for name in names if name in request.headers}
    method = "POST" if request.command == "PUT" else request.command
    asked = urllib.request.Request(target, data=body, headers=headers, method=method)
    try:
        answer = urllib.request.urlopen(asked)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        kept = ("ETag", "Last-Modified", "Content-Range", "Content-Type")
        said = {name: answer.headers[name] for name in kept if name in answer.headers}
        if request.command == "PUT":
            said.setdefault("ETag", '"written"')
        said["Connection"] = "close"  # a HEAD's length is not its body's
        data = answer.read()
        length = int(answer.headers.get("Content-Length", len(data)))
        request.reply(data, answer.status, said, length=length)
