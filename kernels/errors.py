"""The errors of tilepress: one base class, one subclass for each kind of cause.

Each carries one sentence that says what was found, where, and what to do. The command line prints it and
exits with code 2; nothing else catches them.
"""


class TilepressError(Exception):
    """Base of every error that tilepress raises on purpose."""


class CodecError(TilepressError):
    """A codec spec that makes no sense, or a tensor that the codec can't encode or decode."""


class FormatError(TilepressError):
    """A file that is not what it says it is: truncated, damaged, newer than this version, or hostile."""


class RecipeError(TilepressError):
    """A recipe, a plan or a conversion's arguments that contradict each other or the checkpoint."""


class BackendError(TilepressError):
    """A kernel or device that isn't there."""
