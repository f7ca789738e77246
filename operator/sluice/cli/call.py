"""``sluice call``: ask a deployed model, through the current kube context or at a URL."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

import click

from sluice.errors import SluiceError

SERVICE_PORT = 80

_FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:([0-9]+) ->")
_NAME = re.compile(r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")


class CallError(SluiceError):
    """The model could not be asked."""

    reason = "CallFailed"


@click.command()
@click.argument("name")
@click.option(
    "-d",
    "--data",
    "data",
    type=click.File("r", encoding="utf-8"),
    required=True,
    help="JSON file: an object, a list of objects or an object of columns; - reads stdin.",
)
@click.option("-n", "--namespace", help="Namespace of the deployment; by default the context's.")
@click.option("--url", help="Ask this URL instead of going through kubectl.")
@click.option(
    "-H", "--header", "headers", multiple=True, help='An extra header, such as "X-User-Id: 7".'
)
@click.option("--timeout", type=click.FloatRange(0.1, 600), default=10.0, show_default=True)
def command(
    name: str,
    data: TextIO,
    namespace: str | None,
    url: str | None,
    headers: tuple[str, ...],
    timeout: float,
) -> None:
    """Ask the deployed model NAME about the rows in a file.

    The answer goes to stdout; the exit code is 1 when it is no 2xx.
    """
    body = data.read()
    try:
        json.loads(body)
    except json.JSONDecodeError as error:
        raise click.BadParameter(f"{data.name} is not JSON: {error}", param_hint="-d") from None
    if url is not None:
        status, revision, answer = _post(f"{url.rstrip('/')}/predict", body, headers, timeout)
    else:
        if not _NAME.match(name):
            raise click.BadParameter(f"{name!r} is not the name of a deployment", param_hint="NAME")
        with _forwarded(name, namespace, timeout) as local:
            status, revision, answer = _post(f"{local}/predict", body, headers, timeout)
    click.echo(_pretty(answer))
    if status >= 300:
        click.echo(f"HTTP {status} from revision {revision or 'unknown'}", err=True)
        sys.exit(1)


def _post(
    url: str, body: str, headers: tuple[str, ...], timeout: float
) -> tuple[int, str | None, str]:
    """Status, revision and text of the answer."""
    if not url.startswith(("http://", "https://")):
        raise click.BadParameter(f"{url!r} is not an http(s) URL", param_hint="--url")
    request = urllib.request.Request(url, body.encode(), method="POST")  # noqa: S310 - http(s) only
    request.add_header("Content-Type", "application/json")
    for header in headers:
        key, colon, value = header.partition(":")
        if not colon:
            raise click.BadParameter(f"{header!r} has no colon", param_hint="--header")
        request.add_header(key.strip(), value.strip())
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:  # noqa: S310
            return response.status, response.headers.get("X-Sluice-Revision"), _text(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers.get("X-Sluice-Revision"), _text(error)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise CallError(
            f"{url} does not answer: {reason}.", hint="Is the deployment Available?"
        ) from None


def _text(response: object) -> str:
    read = response.read  # type: ignore[attr-defined]
    data: bytes = read(64 * 1024 * 1024)
    return data.decode("utf-8", "replace")


def _pretty(answer: str) -> str:
    with suppress(json.JSONDecodeError):
        return json.dumps(json.loads(answer), indent=2, ensure_ascii=False)
    return answer.rstrip()


@contextmanager
def _forwarded(name: str, namespace: str | None, timeout: float) -> Iterator[str]:
    """A local URL that leads to the deployment's Service for as long as it is needed."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise CallError(
            "kubectl is not on the PATH.",
            hint="Install it, or say where the model is with --url http://...",
        )
    where = ["--namespace", namespace] if namespace else []
    process = subprocess.Popen(
        [kubectl, "port-forward", *where, "--address", "127.0.0.1",
         f"--pod-running-timeout={max(timeout, 1):g}s", f"service/{name}", f":{SERVICE_PORT}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        found = _FORWARDING.search(process.stdout.readline())
        if found is None:
            process.terminate()
            said = " ".join(process.stderr.read().split())[:400]
            raise CallError(
                f"kubectl cannot reach the Service {name!r}: {said or 'it said nothing'}",
                hint=f"Look at it with: kubectl get mdep {name}"
                + (f" -n {namespace}" if namespace else ""),
            )
        yield f"http://127.0.0.1:{found[1]}"
    finally:
        process.terminate()
        process.communicate()
