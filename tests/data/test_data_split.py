"""Near-duplicates against brute force, and the split: whole clusters, any order, exact sizes."""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_lora.data import (
    Row,
    cluster_rows,
    default_sizes,
    near_duplicate_groups,
    normalise,
    split_clusters,
)
from gemma_lora.errors import DataError
from gemma_lora.records import Message
from gemma_lora.rundir import digest


def rows_of(questions: list[str]) -> list[Row]:
    rows: list[Row] = []
    for line, question in enumerate(questions, start=1):
        messages = (
            Message(role="user", content=question),
            Message(role="assistant", content=f"answer {line % 3}"),
        )
        rows.append(Row(digest(question, line)[:16], messages, line))
    return rows


def brute_force(texts: list[str], threshold: float) -> list[int]:
    """Groups by the definition: sets of shingles, Jaccard of all pairs, closure."""
    sets = []
    for text in map(normalise, texts):
        sets.append({text[i : i + 5] for i in range(len(text) - 4)} or {("short", text)})
    label = list(range(len(texts)))
    for i in range(len(texts)):
        for j in range(i):
            union = len(sets[i] | sets[j])
            if len(sets[i] & sets[j]) >= threshold * union - 1e-9:
                old, new = label[i], label[j]
                label = [new if value == old else value for value in label]
    return label


def same_partition(left: list[int], right: list[int]) -> bool:
    pairs = set(zip(left, right, strict=True))
    return len(pairs) == len(set(left)) == len(set(right))


words = st.lists(
    st.sampled_from(
        [
            "where",
            "is",
            "my",
            "order",
            "number",
            "12345",
            "12346",
            "12355",
            "refund",
            "Straße",
            "STRASSE",
            "订单",
            "please",
        ]
    ),
    min_size=0,
    max_size=9,
).map(" ".join)


@settings(max_examples=150, deadline=None)
@given(st.lists(words, min_size=1, max_size=25), st.sampled_from([0.3, 0.5, 0.7, 0.8, 0.9, 1.0]))
def test_groups_equal_brute_force(texts: list[str], threshold: float) -> None:
    found = near_duplicate_groups(texts, threshold).tolist()
    assert same_partition(found, brute_force(texts, threshold))


def test_blocks_of_pairs_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(1)
    stock = [
        "where",
        "is",
        "my",
        "order",
        "number",
        "please",
        "tell",
        "me",
        "about",
        "the",
        "refund",
        "today",
        "now",
    ]
    texts = [" ".join(generator.choices(stock, k=8)) for _ in range(150)]
    whole = near_duplicate_groups(texts, 0.6).tolist()
    assert same_partition(whole, brute_force(texts, 0.6))
    for name, value in (("_PART", 50), ("_PAIRS", 50), ("_LONG", 2), ("_BUCKETS", 2)):
        monkeypatch.setattr(f"gemma_lora.data.duplicates.{name}", value)
        assert same_partition(near_duplicate_groups(texts, 0.6).tolist(), whole)


