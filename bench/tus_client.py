"""A tus 1.0 client that takes as little from the machine as it can: the very same for both sides of a ratio.

    python -m bench.tus_client URL FILE CHUNK_BYTES [name=value …]      prints {"seconds", "location", "patches"} as JSON

One kept-alive connection: a POST that creates the upload, with the named values as its metadata, then PATCH requests of
CHUNK_BYTES each (0: the whole file in one). Bytes go from the file to the socket by sendfile(2). `seconds` runs from the
creation to the last acknowledgement. DEPOT_TOKEN, where set, is sent along. A process of its own.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import sys
import time
from typing import BinaryIO
from urllib.parse import urlsplit

# Seconds. The last PATCH waits until the store has put the object together.
ANSWER_SECONDS = 300


class Client:
    """Ends the process with a message on any answer but the one that the protocol names."""

    def __init__(self, url: str, token: str | None) -> None:
        where = urlsplit(url)
        self._common = {"Tus-Resumable": "1.0.0", **({"Authorization": f"Bearer {token}"} if token else {})}
        self._path = where.path
        self._link = http.client.HTTPConnection(where.hostname or "", where.port, timeout=ANSWER_SECONDS)
        self._link.connect()  # the connection is not what is measured

    def _answer(self, expected: int) -> http.client.HTTPMessage:
        answer = self._link.getresponse()
        body = answer.read()
        if answer.status != expected:
            raise SystemExit(f"{answer.status} instead of {expected}: {body[:300]!r}")
        return answer.headers

    def create(self, size: int, metadata: dict[str, str]) -> str:
        """The new upload's URL, as the server gives it."""
        encoded = ",".join(f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in metadata.items())
        headers = {"Upload-Length": str(size), "Upload-Metadata": encoded, "Content-Length": "0"}
        self._link.request("POST", self._path, headers={**self._common, **headers})
        return self._answer(201)["Location"]

    def patch(self, path: str, source: BinaryIO, offset: int, length: int) -> int:
        """Send `length` bytes of `source` from `offset`; the offset that the server acknowledges."""
        self._link.putrequest("PATCH", path, skip_accept_encoding=True)
        headers = {**self._common, "Upload-Offset": offset, "Content-Length": length}
        for name, value in {**headers, "Content-Type": "application/offset+octet-stream"}.items():
            self._link.putheader(name, str(value))
        self._link.endheaders()
        self._link.sock.sendfile(source, offset, length)
        return int(self._answer(204)["Upload-Offset"])


def main() -> None:
    url, file, chunk = sys.argv[1:4]
    client = Client(url, os.environ.get("DEPOT_TOKEN"))
    metadata = dict(value.split("=", 1) for value in sys.argv[4:])
    with open(file, "rb", buffering=0) as source:
        size = os.fstat(source.fileno()).st_size
        step = int(chunk) or size
        begun, offset, patches = time.perf_counter(), 0, 0
        location = client.create(size, metadata)
        while offset < size:
            length = min(step, size - offset)
            told = client.patch(urlsplit(location).path, source, offset, length)
            if told != offset + length:
                raise SystemExit(f"acknowledged {told} bytes of {offset + length}")
            offset, patches = told, patches + 1
        seconds = time.perf_counter() - begun
    print(json.dumps({"seconds": seconds, "location": location, "patches": patches}))


if __name__ == "__main__":
    main()
