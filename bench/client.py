"""Our side of every ratio: the same kind of client as the other side's, a Python program, against the web tier.

    python -m bench.client upload URL FILE | download URL      prints the seconds of the call alone, then the answer

The token is in DEPOT_TOKEN. A process of its own, so that it shares nothing with what is measured.
"""

from __future__ import annotations

import os
import sys
import time

import requests

MIB = 1024 * 1024


class _Blocks:
    """A file in blocks of 1 MiB (http.client by itself sends 16 KiB at a time)."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 -- closed with the process

    def __len__(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def __iter__(self) -> _Blocks:
        return self

    def __next__(self) -> bytes:
        raise StopIteration

    def read(self, size: int = -1) -> bytes:
        return self._file.read(MIB)


def main() -> None:
    session = requests.Session()
    session.trust_env = False
    session.headers["Authorization"] = f"Bearer {os.environ['DEPOT_TOKEN']}"
    url = sys.argv[2]
    session.get(url.split("/files")[0] + "/").raise_for_status()  # the connection is not what is measured
    begun = time.perf_counter()
    if sys.argv[1] == "upload":
        answer = session.put(url, data=_Blocks(sys.argv[3]))
        text = answer.text
    else:
        answer = session.get(url, stream=True)
        while answer.raw.read(MIB):
            pass
        text = ""
    seconds = time.perf_counter() - begun
    answer.raise_for_status()
    print(seconds)
    print(text)


if __name__ == "__main__":
    main()
