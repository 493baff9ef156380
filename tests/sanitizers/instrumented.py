"""Puts the extension that TILEPRESS_INSTRUMENTED names in the place of `tilepress.kernels._native`: a pytest plugin.

It has to be imported before anything of tilepress is.
"""

from __future__ import annotations

import importlib.util
import os
import sys

NAME = "tilepress.kernels._native"

assert NAME not in sys.modules, "the other extension has been loaded already"
_spec = importlib.util.spec_from_file_location(NAME, os.environ["TILEPRESS_INSTRUMENTED"])
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules[NAME] = _module
_spec.loader.exec_module(_module)
