"""``python -m sluice.local.node STATE``."""

import sys
from pathlib import Path

from sluice.local.node.agent import main

main(Path(sys.argv[1]))
