"""Tails on a local disk: whole or not there, on the disk when acknowledged, behind no link."""

from __future__ import annotations

import errno
import os
import threading
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from chalicelib.errors import FileMissing, ObjectCorrupt, StorageBroken, StorageFull
from nas_gateway.drivers import local_tails
from nas_gateway.drivers.local import LocalFileSystemStorage
from tests.support.tail_conformance import tail_name

UPLOAD = "0123456789abcdef" * 2
NAME = tail_name(UPLOAD, b"tail")


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


@pytest.fixture
def storage(root):
    return LocalFileSystemStorage("local", str(root))


def staged(root) -> set[str]:
    return {str(found.relative_to(root)) for found in root.rglob("*") if found.is_file()}


def test_it_is_one_file_in_the_stage(storage, root):
    storage.put_tail(NAME, b"tail")
    assert staged(root) == {f".depot-stage/tails/{NAME.replace('/', '.')}"}
    assert (root / ".depot-stage/tails" / NAME.replace("/", ".")).read_bytes() == b"tail"
    storage.delete_tail(NAME)
    assert staged(root) == set()


def test_its_bytes_and_its_name_are_on_the_disk_before_it_is_acknowledged(storage, root, monkeypatch):
    """The order of system calls: bytes synced, then named, then the folder of the name synced."""
    storage.put_tail(tail_name(UPLOAD, b""), b"")  # the folders are there
    done: list[str] = []

    def traced(name, real):
        def call(*args, **kwargs):
            what = os.readlink(f"/proc/self/fd/{args[0]}").rsplit("/", 1)[1] if name == "fsync" else args[1]
            result = real(*args, **kwargs)
            done.append(f"{name} {'new' if what.startswith('tmp-') else what}")
            return result

        return call

    for name in ("fsync", "rename"):
        monkeypatch.setattr(os, name, traced(name, getattr(os, name)))
    storage.put_tail(NAME, b"tail")
    assert done == ["fsync new", f"rename {NAME.replace('/', '.')}", "fsync tails"]


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, StorageFull), (errno.EDQUOT, StorageFull), (errno.EIO, StorageBroken)]
)
@pytest.mark.parametrize("step", ["write", "fsync", "rename"])
def test_a_failing_disk_leaves_nothing(storage, root, monkeypatch, step, number, kind):
    storage.put_tail(NAME, b"tail")

    def failing(*_args, **_kwargs):
        raise OSError(number, "canary")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, failing)
        with pytest.raises(kind) as caught:
            storage.put_tail(tail_name(UPLOAD, b"another"), b"another")
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert [tail.name for tail in storage.list_tails()] == [NAME]
    assert staged(root) == {f".depot-stage/tails/{NAME.replace('/', '.')}"}


def test_a_writer_that_was_killed_leaves_no_tail_and_what_it_wrote_is_swept(storage, root):
    storage.put_tail(NAME, b"tail")
    left = root / ".depot-stage" / f"tmp-{uuid.uuid4().hex}"
    left.write_bytes(b"half a ta")
    assert [tail.name for tail in storage.list_tails()] == [NAME]
    assert storage.discard_staged(datetime.now(UTC) + timedelta(minutes=1)) == 1
    assert not left.exists()
    assert storage.get_tail(NAME) == b"tail"


def test_a_tail_that_was_changed_is_corrupt(storage, root):
    storage.put_tail(NAME, b"tail")
    file = root / ".depot-stage/tails" / NAME.replace("/", ".")
    for changed in (b"tai", b"tale", b"tails", b""):
        file.write_bytes(changed)
        with pytest.raises(ObjectCorrupt):
            storage.get_tail(NAME)


def test_a_link_in_place_of_a_tail_is_not_followed(storage, root, tmp_path):
    storage.put_tail(NAME, b"tail")
    (tmp_path / "outside").write_bytes(b"tail")
    file = root / ".depot-stage/tails" / NAME.replace("/", ".")
    file.unlink()
    file.symlink_to(tmp_path / "outside")
    with pytest.raises(StorageBroken):
        storage.get_tail(NAME)
    storage.put_tail(NAME, b"tail")  # replaces the link, not what it points to
    assert not file.is_symlink()
    assert storage.get_tail(NAME) == b"tail"


def test_a_link_in_place_of_their_folder_is_not_followed(storage, root, tmp_path):
    storage.put_tail(NAME, b"tail")
    tails = root / ".depot-stage/tails"
    tails.rename(tmp_path / "moved")
    tails.symlink_to(tmp_path / "moved")
    for call in (storage.get_tail, storage.delete_tail, lambda name: storage.put_tail(name, b"tail")):
        with pytest.raises(StorageBroken):
            call(NAME)
    with pytest.raises(StorageBroken):
        list(storage.list_tails())
    assert (tmp_path / "moved" / NAME.replace("/", ".")).read_bytes() == b"tail"


def test_a_disk_without_tails_lists_none(storage, root):
    assert list(storage.list_tails()) == []
    storage.delete_tail(NAME)
    with pytest.raises(FileMissing):
        storage.get_tail(NAME)


def test_a_storage_that_is_gone_is_an_error_and_not_an_empty_list(storage, root, tmp_path):
    storage.put_tail(NAME, b"tail")
    root.rename(tmp_path / "unmounted")
    for call in (
        lambda: list(storage.list_tails()),
        lambda: storage.get_tail(NAME),
        lambda: storage.delete_tail(NAME),
        lambda: storage.put_tail(NAME, b"tail"),
    ):
        with pytest.raises(StorageBroken):
            call()


def test_foreign_files_among_them_are_passed_over(storage, root):
    storage.put_tail(NAME, b"tail")
    for name in ("x", f"{NAME.replace('/', '.')}~", NAME.replace("/", "-")):
        (root / ".depot-stage/tails" / name).write_bytes(b"")
    assert [tail.name for tail in storage.list_tails()] == [NAME]


def test_more_than_a_page_of_them_is_listed_while_some_are_deleted(storage, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # what is tested is the listing
    names = {tail_name(f"{n:032x}", b"") for n in range(1001)}
    for name in names:
        storage.put_tail(name, b"")
    assert {tail.name for tail in storage.list_tails()} == names
    deleted = set()
    for tail in storage.list_tails():
        deleted.add(tail.name)
        storage.delete_tail(tail.name)
    assert deleted == names
    assert list(storage.list_tails()) == []


def test_many_writers_of_many_tails(storage):
    names = [(tail_name(f"{n % 3:032x}", str(n).encode()), str(n).encode()) for n in range(12)]
    threads = [threading.Thread(target=storage.put_tail, args=pair) for pair in names for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {tail.name: storage.get_tail(tail.name) for tail in storage.list_tails()} == dict(names)


def test_the_folder_is_made_again_when_someone_removed_it(storage, root):
    storage.put_tail(NAME, b"tail")
    storage.delete_tail(NAME)
    (root / ".depot-stage" / local_tails.TAILS).rmdir()
    storage.put_tail(NAME, b"tail")
    assert storage.get_tail(NAME) == b"tail"
