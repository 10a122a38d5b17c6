"""The event bus of a workspace: live, replayed, slow, pruned, cut, foreign."""

from __future__ import annotations

import json
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from claudedo.model import Workspace, stamp
from claudedo_worker.listeners import MOST
from claudedo_worker.store import Store
from tests.support.eventful import Place, eventful
from tests.support.own_worker import PATIENCE

MANY = 10_000
CUT = 1.0  # seconds within which who may listen no more is cut off


@dataclass
class Event:
    """What a client makes of one block of the stream."""

    id: int
    name: str
    data: dict[str, Any]


class Listener:
    """A reader of server-sent events on a bare socket, with the rules of a browser's."""

    def __init__(self, connection: socket.socket, path: str, headers: dict[str, str]) -> None:
        self._connection = connection
        connection.settimeout(PATIENCE)
        lines = [f"GET {path} HTTP/1.1", "Host: localhost"]
        lines += [f"{key}: {value}" for key, value in headers.items()]
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        self.last_id: int | None = None
        self._raw = connection.makefile("rb")
        self.status = int(self._raw.readline().split()[1])
        self.headers = dict(iter(self._header, None))

    def _header(self) -> tuple[str, str] | None:
        name, colon, value = self._raw.readline().decode().strip().partition(": ")
        return (name.lower(), value) if colon else None

    def chunk(self) -> bytes:
        """The next piece; empty at the end."""
        size = int(self._raw.readline() or b"0", 16)
        piece = self._raw.read(size)
        self._raw.readline()
        return piece

    def blocks(self) -> Iterator[dict[str, str]]:
        """The fields of each block that is not a mere comment, to the end of the stream."""
        rest = b""
        while piece := self.chunk():
            *whole, rest = (rest + piece).split(b"\n\n")
            for block in whole:
                pairs = [line.split(": ", 1) for line in block.decode().split("\n")]
                fields = {key: value for key, value in pairs if key}
                if "id" in fields:
                    self.last_id = int(fields["id"])
                if fields:
                    yield fields

    def events(self) -> Iterator[Event]:
        for fields in self.blocks():
            if "data" in fields:
                yield Event(int(fields["id"]), fields["event"], json.loads(fields["data"]))

    def take(self, count: int) -> list[Event]:
        """The next events, as many as are wanted."""
        coming = self.events()
        return [next(coming) for _ in range(count)]

    def until_marked(self) -> int:
        """Read until the stream says where it begins."""
        fields = next(self.blocks())
        assert fields.keys() == {"id"}
        return int(fields["id"])

    def ended(self) -> float:
        """Read to the end; the seconds that took."""
        began = time.monotonic()
        while self.chunk():
            pass
        return time.monotonic() - began


@contextmanager
def listening(
    place: Place,
    query: str = "",
    *,
    path: str | None = None,
    token: str | None = None,
    buffer: int | None = None,
    **headers: str,
) -> Iterator[Listener]:
    """The person on the unix socket; with a token, or a small buffer, somebody on the port."""
    on_port = token is not None or "Cookie" in headers
    kind = socket.AF_INET if on_port else socket.AF_UNIX
    with closing(socket.socket(kind)) as connection:
        if buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.settimeout(PATIENCE)
        address: Any = ("127.0.0.1", place.port)
        connection.connect(address if on_port else str(place.worker.settings.worker_socket))
        shown = {"Authorization": f"Bearer {token}"} if token else {}
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        yield Listener(connection, (path or place.path) + query, {**shown, **named})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with eventful(tmp_path_factory.mktemp("events"), MANY) as made:
        yield made


def test_what_happens_is_told_at_once_with_its_number_and_its_name(place: Place) -> None:
    with listening(place) as listener:
        begin = listener.until_marked()
        message = place.say("hello")
        [event] = listener.take(1)

    assert listener.status == 200
    assert listener.headers["content-type"].startswith("text/event-stream")
    assert begin == event.id - 1
    assert (event.name, event.data["type"]) == ("message.queued", "message.queued")
    assert (event.data["seq"], event.data["workspace"]) == (event.id, place.shop.id)
    assert event.data["payload"]["message_id"] == message
    assert "hello" not in json.dumps(event.data)  # that something changed, not what


