"""Texts as sets of five-character shingles, many at once and in little memory.

Texts are compared in the form of `normalise` (NFKC, case folded, white space collapsed). `Texts`
keeps the different ones in Arrow; `Texts.blocks` goes through them in blocks of like length, each a
matrix of 64-bit hashes, so that a million texts never exist as objects. Reads and writes no file.

Shapes: N texts, U different ones, B texts of a block, W shingles of the longest of them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["END", "SHINGLE", "Hashes", "Ints", "Texts", "normalise", "token_of"]

SHINGLE = 5
"""Characters of a shingle. Shorter texts are one shingle."""
END = np.uint64(2**64 - 1)
"""Fills rows of hashes behind the last shingle and in the place of repeated ones."""

_PAD = 0x110000  # no code point: keeps shingles of short texts apart from all others
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xD6E8FEB86659FD93)
_BLOCK_CELLS = 1 << 18

Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]


def normalise(text: str) -> str:
    """The form in which texts are compared."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


class Texts:
    """The U different texts among N; `number` (N,) says which of them each text is."""

    def __init__(self, texts: Iterable[str]) -> None:
        import pyarrow as pa

        known: dict[str, int] = {}
        self.number: Ints = np.fromiter(
            (known.setdefault(normalise(text), len(known)) for text in texts), dtype=np.int64
        )
        self._lengths = np.fromiter(map(len, known), dtype=np.int64, count=len(known))
        self._texts: Any = pa.array(known, type=pa.large_string())

    def __len__(self) -> int:
        return len(self._lengths)

    def blocks(self, chosen: Ints | None = None) -> Iterator[Ints]:
        """All texts, or (K,) `chosen` ones, as (B,) positions in `chosen`, by rising length."""
        lengths = self._lengths if chosen is None else self._lengths[chosen]
        order = np.argsort(lengths, kind="stable")
        start = 0
        while start < len(order):
            # the block's longest text is its last: take as many as fit
            widths = lengths[order[start : start + _BLOCK_CELLS]] + SHINGLE
            fits = np.flatnonzero(widths * np.arange(1, len(widths) + 1) <= _BLOCK_CELLS)
            stop = start + (int(fits[-1]) + 1 if len(fits) else 1)
            yield order[start:stop]
            start = stop

    def hashes(self, chosen: Ints) -> Hashes:
        """(B, W) hashes of the shingles of the texts numbered `chosen`, rising in each row.

        Each shingle of a text is there once; the other places hold `END`.
        """
        texts: list[str] = self._texts.take(chosen).to_pylist()
        lengths = self._lengths[chosen]
        width = max(int(lengths.max()), SHINGLE)
        padded = "".join(text.ljust(width) for text in texts).encode("utf-32-le", "surrogatepass")
        points = np.frombuffer(padded, dtype=np.uint32).reshape(len(texts), width).astype(np.uint64)
        points[np.arange(width) >= lengths[:, None]] = _PAD
        shingles = width - SHINGLE + 1
        found = np.zeros((len(texts), shingles), dtype=np.uint64)
        for offset in range(SHINGLE):
            found *= _FACTOR
            found += points[:, offset : offset + shingles]
        found[np.arange(shingles) > np.maximum(lengths - SHINGLE, 0)[:, None]] = END
        found.sort(axis=1)
        found[:, 1:][found[:, 1:] == found[:, :-1]] = END
        return found


def token_of(hashes: Hashes) -> NDArray[np.uint32]:
    """32 well-mixed bits of each hash, to find candidates by; equal hashes give equal tokens."""
    return (((hashes ^ (hashes >> np.uint64(29))) * _MIX) >> np.uint64(32)).astype(np.uint32)
