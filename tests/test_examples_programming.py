"""The programming-assistant example is checked, not trusted: its code runs and its stated output is the real output.

Conventions of `examples/programming_assistant.csv`:

* every ```python block runs; the blocks of one answer run in order in one namespace, in an empty folder,
  without a network;
* `print(x)  # -> value` states the output of that very line; a line that prints several times (a loop) states
  all outputs, joined with ", "; a print carries no other kind of comment;
* a ```text block right after a line that ends in "prints:" is the whole output of the python block before it.

The file also runs as a script, with any interpreter: `python tests/test_examples_programming.py`.
"""

import csv
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import tokenize
from collections import Counter
from pathlib import Path

DATA = Path(__file__).resolve().parents[1] / "examples" / "programming_assistant.csv"
HEADER = ["instruction", "response"]
SECONDS_PER_ROW = 10
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SEVERAL_WAYS_OR_PITFALL = re.compile(
    r"\b(alternative\w*|pitfalls?|avoid|prefer\w*|instead|traps?|beware|careful|never|trade-offs?|slower|faster"
    r"|rather than|either|catch is|surpris\w+|mistakes?|wrong|caveats?|two ways|three ways|another way|don't|do not)\b",
    re.IGNORECASE,
)


def read_rows():
    with DATA.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, strict=True))


def blocks(answer):
    """(language, code, the line of prose before the fence) for each fenced block."""
    found = []
    for match in FENCE.finditer(answer):
        before = answer[: match.start()].rstrip().rsplit("\n", 1)[-1]
        found.append((match[1], match[2], before))
    return found


def shingles(text, size=5):
    text = " ".join(text.lower().split())
    return {text[i : i + size] for i in range(max(1, len(text) - size + 1))}


# --- shape -----------------------------------------------------------------------------------------------------


def test_header_and_row_count():
    header, *rows = read_rows()
    assert header == HEADER
    assert len(rows) >= 160
    assert all(len(row) == 2 for row in rows)


def test_file_is_plain_utf8():
    raw = DATA.read_bytes()
    assert not raw.startswith(b"\xef\xbb\xbf")
    assert b"\0" not in raw
    assert b"\t" not in raw
    raw.decode("utf-8")


def test_cells_are_filled_and_trimmed():
    for number, row in enumerate(read_rows(), start=1):
        for cell in row:
            assert cell.strip(), f"row {number} has an empty cell"
            assert cell == cell.strip(), f"row {number} has outer white space"


def test_answer_length():
    for question, answer in read_rows()[1:]:
        words = len(answer.split())
        assert 60 <= words <= 220, f"{words} words: {question}"


def test_no_exact_duplicates():
    rows = read_rows()[1:]
    for column in range(2):
        seen = Counter(" ".join(row[column].lower().split()) for row in rows)
        assert not [text for text, count in seen.items() if count > 1]


def test_no_near_duplicate_questions():
    sets = [(question, shingles(question)) for question, _ in read_rows()[1:]]
    for i, (left, a) in enumerate(sets):
        for right, b in sets[i + 1 :]:
            assert len(a & b) / len(a | b) < 0.8, f"{left!r} ~ {right!r}"


# --- content ---------------------------------------------------------------------------------------------------


def test_fences_are_closed_and_known():
    for question, answer in read_rows()[1:]:
        assert len(re.findall(r"^```", answer, re.MULTILINE)) == 2 * len(blocks(answer)), question
        assert {language for language, _, _ in blocks(answer)} <= {"python", "text", "bash"}, (
            question
        )


def test_each_answer_has_python_code():
    for question, answer in read_rows()[1:]:
        assert any(language == "python" for language, _, _ in blocks(answer)), question


def test_half_show_several_ways_or_a_pitfall():
    answers = [FENCE.sub("", answer) for _, answer in read_rows()[1:]]
    showing = sum(bool(SEVERAL_WAYS_OR_PITFALL.search(answer)) for answer in answers)
    assert showing >= len(answers) / 2


def test_openings_vary():
    openings = Counter(" ".join(answer.split()[:2]).lower() for _, answer in read_rows()[1:])
    opening, count = openings.most_common(1)[0]
    assert count <= 8, f"{count} answers open with {opening!r}"


def test_code_runs_and_stated_output_is_real():
    faults = check_code(read_rows()[1:])
    assert not faults, "\n".join(faults)


def test_the_check_catches_wrong_claims():
    def answer(code, after=""):
        return [["q", f"Text.\n\n```python\n{code}\n```\n{after}"]]

    assert not check_code(answer("print(1 + 2)  # -> 3"))
    assert not check_code(answer("for i in range(3):\n    print(i)  # -> 0, 1, 2"))
    assert not check_code(answer("print('a')\nprint('b')", "\nThis prints:\n\n```text\na\nb\n```"))
    assert check_code(answer("print(1 + 2)  # -> 4"))
    assert check_code(answer("if False:\n    print(1)  # -> 1"))
    assert check_code(answer("print(1)  # the answer"))
    assert check_code(answer("x = 3  # -> 3"))
    assert check_code(answer("1 / 0"))
    assert check_code(answer("raise SystemExit(0)"))
    assert check_code(answer("print('a')", "\nThis prints:\n\n```text\nb\n```"))
    assert check_code(answer("import urllib.request\nurllib.request.urlopen('http://example.org')"))


