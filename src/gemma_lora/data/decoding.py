"""From the bytes of a data file to text, with the encoding named and its origin told.

Order: `--encoding`, byte order mark, UTF-16 without a mark (by its pattern of NUL bytes), strict
UTF-8, then a guess among the one-byte encodings. Bytes that do not fit stay in the text as lone
surrogates (`surrogateescape`), so that the readers can say in which line they stand.
Refuses binary files with a word on what they are. Reads and writes nothing itself.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

from charset_normalizer import from_bytes

from gemma_lora.data.lines import Text
from gemma_lora.errors import DataError

__all__ = ["BAD_CHARACTER", "Decoded", "decode"]

BAD_CHARACTER = re.compile("[\x00\ud800-\udfff]")
"""What no cell may hold: NUL, and the stand-ins of bytes that are not text in the file's encoding."""

_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

_MAGIC = (
    (b"PK\x03\x04", "a zip archive or an Excel workbook", "save the sheet as CSV (UTF-8)"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook", "save the sheet as CSV (UTF-8)"),
    (b"PAR1", "a Parquet file", "leave --encoding out"),
    (b"ARROW1", "an Arrow file", "export it as CSV or JSON lines"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"BZh", "a bzip2 archive", "unpack it first"),
    (b"\xfd7zXZ\x00", "an xz archive", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it first"),
    (b"SQLite format 3\x00", "an SQLite database", "export the table as CSV"),
    (b"%PDF-", "a PDF document", "export the rows as CSV"),
    (b"\x89PNG", "an image", "give the file with the rows"),
    (b"\xff\xd8\xff", "an image", "give the file with the rows"),
    (b"\x80\x02", "a Python pickle", "export the rows as CSV; pickles are never opened"),
    (b"\x80\x04", "a Python pickle", "export the rows as CSV; pickles are never opened"),
    (b"\x80\x05", "a Python pickle", "export the rows as CSV; pickles are never opened"),
)

_PIECE = 1 << 16  # larger ones, four bytes a character, would stay in the heap
_FORMATS = "CSV, TSV, JSON or JSON lines as plain text"


@dataclass(frozen=True)
class Decoded:
    """`text` without byte order mark; `encoding` as a codec name; `how` it was found, in words."""

    text: Text
    encoding: str
    how: str


def decode(raw: bytes, named: str | None, where: str) -> Decoded:
    """Decode `raw`; `named` is `--encoding`. DataError for binary files and unknown codecs."""
    if named is not None:
        return _decode_named(raw, named, where)
    for mark, encoding in _BOMS:
        if raw.startswith(mark):
            text = _text(raw[len(mark) :], encoding, where)
            return Decoded(text, encoding, "by its byte order mark")
    _refuse_binary(raw, where)
    wide = _utf16_without_mark(raw)
    if wide is not None:
        return Decoded(_text(raw, wide, where), wide, "by its pattern of NUL bytes")
    if _is_utf8(raw):
        return Decoded(Text(raw, "strict", clean=True), "utf-8", "valid UTF-8")
    if _broken_utf8(raw):
        return Decoded(Text(raw, "surrogateescape", clean=False), "utf-8", "mostly valid UTF-8")
    encoding = _guess(raw)
    text = Text.of(raw.decode(encoding, "surrogateescape"))
    return Decoded(text, encoding, "guessed, no valid UTF-8")


def _decode_named(raw: bytes, named: str, where: str) -> Decoded:
    try:
        encoding = codecs.lookup(named).name
        "".encode(encoding)  # refuses codecs that are not for text, such as hex
    except (LookupError, ValueError):
        raise DataError(
            f"there is no text encoding {named!r}",
            where="--encoding",
            expected="for example utf-8, utf-16, cp1252, latin-1",
        ) from None
    if encoding == "utf-8":
        text = _text(raw.removeprefix(codecs.BOM_UTF8), encoding, where)
    elif encoding.startswith(("utf-16", "utf-32")):
        text = _text(raw, encoding, where)
    else:
        try:
            text = Text.of(raw.decode(encoding, "surrogateescape").removeprefix("\ufeff"))
        except UnicodeError as error:  # of codecs that know no way around
            raise DataError(
                f"cannot be read as {named}: {error}",
                where=where,
                remedy="name another --encoding, or leave it away",
            ) from None
    return Decoded(text, encoding, "named by --encoding")


def _is_utf8(raw: bytes) -> bool:
    """Strictly, a piece at a time: as one string, it would take up to four times the room."""
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    try:
        for start in range(0, len(raw), _PIECE):
            decoder.decode(raw[start : start + _PIECE])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _text(raw: bytes, encoding: str, where: str) -> Text:
    """Decode, with located bytes where the codec allows stand-ins, else one located error."""
    if encoding == "utf-8":
        return Text(raw, "surrogateescape", clean=_is_utf8(raw))
    try:
        return Text.of(raw.decode(encoding).removeprefix("\ufeff"))
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode(encoding, "replace")
        line = before.count("\n") + 1
        column = len(before) - (before.rfind("\n") + 1) + 1
        raise DataError(
            f"line {line}, column {column}: bytes that are not {encoding} "
            f"({raw[error.start : error.end].hex(' ')}): {error.reason}",
            where=where,
            remedy="save the file as UTF-8, or name its encoding with --encoding",
        ) from None


def _refuse_binary(raw: bytes, where: str) -> None:
    for magic, what, remedy in _MAGIC:
        if raw.startswith(magic):
            raise DataError(f"is {what}", where=where, expected=_FORMATS, remedy=remedy)
    head = raw[:65536]
    control = sum(head.count(bytes([value])) for value in range(32) if value not in (9, 10, 12, 13))
    if control > len(head) * 0.05 and control > 8 and _utf16_without_mark(raw) is None:
        raise DataError(
            f"is a binary file: {control} of its first {len(head)} bytes are control characters",
            where=where,
            expected=_FORMATS,
        )


def _utf16_without_mark(raw: bytes) -> str | None:
    """NUL only at one parity, beside the line ends: what UTF-16 looks like, and damaged UTF-8 does not."""
    head = raw[:65536]
    if len(raw) % 2 or head.count(0) < 2:
        return None
    for encoding, odd in (("utf-16-le", 1), ("utf-16-be", 0)):
        nul, other = head[odd::2].count(0), head[1 - odd :: 2].count(0)
        line_end = b"\n\x00" if odd else b"\x00\n"
        if other == 0 and nul >= 2 and line_end in head:
            lone = head[1 - odd :: 2].count(b"\n") > head[: len(head)].count(line_end)
            if not lone and nul > len(head) * 0.01:
                return encoding
    return None


def _broken_utf8(raw: bytes) -> bool:
    """More whole multi-byte characters than bad bytes: UTF-8 with damage, not another encoding."""
    text = raw.decode("utf-8", "surrogateescape")
    bad = sum(1 for _ in re.finditer("[\udc80-\udcff]", text))
    whole = sum(1 for _ in re.finditer("[\u0080-\ud7ff\ue000-\U0010ffff]", text))
    return whole > bad


def _guess(raw: bytes) -> str:
    """Windows-1252 where the result reads like a Western language, else what the detector says."""
    try:
        text = raw.decode("cp1252")
    except UnicodeDecodeError:
        text = None
    if text is not None and _reads_western(text):
        high_controls = re.search(rb"[\x80-\x9f]", raw)
        return "cp1252" if high_controls else "latin-1"
    best = from_bytes(raw[:1_000_000]).best()
    if best is not None and not best.encoding.startswith(("utf_7", "utf_16", "utf_32")):
        return codecs.lookup(best.encoding).name
    return "cp1252"


def _reads_western(text: str) -> bool:
    """Few non-ASCII characters among the letters, and those are letters or typographic signs."""
    foreign = re.findall(r"[^\x00-\x7f]", text)
    letters = len(re.findall(r"[A-Za-z]", text))
    usual = sum(
        1 for c in foreign if c.isalpha() or c in "“”„‘’‚«»‹›–—…•·€£¥§©®™°±¿¡\u00a0²³½¼¾×´¨"
    )
    inside = len(re.findall(r"(?<=[a-z])[¹³¿¼¾£±¯¶¡¢¥¦](?=[a-z])", text))
    few = len(foreign) < 0.3 * (letters + len(foreign)) or len(foreign) <= 2
    return few and usual >= 0.9 * len(foreign) and inside == 0
