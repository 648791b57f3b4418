"""Groups of texts that are duplicates or near-duplicates of each other.

Two texts are near-duplicates where the sets of their five-character shingles (NFKC, case folded,
white space collapsed) have a Jaccard similarity of at least the threshold; groups are the connected
components. The search is exact, not MinHash: no pair is missed and none is reported wrongly (shingles
are told apart by 64-bit hashes). Similar sets must share several of the rarest shingles of each
(prefix filter, Chaudhuri, Ganti and Kaushik, ICDE 2006; with several shared ones, Wang, Li and Feng,
SIGMOD 2012), which a sparse product counts, so that few pairs are left to compare in full.

Shapes: N texts, U different ones, V different shingles, S pairs (text, shingle).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

__all__ = ["near_duplicate_groups", "normalise"]

SHINGLE = 5
"""Characters of a shingle. Shorter texts are one shingle."""

_PAD = 0x110000  # no code point: keeps shingles of short texts apart from all others
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_SHARED = 8  # of the rarest shingles; more of them weed out better, but lengthen the prefixes
_BLOCK_PRODUCTS = 10_000_000
_BLOCK_SHINGLES = 8_000_000
_TINY = 1e-9  # thresholds such as 0.7 are not exact in binary

Ints = NDArray[np.int64]


def normalise(text: str) -> str:
    """The form in which texts are compared."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def near_duplicate_groups(texts: Sequence[str], threshold: float) -> Ints:
    """For each of the N texts the number of its group; which number it is means nothing."""
    if not texts:
        return np.zeros(0, dtype=np.int64)
    known: dict[str, int] = {}
    number = np.array([known.setdefault(normalise(t), len(known)) for t in texts], dtype=np.int64)
    if len(known) == 1:
        return number
    owners, shingles = _shingles(list(known))
    labels = _components(owners, shingles, len(known), threshold)
    return labels[number]


def _shingles(texts: list[str]) -> tuple[Ints, Ints]:
    """(S,) text and (S,) shingle, sorted by text, then shingle; rare shingles have low numbers."""
    points = [np.frombuffer(t.encode("utf-32-le"), dtype=np.uint32) for t in texts]
    points = [
        p if len(p) >= SHINGLE else np.append(p, [_PAD] * (SHINGLE - len(p))).astype(np.uint32)
        for p in points
    ]
    lengths = np.array([len(p) for p in points], dtype=np.int64)
    joined = np.concatenate(points).astype(np.uint64)
    owner = np.repeat(np.arange(len(texts), dtype=np.int64), lengths)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(joined))  # to the text's end
    starts = np.flatnonzero(left >= SHINGLE)
    hashes = np.zeros(len(starts), dtype=np.uint64)
    for offset in range(SHINGLE):
        hashes = hashes * _FACTOR + joined[starts + offset]
    _, shingle = np.unique(hashes, return_inverse=True)
    kinds = int(shingle.max()) + 1
    once = np.unique(owner[starts] * kinds + shingle)
    owner, shingle = once // kinds, once % kinds
    rank = np.empty(kinds, dtype=np.int64)
    rank[np.argsort(np.bincount(shingle, minlength=kinds), kind="stable")] = np.arange(kinds)
    ordered = np.sort(owner * kinds + rank[shingle])
    return ordered // kinds, ordered % kinds


def _components(owners: Ints, shingles: Ints, count: int, threshold: float) -> Ints:
    """(U,) label of each text's group."""
    sizes = np.bincount(owners, minlength=count)  # (U,) shingles of each text
    first = np.cumsum(sizes) - sizes
    sets = csr_array(
        (np.ones(len(owners), dtype=np.int32), shingles, np.append(first, len(owners))),
        shape=(count, int(shingles.max()) + 1),
    )
    # two similar texts share at least `needed` shingles of each, so the first `shared` of these, by
    # rarity, lie within the first `prefix` of each
    needed = np.maximum(np.ceil(threshold * sizes - _TINY).astype(np.int64), 1)
    shared = np.minimum(needed, _SHARED)
    prefix = sizes - needed + shared
    inside = np.arange(len(owners)) - first[owners] < prefix[owners]
    text, token = owners[inside], shingles[inside]
    rare = csr_array(
        (np.ones(len(text), dtype=np.int32), token, np.append(0, np.cumsum(prefix))),
        shape=sets.shape,
    )
    by_token = rare.T.tocsr()
    work = np.cumsum(np.bincount(text, np.bincount(token)[token], minlength=count))
    labels = np.arange(count, dtype=np.int64)
    start = 0
    while start < count:
        before = float(work[start - 1]) if start else 0.0
        stop = max(start + 1, int(np.searchsorted(work, before + _BLOCK_PRODUCTS, side="right")))
        found = (rare[start:stop] @ by_token).tocoo()
        left, right = found.row.astype(np.int64) + start, found.col.astype(np.int64)
        likely = (left < right) & (found.data >= np.minimum(shared[left], shared[right]))
        left, right = left[likely], right[likely]
        small, big = np.minimum(sizes[left], sizes[right]), np.maximum(sizes[left], sizes[right])
        fits = small >= threshold * big - _TINY
        labels = _join((left[fits], right[fits]), labels, sets, sizes, threshold)
        start = stop
    return labels


def _join(
    pairs: tuple[Ints, Ints], labels: Ints, sets: csr_array, sizes: Ints, threshold: float
) -> Ints:
    """Merge the groups of those pairs that are similar enough."""
    apart = labels[pairs[0]] != labels[pairs[1]]
    low, high = pairs[0][apart], pairs[1][apart]
    count = len(labels)
    if not len(low):
        return labels
    shared = np.empty(len(low), dtype=np.int64)
    ends = np.cumsum(np.minimum(sizes[low], sizes[high]))
    start = 0
    while start < len(low):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _BLOCK_SHINGLES, side="right")))
        both = sets[low[start:stop]].multiply(sets[high[start:stop]])
        shared[start:stop] = np.asarray(both.sum(axis=1)).ravel()
        start = stop
    similar = shared >= threshold * (sizes[low] + sizes[high] - shared) - _TINY
    edges = coo_array(
        (np.ones(int(similar.sum())), (labels[low[similar]], labels[high[similar]])),
        shape=(count, count),
    )
    _, merged = connected_components(edges, directed=False)
    return np.asarray(merged, dtype=np.int64)[labels]
