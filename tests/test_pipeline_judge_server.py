"""The whole pipeline against a real OpenAI-compatible server on loopback that misbehaves."""

from __future__ import annotations

import json
import shutil
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from support.judge_server import Act, JudgeServer, Seen, right_scores
from support.processes import CliServer, Stop
from support.small_runs import FAST, contents, write_rows

from gemma_lora.judge import slug

SECRET = "sk-secret-4711-never-shown"
PATIENT = ("--judge-timeout", "2", "--judge-retries", "3", "--judge-concurrency", "4")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_folder) -> Path:
    folder = tmp_path_factory.mktemp("served")
    write_rows(folder / "rows.csv")
    (folder / "tiny").symlink_to(tiny_folder())
    return folder


@pytest.fixture(scope="module")
def lexical(place: Path, cli: CliServer) -> Path:
    done = cli.run(command("lexical"), cwd=place)
    assert done.code == 0, done.err
    return place / "lexical"


@pytest.fixture
def copy(lexical: Path, place: Path, request: pytest.FixtureRequest) -> Path:
    """A finished run with the offline judge, for this test alone."""
    return shutil.copytree(lexical, place / request.node.name[:60], copy_function=shutil.copy2)


def command(out: str, *more: str) -> list[str]:
    return ["run", "rows.csv", "--model", "tiny", "--out", out, *FAST, *more]


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


class Storm:
    """Every kind of fault, chosen by the order in which answers are first seen."""

    KINDS = ("good", "429", "500", "slow", "cut", "garbage once", "garbage", "refusal")

    def __init__(self) -> None:
        self.kinds: dict[tuple[str, str], str] = {}
        self.tries: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def __call__(self, seen: Seen) -> Act | None:
        if not seen.path.endswith("/chat/completions"):
            return None
        key = (str(seen.field("QUESTION")), seen.answer)
        with self._lock:
            if key[0] == "What is 2 + 2?":
                return None  # the probe
            kind = self.kinds.setdefault(key, self.KINDS[len(self.kinds) % len(self.KINDS)])
            self.tries[key] += 1
            first = self.tries[key] == 1
        if kind == "garbage":
            return Act(content="The answer is fine, 9 of 10.")
        if kind == "refusal":
            return Act(content=None, refusal="I cannot grade this.", finish="content_filter")
        if not first:
            return None
        return {
            "429": Act(status=429, headers={"retry-after": "0"}),
            "500": Act(status=500),
            "slow": Act(delay=3.0),
            "cut": Act(cut=40),
            "garbage once": Act(content='{"reasoning": "good", "relevance": 11}'),
        }.get(kind)


def test_a_storm_loses_nothing_and_makes_no_score(
    place: Path, cli: CliServer, tmp_path: Path
) -> None:
    storm = Storm()
    env = {"GEMMA_LORA_CACHE": str(tmp_path / "cache"), "GEMMA_LORA_JUDGE_KEY": SECRET}
    with JudgeServer() as server:
        server.plan = storm
        done = cli.run(command("storm", "--judge", server.name, *PATIENT), cwd=place, env=env)
        assert done.code == 0, done.err
        run, folder = place / "storm", place / "storm" / "judgements" / slug(server.name)
        paid = len(server.seen)
        again = cli.run(command("storm", "--judge", server.name, *PATIENT), cwd=place, env=env)
        assert again.code == 0, again.err
        assert len(server.seen) == paid, "a second run asks nothing, not even the probe"
        other = command("other", "--judge", server.name, *PATIENT)
        cached = cli.run(other, cwd=place, env=env)
        assert cached.code == 0, cached.err
    answers = {
        (row["id"], arm): row
        for arm in ("base", "tuned")
        for row in lines(run / f"answers/test/{arm}.jsonl")
    }
    rows = {(row["id"], row["arm"]): row for row in lines(folder / "judgements.jsonl")}
    assert rows.keys() == answers.keys()
    lost = 0
    for key, row in rows.items():
        kind = storm.kinds[answers[key]["messages"][-1]["content"], answers[key]["answer"]]
        if kind in ("garbage", "refusal"):
            lost += 1
            assert row["overall"] is None
            assert not any(row["scores"].values())
            assert row["unscored_reason"]
        else:
            right = right_scores(answers[key]["answer"])
            assert {**row["scores"], "overall": row["overall"]} == right, kind
    assert lost
    assert set(storm.kinds.values()) == set(Storm.KINDS)
    verdict = read(run / "verdict.json")
    assert sum(verdict["unscored"].values()) == lost
    assert verdict["primary"]["n"] + verdict["pairs_lost"] == verdict["questions"] == 8
    assert verdict["pairs_lost"] > 0
    assert any(text.startswith("Without a score: ") for text in verdict["warnings"])
    for text in (done.out + done.err, again.out + again.err, *map(str, everything(place))):
        assert SECRET not in text
    keys = {
        seen.headers.get("Authorization", seen.headers.get("authorization"))
        for seen in server.chats
    }
    assert keys == {f"Bearer {SECRET}"}


