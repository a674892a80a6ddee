"""A checkpoint is signed for what goes on from the last one, and for nothing else; one of many wins."""

from __future__ import annotations

import base64
import json
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from chalicelib.errors import LedgerBroken, SettingsError
from nas_gateway.ledger import signing
from nas_gateway.ledger.checkpoints import listing
from nas_gateway.ledger.signing import SigningKey
from nas_gateway.ledger.verify import CONTEXT, GENESIS, SHARDS, Head, Signed, parse_checkpoint
from tests.support.ledger_book import KEY, OTHER_KEY, Book, check, resealed, to_line


@pytest.fixture
def book(tmp_path: Path) -> Book:
    book = Book(tmp_path / "checkpoints", random.randrange(2**32))
    book.add(60)
    return book


def kept(book: Book) -> list[bytes]:
    return list(book.store.read())


def test_a_checkpoint_names_all_heads_and_follows_the_last(book: Book) -> None:
    book.checkpoint()
    book.add(5)
    book.checkpoint()
    first, second = (parse_checkpoint(line).checkpoint for line in kept(book))
    assert (first.number, first.prev, first.key) == (1, GENESIS, KEY.public)
    assert (second.number, second.prev) == (2, first.hash())
    assert second.heads == tuple(Head(len(chain), tip) for chain, tip in zip(book.chains, book.tips, strict=True))
    assert sum(head.seq for head in first.heads) == 60
    assert check(book.export()) is None


