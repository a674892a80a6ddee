"""Words that stand for PHI: planted where names, bodies and secrets go, then sought where they must not turn up.

    canaries = Canaries()
    client.upload(canaries.body(), f"{canaries.word('name')}.csv")
    assert canaries.found_in(log) == []

A word is sought in any case and in the codings that a careless log line could give it.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import Mapping
from typing import Any

import requests

# Answers that must carry them back to who sent them. Everything else in a header is a leak.
CARRIERS = frozenset({"content-disposition", "upload-metadata", "upload-concat", "content-type"})
CARRIED = ("x-depot-meta-",)


class Canaries:
    """The words of one test. `words` says what each was planted as."""

    def __init__(self) -> None:
        self.words: dict[str, str] = {}
        self.answers = 0
        self._forms: dict[str, re.Pattern[bytes]] = {}

    def word(self, what: str) -> str:
        """A new one, of letters and digits that survive every normalisation."""
        made = f"cnry{secrets.token_hex(10)}"
        self.words[made] = what
        self._forms[made] = re.compile(b"|".join(map(re.escape, _forms(made))), re.IGNORECASE)
        return made

    def body(self, what: str = "body", size: int = 2000) -> bytes:
        """Bytes that begin and end with one."""
        made = self.word(what).encode()
        return made + b"," * (size - 2 * len(made)) + made

    def found_in(self, text: str | bytes) -> list[str]:
        """What of the planted is in it."""
        data = text.encode(errors="surrogateescape") if isinstance(text, str) else text
        return [what for made, what in self.words.items() if self._forms[made].search(data)]

    def check(self, answer: requests.Response, *statuses: int) -> requests.Response:
        """An answer: none in its headers and, when it is an error, none in its body. `statuses`: what it may be."""
        self.answers += 1
        assert not statuses or answer.status_code in statuses, (answer.status_code, answer.text)
        told = self.in_headers(answer.headers)
        if answer.status_code >= 400:
            told += self.found_in(answer.content)
        assert told == [], f"{answer.request.method} {answer.status_code}: {told}"
        return answer

    def in_headers(self, headers: Mapping[str, Any]) -> list[str]:
        kept = {
            name: value
            for name, value in headers.items()
            if name.lower() not in CARRIERS and not name.lower().startswith(CARRIED)
        }
        return self.found_in(json.dumps(kept))


def _forms(word: str) -> list[bytes]:
    """As it is, in hexadecimal, and the part of its base64 that does not depend on what stands around it."""
    raw = word.encode()
    coded = [base64.b64encode(b"\0" * shift + raw)[-(-shift * 8 // 6) + 1 : -4] for shift in range(3)]
    return [raw, raw.hex().encode(), *coded, *(form.replace(b"+", b"-").replace(b"/", b"_") for form in coded)]
