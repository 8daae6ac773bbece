"""A Docker engine's API behind rules: training containers start beside the stack, and nobody becomes root by it.

One request a connection. What ``docker_rules.py`` allows is passed on, written anew; the rest is answered with 403 and
the engine's own form of an error. When the engine cannot be reached, the connection just ends: to a client that is the
same as an engine that is restarted. Standard library only; Python 3.11 or later.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from docker_rules import LABEL, Asked, Missing, Policy, Refused, classify, read_json

MAX_JSON = 1024 * 1024
"""Bytes of a body that is read."""
PATIENCE = 30.0
"""Seconds for a request's head, and for an answer of the engine to a question of the proxy's own."""
_PIECE = 64 * 1024
_PASSED = ("accept", "accept-encoding", "user-agent", "x-registry-auth")
_REQUEST = re.compile(rb"(GET|HEAD|POST|PUT|DELETE) (/[!-~]*) HTTP/1\.1")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t -~]*)")


log = logging.getLogger("docker-proxy")


class Malformed(Exception):
    """A request that two programs could read differently."""


@dataclass
class Request:
    """One request as it came, its body unread."""

    method: str
    target: str
    headers: Mapping[str, str]
    reader: asyncio.StreamReader
    body_read: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def has_body(self) -> bool:
        return "transfer-encoding" in self.headers or self.headers.get("content-length", "0") != "0"

    async def body(self) -> AsyncIterator[bytes]:
        """The body in pieces, without its framing."""
        if "transfer-encoding" in self.headers:
            async for piece in self._chunks():
                yield piece
        else:
            async for piece in self._exactly(int(self.headers.get("content-length", "0"))):
                yield piece
        self.body_read.set()

    async def _chunks(self) -> AsyncIterator[bytes]:
        while True:
            line = await self.reader.readuntil(b"\r\n")
            if not re.fullmatch(rb"[0-9a-fA-F]{1,15}\r\n", line):
                raise Malformed("a chunk's size is not a number")
            async for piece in self._exactly(size := int(line, 16)):
                yield piece
            if await self.reader.readexactly(2) != b"\r\n":
                raise Malformed("a chunk is longer than it says, or has trailers")
            if not size:
                return

    async def _exactly(self, left: int) -> AsyncIterator[bytes]:
        while left:
            piece = await self.reader.read(min(left, _PIECE))
            if not piece:
                raise ConnectionError("the client left")
            left -= len(piece)
            yield piece

    async def json(self) -> dict[str, Any]:
        """The body as one JSON object; ``Refused`` for anything else, and for a long one."""
        data = bytearray()
        async for piece in self.body():
            data += piece
            if len(data) > MAX_JSON:
                raise Refused(f"the body has more than {MAX_JSON} bytes")
        return read_json(bytes(data))


async def read_request(reader: asyncio.StreamReader) -> Request:
    """The head of a request. Raises ``Malformed``."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as error:
        raise Malformed("the head is too long") from error
    first, *lines = head[:-4].split(b"\r\n")
    asked = _REQUEST.fullmatch(first)
    if not asked:
        raise Malformed("not a request of HTTP/1.1")
    headers: dict[str, str] = {}
    for line in lines:
        found = _HEADER.fullmatch(line)
        name = found[1].decode().lower() if found else ""
        if not found or name in headers:
            raise Malformed("a header cannot be read, or is given twice")
        headers[name] = found[2].decode().strip()
    length, coding = headers.get("content-length"), headers.get("transfer-encoding")
    if (length and coding) or not re.fullmatch(r"[0-9]{1,15}", length or "0") or coding not in (None, "chunked"):
        raise Malformed("the length of the body is ambiguous")
    return Request(asked[1].decode(), asked[2].decode(), headers, reader)


