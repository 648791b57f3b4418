"""Simple passages of public-domain novels: ordinary written English beside the generated dialogues.

Reads: the novels folder given by the caller (plain text files named as in NOVELS).
Writes: nothing. Refuses: passages with rare words, long sentences, or a word of customer service.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

# file stem, title, author; all published by 1917 by authors who died by 1939
NOVELS = [
    ("Barclay_Ladies_1917", "The White Ladies of Worcester", "Florence L. Barclay"),
    ("Barclay_Postern_1911", "Through the Postern Gate", "Florence L. Barclay"),
    ("Barclay_Rosary_1909", "The Rosary", "Florence L. Barclay"),
    ("Bennet_Babylon_1902", "The Grand Babylon Hotel", "Arnold Bennett"),
    ("Bennet_Helen_1910", "Helen with the High Hand", "Arnold Bennett"),
    ("Braddon_Audley_1862", "Lady Audley's Secret", "Mary Elizabeth Braddon"),
    ("Burnett_Garden_1911", "The Secret Garden", "Frances Hodgson Burnett"),
    ("Burnett_Lord_1886", "Little Lord Fauntleroy", "Frances Hodgson Burnett"),
    ("Burnett_Princess_1905", "A Little Princess", "Frances Hodgson Burnett"),
    ("Cbronte_Jane_1847", "Jane Eyre", "Charlotte Bronte"),
    ("Chesterton_Innocence_1911", "The Innocence of Father Brown", "G. K. Chesterton"),
    ("Chesterton_Napoleon_1904", "The Napoleon of Notting Hill", "G. K. Chesterton"),
    ("Chesterton_Thursday_1908", "The Man Who Was Thursday", "G. K. Chesterton"),
    ("Dickens_Expectations_1861", "Great Expectations", "Charles Dickens"),
    ("Dickens_Oliver_1839", "Oliver Twist", "Charles Dickens"),
    ("Doyle_Hound_1902", "The Hound of the Baskervilles", "Arthur Conan Doyle"),
    ("Doyle_Lost_1912", "The Lost World", "Arthur Conan Doyle"),
    ("Gissing_Warburton_1903", "Will Warburton", "George Gissing"),
    ("Haggard_Mines_1885", "King Solomon's Mines", "H. Rider Haggard"),
    ("Haggard_She_1887", "She", "H. Rider Haggard"),
    ("Hardy_Madding_1874", "Far from the Madding Crowd", "Thomas Hardy"),
    ("Hardy_Tess_1891", "Tess of the d'Urbervilles", "Thomas Hardy"),
    ("Schreiner_Farm_1883", "The Story of an African Farm", "Olive Schreiner"),
    ("Stevenson_Catriona_1893", "Catriona", "Robert Louis Stevenson"),
    ("Stevenson_Treasure_1883", "Treasure Island", "Robert Louis Stevenson"),
    ("Trollope_Warden_1855", "The Warden", "Anthony Trollope"),
    ("Ward_Milly_1881", "Milly and Olly", "Mrs. Humphry Ward"),
    ("Wcollins_Legacy_1889", "The Legacy of Cain", "Wilkie Collins"),
    ("Wcollins_Woman_1860", "The Woman in White", "Wilkie Collins"),
]


def paragraphs(folder: Path) -> list[tuple[str, str]]:
    """(file stem, paragraph) of all the novels, line breaks inside a paragraph undone."""
    found = []
    for stem, *_ in NOVELS:
        text = (folder / f"{stem}.txt").read_text(encoding="utf-8-sig").replace("\r\n", "\n")
        for block in re.split(r"\n\s*\n", text):
            found.append((stem, re.sub(r"\s+", " ", block).strip()))
    return found


def simple(
    blocks: list[tuple[str, str]], common: int = 6000, longest: int = 100
) -> list[tuple[str, str]]:
    """The paragraphs of short sentences and (but for three) common words, in plain ASCII."""
    counts = Counter(w for _, text in blocks for w in re.findall(r"[a-z']+", text.lower()))
    known = {word for word, _ in counts.most_common(common)}
    kept = []
    for stem, text in blocks:
        words = re.findall(r"[a-z']+", text.lower())
        if not 12 <= len(words) <= longest or text.isupper():
            continue
        if re.search(r"[^\x20-\x7e]|[*_\[\]<>|]", text):
            continue
        if len(words) > 22 * max(1, len(re.findall(r"[.!?]", text))):
            continue
        if sum(word not in known for word in words) > 3:
            continue
        kept.append((stem, text))
    return kept