@settings(max_examples=100, deadline=None)
@given(st.lists(words, min_size=10, max_size=40), st.sampled_from([0.3, 0.5, 0.8, 0.9]))
def test_long_runs_and_skipped_components_miss_nothing(texts: list[str], threshold: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gemma_lora.data.duplicates._LONG", 1)
        patch.setattr("gemma_lora.data.duplicates._PART", 100)
        patch.setattr("gemma_lora.data.duplicates._BITMAP", 64)
        found = near_duplicate_groups(texts, threshold).tolist()
    assert same_partition(found, brute_force(texts, threshold))


def test_pairs_just_at_the_threshold_are_found() -> None:
    """A text and longer ones around it: similarity exactly 0.8, the shared shingles the commonest."""
    core = "the quick brown fox jumps over a lazy dog!!!"
    assert len(core) == 44  # 40 shingles
    # ten more shingles for each
    texts = [core, "klmnopqrst" + core, "KLMNABCDEF"[::-1] + core, "9876543210" + core]
    assert len(set(near_duplicate_groups(texts, 0.8).tolist())) == 1
    assert len(set(near_duplicate_groups(texts, 0.81).tolist())) == 4


def test_what_counts_as_near() -> None:
    base = "How can I cancel the order that I placed yesterday evening?"
    near = "  how can i CANCEL the order that I placed\nyesterday evening!"
    texts = [base, near, "Where is my parcel?", "hi", "Hi", "ho"]
    groups = near_duplicate_groups(texts, 0.8).tolist()
    assert groups[0] == groups[1]
    assert groups[3] == groups[4]
    assert len(set(groups)) == 4


@settings(max_examples=40, deadline=None)
@given(
    st.lists(words, min_size=30, max_size=60), st.integers(0, 5), st.randoms(use_true_random=False)
)
def test_split_is_a_partition_stable_in_any_order(
    questions: list[str], seed: int, order: random.Random
) -> None:
    rows = rows_of(questions)
    clusters = cluster_rows(rows, 0.8)
    if Counter(clusters).most_common(1)[0][1] > len(rows) // 4:
        return  # covered by the test of clusters that cannot be split
    sides = split_clusters(clusters, seed, test_rows=None, validation_rows=None)
    assert len(sides) == len(rows)
    for cluster in set(clusters):
        assert len({s for c, s in zip(clusters, sides, strict=True) if c == cluster}) == 1
    test, validation = default_sizes(len(rows), own_test=False)
    third = (
        len(rows) // 3
    )  # where only big clusters are left, one of them may be more than the rule
    assert 0 < sides.count("test") <= max(test, third)
    assert 0 < sides.count("validation") <= max(validation, third)
    shuffled = rows[:]
    order.shuffle(shuffled)
    again = split_clusters(cluster_rows(shuffled, 0.8), seed, test_rows=None, validation_rows=None)
    first = {row.id: side for row, side in zip(rows, sides, strict=True)}
    assert {row.id: side for row, side in zip(shuffled, again, strict=True)} == first


def test_seed_decides_the_split() -> None:
    clusters = [f"c{i}" for i in range(300)]
    splits = [
        split_clusters(clusters, seed, test_rows=None, validation_rows=None) for seed in (0, 0, 1)
    ]
    assert splits[0] == splits[1] != splits[2]


def test_more_rows_move_few_others() -> None:
    clusters = [f"c{i}" for i in range(1000)]
    before = split_clusters(clusters, 0, test_rows=100, validation_rows=50)
    after = split_clusters(
        [*clusters, *(f"d{i}" for i in range(10))], 0, test_rows=100, validation_rows=50
    )
    assert sum(a != b for a, b in zip(before, after, strict=False)) < 10


@pytest.mark.parametrize(
    ("rows", "test", "validation"),
    [
        (8, 2, 1),
        (12, 4, 2),
        (60, 20, 10),
        (100, 33, 16),
        (240, 60, 24),
        (600, 120, 60),
        (4514, 200, 200),
    ],
)
def test_sizes_follow_the_rule(rows: int, test: int, validation: int) -> None:
    sides = split_clusters([f"c{i}" for i in range(rows)], 0, test_rows=None, validation_rows=None)
    assert (sides.count("test"), sides.count("validation")) == (test, validation)
    assert default_sizes(rows, own_test=True)[0] == 0


def test_asked_sizes_are_met_exactly_or_refused() -> None:
    clusters = [f"c{i // 3}" for i in range(90)]
    sides = split_clusters(clusters, 0, test_rows=12, validation_rows=6)
    assert (sides.count("test"), sides.count("validation")) == (12, 6)
    with pytest.raises(DataError, match="9 of the 10 test rows can be had"):
        split_clusters(clusters, 0, test_rows=10, validation_rows=6)
    with pytest.raises(DataError, match="leave 0 of 90 rows for training"):
        split_clusters(clusters, 0, test_rows=80, validation_rows=20)


def test_only_big_clusters() -> None:
    sides = split_clusters(
        [f"c{i % 5}" for i in range(40)], 0, test_rows=None, validation_rows=None
    )
    assert (sides.count("test"), sides.count("validation")) == (8, 8)


def test_too_few_or_too_alike() -> None:
    with pytest.raises(DataError, match="7 usable rows are too few"):
        split_clusters([f"c{i}" for i in range(7)], 0, test_rows=None, validation_rows=None)
    with pytest.raises(DataError, match="without splitting near-duplicates") as caught:
        split_clusters(["same"] * 50, 0, test_rows=None, validation_rows=None)
    assert "--near-duplicate" in str(caught.value)


def test_a_large_cluster_is_not_quadratic() -> None:
    """40,000 texts that are nearly alike: 800 million pairs, of which few need to be looked at."""
    base = "Good morning, I cannot sign in to my account since the update of last night, case "
    generator = random.Random(0)
    texts = [base + str(generator.randint(0, 10**6)) for _ in range(40_000)]
    start = time.process_time()
    assert len(set(near_duplicate_groups(texts, 0.8).tolist())) == 1
    assert time.process_time() - start < 20


def test_ten_thousand_rows_are_quick() -> None:
    generator = random.Random(0)
    stock = [f"word{i}" for i in range(3000)]
    questions = [" ".join(generator.choices(stock, k=14)) for _ in range(9_000)]
    questions += [
        f"please tell me what the status of my order {i:06d} is today" for i in range(1_000)
    ]
    start = time.process_time()
    clusters = cluster_rows(rows_of(questions), 0.8)
    split_clusters(clusters, 0, test_rows=None, validation_rows=None)
    assert time.process_time() - start < 15
    assert (
        Counter(clusters).most_common(1)[0][1] > 900
    )  # one digit apart, a chain of near-duplicates
