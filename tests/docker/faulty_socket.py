"""A Unix socket in front of an engine's, which does to some requests what networks and engines do."""

from __future__ import annotations

import re
import socket
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

_REFUSAL = (
    b'HTTP/1.1 500 Injected\r\nContent-Type: application/json\r\nContent-Length: 23\r\n\r\n{"message": "injected"}'
)


class FaultySocket:
    """As a context manager; `host` is its address. `faults` are what happens next, each once, in their order.

    A fault is a pattern of "METHOD path" and what befalls the first request that matches: "cut:N" (the answer ends
    after N bytes), "lose" (the engine works, its answer is lost), "500" (the engine is not asked), "hang" (no answer).
    """

    def __init__(self, host: str) -> None:
        self._engine = host.removeprefix("unix://")
        self._folder = Path(tempfile.mkdtemp(prefix="kz-", dir="/tmp"))
        self.host = f"unix://{self._folder / 's'}"
        self.faults: list[tuple[str, str]] = []
        self.happened: list[str] = []
        self._listener = socket.socket(socket.AF_UNIX)

    def __enter__(self) -> FaultySocket:
        self._listener.bind(str(self._folder / "s"))
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        (self._folder / "s").unlink()
        self._folder.rmdir()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """Pass on bytes both ways; the first line of each request tells whether something befalls its connection."""
        engine = socket.socket(socket.AF_UNIX)
        with client, engine, suppress(OSError):
            engine.connect(self._engine)
            back: list[str] = [""]
            threading.Thread(target=self._answer, args=(engine, client, back), daemon=True).start()
            while data := client.recv(1 << 16):
                line = data.split(b"\r\n", 1)[0].decode("latin-1")
                what = self._fault(line) if " HTTP/1.1" in line else ""
                if what == "500":
                    client.sendall(_REFUSAL)
                    continue
                if what == "hang":
                    continue
                back[0] = what
                engine.sendall(data)
            engine.shutdown(socket.SHUT_WR)

    def _answer(self, engine: socket.socket, client: socket.socket, back: list[str]) -> None:
        passed = 0
        with suppress(OSError):
            while data := engine.recv(1 << 16):
                if back[0] == "lose":
                    break
                if back[0].startswith("cut:"):
                    data = data[: int(back[0][4:]) - passed]
                    passed += len(data)
                    client.sendall(data)
                    if passed >= int(back[0][4:]):
                        break
                    continue
                client.sendall(data)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    def _fault(self, line: str) -> str:
        for fault in self.faults:
            if re.search(fault[0], line):
                self.faults.remove(fault)
                self.happened.append(line)
                return fault[1]
        return ""
