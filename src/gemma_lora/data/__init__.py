"""From a user's file to split examples: reading, columns, conversations, duplicates, split.

`load_examples` reads a file into rows; `cluster_rows` finds what belongs together; `split_clusters`
gives each cluster to one side. The audit stage joins them and writes the files.
"""

from __future__ import annotations

from gemma_lora.data.cells import Row, Rows, place
from gemma_lora.data.duplicates import near_duplicate_groups, normalise
from gemma_lora.data.examples import Loaded, load_examples
from gemma_lora.data.reading import read_table
from gemma_lora.data.split import (
    MIN_ROWS,
    Questions,
    Side,
    cluster_questions,
    cluster_rows,
    default_sizes,
    split_clusters,
)
from gemma_lora.data.table import Problem, Table, is_blank, quoted, raise_problems

__all__ = [
    "MIN_ROWS",
    "Loaded",
    "Problem",
    "Questions",
    "Row",
    "Rows",
    "Side",
    "Table",
    "cluster_questions",
    "cluster_rows",
    "default_sizes",
    "is_blank",
    "load_examples",
    "near_duplicate_groups",
    "normalise",
    "place",
    "quoted",
    "raise_problems",
    "read_table",
    "split_clusters",
]