# --- running the code ------------------------------------------------------------------------------------------


def check_code(rows):
    """Run every row in one fresh interpreter; return what is wrong, a line each."""
    done = subprocess.run(
        [sys.executable, "-P", "-s", "-W", "error::SyntaxWarning", "-W", "error::DeprecationWarning",
         str(Path(__file__).resolve()), "--run-rows"],
        input=json.dumps([answer for _, answer in rows]),
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        capture_output=True, text=True, encoding="utf-8", timeout=120,
    )  # fmt: skip
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    faults = [f"{rows[i][0]!r}: {fault}" for i, fault in enumerate(reports) if fault]
    if len(reports) < len(rows):  # the watchdog ended the interpreter
        faults.append(f"{rows[len(reports)][0]!r}: did not finish\n{done.stderr[-2000:]}")
    return faults


def run_rows():
    """In the child: a list of answers on stdin, one JSON line each on stdout (null, or what went wrong)."""
    import faulthandler
    import socket

    def blocked(*_args, **_kwargs):
        raise OSError("the network is blocked in this check")

    socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = blocked
    answers = json.loads(sys.stdin.buffer.read())
    reports, errors = sys.stdout, sys.stderr
    for answer in answers:
        faulthandler.dump_traceback_later(SECONDS_PER_ROW, exit=True, file=errors)
        fault = run_row(answer)
        faulthandler.cancel_dump_traceback_later()
        reports.write(json.dumps(fault) + "\n")
        reports.flush()


def run_row(answer):
    import decimal
    import logging
    import traceback
    import types

    kept = (
        sys.stdin,
        sys.stdout,
        sys.stderr,
        list(sys.argv),
        list(sys.path),
        sys.modules["__main__"],
    )
    environment, folder = dict(os.environ), Path.cwd()
    known_modules = set(sys.modules)
    module = types.ModuleType("__main__")
    printed = []  # (line, text) of the block that runs

    def recording_print(*args, sep=" ", end="\n", file=None, flush=False):
        print(*args, sep=sep, end=end, file=file, flush=flush)
        if file is None:
            caller = sys._getframe(1)
            if caller.f_code.co_filename == running:  # not a function from an earlier block
                printed.append(
                    (caller.f_lineno, (" " if sep is None else sep).join(map(str, args)))
                )

    module.print = recording_print
    output = running = ""
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
            program, work = Path(temporary, "program.py"), Path(temporary, "work")
            program.write_text(
                "\n\n".join(code for language, code, _ in blocks(answer) if language == "python"),
                "utf-8",
            )
            module.__file__ = str(program)  # worker processes import it like a real program
            work.mkdir()
            os.chdir(work)
            sys.modules["__main__"] = module
            sys.argv = ["program.py"]
            sys.stdin, sys.stderr = io.StringIO(), io.StringIO()
            try:
                for number, (language, code, before) in enumerate(blocks(answer), start=1):
                    if (
                        language == "text"
                        and before.endswith("prints:")
                        and code.strip() != output.strip()
                    ):
                        return (
                            f"the answer shows {code.strip()!r}, the code prints {output.strip()!r}"
                        )
                    if language == "python":
                        running = f"<block {number}>"
                        printed.clear()
                        sys.stdout = io.StringIO()
                        exec(compile(code, running, "exec", dont_inherit=True), module.__dict__)
                        output = sys.stdout.getvalue()
                        if fault := wrong_claim(code, printed):
                            return fault
            except BaseException as error:  # noqa: BLE001  whatever the code raises is the finding
                if type(error).__name__ == "ZoneInfoNotFoundError":
                    return None  # this machine has no time zone database
                return traceback.format_exc()
            finally:
                os.chdir(folder)
        return None
    finally:
        sys.stdin, sys.stdout, sys.stderr, sys.argv[:], sys.path[:], sys.modules["__main__"] = kept
        os.environ.clear()
        os.environ.update(environment)
        for name in set(sys.modules) - known_modules:
            path = getattr(sys.modules[name], "__file__", None)
            if path and not Path(path).exists():  # a module that the answer wrote into its folder
                del sys.modules[name]
        decimal.setcontext(decimal.Context())
        logging.disable(logging.NOTSET)
        for logger in [logging.root, *logging.root.manager.loggerDict.values()]:
            if isinstance(logger, logging.Logger):
                logger.handlers.clear()
                logger.setLevel(logging.WARNING if logger is logging.root else logging.NOTSET)


def wrong_claim(code, printed):
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type != tokenize.COMMENT:
            continue
        line = token.start[0]
        claims = token.string.startswith("# ->")
        prints = re.search(r"(?<![\w.])print\(", token.line[: token.start[1]])
        if claims:
            stated = token.string[len("# ->") :].strip()
            actual = ", ".join(text for at, text in printed if at == line)
            if stated != actual:
                return f"line {line} states {stated!r}, prints {actual!r}"
        elif prints:
            return f"line {line}: a print carries the comment {token.string!r}, which cannot be checked"
    return None


if __name__ == "__main__":
    if sys.argv[1:] == ["--run-rows"]:
        run_rows()
    else:
        problems = check_code(read_rows()[1:])
        print("\n".join(problems) or "every block runs; every stated output is real")
        raise SystemExit(bool(problems))
