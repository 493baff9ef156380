"""The text that models are compared on or calibrated with, and its tokens, cut into windows.

    text -> tokens t0 t1 t2 ... -> windows [t0 ... t511] [t512 ... t1023] ..., the last one possibly shorter

Windows do not overlap and each is evaluated by itself. Where a tokenizer puts a token of its own in front of a text,
each window begins with it, since some models compute nonsense without.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tilepress.kernels import RecipeError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

DEFAULT_TOKENS = 3072
"""Tokens that are evaluated unless asked otherwise."""

DEFAULT_WINDOW = 512
"""Tokens of a window unless asked otherwise."""

SHORTEST_WINDOW = 2
"""A window predicts every token but its first."""

_CHARACTERS_A_TOKEN = 64
"""Far more than any language needs, so that a long text is not tokenized to its end for a few windows."""


def read_text(path: str | Path | None) -> str:
    """Read a file, or take Python's own language reference, which every interpreter carries, if `path` is None.

    Raises:
        RecipeError: the file can't be read, or is not UTF-8.
    """
    if path is None:
        return default_text()
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as problem:
        raise RecipeError(f"{path}: can't be read ({problem.strerror}); name a text file in UTF-8") from None
    except UnicodeDecodeError as problem:
        raise RecipeError(f"{path}: is not UTF-8 at byte {problem.start}; name a text file in UTF-8") from None


def default_text() -> str:
    """Python's language reference as `help()` prints it, topic after topic; other versions of Python differ."""
    from pydoc_data.topics import topics  # Half a megabyte that only this needs.

    return "\n\n".join(topics[key] for key in sorted(topics))


def load_tokenizer(folder: Path, source: object) -> PreTrainedTokenizerBase:
    """Load the tokenizer that lies in a checkpoint's folder.

    Args:
        folder: of the checkpoint.
        source: what the user calls the checkpoint, for the message.

    Raises:
        RecipeError: there is none that Transformers can load.
    """
    from transformers import AutoTokenizer  # Half a second to import, which conversions without a text don't wait for.

    reason = "none of its files is there"
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
        # Without files some versions of Transformers make an empty tokenizer, to which all text is unknown.
        needed = tokenizer.vocab_files_names.values()
        if not needed or any((folder / name).exists() for name in needed):
            return tokenizer
    except Exception as problem:  # Tokenizer classes raise whatever their files make them stumble over.
        reason = first_line(problem)
    raise RecipeError(f"{source}: has no tokenizer that Transformers can load ({reason}); save one into its folder")


def first_line(problem: Exception) -> str:
    """Kind and first line of an error of somebody else's code, for a sentence that says more."""
    lines = str(problem).strip().splitlines() or [""]
    return f"{type(problem).__name__}: {lines[0]}"


def context_length(config: PretrainedConfig) -> int | None:
    """Most tokens that a model can take, where its config says so."""
    length = getattr(config.get_text_config(), "max_position_embeddings", None)
    return length if isinstance(length, int) and length > 0 else None


def cut_windows(
    tokenizer: PreTrainedTokenizerBase, text: str, tokens: int = DEFAULT_TOKENS, window: int = DEFAULT_WINDOW
) -> list[torch.Tensor]:
    """The windows of a text.

    Args:
        tokenizer: turns the text into tokens.
        text: of any length.
        tokens: most tokens of all windows together, those that the tokenizer puts in front included.
        window: tokens of a window.

    Returns:
        int64 vectors of `window` elements each, except that the last may be shorter.

    Raises:
        RecipeError: numbers that leave nothing to predict, or a text that is too short.
    """
    if tokens < SHORTEST_WINDOW or window < SHORTEST_WINDOW:
        raise RecipeError(f"tokens={tokens} in windows of {window}: at least {SHORTEST_WINDOW} of each are needed")
    front = _tokens_in_front(tokenizer)
    ids = _tokenize(tokenizer, text[: tokens * _CHARACTERS_A_TOKEN])
    if len(ids) < tokens and len(text) > tokens * _CHARACTERS_A_TOKEN:
        ids = _tokenize(tokenizer, text)
    step = max(1, window - len(front))
    pieces = [front + ids[begin : begin + step] for begin in range(0, len(ids), step)]
    windows: list[torch.Tensor] = []
    for piece in pieces:
        piece = piece[:tokens]
        if len(piece) < max(SHORTEST_WINDOW, len(front) + 1):
            break
        windows.append(torch.tensor(piece, dtype=torch.int64))
        tokens -= len(piece)
    if not windows:
        raise RecipeError(f"the text has {len(ids)} tokens, too few to predict any; give a longer one")
    return windows


def total_tokens(windows: Sequence[torch.Tensor]) -> int:
    """Tokens of all windows together."""
    return sum(len(window) for window in windows)


def _tokenize(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    # `verbose=False`: a text longer than the model's context is no reason for a warning here.
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _tokens_in_front(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token that marks the beginning of a text, if the tokenizer adds it by itself."""
    begin = tokenizer.bos_token_id
    return [begin] if begin is not None and tokenizer("a")["input_ids"][:1] == [begin] else []
