"""Groups of texts that are duplicates or near-duplicates of each other, exactly, for millions too.

Two texts are near-duplicates where their sets of shingles have a Jaccard similarity of at least the
threshold; groups are the connected components. No pair is missed and none is reported wrongly.

Candidates: where |x| >= |y|, similar sets share one of the rarest (1-t)/(1+t) of the shingles of y
and one of the rarest (1-t) of x (prefix filter with the shorter prefix for the smaller set; Xiao,
Wang, Lin and Yu, PPJoin, WWW 2008). These shingles' 32-bit hashes are sorted, so that candidates stand
side by side; each is weeded out by size, by position in the prefix, and by bitmaps (bits that differ
are shingles that differ), all of which err on the safe side, before sets are compared in full.
Only components are wanted, so pairs already in one are skipped: first neighbours in long runs are
joined, which leaves little of a cluster of 100,000 texts that are nearly alike.

Shapes: N texts, U different ones, P postings (shingle of a prefix, text). Reads no file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from gemma_lora.data.shingles import END, Ints, Texts, normalise, token_of

__all__ = ["groups_of", "near_duplicate_groups", "normalise"]

_TINY = 1e-9  # thresholds such as 0.7 are not exact in binary
_BUCKETS = 24  # bits: how often shingles occur is counted by so many bits of their token
_BITMAP = 512
_PART = 2_000_000  # postings looked at together
_PAIRS = 500_000  # candidates looked at together
_LONG = 64  # entries of a run whose neighbours are joined before all its pairs are looked at


def near_duplicate_groups(texts: Iterable[str], threshold: float) -> Ints:
    """For each of the N texts the number of its group; which number it is means nothing."""
    return groups_of(Texts(texts), threshold)


def groups_of(texts: Texts, threshold: float) -> Ints:
    """(N,) groups of texts that are already told apart."""
    if len(texts) < 2:
        return texts.number
    search = _Search(texts, threshold)
    search.run()
    return search.labels[texts.number]


@dataclass(slots=True)
class _Postings:
    """Prefix shingles and their texts; `position` in the order from rare to common."""

    token: NDArray[np.uint32]
    text: NDArray[np.int32]
    position: NDArray[np.int32]
    size: NDArray[np.int32]
    """Shingles of the text."""

    def take(self, chosen: NDArray[np.intp] | NDArray[np.bool_] | slice) -> _Postings:
        return _Postings(
            self.token[chosen], self.text[chosen], self.position[chosen], self.size[chosen]
        )


class _Search:
    """One search over U texts; `labels` (U,) name each text's component so far."""

    def __init__(self, texts: Texts, threshold: float) -> None:
        self._texts, self._threshold = texts, threshold
        self.labels: Ints = np.arange(len(texts), dtype=np.int64)
        self._sizes = np.zeros(len(texts), dtype=np.int64)
        self._bitmaps = np.zeros((len(texts), _BITMAP // 64), dtype=np.uint64)
        self._random = np.random.default_rng(0)

    def run(self) -> None:
        postings = self._postings(self._count())
        parts = -(-len(postings.token) // _PART)
        for part in range(parts):
            chosen = (
                np.flatnonzero(postings.token % np.uint32(parts) == part)
                if parts > 1
                else slice(None)
            )
            runs = self._runs(postings.take(chosen))
            self._join_neighbours(runs)
            for left, right in self._candidates(runs):
                self._join(left, right)

    # ------------------------------------------------------------------ prefixes

    def _count(self) -> NDArray[np.uint32]:
        """How often each token occurs, by its first bits; fills sizes and bitmaps on the way."""
        counts = np.zeros(1 << _BUCKETS, dtype=np.uint32)
        for block in self._texts.blocks():
            hashes = self._texts.hashes(block)
            there = hashes != END
            self._sizes[block] = there.sum(axis=1)
            tokens = token_of(hashes)
            found, often = np.unique(tokens[there] >> np.uint32(32 - _BUCKETS), return_counts=True)
            counts[found] += often.astype(np.uint32)
            bits = np.zeros((len(block), _BITMAP), dtype=np.bool_)
            rows = np.broadcast_to(np.arange(len(block))[:, None], hashes.shape)
            bits[rows[there], tokens[there] % np.uint32(_BITMAP)] = True
            self._bitmaps[block] = np.packbits(bits, axis=1).view(np.uint64)
        return counts

    def _kept(self, share: float) -> Ints:
        """(U,) shingles to keep so that a set with at least `share` of them in common has one here."""
        return self._sizes - np.ceil(share * self._sizes - _TINY).astype(np.int64) + 1

    def _postings(self, counts: NDArray[np.uint32]) -> _Postings:
        kept = np.minimum(self._kept(self._threshold), self._sizes)
        total = int(kept.sum())
        found = _Postings(
            np.empty(total, dtype=np.uint32),
            *(np.empty(total, dtype=np.int32) for _ in range(3)),
        )
        end = 0
        for block in self._texts.blocks():
            hashes = self._texts.hashes(block)
            tokens = token_of(hashes)
            rank = counts[tokens >> np.uint32(32 - _BUCKETS)].astype(np.uint64)
            ordered = np.where(hashes == END, END, (rank << np.uint64(32)) | tokens)
            ordered.sort(axis=1)
            width = int(kept[block].max())
            inside = np.arange(width) < kept[block][:, None]
            rows, positions = np.nonzero(inside)
            start, end = end, end + len(rows)
            found.token[start:end] = ordered[:, :width][inside].astype(np.uint32)  # the low bits
            found.text[start:end] = block[rows]
            found.position[start:end] = positions
            found.size[start:end] = self._sizes[block][rows]
        return found

    def _runs(self, postings: _Postings) -> _Postings:
        """Sorted by token; tokens left out that no smaller set has in its prefix, or one text only."""
        found = postings.take(np.argsort(postings.token, kind="stable"))
        first = self._starts(found.token)
        lengths = np.diff(np.append(first, len(found.token)))
        small = np.add.reduceat(self._in_small(found), first) if len(first) else lengths
        return found.take(np.repeat((lengths > 1) & (small > 0), lengths))

    def _in_small(self, found: _Postings) -> Ints:
        """(P,) 1 where the shingle is in the prefix that a text has as the smaller of a pair."""
        short = self._kept(2 * self._threshold / (1 + self._threshold))
        return (found.position < short[found.text]).astype(np.int64)

    @staticmethod
    def _starts(values: NDArray[np.generic]) -> NDArray[np.intp]:
        """Where in a sorted array each value begins."""
        return (
            np.flatnonzero(np.append(True, values[1:] != values[:-1]))
            if len(values)
            else np.zeros(0, np.intp)
        )

    # ------------------------------------------------------------------ candidates

    def _join_neighbours(self, runs: _Postings) -> None:
        """In long runs, compare one text of each component with the next, as long as that joins many."""
        first = self._starts(runs.token)
        lengths = np.diff(np.append(first, len(runs.token)))
        run = np.repeat(np.arange(len(first)), lengths)
        inside = np.repeat(lengths > _LONG, lengths)
        run, text = run[inside], runs.text[inside].astype(np.int64)
        while len(run):
            shuffled = self._random.permutation(len(run))
            run, text = run[shuffled], text[shuffled]
            _, one = np.unique(run * len(self.labels) + self.labels[text], return_index=True)
            one = self._random.permutation(one)
            one = one[np.argsort(run[one], kind="stable")]
            run, text = run[one], text[one]
            beside = np.flatnonzero(run[1:] == run[:-1])
            before = self._components()
            self._join(text[beside], text[beside + 1])
            if before - self._components() < 0.05 * len(beside) or not len(beside):
                return

    def _components(self) -> int:
        return int((self.labels == np.arange(len(self.labels))).sum())

    def _candidates(self, runs: _Postings) -> Iterator[tuple[Ints, Ints]]:
        """Pairs of texts that share a token, at least one of them in its short prefix.

        Of the pairs within the largest component of a run none is made. A run is sorted into: short
        prefix and largest component, short and others, long and others, long and largest.
        """
        if not len(runs.token):
            return
        first = self._starts(runs.token)
        lengths = np.diff(np.append(first, len(runs.token)))
        run = np.repeat(np.arange(len(first)), lengths)
        long = self._in_small(runs) == 0
        major = self.labels[runs.text] == self._largest(run, runs.text)[run]
        part = np.where(long, np.where(major, 3, 2), np.where(major, 0, 1))
        order = np.argsort(run * 4 + part, kind="stable")
        part, run, found = part[order], run[order], runs.take(order)
        at = np.arange(len(part))
        sums = np.zeros((4, len(first)), dtype=np.int64)
        for number in range(4):
            sums[number] = np.bincount(run[part == number], minlength=len(first))
        short_end = (first + sums[0] + sums[1])[run]
        others_end = short_end + sums[2][run]
        is_major, is_other = part == 0, part == 1
        left = np.concatenate([at[is_major], at[is_other], at[is_other]])
        start = np.concatenate([short_end[is_major], first[run[is_other]], short_end[is_other]])
        stop = np.concatenate(
            [others_end[is_major], at[is_other], (first + lengths)[run[is_other]]]
        )
        yield from self._likely(found, part < 2, (left, start, stop))

    def _largest(self, run: NDArray[np.intp], text: NDArray[np.int32]) -> Ints:
        """(runs,) label of the component that has most entries in the run."""
        count = len(self.labels)
        keys, often = np.unique(run * count + self.labels[text], return_counts=True)
        order = np.lexsort((often, keys // count))
        last = np.append(np.flatnonzero(np.diff(keys[order] // count)), len(order) - 1)
        return keys[order][last] % count

    def _likely(
        self, found: _Postings, short: NDArray[np.bool_], ranges: tuple[Ints, Ints, Ints]
    ) -> Iterator[tuple[Ints, Ints]]:
        """Entries `left` each with all of start..stop, a portion at a time, weeded out."""
        left, start, stop = ranges
        some = stop > start
        left, start, stop = left[some], start[some], stop[some]
        ends = np.cumsum(stop - start)
        begin = 0
        while begin < len(left):
            before = int(ends[begin - 1]) if begin else 0
            end = max(begin + 1, int(np.searchsorted(ends, before + _PAIRS, side="right")))
            counts = (stop - start)[begin:end]
            a = np.repeat(left[begin:end], counts)
            shift = start[begin:end] - (ends[begin:end] - counts - before)
            b = np.arange(len(a)) + np.repeat(shift, counts)
            yield self._weeded(found, short, a, b)
            begin = end

    def _weeded(
        self, found: _Postings, short: NDArray[np.bool_], a: Ints, b: Ints
    ) -> tuple[Ints, Ints]:
        """The texts of entries `a` (in a short prefix) and `b` that may be similar."""
        size_a, size_b = found.size[a], found.size[b]
        rest = np.minimum(size_a - found.position[a], size_b - found.position[b])
        # where the shared token is the first one, no more than what follows can be shared; and
        # similar sets share one that is in the short prefix of the smaller
        share = self._threshold / (1 + self._threshold)
        fits = rest >= share * (size_a + size_b) - _TINY
        fits &= (size_a <= size_b) | short[b]
        kept = np.flatnonzero(fits)
        x, y = found.text[a[kept]], found.text[b[kept]]
        apart = self.labels[x] != self.labels[y]
        x, y = x[apart].astype(np.int64), y[apart].astype(np.int64)
        pairs = np.minimum(x, y) * len(self.labels) + np.maximum(x, y)
        pairs.sort()  # np.unique goes by hashing and takes ten times as long
        pairs = pairs[self._starts(pairs)]
        return pairs // len(self.labels), pairs % len(self.labels)

    def _needed(self, x: Ints, y: Ints) -> NDArray[np.float64]:
        """Shingles that sets must share to be similar; more than the smaller has where sizes differ."""
        share = self._threshold / (1 + self._threshold)
        return share * (self._sizes[x] + self._sizes[y]).astype(np.float64)

    # ------------------------------------------------------------------ comparison

    def _join(self, x: Ints, y: Ints) -> None:
        """Merge the components of those pairs that are similar."""
        possible = np.minimum(self._sizes[x], self._sizes[y]) >= self._needed(x, y) - _TINY
        x, y = x[possible], y[possible]
        apart = np.bitwise_count(self._bitmaps[x] ^ self._bitmaps[y]).sum(axis=1, dtype=np.int64)
        most = self._sizes[x] + self._sizes[y] - 2 * self._needed(x, y)
        x, y = x[apart <= most + _TINY], y[apart <= most + _TINY]
        if not len(x):
            return
        similar = self._similar(x, y)
        self._merge(self.labels[x[similar]], self.labels[y[similar]])

    def _similar(self, x: Ints, y: Ints) -> NDArray[np.bool_]:
        """Exact comparison of the sets of shingles."""
        shared = np.empty(len(x), dtype=np.int64)
        for block in self._texts.blocks(np.where(self._sizes[x] > self._sizes[y], x, y)):
            both = [self._texts.hashes(x[block]), self._texts.hashes(y[block])]
            merged = np.concatenate(both, axis=1)
            merged.sort(axis=1)
            same = (merged[:, 1:] == merged[:, :-1]) & (merged[:, 1:] != END)
            shared[block] = same.sum(axis=1)
        union = self._sizes[x] + self._sizes[y] - shared
        return shared >= self._threshold * union - _TINY

    def _merge(self, x: Ints, y: Ints) -> None:
        if not len(x):
            return
        names, place = np.unique(np.concatenate([x, y]), return_inverse=True)
        edges = coo_array(
            (np.ones(len(x)), (place[: len(x)], place[len(x) :])), shape=(len(names), len(names))
        )
        _, component = connected_components(edges, directed=False)
        smallest = np.full(int(component.max()) + 1, len(self.labels), dtype=np.int64)
        np.minimum.at(smallest, component, names)
        renamed = np.arange(len(self.labels), dtype=np.int64)
        renamed[names] = smallest[component]
        self.labels = renamed[self.labels]
