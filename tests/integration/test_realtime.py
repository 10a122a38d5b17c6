"""Socket.IO for a program with a workspace's token: what it hears, says and missed; its end."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
import socketio

from claudedo.model import Workspace, stamp
from claudedo_worker.listeners import MOST
from claudedo_worker.realtime import STRANGERS
from claudedo_worker.store import Store
from tests.support.eventful import Place, eventful
from tests.support.own_worker import PATIENCE

# The client does not read the answer to the poll that tells it that it was hung up on.
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Unclosed connection:ResourceWarning"),
]

MANY = 3_000
OPENING = "/socket.io/?EIO=4&transport=polling"
CUT = 1.0  # seconds within which who may listen no more is cut off

FILLING = 1500
"""Bytes in each event: nine megabytes in all, more than the system keeps for who does not read."""


@dataclass
class Ears:
    """A connected client, and what it heard."""

    client: socketio.AsyncClient
    events: list[dict[str, Any]] = field(default_factory=list)
    badges: list[tuple[Any, ...]] = field(default_factory=list)
    refused: list[Any] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, count: int) -> list[dict[str, Any]]:
        """The first events, as many as are wanted."""
        async with asyncio.timeout(PATIENCE):
            while len(self.events) < count:
                await asyncio.sleep(0.01)
        return self.events[:count]

    async def send(self, *given: Any) -> dict[str, Any]:
        return dict(await self.client.call("SendTaskMessage", given, timeout=PATIENCE))


@asynccontextmanager
async def connected(
    place: Place, transports: tuple[str, ...] = ("polling", "websocket"), **auth: Any
) -> AsyncIterator[Ears]:
    """A client with this `auth`; raises `ConnectionError` if it is refused."""
    session = aiohttp.ClientSession()  # its own would stay open when the worker hangs up
    client = socketio.AsyncClient(reconnection=False, http_session=session)
    ears = Ears(client)
    client.on("event", ears.events.append)
    client.on("TaskMessageQueued", lambda *given: ears.badges.append(("queued", *given)))
    client.on("TaskMessageDelivered", lambda *given: ears.badges.append(("delivered", *given)))
    client.on("connect_error", ears.refused.append)
    client.on("disconnect", lambda *reason: ears.ended.set())
    url = f"http://127.0.0.1:{place.port}"
    try:
        await client.connect(
            url, auth=auth, transports=list(transports), wait_timeout=int(PATIENCE)
        )
    except socketio.exceptions.ConnectionError:
        await client.disconnect()
    try:
        yield ears
    finally:
        await client.disconnect()
        await session.close()
        gc.collect()  # what is left of it warns here, not in another test


async def refusal(place: Place, **auth: Any) -> dict[str, Any]:
    """Why a client with this `auth` is not let in."""
    async with connected(place, ("websocket",), **auth) as ears:
        assert ears.refused, "it was let in"
        return dict(ears.refused[0]["data"])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with eventful(tmp_path_factory.mktemp("realtime"), MANY, filling=FILLING) as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def silent(place: Place) -> str:
    """A connection of somebody who says nothing, from the beginning."""
    answer = place.worker.ask("GET", OPENING, port=place.port)
    return str(json.loads(answer.content[1:])["sid"])


async def test_a_token_hears_of_its_workspace_and_of_no_other(place: Place) -> None:
    token = place.token()
    async with connected(place, token=token["text"], workspace="shop") as ears:
        place.say("not for you", place.stranger)
        said = place.say("for you")
        [event] = await ears.until(1)

    assert (event["type"], event["workspace"]) == ("message.queued", place.shop.id)
    assert event["payload"]["message_id"] == said
    assert ears.badges == [("queued", place.task.id, event["payload"]["pending"])]


async def test_the_page_hears_of_all_workspaces_or_of_the_one_that_it_names(place: Place) -> None:
    client = socketio.AsyncClient(reconnection=False)
    heard: list[dict[str, Any]] = []
    client.on("event", heard.append)
    url, cookie = f"http://127.0.0.1:{place.port}", {"Cookie": place.worker.cookie()}
    async with connected(place, token=place.token()["text"]):  # whoever else listens
        before = place.last()
        place.say("here")
        place.say("there", place.stranger)
        await client.connect(url, headers=cookie, auth={"after": before, "workspace": "far"})
        place.say("there again", place.stranger)
        async with asyncio.timeout(PATIENCE):
            while len(heard) < 2:
                await asyncio.sleep(0.01)
        await client.disconnect()

    assert [(e["seq"], e["workspace"]) for e in heard] == [
        (before + 2, place.far.id),
        (before + 3, place.far.id),
    ]


async def test_what_a_client_says_is_the_tokens_is_stored_once_and_cannot_halt(
    place: Place,
) -> None:
    token = place.token()
    async with connected(place, token=token["text"]) as ears:
        first = await ears.send(place.task.id, "hello", {"key": "k", "priority": "high"})
        again = await ears.send(place.task.id, "hello", {"key": "k", "priority": "high"})
        other = await ears.send(place.task.id, "another", {"key": "k"})
        halt = await ears.send(place.task.id, "stop", {"priority": "halt"})
        far = await ears.send(place.stranger.id, "hello")
        file = await ears.send(place.task.id, "look", {"attachments": ["f_none"]})
    thread = place.worker.ask("GET", f"/api/tasks/{place.task.id}/messages").json
    [stored] = [message for message in thread if message["id"] == first["id"]]

    assert (stored["sender"], stored["sender_name"]) == (f"token:{token['id']}", "listener")
    assert first["receipts"]["stored_at"]
    assert again["id"] == first["id"]
    codes = [answer["error"]["code"] for answer in (other, halt, far, file)]
    assert codes == ["conflict", "forbidden", "not_found", "not_found"]


async def test_who_comes_back_is_caught_up_in_order_and_each_once(place: Place) -> None:
    token = place.token()
    async with connected(place, token=token["text"], after=0) as ears:
        newest = place.last()
        said = place.say("meanwhile")
        async with asyncio.timeout(PATIENCE):
            while not ears.events or ears.events[-1]["seq"] <= newest:
                await asyncio.sleep(0.01)

    numbers = [e["payload"]["number"] for e in ears.events if "number" in e["payload"]]
    assert numbers == list(range(1, MANY + 1))
    assert ears.events[-1]["payload"]["message_id"] == said
    assert [e["seq"] for e in ears.events] == sorted({e["seq"] for e in ears.events})
    assert {e["workspace"] for e in ears.events} == {place.shop.id}


async def test_a_client_that_only_polls_is_caught_up_too(place: Place) -> None:
    after = place.last()
    said = [place.say(f"missed {number}") for number in range(40)]
    token = place.token()["text"]
    async with connected(place, ("polling",), token=token, after=after) as ears:
        events = await ears.until(40)

    assert [event["payload"]["message_id"] for event in events] == said


class Deaf:
    """A WebSocket that is let in with a token, and reads nothing more."""

    def __init__(self, place: Place, token: str) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(("127.0.0.1", place.port))
        lines = [
            "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1",
            f"Host: 127.0.0.1:{place.port}",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        ]
        self.socket.sendall(("\r\n".join([*lines, "", ""])).encode())
        self.read = self.socket.recv(4096)
        words = ("40" + json.dumps({"token": token, "after": 0})).encode()
        frame = bytes([0x81, 0x80 | len(words), 0, 0, 0, 0]) + words
        self.socket.sendall(frame)

    def rest(self) -> tuple[bytes, float]:
        """What comes until it is hung up on, and the seconds that took."""
        began, pieces = time.monotonic(), [self.read]
        try:
            while piece := self.socket.recv(65536):
                pieces.append(piece)
        except ConnectionResetError:
            pass
        return b"".join(pieces), time.monotonic() - began


async def test_a_token_that_ends_while_its_client_reads_nothing_is_hung_up_on(
    place: Place,
) -> None:
    token = place.token()
    deaf = Deaf(place, token["text"])
    with closing(deaf.socket):
        async with connected(place, token=place.token()["text"]) as quick:
            said = [place.say(f"meanwhile {number}") for number in range(10)]
            heard = await quick.until(10)
        place.worker.ask("DELETE", f"/api/tokens/{token['id']}")
        await asyncio.sleep(CUT)
        read, seconds = deaf.rest()

    assert [event["payload"]["message_id"] for event in heard] == said
    assert seconds < CUT
    assert b'"number":1,' in read
    assert f'"number":{MANY},'.encode() not in read  # it never came to what it was not to see


async def test_what_was_pruned_is_said_and_the_rest_follows(place: Place) -> None:
    token = place.token()
    first = place.last() + 1
    said = [place.say("forgotten"), place.say("kept")]
    place.change("DELETE FROM events WHERE seq <= ?", first)
    async with connected(place, token=token["text"], after=7) as ears:
        lost, following = await ears.until(2)

    assert (lost["type"], lost["seq"]) == ("events.lost", first)
    assert lost["payload"] == {"from": 8, "to": first}
    assert (following["seq"], following["payload"]["message_id"]) == (first + 1, said[1])


async def test_a_number_beyond_the_newest_counts_as_the_newest(place: Place) -> None:
    async with connected(place, token=place.token()["text"], after=2**70) as ears:
        said = place.say("next")
        [event] = await ears.until(1)

    assert event["payload"]["message_id"] == said


@pytest.mark.parametrize("transports", [("websocket",), ("polling",)], ids=["websocket", "polling"])
@pytest.mark.parametrize("end", ["revoke", "rotate", "expire"])
async def test_the_end_of_a_token_disconnects_within_a_second_and_nobody_else(
    place: Place, end: str, transports: tuple[str, ...]
) -> None:
    token, other = place.token(), place.token()
    async with (
        connected(place, token=other["text"]) as staying,
        connected(place, transports, token=token["text"]) as ears,
    ):
        if end == "expire":
            # As if it had been so since the client connected; the worker looks when it hears of it.
            soon = stamp(datetime.now(UTC) - timedelta(seconds=1))
            place.change("UPDATE tokens SET expires_at = ? WHERE id = ?", soon, token["id"])
            answer = await ears.send(place.task.id, "too late")
            assert answer["error"]["code"] == "unauthorized"
            place.token()  # something is told of tokens
        elif end == "revoke":
            place.worker.ask("DELETE", f"/api/tokens/{token['id']}")
        else:
            place.worker.ask("POST", f"/api/tokens/{token['id']}/rotate", {})
        async with asyncio.timeout(CUT):
            await ears.ended.wait()
        why = await refusal(place, token=token["text"])
        said = place.say("still here")
        async with asyncio.timeout(PATIENCE):
            while not staying.events or staying.events[-1]["payload"].get("message_id") != said:
                await asyncio.sleep(0.01)

    assert why["code"] == "unauthorized"
    words = {"revoke": "revoked", "rotate": "rotated", "expire": "expired"}
    assert words[end] in why["detail"]


async def test_a_token_that_expires_disconnects_by_itself(place: Place) -> None:
    token = place.token()
    soon = stamp(datetime.now(UTC) + timedelta(seconds=2))
    place.change("UPDATE tokens SET expires_at = ? WHERE id = ?", soon, token["id"])
    async with connected(place, ("websocket",), token=token["text"]) as ears:
        assert not ears.refused
        async with asyncio.timeout(2 + CUT):
            await ears.ended.wait()


@pytest.mark.parametrize(
    ("auth", "code"),
    [
        ({"token": "{token}", "workspace": "far"}, "forbidden"),
        ({"token": "{token}", "workspace": "none"}, "not_found"),
        ({"token": "{token}", "after": -1}, "usage"),
        ({"token": "{token}", "after": "7"}, "usage"),
        ({"token": "{token}", "after": True}, "usage"),
        ({"token": "{token}", "workspace": 7}, "usage"),
        ({"token": "{token}", "colour": "red"}, "usage"),
        ({"token": 7}, "usage"),
        ({"token": ""}, "unauthorized"),
        ({"token": "\ud800"}, "unauthorized"),
        ({"workspace": "shop"}, "unauthorized"),
    ],
    ids=str,
)
async def test_what_is_wrong_is_refused_with_a_code_and_a_sentence(
    place: Place, auth: dict[str, Any], code: str
) -> None:
    text = place.token()["text"]
    given = {key: text if value == "{token}" else value for key, value in auth.items()}
    why = await refusal(place, **given)

    assert why["code"] == code
    assert why["detail"].endswith(".")


async def test_a_token_cannot_connect_without_end(place: Place) -> None:
    token = place.token()["text"]
    with ExitStack() as stack:
        for _ in range(MOST):
            deaf = Deaf(place, token)
            stack.callback(deaf.socket.close)
            while b'40{"sid"' not in deaf.read:
                deaf.read += deaf.socket.recv(65536)
        assert (await refusal(place, token=token))["code"] == "refused"


async def test_who_shows_nothing_is_hung_up_on_after_a_while(place: Place, silent: str) -> None:
    """It was there when the first test began."""
    path = f"{OPENING}&sid={silent}"
    for _ in range(2):  # the first may wait for it
        answer = place.worker.ask("GET", path, port=place.port)

    assert answer.status == 400


async def test_a_removed_workspace_says_so_and_hangs_up(place: Place) -> None:
    async def make(store: Store) -> Workspace:
        return await store.workspace_for("/short", "short")

    await asyncio.to_thread(place.worker.seed, make)
    async with connected(place, token=place.token("short")["text"]) as ears:
        assert place.worker.ask("DELETE", "/api/workspaces/short").status == 200
        async with asyncio.timeout(PATIENCE):
            await ears.ended.wait()

    assert [event["type"] for event in ears.events][-1:] in ([], ["workspace.removed"])


async def test_a_worker_that_ends_hangs_up_at_once_without_a_word_in_its_log(
    place: Place,
) -> None:
    token = place.token()["text"]
    with ExitStack() as stack:
        stack.callback(Deaf(place, token).socket.close)
        async with (
            connected(place, ("polling",), token=token) as polling,
            connected(place, token=token) as ears,
        ):
            last = place.last()
            seconds = place.worker.end()
            async with asyncio.timeout(PATIENCE):
                await ears.ended.wait()
                await polling.ended.wait()
    place.worker.start()
    said = place.say("in the next life")
    async with connected(place, token=token, after=last) as again:
        [event] = await again.until(1)

    assert seconds < 5
    assert event["payload"]["message_id"] == said
    for word in ("ASGI", "Traceback", "uvicorn"):
        assert word not in place.worker.log


async def test_strangers_are_few_and_do_not_keep_the_page_out(place: Place) -> None:
    statuses = [
        place.worker.ask("GET", OPENING, port=place.port).status for _ in range(STRANGERS + 1)
    ]
    headers = {"Cookie": place.worker.cookie()}
    page = place.worker.ask("GET", OPENING, port=place.port, headers=headers)

    assert (statuses[0], statuses[-1]) == (200, 401)
    assert page.status == 200