def test_an_empty_ledger_has_checkpoints_too(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.checkpoint()
    book.checkpoint()
    assert [each["checkpoint"]["heads"] for each in listing(book.store)] == [
        [[n, 0, GENESIS] for n in range(SHARDS)]
    ] * 2
    assert check(book.export()) is None


def test_the_listing_goes_on_from_a_number(book: Book) -> None:
    for _ in range(5):
        book.checkpoint()
    assert [each["checkpoint"]["number"] for each in listing(book.store, after=2)] == [3, 4, 5]
    assert [each["checkpoint"]["number"] for each in listing(book.store, limit=2)] == [1, 2]
    assert listing(book.store, after=5) == []


def test_what_others_write_meanwhile_is_in_or_out_but_whole(book: Book) -> None:
    read = book.lines

    class Growing:
        def lines(self, shard: int, first: int, last: int = 2**53):  # type: ignore[no-untyped-def]
            yield from read(shard, first, last)
            book.add(3)

    checkpointer = book.checkpointer()
    checkpointer._events = Growing()
    assert checkpointer.run() is not None
    assert checkpointer.run() is not None
    assert check(book.export()) is None


def test_of_many_at_once_one_wins_and_none_forks(book: Book) -> None:
    for _ in range(10):
        start = threading.Barrier(8)

        def one(start: threading.Barrier = start) -> bool:
            start.wait()
            return book.checkpointer().run() is not None

        book.add(3)
        with ThreadPoolExecutor(8) as pool:
            assert any([run.result() for run in [pool.submit(one) for _ in range(8)]])  # noqa: C419 -- all are waited for
    assert check(book.export()) is None


def test_time_does_not_run_back_between_checkpoints(book: Book) -> None:
    book.checkpoint()
    book.now -= timedelta(hours=1)
    book.checkpoint()
    first, second = (parse_checkpoint(line).checkpoint for line in kept(book))
    assert second.at == first.at
    assert check(book.export()) is None


# --- what is never signed over --------------------------------------------------------------------------------------


def longest(book: Book) -> int:
    return max(range(SHARDS), key=lambda shard: len(book.chains[shard]))


def cut_off(chain: list[bytes]) -> None:
    chain.pop()


def emptied(chain: list[bytes]) -> None:
    chain.clear()


def rewritten(chain: list[bytes]) -> None:
    """The last event changed and hashed anew."""
    chain[-1] = to_line(resealed({**json.loads(chain[-1]), "user": "mallory"}))


def edited(chain: list[bytes]) -> None:
    chain[-1] = to_line({**json.loads(chain[-1]), "user": "mallory"})


Harm = Callable[[list[bytes]], None]


@pytest.mark.parametrize("harm", [cut_off, emptied, rewritten, edited])
def test_a_chain_that_does_not_go_on_from_the_last_checkpoint_is_an_alarm(
    book: Book, harm: Harm, capsys: pytest.CaptureFixture[str]
) -> None:
    book.checkpoint()
    before, shard = kept(book), longest(book)
    seq, book.tampered = len(book.chains[shard]), True
    harm(book.chains[shard])
    with pytest.raises(LedgerBroken, match=f"shard {shard}, seq {seq}:"):
        book.checkpointer().run()
    with pytest.raises(LedgerBroken):
        book.checkpointer().rotate(OTHER_KEY)
    assert kept(book) == before
    alarm = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert (alarm["level"], alarm["message"], alarm["shard"], alarm["seq"]) == ("ERROR", "ledger_broken", shard, seq)


@pytest.mark.parametrize("harm", [edited, rewritten, cut_off])
def test_new_events_are_checked_before_they_are_signed(book: Book, harm: Harm) -> None:
    book.checkpoint()
    before = kept(book)
    book.add(200)
    shard, book.tampered = longest(book), True
    chain = book.chains[shard]
    last = chain.pop()
    harm(chain)
    chain.append(last)  # something stands behind what was harmed
    with pytest.raises(LedgerBroken, match=f"shard {shard}, seq"):
        book.checkpointer().run()
    assert kept(book) == before


# --- keys -----------------------------------------------------------------------------------------------------------


def test_another_key_signs_nothing(book: Book) -> None:
    book.checkpoint()
    book.key = OTHER_KEY
    with pytest.raises(SettingsError, match="is not the key that checkpoint 1 says"):
        book.checkpointer().run()
    with pytest.raises(SettingsError):
        book.checkpointer().rotate(SigningKey.generate())
    assert len(kept(book)) == 1


def test_after_a_rotation_the_new_key_signs_and_the_old_one_does_not(book: Book) -> None:
    book.checkpoint()
    old = book.checkpointer()
    assert old.rotate(OTHER_KEY) is not None
    with pytest.raises(SettingsError):
        old.run()
    assert old.rotate(OTHER_KEY) == parse_checkpoint(kept(book)[-1]).checkpoint  # done already
    assert len(kept(book)) == 2
    book.key = OTHER_KEY
    book.checkpoint()
    with pytest.raises(SettingsError, match="is the old one"):
        book.checkpointer().rotate(OTHER_KEY)
    assert check(book.export()) is None


def test_the_first_checkpoint_may_be_a_rotation(book: Book) -> None:
    book.rotate(OTHER_KEY)
    book.checkpoint()
    assert check(book.export()) is None


def test_a_checkpoint_that_somebody_forged_is_an_alarm(book: Book) -> None:
    book.checkpoint()
    last = parse_checkpoint(kept(book)[-1]).checkpoint
    mallory = SigningKey.generate()
    made = type(last)(2, last.at, last.heads, last.hash(), KEY.public)
    assert book.store.put(2, Signed(made, mallory.sign(CONTEXT + made.body())).line())
    with pytest.raises(LedgerBroken, match="checkpoint 2: its signature is wrong"):
        book.checkpointer().run()


# --- the key's file -------------------------------------------------------------------------------------------------


def test_a_key_survives_its_file_and_nobody_else_can_read_it(tmp_path: Path) -> None:
    place = tmp_path / "new" / "key.pem"
    key = signing.load(place, make=True)
    assert place.stat().st_mode & 0o777 == 0o600
    assert signing.load(place, make=True).public == signing.load(place).public == key.public
    assert key.public in repr(key)
    assert base64.b64encode(key._key.private_bytes_raw()).decode() not in repr(key)
    assert [each.name for each in place.parent.iterdir()] == ["key.pem"]


def test_of_many_that_make_a_key_all_get_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = {key.public for key in pool.map(lambda _: signing.create(tmp_path / "key.pem"), range(8))}
    assert keys == {signing.load(tmp_path / "key.pem").public}


def test_a_key_is_taken_as_pem_and_as_base64(tmp_path: Path) -> None:
    key = SigningKey.generate()
    pem = key.to_pem().decode()
    seed = base64.b64encode(key._key.private_bytes_raw()).decode()
    for text in (pem, pem.replace("\n", "\\n"), seed, f" {seed}\n"):
        assert SigningKey.parse(text, "K").public == key.public
    for text in ("", "x", seed[:-4], "-----BEGIN PRIVATE KEY-----"):
        with pytest.raises(SettingsError, match=r"^K must be an Ed25519 private key"):
            SigningKey.parse(text, "K")


def test_a_key_file_that_others_can_read_or_that_is_not_there_stops(tmp_path: Path) -> None:
    place = tmp_path / "key.pem"
    with pytest.raises(SettingsError, match="is not there"):
        signing.load(place)
    signing.create(place)
    place.chmod(0o640)
    with pytest.raises(SettingsError, match="chmod 600"):
        signing.load(place)
    place.chmod(0o600)
    place.write_text("nonsense")
    with pytest.raises(SettingsError, match="LEDGER_SIGNING_KEY_FILE must be"):
        signing.load(place)
