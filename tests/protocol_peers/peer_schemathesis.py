"""What schemathesis makes of our OpenAPI document: run by tests.protocol_peers in its environment.

An answer fails when it is a 5xx, or its status, headers, media type or body is not what the
document says, or when a request that the document forbids is answered with success.  The model is
a tree over floats: where arithmetic overflows, 1e308 is refused, which the document cannot say.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from checks import check, main

EXAMPLES = 60
SEED = 20261124

CONFIG = """
seed = {seed}
[checks]
negative_data_rejection.expected-statuses = [400, 404, 405, 413, 415, 417, 431]
[[operations]]
include-path-regex = "^(/predict|/v2/.*/infer)$"
checks.positive_data_acceptance.enabled = false
"""
"""All checks on all operations, with two exceptions: a 413 refuses as well as a 400 does; and what
JSON Schema cannot say (columns have one length, the data of a tensor fit its shape) makes some
bodies that the document allows wrong all the same."""


def run(given, *options):
    """The command on the whole document; its last words when something failed."""
    with tempfile.TemporaryDirectory() as place:
        config = Path(place) / "schemathesis.toml"
        config.write_text(CONFIG.format(seed=SEED))
        program = str(Path(sys.executable).with_name("schemathesis"))
        document = f"http://{given['robust']}/openapi.json"
        command = [program, "--config-file", str(config), "run", document, "--no-color", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=place)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-2500:]
    assert re.search(r"\b([1-9]\d*) generated, \1 passed", said), said[-2500:]


@check("examples: the golden rows of the document are answered")
def _(given):
    run(given, "--phases", "examples")


@check("coverage: every edge of every schema")
def _(given):
    run(given, "--phases", "coverage")


@check("fuzzing: generated requests to every operation")
def _(given):
    run(given, "--phases", "fuzzing", "--mode", "all", "--max-examples", str(EXAMPLES))


if __name__ == "__main__":
    main()