def everything(folder: Path) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file() and "tiny" not in path.parts]
    return [path.read_bytes().decode("utf-8", "replace") for path in files]


def test_the_key_is_in_no_file_and_no_error(place: Path, cli: CliServer, tmp_path: Path) -> None:
    env = {"GEMMA_LORA_CACHE": str(tmp_path), "GEMMA_LORA_JUDGE_KEY": SECRET}
    with JudgeServer() as server:
        server.plan = lambda seen: Act(
            status=401, body={"error": {"message": f"bad key {seen.headers}"}}
        )
        argv = command("refused", "--judge", server.name, "--debug", "--json")
        done = cli.run(argv, cwd=place, env=env)
    assert done.code == 4, done.err
    assert "GEMMA_LORA_JUDGE_KEY" in done.err
    for text in (done.out, done.err, *everything(place / "refused"), *everything(tmp_path)):
        assert SECRET not in text


@pytest.mark.parametrize(
    "act",
    [Act(status=500), Act(content="no idea"), Act(status=404), Act(body="<html>", status=200)],
    ids=["500", "garbage", "404", "a web page"],
)
def test_a_judge_that_fails_the_probe_stops_before_training(
    act: Act, place: Path, cli: CliServer, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with JudgeServer() as server:
        server.plan = lambda seen: act
        argv = command("unprobed", "--judge", server.name, "--judge-retries", "0", "--json")
        done = cli.run(argv, cwd=place, env={"GEMMA_LORA_CACHE": str(tmp_path)})
    assert done.code == 4, done.err
    assert done.json["exit_code"] == 4
    assert not (place / "unprobed").exists()


def test_a_server_that_pays_no_heed_to_the_schema_judges_a_whole_run(
    place: Path, cli: CliServer, tmp_path: Path
) -> None:
    """It takes `response_format`, replies in prose, and obeys a forced tool; every request is in the account."""
    env = {"GEMMA_LORA_CACHE": str(tmp_path)}
    prices = ("--price-input", "100", "--price-output", "1000", "--max-cost", "40")
    with JudgeServer() as server:
        server.plan = lambda seen: None if "tools" in seen.body else Act(content="8 of 10")
        argv = command("heedless", "--judge", server.name, "--canaries", "2", *prices, "--json")
        done = cli.run(argv, cwd=place, env=env)
        assert done.code == 0, done.err
        probes = [seen for seen in server.chats if seen.field("QUESTION") == "What is 2 + 2?"]
        folder = place / "heedless" / "judgements" / slug(server.name)
        facts = read(folder / "judge.json")
        assert facts["requests"] == len(server.chats)
        assert len(probes) == 4, "three without a usable reply, then the tool"
        assert facts["cost"] == pytest.approx(len(server.chats) * 0.03)
        assert list(facts["rungs"]) == ["tool"], "nothing but the probe was asked for anything else"
        assert facts["unscored_reasons"] == {}
        asked = len(server.chats)
        more = ["judge", "heedless", "--repeats", "2", "--json"]
        again = cli.run(more, cwd=place, env=env)
        assert again.code == 0, again.err
        assert read(folder / "judge.json")["requests"] == len(server.chats) > asked
        probes = [seen for seen in server.chats if seen.field("QUESTION") == "What is 2 + 2?"]
        assert len(probes) == 8


def test_nobody_listens(place: Path, cli: CliServer) -> None:
    argv = command("nobody", "--judge", "http://127.0.0.1:9/v1#m", "--judge-retries", "0")
    done = cli.run(argv, cwd=place)
    assert done.code == 4
    assert "what to do: start the server" in done.err
    assert not (place / "nobody" / "checkpoints").exists()


def test_another_judge_stands_beside_the_first(copy: Path, cli: CliServer, tmp_path: Path) -> None:
    before = contents(copy)
    with JudgeServer() as server:
        argv = ["judge", copy.name, "--judge", server.name, "--json"]
        done = cli.run(argv, cwd=copy.parent, env={"GEMMA_LORA_CACHE": str(tmp_path)})
    assert done.code == 0, done.err
    # what so few questions can show is said before anything is judged, and from which spread
    foretold = done.err.index("by an assumed standard deviation of 2.0")
    assert done.err.index("go unnoticed") < foretold < done.err.index("answers are scored")
    after = contents(copy)
    changed = {name for name in after if after[name][1] != before.get(name, (0, None))[1]}
    folder = f"judgements/{slug(server.name)}/"
    assert {name for name in changed if not name.startswith(folder)} <= {
        f".stamps/judge-{slug(server.name)}.json",
        # the main report shows the second judge's verdict beside its own
        *("verdict.json", "report.html", "report.md", "judgements/lexical/verdict.json"),
    }
    mine, theirs = json.loads(before["verdict.json"][1]), read(copy / "verdict.json")
    (told,) = theirs["other_judges"]
    assert told["name"] == server.name
    assert told["verdict"] == done.json["verdict"]
    assert (told["difference"], told["n"]) == (
        done.json["primary"]["difference"],
        done.json["primary"]["n"],
    )
    (back_told,) = done.json["other_judges"]
    assert (back_told["name"], back_told["verdict"]) == ("lexical", mine["verdict"])
    assert back_told["agreement"]["tau"] == told["agreement"]["tau"]
    assert {**theirs, "other_judges": []} == mine, "all else is as it was"
    for text in (
        (copy / "report.html").read_text("utf-8"),
        (copy / "report.md").read_text("utf-8"),
    ):
        assert "What other judges said of the same answers" in text
    assert before.keys() <= after.keys()
    for name in ("verdict.json", "report.html", "report.md", "judgements.jsonl", "judge.json"):
        assert folder + name in after
    assert done.json["judge"]["is_llm"] is True
    assert read(copy / "verdict.json")["judge"]["kind"] == "lexical"
    back = cli.run(["judge", copy.name], cwd=copy.parent)
    assert back.code == 0, back.err
    assert "[judge-lexical] done before" in back.err


def test_what_a_judge_saw_before_foretells_what_it_can_show(
    copy: Path, cli: CliServer, tmp_path: Path
) -> None:
    """Its own earlier verdict, which goes because it is judged anew."""
    env = {"GEMMA_LORA_CACHE": str(tmp_path)}
    with JudgeServer() as server:
        argv = ["judge", copy.name, "--judge", server.name, "--json"]
        first = cli.run(argv, cwd=copy.parent, env=env)
        assert first.code == 0, first.err
        more = cli.run([*argv, "--repeats", "3"], cwd=copy.parent, env=env)
        assert more.code == 0, more.err
        same = cli.run([*argv, "--repeats", "3"], cwd=copy.parent, env=env)
    seen = first.json["power"]["deviation"]
    told = f"by the standard deviation of {seen:.1f} that {server.name} gave here"
    assert more.err.index("runs again: judge changed") < more.err.index(told)
    assert more.err.index(told) < more.err.index("answers are scored")
    assert "assumed" not in more.err
    assert "unnoticed more often" not in same.err, "nothing is judged, so nothing is foretold"


def test_an_interrupted_judging_anew_leaves_no_verdict_on_what_is_gone(
    copy: Path, cli: CliServer, tmp_path: Path
) -> None:
    """Other settings drop the judgements; verdict and report of this judge go with them, no other's do."""
    env = {"GEMMA_LORA_CACHE": str(tmp_path)}
    with JudgeServer() as server:
        argv = ["judge", copy.name, "--judge", server.name, "--canaries", "0"]
        done = cli.run(argv, cwd=copy.parent, env=env)
        assert done.code == 0, done.err
        folder = copy / "judgements" / slug(server.name)
        told = [folder / name for name in ("verdict.json", "report.html", "report.md")]
        others = [copy / name for name in ("verdict.json", "report.html", "report.md")]
        assert all(file.exists() for file in [*told, *others])
        again = [*argv, "--judge-max-tokens", "2048"]
        stop = Stop("write", "/judgements.jsonl", 2)
        killed = cli.run(again, cwd=copy.parent, env=env, kill=stop)
        assert killed.code == -signal.SIGKILL, killed.err
        assert not [file for file in told if file.exists()]
        assert all(file.exists() for file in others)
        done = cli.run(again, cwd=copy.parent, env=env)
        assert done.code == 0, done.err
        assert all(file.exists() for file in [*told, *others])


def test_a_rubric_of_ones_own_judges_beside_the_first(
    copy: Path, cli: CliServer, tmp_path: Path
) -> None:
    anchors = "{2: a, 10: b}"
    rubric = tmp_path / "tone.yaml"
    rubric.write_text(
        f"name: tone\ndimensions:\n  warmth: {{question: warm, anchors: {anchors}}}\n"
    )
    before = contents(copy)
    refused = cli.run(["judge", copy.name, "--rubric", str(rubric)], cwd=copy.parent)
    assert refused.code == 2, "lexical cannot follow it"
    assert "cannot follow a rubric" in refused.err
    with JudgeServer() as server:
        server.plan = lambda seen: Act(
            content=json.dumps({"reasoning": "r", "warmth": len(seen.answer) % 9 + 1, "overall": 5})
        )
        more = ["--judge", server.name, "--rubric", str(rubric), *PATIENT]
        done = cli.run(["judge", copy.name, *more, "--json"], cwd=copy.parent)
        asked = len(server.chats)
        assert done.code == 0, done.err
        cli.run(["judge", copy.name, *more], cwd=copy.parent)
        assert len(server.chats) == asked, "done before"
    verdict = json.loads(done.out)
    assert list(verdict["dimensions"]) == ["warmth"]
    folder = next((copy / "judgements").glob("*-tone-*"))
    assert (folder / "rubric.yaml").read_text() == rubric.read_text()
    assert "warmth" in (folder / "report.html").read_text()
    after = contents(copy)
    # the first judge's verdict stays, but for what it tells of the other one
    told = {"report.html", "report.md", "verdict.json", "judgements/lexical/verdict.json"}
    kept = {name: after[name][1] for name in before if name not in told}
    assert kept == {name: found[1] for name, found in before.items() if name not in told}
    first = json.loads(before["verdict.json"][1])
    assert json.loads(after["verdict.json"][1]) == first | {
        "other_judges": [ANY],
    }


def test_answers_without_a_reply_are_asked_for_by_the_next_call(
    copy: Path, cli: CliServer, tmp_path: Path
) -> None:
    env = {"GEMMA_LORA_CACHE": str(tmp_path)}
    with JudgeServer() as server:
        silent: set[str] = set()

        def plan(seen: Seen) -> Act | None:
            if not seen.path.endswith("/chat/completions"):
                return None
            question = str(seen.field("QUESTION"))
            if question != "What is 2 + 2?" and (question in silent or len(silent) < 2):
                silent.add(question)
                return Act(status=503)
            return None

        server.plan = plan
        argv = ["judge", copy.name, "--judge", server.name, "--judge-retries", "0", "--json"]
        first = cli.run(argv, cwd=copy.parent, env=env)
        assert first.code == 0, first.err
        assert 2 <= sum(first.json["unscored"].values()) <= 4
        assert "run the same command again" in first.err
        server.plan = lambda seen: None
        asked = len(server.chats)
        second = cli.run(argv, cwd=copy.parent, env=env)
        assert second.code == 0, second.err
        assert sum(second.json["unscored"].values()) == 0
        assert len(server.chats) - asked <= 1 + 4 + 20, "the probe, the missing ones, and canaries"
        asked = len(server.seen)
        third = cli.run(argv, cwd=copy.parent, env=env)
        assert third.json["primary"] == second.json["primary"]
        assert len(server.seen) == asked


def test_what_leaves_this_machine_is_said_before_anything_is_sent(
    place: Path, cli: CliServer
) -> None:
    """192.0.2.0/24 is reserved for documentation: nobody answers there."""
    argv = command("away", "--judge", "http://192.0.2.1:8000/v1#m", "--judge-retries", "0")
    done = cli.run([*argv, "--judge-timeout", "0.2"], cwd=place)
    assert done.code == 4, done.err
    assert "privacy: " in done.err
    assert "192.0.2.1" in done.err.split("privacy: ")[1].splitlines()[0]


def test_replayed_judgements_give_the_same_verdict(copy: Path, cli: CliServer) -> None:
    file = copy / "judgements" / "lexical" / "judgements.jsonl"
    done = cli.run(["judge", copy.name, "--judge", f"replay:{file}", "--json"], cwd=copy.parent)
    assert done.code == 0, done.err
    mine = read(copy / "verdict.json")
    assert done.json["primary"] == mine["primary"]
    assert done.json["dimensions"] == mine["dimensions"]
