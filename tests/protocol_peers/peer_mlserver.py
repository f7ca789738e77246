"""What `mlserver infer` asks: run by tests.protocol_peers in its environment."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from checks import check, main, near
from mlserver.types import InferenceResponse


def infer(given, requests, *options):
    """Lines of requests through the command; the lines it wrote."""
    with tempfile.TemporaryDirectory() as place:
        asked, told = Path(place) / "in.jsonl", Path(place) / "out.jsonl"
        asked.write_text("".join(json.dumps(request) + "\n" for request in requests))
        command = [str(Path(sys.executable).with_name("mlserver")), "infer", "-u", given["address"],
                   "-m", given["model"], "-i", str(asked), "-o", str(told), *options]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr[-300:]
        return [json.loads(line) for line in told.read_text().splitlines()]


def requests(given):
    """One request a row, all features in one tensor."""
    return [
        {
            "id": str(number),
            "inputs": [{"name": "x", "shape": [1, len(row)], "datatype": "FP64", "data": row}],
        }
        for number, row in enumerate(given["rows"])
    ]


def verify(given, answers):
    assert len(answers) == len(given["rows"]), f"{len(answers)} answers"
    # The command writes answers as they come, with its own note of the place in the input.
    for answer in answers:
        place = answer["parameters"].pop("inference").pop("index") if "inference" in answer.get(
            "parameters", {}) else int(answer["id"])  # fmt: skip
        outputs = {o.name: o for o in InferenceResponse.model_validate(answer).outputs}
        labels = [v.decode() if isinstance(v, bytes) else v for v in outputs["label"].data]
        assert labels == [given["labels"][place]], (place, labels)
        near(list(outputs["scores"].data), given["scores"][place])


@check("mlserver infer, one worker")
def _(given):
    verify(given, infer(given, requests(given), "-w", "1"))


@check("mlserver infer, eight workers")
def _(given):
    verify(given, infer(given, requests(given), "-w", "8"))


@check("mlserver infer, batches of ten rows")
def _(given):
    verify(given, infer(given, requests(given), "-s", "10"))


@check("mlserver infer, tensors in bytes")
def _(given):
    verify(given, infer(given, requests(given), "-b"))


if __name__ == "__main__":
    main()
