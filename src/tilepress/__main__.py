"""The command line's entry, from whose first line on an interrupt ends the program with one sentence."""

import os
import signal
import sys
from types import FrameType


def main() -> None:
    """Run the command line."""
    # Whoever ignores interrupts, as `nohup` does, goes on ignoring them.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    # PyTorch and Transformers are imported below here, and neither can be interrupted by an exception cleanly.
    from tilepress.cli import app

    app()


def _leave(signal_number: int, frame: FrameType | None) -> None:
    """End at once: what is on the disk is whole at any time, and the terminal gets its cursor back."""
    show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""
    os.write(2, f"{show_cursor}\ntilepress: interrupted; run the same command again to go on\n".lstrip("\n").encode())
    os._exit(130)


if __name__ == "__main__":
    main()
