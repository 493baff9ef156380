"""Fetching a checkpoint from the Hugging Face Hub, by its name `organisation/model`."""

from __future__ import annotations

import re
from pathlib import Path

from tilepress.formats.safetensors_checkpoint import WEIGHT_SUFFIXES
from tilepress.kernels.errors import RecipeError

WANTED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja", "*.py")
"""Weights without pickles, config, tokenizer, chat template, custom code."""

UNWANTED = ("original/*", "consolidated*", "onnx/*", "openvino/*")
"""The same weights once more, in other layouts that many repositories carry along."""

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def is_hub_name(source: str) -> bool:
    """Whether `source`, which is no existing path, can be meant as a name on the Hub rather than as a path."""
    return _NAME.fullmatch(source) is not None and Path(source).suffix not in WEIGHT_SUFFIXES | {".json"}


def fetch(name: str) -> Path:
    """Download a checkpoint, or find it in the Hub's cache on this machine.

    Args:
        name: `organisation/model`.

    Returns:
        the folder of the snapshot.

    Raises:
        RecipeError: there is no such model, it needs permission, or the Hub can't be reached.
    """
    # Imported here because most runs never need it.
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return Path(
            huggingface_hub.snapshot_download(name, allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED))
        )
    except errors.GatedRepoError:
        reason, remedy = "needs permission on the Hub", "accept its terms there and log in with `hf auth login`"
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        reason, remedy = "is neither a path here nor a model on the Hub", "check the name, or log in if it is private"
    except Exception:  # A network fails in the words of whichever library carries it.
        reason = "is not a path here, and the Hub can't be reached"
        remedy = "check the path, or download the model where there is a network and name its folder"
    raise RecipeError(f"{name}: {reason}; {remedy}")
