"""From a user's file to split examples: reading, columns, conversations, duplicates, split.

`read_table` -> `recognise` -> `load_examples` -> `cluster_texts` -> `split_rows`; the audit stage joins them.
"""

from __future__ import annotations

__all__ = []
