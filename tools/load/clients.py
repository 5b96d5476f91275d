"""Clients that hold conversations, leave, send nonsense, and crowd the server."""

import http.client
import json
import math
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from random import Random

from tools.load.attacks import make_attacks
from tools.load.conversations import LONG, SCHEMA, Conversation, Json, Question, Results, json_bytes
from tools.load.malformed import Malformed, make_malformed
from tools.load.protocols import CHAT, PROTOCOLS, Answer, FormError, Protocol, follows_schema, wrong
from tools.load.tally import Tally

# A connection that says nothing for so long hangs.
PATIENCE = 120.0
IDLE_SECONDS = 20.0
CROWD_SECONDS = 15.0
MOST_TRIES = 100
MOST_RETRIED = 5
TALK, LEAVE_STREAM, LEAVE_EARLY, MALFORMED = "talk", "leave in the stream", "leave before the first token", "malformed"
HALF = "half a request, or one whose answer is not read"
ACTIONS = {TALK: 67, LEAVE_STREAM: 10, LEAVE_EARLY: 8, MALFORMED: 12, HALF: 3}


class Line:
    """One client's connection."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._connection = http.client.HTTPConnection(*address, timeout=PATIENCE)

    def send(self, path: str, body: bytes, method: str = "POST", headers: Mapping[str, str] | None = None) -> None:
        """A request, without waiting for anything."""
        self._connection.request(method, path, body, {"Content-Type": "application/json", **(headers or {})})

    def receive(self) -> http.client.HTTPResponse:
        """The beginning of its response."""
        return self._connection.getresponse()

    def leave(self, *, rudely: bool) -> None:
        """Close it in the middle of something; rudely is with a reset."""
        if rudely and self._connection.sock is not None:
            self._connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """End it."""
        self._connection.close()


def events_of(response: http.client.HTTPResponse) -> Iterator[Json]:
    """Server-sent events as they come.

    Raises:
        FormError: A line is none of an event.
    """
    for raw in response:
        line = raw.decode().rstrip("\n")
        if line == "data: [DONE]" or not line or line.startswith((":", "event: ")):
            continue
        if not line.startswith("data: {"):
            raise FormError(f"expected a line of an event, found {line!r}")
        yield json.loads(line.removeprefix("data: "))


class Load:
    """Clients of one server.

    Args:
        address: Host and port.
        capacity: Requests that the server reads, answers and lets wait at most.
    """

    def __init__(self, address: tuple[str, int], pool: Sequence[Conversation], *, seed: int, capacity: int) -> None:
        self._address, self._seed, self._capacity = address, seed, capacity
        self.pool = list(pool)
        self._malformed = [*make_malformed(), *make_attacks()]
        self._long = Conversation(len(pool), "crowd", (Question("Count."),), schema=LONG, max_tokens=512)
        self.references: dict[int, list[Answer]] = {}
        # In the order in which they were found; only keys count.
        self._suspects: dict[tuple[Conversation, Protocol, bool], None] = {}
        self.tally = Tally()

    def refer(self) -> None:
        """Hold every conversation once, alone, and remember the answers."""
        for conversation in [*self.pool, self._long]:
            answers = list(self._talk(conversation, CHAT, streamed=False))
            self.references[conversation.number] = answers
            if conversation.schema is SCHEMA and not all(follows_schema(answer) for answer in answers):
                self.tally.problem(
                    f"conversation {conversation.number}: expected answers by the schema, found {answers}"
                )

    def run(self, seconds: float, clients: int, label: str) -> float:
        """All clients at once; returns how long it took."""
        began = time.monotonic()
        until = began + seconds
        threads = [
            threading.Thread(target=self._client, args=(Random(f"{label}-{self._seed}-{number}"), until), daemon=True)
            for number in range(clients)
        ]
        threads.append(
            threading.Thread(target=self._crowds, args=(Random(f"{label}-{self._seed}"), until), daemon=True)
        )
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()) + 2 * PATIENCE)
        if any(thread.is_alive() for thread in threads):
            self.tally.problem("a client hangs")
        return time.monotonic() - began

    def rest(self) -> None:
        """Wait until the server has nothing to do."""
        deadline = time.monotonic() + IDLE_SECONDS
        with self._watched("health"):
            while (state := self._health()) != (0, 0):
                if time.monotonic() > deadline:
                    self.tally.problem(f"expected no work without clients, found {state} requests running and waiting")
                    return
                time.sleep(0.1)

    def retry(self) -> dict[str, str]:
        """Ask again, alone, where answers were wrong: whether it takes a load to make them so."""
        found = {}
        for conversation, protocol, streamed in list(self._suspects)[:MOST_RETRIED]:
            name = f"conversation {conversation.number}, {protocol.name}, {'streamed' if streamed else 'at once'}"
            with self._watched(name):
                found[name] = self._compare(conversation, protocol, streamed=streamed, until=math.inf) or "right"
        return found

    def _health(self) -> tuple[int, int]:
        line = Line(self._address)
        try:
            line.send("/health", b"", "GET")
            state = json.loads(line.receive().read())
            return state["running"], state["waiting"]
        finally:
            line.close()

    def _client(self, rng: Random, until: float) -> None:
        while time.monotonic() < until:
            action = rng.choices(list(ACTIONS), list(ACTIONS.values()))[0]
            self.tally.action(action)
            with self._watched(action):
                if action == TALK:
                    self._talk_and_compare(rng, until)
                elif action == MALFORMED:
                    self._be_refused(rng.choice(self._malformed))
                elif action == HALF:
                    self._say_half(rng)
                else:
                    self._leave(rng, in_stream=action == LEAVE_STREAM)

    @contextmanager
    def _watched(self, what: str) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            self.tally.problem(f"{what}: nothing came for {PATIENCE:g} seconds")
        except (OSError, http.client.HTTPException) as error:
            self.tally.problem(f"{what}: the connection broke: {error!r}")
            # A server that is gone is found gone often enough.
            time.sleep(0.5)
        except (FormError, ValueError, KeyError, IndexError, TypeError) as error:
            self.tally.problem(f"{what}: the answer has another form than its protocol: {error!r}")

    def _talk_and_compare(self, rng: Random, until: float) -> None:
        conversation, protocol, streamed = rng.choice(self.pool), rng.choice(PROTOCOLS), rng.random() < 0.6
        problem = self._compare(conversation, protocol, streamed=streamed, until=until)
        if problem is not None:
            how = f"{protocol.name}, {'streamed' if streamed else 'at once'}"
            self.tally.problem(
                f"wrong answer: {conversation.kind} conversation {conversation.number}, {how}, {problem}"
            )
            self._suspects[conversation, protocol, streamed] = None

    def _compare(self, conversation: Conversation, protocol: Protocol, *, streamed: bool, until: float) -> str | None:
        """The first difference from the reference."""
        expected = self.references[conversation.number]
        for turn, found in enumerate(self._talk(conversation, protocol, streamed=streamed, until=until)):
            problem = wrong(expected[turn], found) if turn < len(expected) else "expected no such turn"
            if problem is not None:
                return f"turn {turn + 1}: {problem}"
        return None

    def _talk(
        self, conversation: Conversation, protocol: Protocol, *, streamed: bool, until: float = math.inf
    ) -> Iterator[Answer]:
        """Hold a conversation on one connection, as far as it goes until then."""
        history: list[Json] = []
        before: Answer | None = None
        line = Line(self._address)
        try:
            for turn in conversation.turns:
                if time.monotonic() > until or (isinstance(turn, Results) and not (before and before.calls)):
                    return
                history += protocol.say(turn, before)
                forced = conversation.forced and before is None
                body = json_bytes(protocol.body(conversation, history, streamed=streamed, forced=forced))
                kind = f"{protocol.name}, {conversation.kind}"
                before = self._ask(line, protocol, body, kind, streamed=streamed, until=until)
                if before is None:
                    return
                history += before.echo
                yield before
                if before.is_empty:
                    return
        finally:
            line.close()

    def _ask(
        self, line: Line, protocol: Protocol, body: bytes, kind: str, *, streamed: bool, until: float
    ) -> Answer | None:
        """One request, again and again while the queue is full; None if it stays so."""
        for _ in range(MOST_TRIES):
            began = time.monotonic()
            line.send(protocol.path, body)
            response = line.receive()
            self.tally.status(response.status)
            if response.status == 429:
                wait = self._retry_after(response)
                # The server closes a connection that waits for long.
                line.close()
                if time.monotonic() + wait > until:
                    return None
                time.sleep(wait)
                continue
            if response.status != 200:
                raise FormError(f"expected status 200, found {response.status}: {response.read(500)!r}")
            first, events = None, []
            if streamed:
                for event in events_of(response):
                    if first is None and protocol.speaks(event):
                        first = time.monotonic() - began
                    events.append(event)
                answer = protocol.joined(events)
            else:
                answer = protocol.whole(json.loads(response.read()))
            self.tally.times(kind, first, time.monotonic() - began)
            return answer
        self.tally.problem(f"{kind}: refused {MOST_TRIES} times")
        return None

    def _retry_after(self, response: http.client.HTTPResponse) -> float:
        """Seconds until a refused request may come again."""
        value = response.getheader("Retry-After") or ""
        data = json.loads(response.read())
        if not value.isdecimal() or int(value) < 1 or not data["error"]["message"]:
            self.tally.problem(f"status 429: expected Retry-After and a message, found {value!r} and {data}")
            return 1.0
        return float(value)

    def _be_refused(self, request: Malformed) -> None:
        line = Line(self._address)
        try:
            line.send(request.path, request.body, request.method, request.headers)
            response = line.receive()
            self.tally.status(response.status)
            if response.status == 429:
                # A full queue refuses before it looks at what is asked.
                self._retry_after(response)
                return
            data = response.read()
            if response.status != request.status:
                expected = f"expected status {request.status}, found {response.status}"
                self.tally.problem(f"malformed request, {request.name}: {expected}: {data[:300]!r}")
                return
            error = json.loads(data)["error"]
            if not error["message"] or not error["type"]:
                raise FormError(f"expected an error with a type and a message, found {error}")
        finally:
            line.close()

    def _say_half(self, rng: Random) -> None:
        """Some of a request, or all of one without reading the answer; then nothing for a while."""
        body = json_bytes(CHAT.body(self._long, CHAT.say(self._long.turns[0], None), streamed=True, forced=False))
        head = f"POST {CHAT.path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with socket.create_connection(self._address, timeout=PATIENCE) as connection:
            connection.sendall((head + body)[: rng.choice([0, 10, len(head) - 2, len(head) + 5, len(head + body)])])
            time.sleep(rng.random() * 3)
            if rng.random() < 0.5:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _leave(self, rng: Random, *, in_stream: bool) -> None:
        """Ask, and go before the answer is complete, somewhere in a conversation."""
        conversation = rng.choice(self.pool)
        answers = self.references[conversation.number]
        history: list[Json] = []
        turns = rng.randrange(len(answers))
        for number in range(turns + 1):
            before = answers[number - 1] if number else None
            history += [*(before.echo if before else ()), *CHAT.say(conversation.turns[number], before)]
        streamed = in_stream or rng.random() < 0.5
        protocol: Protocol = CHAT
        if not turns:
            # References are chat completions, so only a first question can be put otherwise.
            protocol = rng.choice(PROTOCOLS)
            history = protocol.say(conversation.turns[0], None)
        body = protocol.body(conversation, history, streamed=streamed, forced=conversation.forced and not turns)
        line = Line(self._address)
        try:
            line.send(protocol.path, json_bytes(body))
            if not in_stream:
                time.sleep(rng.random() * 0.1)
                return
            response = line.receive()
            self.tally.status(response.status)
            if response.status == 429:
                self._retry_after(response)
                return
            if response.status != 200:
                raise FormError(f"expected status 200 or 429, found {response.status}: {response.read(500)!r}")
            wanted = rng.randint(1, 12)
            for number, _ in enumerate(events_of(response)):
                if number == wanted:
                    break
        finally:
            line.leave(rudely=rng.random() < 0.5)

    def _crowds(self, rng: Random, until: float) -> None:
        """At once, and then now and then."""
        while time.monotonic() < until:
            self.tally.action("crowd")
            with self._watched("crowd"):
                self._crowd(rng)
            time.sleep(max(0.0, min(CROWD_SECONDS, until - time.monotonic())))

    def _crowd(self, rng: Random) -> None:
        """More requests than there is room for, so that the rest is refused, and other clients' requests too."""
        body = json_bytes(CHAT.body(self._long, CHAT.say(self._long.turns[0], None), streamed=True, forced=False))
        lines = [Line(self._address) for _ in range(self._capacity + 8)]
        (expected,) = self.references[self._long.number]
        refused = 0
        try:
            for line in lines:
                line.send(CHAT.path, body)
            # All of them begin before one of them ends.
            responses = [line.receive() for line in lines]
            for line, response in zip(lines, responses, strict=True):
                self.tally.status(response.status)
                if response.status == 429:
                    self._retry_after(response)
                    refused += 1
                elif response.status != 200:
                    raise FormError(f"expected status 200 or 429, found {response.status}: {response.read(500)!r}")
                elif rng.random() < 0.2:
                    problem = wrong(expected, CHAT.joined(list(events_of(response))))
                    if problem is not None:
                        self.tally.problem(f"wrong answer: crowd: {problem}")
                else:
                    line.leave(rudely=rng.random() < 0.5)
        finally:
            for line in lines:
                line.close()
        if not refused:
            self.tally.problem(f"expected status 429 for some of {len(lines)} requests at once, found none")