class Proxy:
    """Stands between clients and the engine at the Unix socket ``engine``."""

    def __init__(self, engine: str, policy: Policy) -> None:
        self.engine = engine
        self.policy = policy
        # The loop knows a connection only while it reads from it: one whose client has nothing more to say would be
        # collected as garbage, with the answer that it waits for.
        self._serving: set[asyncio.Task[None] | None] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, and close."""
        self._serving.add(task := asyncio.current_task())
        try:
            request = await asyncio.wait_for(read_request(reader), PATIENCE)
            try:
                await self._answer(request, writer)
            except Refused as reason:
                log.warning("refused: %s %a: %s", request.method, request.target[:200], reason)
                await _say(writer, HTTPStatus.FORBIDDEN, f"kaizen's Docker proxy: {reason}")
                await _drain(request)
            except Missing as reason:
                await _say(writer, HTTPStatus.NOT_FOUND, str(reason))
                await _drain(request)
        except Malformed as reason:
            with suppress(OSError):
                await _say(writer, HTTPStatus.BAD_REQUEST, f"kaizen's Docker proxy: {reason}")
        except (OSError, EOFError, TimeoutError):
            pass
        finally:
            writer.close()
            self._serving.discard(task)

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        asked = classify(request.method, request.target)
        content = None
        if asked.route.body:
            checked = asked.route.body(await request.json(), self.policy)
            content = json.dumps(checked.content).encode()
            for volume in checked.volumes:
                # The engine would make one that is not there, without a label.
                await self._own("volume", volume)
        elif request.has_body and not asked.route.stream:
            raise Refused(f"{request.method} {asked.path} takes no body")
        target = asked.target(await self._own(asked.route.owner, asked.name)) if asked.route.owner else asked.target()
        await self._pass_on(request, asked, target, content, writer)

    async def _own(self, kind: str, name: str) -> str:
        """The identity of a container, volume or exec that carries the label. Raises ``Refused`` or ``Missing``.

        A container is known by its id from here on: its name may become another's.
        """
        where = {"container": "/containers/{}/json", "volume": "/volumes/{}", "exec": "/exec/{}/json"}[kind]
        found = await asyncio.wait_for(self._ask(where.format(name)), PATIENCE)
        if not found:
            raise Missing(f"No such {kind}: {name}")
        if kind == "exec":
            await self._own("container", str(found["ContainerID"]))
            return str(found["ID"])
        labels = found.get("Labels") if kind == "volume" else found["Config"].get("Labels")
        if not (labels or {}).get(LABEL):
            raise Refused(f"{kind} {name} has no label {LABEL}: it is not Kaizen's")
        return str(found["Name"] if kind == "volume" else found["Id"])

    async def _ask(self, path: str) -> dict[str, Any]:
        """What the engine says of one thing; empty if there is none."""
        reader, writer = await asyncio.open_unix_connection(self.engine)
        try:
            writer.write(f"GET {path} HTTP/1.0\r\nHost: docker\r\n\r\n".encode())
            head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
        finally:
            writer.close()
        status = head.split(b" ", 2)[1:2]
        if status == [b"404"]:
            return {}
        if status != [b"200"]:
            raise Refused(f"the engine does not say whose {path} is")
        found: dict[str, Any] = json.loads(body)
        return found

    async def _pass_on(
        self, request: Request, asked: Asked, target: str, content: bytes | None, writer: asyncio.StreamWriter
    ) -> None:
        engine_reader, engine = await asyncio.open_unix_connection(self.engine)
        switched = asyncio.Event()
        upgrade = asked.route.upgrade and request.headers.get("upgrade", "").lower() == "tcp"
        engine.write(_head(request, asked, target, content, upgrade=upgrade))

        async def up() -> None:
            await _send_body(request, engine, content, stream=asked.route.stream)
            if upgrade:
                await switched.wait()
                await _copy(request.reader, engine)
                engine.write_eof()
            else:
                # Nothing more comes but the end of a client that has lost interest.
                await request.reader.read(1)

        async def down() -> None:
            head = await engine_reader.readuntil(b"\r\n\r\n")
            writer.write(head)
            if head.startswith(b"HTTP/1.1 101 "):
                switched.set()
            await _copy(engine_reader, writer)

        sending, answering = asyncio.create_task(up()), asyncio.create_task(down())
        try:
            await asyncio.wait({sending, answering}, return_when=asyncio.FIRST_COMPLETED)
            if switched.is_set():
                # One side has nothing more to say; the other may.
                await answering
            elif answering.done() and not request.body_read.is_set():
                # A client that is still sending would not read the answer.
                await asyncio.wait({sending}, timeout=PATIENCE)
        finally:
            for task in (sending, answering):
                task.cancel()
            await asyncio.gather(sending, answering, return_exceptions=True)
            engine.close()


def _head(request: Request, asked: Asked, target: str, content: bytes | None, *, upgrade: bool) -> bytes:
    headers = {name: request.headers[name] for name in _PASSED if name in request.headers}
    # "close" holds for an answer; a connection that has become a stream ends with the stream.
    headers |= {"host": "docker", "connection": "Upgrade, close" if upgrade else "close"}
    headers |= {"upgrade": "tcp"} if upgrade else {}
    if content is not None:
        headers |= {"content-type": "application/json", "content-length": str(len(content))}
    elif asked.route.stream:
        headers |= {"content-type": "application/x-tar", "transfer-encoding": "chunked"}
    elif request.method == "POST":
        headers |= {"content-length": "0"}
    lines = [f"{request.method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


async def _send_body(request: Request, engine: asyncio.StreamWriter, content: bytes | None, *, stream: bool) -> None:
    """Send a body to the engine; one that the engine does not want to its end is read to its end all the same."""
    if content is not None:
        engine.write(content)
    async for piece in request.body() if stream else _nothing():
        with suppress(OSError):
            if not engine.is_closing():
                engine.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                await engine.drain()
    request.body_read.set()
    with suppress(OSError):
        engine.write(b"0\r\n\r\n" if stream else b"")
        await engine.drain()


async def _nothing() -> AsyncIterator[bytes]:
    for _ in ():
        yield b""


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while piece := await source.read(_PIECE):
        target.write(piece)
        await target.drain()
    await target.drain()


async def _say(writer: asyncio.StreamWriter, status: HTTPStatus, message: str) -> None:
    body = json.dumps({"message": message}).encode() + b"\n"
    head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    writer.write(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    await writer.drain()


async def _drain(request: Request) -> None:
    """Take what a refused client is still sending: before that it does not read why."""
    if request.has_body and not request.body_read.is_set():
        with suppress(OSError, EOFError, Malformed, TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while await request.reader.read(_PIECE):
                    pass


async def main(listen: str, engine: str, policy: Policy) -> None:
    """Serve at ``listen`` until the process is ended."""
    host, _, port = listen.rpartition(":")
    server = await asyncio.start_server(Proxy(engine, policy).serve, host, int(port))
    addresses = ", ".join(f"{name[0]}:{name[1]}" for name in (s.getsockname() for s in server.sockets))
    log.info("listening on %s, for the engine at %s; %s", addresses, engine, policy)
    async with server:
        await server.serve_forever()


def _listed(variable: str) -> tuple[str, ...]:
    return tuple(filter(None, os.environ.get(variable, "").split(",")))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:2375", metavar="HOST:PORT")
    parser.add_argument("--engine", default="/var/run/docker.sock", metavar="SOCKET")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    allowed = Policy(tuple(b.rstrip("/") for b in _listed("KAIZEN_DOCKER_BINDS")), _listed("KAIZEN_DOCKER_NETWORKS"))
    with suppress(KeyboardInterrupt):
        asyncio.run(main(arguments.listen, arguments.engine, allowed))