def test_who_comes_back_is_told_what_it_missed_by_its_own_number(place: Place) -> None:
    with listening(place) as listener:
        listener.until_marked()
        place.say("first")
        listener.take(1)
    missed = [place.say(f"missed {number}") for number in range(3)]
    with listening(place, "?after=1", Last_Event_ID=str(listener.last_id)) as again:
        events = again.take(3)

    assert [event.data["payload"]["message_id"] for event in events] == missed
    assert [event.id for event in events] == [(listener.last_id or 0) + n for n in (1, 2, 3)]


def test_a_number_beyond_the_newest_counts_as_the_newest(place: Place) -> None:
    newest = place.last()
    with listening(place, f"?after={newest + 1000}") as listener:
        assert listener.until_marked() == newest
        place.say("next")
        assert listener.take(1)[0].id == newest + 1


def test_a_workspace_is_named_by_its_name_too_and_hears_nothing_of_others(place: Place) -> None:
    with listening(place, path="/api/workspaces/shop/events") as listener:
        listener.until_marked()
        place.say("not for you", place.stranger)
        other = place.last()
        assert listener.until_marked() == other  # so that it comes back behind that
        place.say("for you")
        [event] = listener.take(1)

    assert event.data["workspace"] == place.shop.id
    assert event.id == other + 1


def test_ten_thousand_events_come_in_order_and_each_once(place: Place) -> None:
    with listening(place, "?after=0") as listener:
        events = listener.take(MANY + 2)

    numbers = [e.data["payload"]["number"] for e in events if "number" in e.data["payload"]]
    assert numbers == list(range(1, MANY + 1))
    assert [event.id for event in events] == sorted({event.id for event in events})


def test_a_slow_reader_gets_everything_and_holds_up_nobody(place: Place) -> None:
    """It reads nothing, with a small buffer, while others are told; then it reads it all."""
    token = place.token()["text"]
    with listening(place, "?after=0", token=token, buffer=4096) as slow:
        with listening(place) as quick:
            quick.until_marked()
            said = [place.say(f"meanwhile {number}") for number in range(50)]
            heard = [event.data["payload"]["message_id"] for event in quick.take(50)]
        newest = place.last()
        ids = []
        for event in slow.events():
            ids.append(event.id)
            if event.id == newest:
                break

    assert heard == said
    assert ids[-50:] == list(range(newest - 49, newest + 1))
    assert len(ids) > MANY
    assert ids == sorted(set(ids))


def test_a_page_and_a_token_may_listen_and_a_token_only_to_its_own(place: Place) -> None:
    own, foreign = place.token(), place.token("far")
    with listening(place, token=own["text"]) as mine:
        mine.until_marked()
    with listening(place, Cookie=place.worker.cookie()) as page:
        page.until_marked()
    with listening(place, f"?token={own['text']}", token="", Cookie="a=b") as shown:
        shown.until_marked()
    with listening(place, token=foreign["text"]) as other:
        assert other.status == 403
        assert other.headers["content-type"] == "application/problem+json"
    with listening(place, Cookie="a=b") as nobody:
        assert nobody.status == 401


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ("?after=x", {}, 400),
        ("?after=-1", {}, 400),
        ("", {"Last_Event_ID": "x"}, 400),
        ("", {"Last_Event_ID": "9" * 30}, 400),
    ],
)
def test_what_is_no_number_is_refused(
    place: Place, query: str, headers: dict[str, str], status: int
) -> None:
    with listening(place, query, path=None, token=None, buffer=None, **headers) as listener:
        assert listener.status == status


def test_only_the_head_of_a_stream_is_answered_at_once(place: Place) -> None:
    answer = place.worker.ask("HEAD", place.path)

    assert (answer.status, answer.content) == (200, b"")
    assert answer.headers["content-type"].startswith("text/event-stream")


