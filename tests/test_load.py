"""The load reports what it is there to find, and nothing else."""

import argparse
import copy
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from mlx_qwen35.bench.servers import Server, serving
from tools.load.__main__ import loopback, main, own_command
from tools.load.clients import Load
from tools.load.conversations import make_pool
from tools.load.held import Sample, leaks, sample
from tools.load.malformed import Malformed, make_malformed
from tools.load.protocols import PROTOCOLS, Answer, FormError, Protocol, wrong
from tools.load.tally import Tally, spread

ROWS, PLACES = 4, 1
MIB = 2**20


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(own_command(ROWS, PLACES), "mlx-qwen35") as found:
        yield found


@pytest.fixture(scope="module")
def referred(server: Server) -> Load:
    """One conversation, with its references."""
    found = Load(("127.0.0.1", server.port), make_pool(1, 1), seed=1, capacity=ROWS + PLACES)
    found.refer()
    return found


@pytest.fixture
def small(referred: Load) -> Load:
    """The same, with a tally of its own."""
    found = copy.copy(referred)
    found.references = {number: list(answers) for number, answers in referred.references.items()}
    found._suspects = {}
    found.tally = Tally()
    return found


@pytest.mark.thorough
def test_a_short_load(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "load.json"
    command = ["--url", f"http://127.0.0.1:{server.port}", "--pid", str(server.process.pid), "--out", str(out)]
    command += ["--capacity", str(ROWS + PLACES), "--clients", "4", "--conversations", "4", "--minutes", "0.03"]
    status = main(command)
    report = json.loads(out.read_text())
    assert report["problems"] == []
    assert status == 0
    assert report["statuses"]["200"] > 0
    # The crowd is larger than the queue.
    assert report["statuses"]["429"] > 0
    assert report["actions"]["crowd"] > 0
    assert all(row["total"]["p50"] > 0 for row in report["latency"].values())
    if sys.platform == "linux":
        assert report["server"]["before"]["rss"] > MIB
        assert len(report["server"]["samples"]) > 1
    else:
        assert report["server"] is None
    assert "problems: 0" in capsys.readouterr().out


@pytest.mark.thorough
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: str(protocol.name))
def test_the_answers_are_those_of_the_references(small: Load, protocol: Protocol, streamed: bool) -> None:
    (conversation,) = small.pool
    assert small._compare(conversation, protocol, streamed=streamed, until=math.inf) is None
    assert small.tally.statuses == {"200": len(conversation.turns)}
    first = small.references[0][0]
    small.references[0][0] = replace(first, text="Something else.")
    found = small._compare(conversation, protocol, streamed=streamed, until=math.inf)
    assert found == f"turn 1: text: expected 'Something else.', found {first.text!r}"


@pytest.mark.thorough
def test_a_wrong_answer_is_reported(small: Load) -> None:
    """By whom it was got, and once more when it is asked again alone."""
    first = small.references[0][0]
    small.references[0][0] = replace(first, text="Something else.")
    small._talk_and_compare(Random(1), math.inf)
    (problem,) = small.tally.problems
    assert problem.startswith("wrong answer: text conversation 0, ")
    found = f"turn 1: text: expected 'Something else.', found {first.text!r}"
    assert problem.endswith(found)
    assert list(small.retry().values()) == [found]
    # Once for each of the two.
    assert small.tally.statuses == {"200": 2}


@pytest.mark.thorough
def test_every_malformed_request_is_refused(small: Load) -> None:
    for request in make_malformed():
        small._be_refused(request)
    assert small.tally.problems == []


@pytest.mark.thorough
def test_another_status_than_the_expected_one_is_reported(small: Load) -> None:
    small._be_refused(Malformed("right", "/v1/models", b"", method="GET"))
    assert "malformed request, right: expected status 400, found 200" in small.tally.problems[0]


def test_a_server_that_is_gone_is_reported() -> None:
    found = Load(("127.0.0.1", 1), [], seed=1, capacity=1)
    found.rest()
    assert "health: the connection broke" in found.tally.problems[0]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, which only Linux has")
def test_a_process_that_has_ended_holds_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        while process.returncode is None and Path(f"/proc/{process.pid}/stat").read_text().split()[2] != "Z":
            time.sleep(0.01)
        with pytest.raises(ProcessLookupError, match="has ended"):
            sample(process.pid, 0.0)


def test_every_difference_counts() -> None:
    right = Answer("text", "reasoning", (("name", "{}"),), "tool_calls", 5, 3, echo=({},))
    assert wrong(right, replace(right, echo=(), call_ids=("x",))) is None
    for name, value in (("text", ""), ("reasoning", ""), ("calls", ()), ("reason", "stop"), ("tokens", 4)):
        assert (wrong(right, replace(right, **{name: value})) or "").startswith(f"{name}: expected ")


def test_leaks_are_reported() -> None:
    level = Sample(0.0, 500 * MIB, threads=20, handles=12)

    def samples(rise: int) -> list[Sample]:
        """So much more every second, after a first minute in which memory is filled."""
        return [
            replace(level, seconds=second, rss=level.rss + (min(second, 60) * 10 + second * rise) * MIB)
            for second in range(300)
        ]

    assert leaks(level, replace(level, threads=22, handles=14), samples(0)) == []
    assert leaks(level, replace(level, threads=23, handles=15), samples(0)) == [
        "leak: expected at most 22 threads at the end, found 23",
        "leak: expected at most 14 handles at the end, found 15",
    ]
    (found,) = leaks(level, level, samples(1))
    assert found.startswith("leak: expected memory to grow by at most 52428800 bytes, found ")


def test_the_pool() -> None:
    pool = make_pool(3, 12)
    assert [conversation.kind for conversation in pool[:4]] == ["text", "image", "tools", "schema"]
    assert all(1 <= len(conversation.turns) <= 4 for conversation in pool)
    assert [conversation.turns for conversation in make_pool(3, 12)] == [one.turns for one in pool]
    assert [conversation.turns for conversation in make_pool(4, 12)] != [one.turns for one in pool]


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: str(protocol.name))
def test_a_stream_that_breaks_off_is_no_answer(protocol: Protocol) -> None:
    events = {
        "chat": [{"choices": [{"delta": {"content": "A"}, "finish_reason": None}]}],
        "responses": [{"type": "response.created", "sequence_number": 0}],
        "messages": [{"type": "message_start", "message": {}}],
    }
    with pytest.raises(FormError, match="expected "):
        protocol.joined(events[protocol.name])


@pytest.mark.parametrize("url", ["http://example.com:80", "http://192.168.0.1:8080", "https://localhost", "localhost"])
def test_other_machines_are_left_alone(url: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected an http: URL of this machine"):
        loopback(url)
    assert loopback("http://127.0.0.1:8080") == ("127.0.0.1", 8080)


def test_percentiles() -> None:
    assert spread([]) is None
    assert spread([number / 100 for number in range(100, 0, -1)]) == {"p50": 0.5, "p90": 0.9, "p99": 0.99}
