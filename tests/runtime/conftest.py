"""Lets the tests of this folder import their helper module `tiny_models`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