def test_a_token_cannot_listen_without_end(place: Place) -> None:
    token = place.token()["text"]
    with ExitStack() as stack:
        for _ in range(MOST):
            stack.enter_context(listening(place, token=token)).until_marked()
        with listening(place, token=token) as one_too_many:
            assert one_too_many.status == 409
    # Those are gone as soon as the worker sees it.
    deadline = time.monotonic() + PATIENCE
    while True:
        with listening(place, token=token) as again:
            if again.status == 200:
                break
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_client_that_connects_is_told_of(place: Place) -> None:
    token = place.token()
    with listening(place) as listener:
        listener.until_marked()
        params = {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "editor", "version": "7"},
        }
        body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
        headers = {"Authorization": f"Bearer {token['text']}"}
        answer = place.worker.ask("POST", "/mcp/shop", body, port=place.port, headers=headers)
        assert answer.status == 200, answer
        [event] = listener.take(1)

    assert event.name == "agent.connected"
    assert event.data["payload"]["client"] == "editor 7"
    assert event.data["payload"]["token_id"] == token["id"]


def test_an_unknown_workspace_is_not_found(place: Place) -> None:
    answer = place.worker.ask("GET", "/api/workspaces/none/events")

    assert (answer.status, answer.json["code"]) == (404, "not_found")


@pytest.mark.parametrize("end", ["revoke", "rotate", "expire"])
def test_the_end_of_a_token_cuts_its_streams_within_a_second_and_no_others(
    place: Place, end: str
) -> None:
    token, other = place.token(), place.token()
    with listening(place, token=other["text"]) as staying:
        staying.until_marked()
        if end == "expire":
            soon = stamp(datetime.now(UTC) + timedelta(seconds=1.5))
            with closing(sqlite3.connect(place.worker.settings.database)) as database, database:
                database.execute(
                    "UPDATE tokens SET expires_at = ? WHERE id = ?", (soon, token["id"])
                )
        with listening(place, token=token["text"]) as listener:
            listener.until_marked()
            if end == "revoke":
                place.worker.ask("DELETE", f"/api/tokens/{token['id']}")
            elif end == "rotate":
                place.worker.ask("POST", f"/api/tokens/{token['id']}/rotate", {})
            assert listener.ended() < CUT + (1.5 if end == "expire" else 0)
        with listening(place, token=token["text"]) as again:
            assert again.status == 401
        place.say("still here")
        assert [e.name for e in staying.take(1 if end == "expire" else 2)][-1] == "message.queued"


def test_a_token_that_ends_while_its_client_reads_nothing_is_sent_nothing_more(
    place: Place,
) -> None:
    token = place.token()
    with listening(place, "?after=0", token=token["text"], buffer=4096) as slow:
        place.worker.ask("DELETE", f"/api/tokens/{token['id']}")
        newest = place.last()
        ids = [event.id for event in slow.events()]

    assert ids == sorted(set(ids))
    assert ids[-1] < newest  # it never came to an end that it was not to see


def test_what_was_pruned_is_said_and_the_rest_follows(place: Place) -> None:
    with closing(sqlite3.connect(place.worker.settings.database)) as database, database:
        database.execute("DELETE FROM events WHERE seq <= 100")
    with listening(place, Last_Event_ID="7") as listener:
        lost, following = listener.take(2)

    assert (lost.name, lost.id) == ("events.lost", 100)
    assert lost.data["payload"] == {"from": 8, "to": 100}
    assert following.id == 101


def test_a_removed_workspace_says_so_and_hangs_up(place: Place) -> None:
    async def make(store: Store) -> Workspace:
        return await store.workspace_for("/short", "short")

    made = place.worker.seed(make)
    with listening(place, path=f"/api/workspaces/{made.id}/events") as listener:
        listener.until_marked()
        assert place.worker.ask("DELETE", "/api/workspaces/short").status == 200
        names = [event.name for event in listener.events()]

    assert names == ["workspace.removed"]
    assert place.worker.ask("GET", f"/api/workspaces/{made.id}/events").status == 404


def test_a_worker_that_ends_hangs_up_at_once_and_the_next_goes_on_from_there(
    place: Place,
) -> None:
    with listening(place) as listener, listening(place, "?after=0"):  # the second reads nothing
        last = listener.until_marked()
        seconds = place.worker.end()
        listener.ended()
    place.worker.start()
    message = place.say("in the next life")
    with listening(place, Last_Event_ID=str(last)) as again:
        [event] = again.take(1)

    assert seconds < 5
    assert "ASGI" not in place.worker.log
    assert event.data["payload"]["message_id"] == message
