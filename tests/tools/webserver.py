"""A web server for tests that does as it is told: whole answers, broken ones, slow ones.

    with web_server(handler) as server: fetch(server.url + "/package")

``handler(request)`` is an ordinary BaseHTTPRequestHandler's ``do_GET``; helpers below write the
answers.  Every request is kept with its headers.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Handler = Callable[["Request"], None]


class Request(BaseHTTPRequestHandler):
    """One request; ``reply`` writes an answer with the right length unless told otherwise."""

    protocol_version = "HTTP/1.1"

    def reply(
        self,
        body: bytes = b"",
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        *,
        length: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)
            self.wfile.flush()
        if length is not None and length != len(body):
            self.close_connection = True

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, _Server)
        server.kept.append((self.path, dict(self.headers)))
        server.handler(self)

    do_PUT = do_GET
    do_POST = do_GET
    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Quiet."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, handler: Handler, certificate: Path | None) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.handler = handler
        self.kept: list[tuple[str, dict[str, str]]] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is what some tests are about."""


@dataclass
class WebServer:
    """A running server."""

    url: str
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)


@contextlib.contextmanager
def web_server(handler: Handler, certificate: Path | None = None) -> Iterator[WebServer]:
    """Run ``handler`` on a free port of the loopback address until the block ends.

    With ``certificate``, a file that ``self_signed`` made, it speaks https.
    """
    server = _Server(handler, certificate)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        scheme = "https" if certificate else "http"
        yield WebServer(f"{scheme}://127.0.0.1:{server.server_address[1]}", server.kept)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def self_signed(file: Path) -> Path:
    """Write a key and a certificate for 127.0.0.1 to ``file``."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(address, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    form = serialization.PrivateFormat.PKCS8
    secret = key.private_bytes(pem, form, serialization.NoEncryption())
    file.write_bytes(certificate.public_bytes(pem) + secret)
    return file


def files(root: Path, *, etag: bool = True) -> Handler:
    """Serve a directory with ranges and strong ETags, as object stores do."""

    def handler(request: Request) -> None:
        path = root / request.path.partition("?")[0].lstrip("/")
        if not path.is_file():
            request.reply(b"not here", 404)
            return
        serve_bytes(request, path.read_bytes(), etag=etag)

    return handler


def serve_bytes(
    request: Request, data: bytes, *, etag: bool = True, upto: int | None = None
) -> None:
    """``data``, or the part that was asked for; cut off after ``upto`` bytes of the whole."""
    headers = {"ETag": f'"{hash(data)}"'} if etag else {}
    start = 0
    wanted = request.headers.get("Range")
    if wanted and request.headers.get("If-Range") == headers.get("ETag"):
        start = int(wanted.removeprefix("bytes=").rstrip("-"))
        headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
    body = data[start:]
    sent = body if upto is None else body[: max(upto - start, 0)]
    request.reply(sent, 206 if start else 200, headers, length=len(body))
