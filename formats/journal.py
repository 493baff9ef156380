"""The journal of a conversion: what is already written, so that an interrupted one can go on.

`journal.jsonl` lies beside the shards while they are being written. Its first line names the conversion, each other
line one finished tensor, in the order of the plan:

    {"fingerprint": "<32 hex digits>", "summary": "int:bits=4 ..."}
    {"name": "model.embed_tokens.weight", "record": "<the record's JSON>", "parts": {"codes": [3072, 36, 256], ...}}

A line that was cut off by a crash is dropped.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tilepress.formats.record import Record
from tilepress.kernels import FormatError, RecipeError
from tilepress.kernels.params import Shape

JOURNAL_NAME = "journal.jsonl"


@dataclass(frozen=True)
class Written:
    """One finished tensor: its record and the shapes of its parts."""

    record: Record
    part_shapes: Mapping[str, Shape]


class Journal:
    """The journal of one conversion, opened and locked for it.

    Attributes:
        written: the finished tensors, in order.
    """

    def __init__(self, folder: Path, fingerprint: str, summary: str) -> None:
        """Open the folder's journal, or begin one.

        Raises:
            RecipeError: the folder holds another conversion, or another process is writing it.
        """
        self.path = folder / JOURNAL_NAME
        self.written: list[Written] = []
        self._file: IO[bytes] = open(self.path, "a+b")  # noqa: SIM115
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise RecipeError(f"{folder}: another process is writing this conversion; wait for it or stop it") from None
        try:
            self._read(fingerprint, summary)
        except BaseException:
            self._file.close()
            raise

    def append(self, written: Written) -> None:
        """Note one finished tensor; its bytes must already be in the shard."""
        self.written.append(written)
        parts = {part: list(shape) for part, shape in written.part_shapes.items()}
        self._write({"name": written.record.name, "record": written.record.to_json(), "parts": parts})

    def keep(self, count: int) -> None:
        """Forget all but the first `count` tensors."""
        kept, self.written = self.written[:count], []
        self._file.seek(0)
        first = self._file.readline()
        self._file.truncate(len(first))
        self._file.seek(0, os.SEEK_END)
        for written in kept:
            self.append(written)

    def close(self) -> None:
        """Close and unlock."""
        self._file.close()

    def remove(self) -> None:
        """Close and delete: the conversion is complete."""
        self.path.unlink()
        self.close()

    def _write(self, line: Mapping[str, object]) -> None:
        self._file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        self._file.flush()

    def _read(self, fingerprint: str, summary: str) -> None:
        self._file.seek(0)
        lines = self._file.readlines()
        whole = [line for line in lines if line.endswith(b"\n")]
        if not whole:
            self._file.truncate(0)
            self._write({"fingerprint": fingerprint, "summary": summary})
            return
        try:
            first = json.loads(whole[0])
            begun_fingerprint, begun_summary = first["fingerprint"], first["summary"]
            for line in whole[1:]:
                fields = json.loads(line)
                record = Record.from_json(fields["name"], fields["record"], str(self.path))
                shapes = {part: tuple(shape) for part, shape in fields["parts"].items()}
                self.written.append(Written(record, shapes))
        except (ValueError, TypeError, KeyError, AttributeError, FormatError):
            raise RecipeError(f"{self.path}: is damaged; delete the folder {self.path.parent} to begin again") from None
        if begun_fingerprint != fingerprint:
            raise RecipeError(
                f"{self.path.parent}: holds an unfinished conversion of another source or recipe ({begun_summary}); "
                "run that one again to finish it, or pass --restart to throw it away and begin anew"
            )
        self._file.truncate(sum(map(len, whole)))
        self._file.seek(0, os.SEEK_END)
