"""``python -m demo``: tells the story and writes build/demo.json and build/demo.html."""

from __future__ import annotations

import argparse
import sys

from demo.report import summary, write_html, write_json
from demo.stage import Stage, StageError
from demo.story import Story
from sluice.errors import SluiceError


def main() -> int:
    """Exit 0 when every promise of the story held."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the cluster running")
    parser.add_argument("--rate", type=float, default=200.0, help="requests per second")
    options = parser.parse_args()
    print("The steps of this demo are seconds long; the defaults are minutes, the watch an hour.")
    stage = Stage(options.rate)
    story = Story(stage)
    try:
        stage.prepare()
        told = story.tell()
        stage.end_load(stage.load)
        result = write_json(stage, told)
        write_html(stage, told, result)
        broken = summary(stage, told, result, keep=options.keep)
    except (StageError, SluiceError) as error:
        print(f"\nThe story broke off: {error}", file=sys.stderr)
        print(stage.kubectl("-n", "sluice-system", "logs", "-l", "app.kubernetes.io/name=sluice",
                            "--tail=40"), file=sys.stderr)  # fmt: skip
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; cleaning up.", file=sys.stderr)
        return 130
    finally:
        stage.close(options.keep)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
