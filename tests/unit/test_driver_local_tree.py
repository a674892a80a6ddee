"""What only the local driver can get wrong: links, staging, durability, broken folders, metadata beside the file."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from chalicelib.errors import (
    DepotError,
    DigestMismatch,
    FileExists,
    FileMissing,
    ObjectCorrupt,
    StorageBroken,
    StorageError,
    StorageFull,
    StorageRefused,
    TruncatedBody,
    UploadLost,
    UploadStateConflict,
)
from chalicelib.storage.base import Part
from nas_gateway.drivers import local_errors, local_meta, local_stage
from nas_gateway.drivers.local import LocalFileSystemStorage
from tests.support.faults import BreakingReader, SourceBroke

SECRET = b"outside the root"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def storage(root: Path) -> LocalFileSystemStorage:
    made = LocalFileSystemStorage("local", str(root))
    made.save("kept/f", b"kept")
    return made


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "f").write_bytes(SECRET)
    return folder


def staged(root: Path) -> list[str]:
    return sorted(name for name in os.listdir(root / ".depot-stage") if name != "meta") + sorted(
        os.listdir(root / ".depot-stage/meta")
    )


class TestLinks:
    def test_a_linked_folder_is_followed_by_no_call(self, storage, root, outside):
        (root / "kept/link").symlink_to(outside)
        for call in (
            lambda: storage.get_file("kept/link/f"),
            lambda: storage.get_metadata("kept/link/f"),
            lambda: storage.exists("kept/link/f"),
            lambda: storage.delete("kept/link/f"),
            lambda: storage.save("kept/link/f", b"x"),
            lambda: storage.save("kept/link/new/f", b"x"),
            lambda: storage.save("kept/link/f", b"x", if_absent=True),
            lambda: list(storage.list_files("kept/link")),
            lambda: storage.delete_prefix("kept/link"),
        ):
            with pytest.raises(StorageBroken):
                call()
        assert (outside / "f").read_bytes() == SECRET
        assert os.listdir(outside) == ["f"]

    def test_a_linked_file_is_neither_read_nor_replaced(self, storage, root, outside):
        (root / "kept/link").symlink_to(outside / "f")
        for call in (
            lambda: storage.get_file("kept/link"),
            lambda: storage.exists("kept/link"),
            lambda: storage.delete("kept/link"),
            lambda: storage.save("kept/link", b"x"),
        ):
            with pytest.raises(StorageBroken, match="symbolic link"):
                call()
        assert (root / "kept/link").is_symlink()
        assert (outside / "f").read_bytes() == SECRET

    def test_a_listing_passes_links_over(self, storage, root, outside):
        (root / "kept/link").symlink_to(outside)
        (root / "kept/file").symlink_to(outside / "f")
        assert [info.path for info in storage.list_files()] == ["kept/f"]
        assert storage.delete_prefix("kept") == ["kept/f"]
        assert (outside / "f").exists()

    def test_a_folder_swapped_for_a_link_at_any_moment_leads_nowhere_else(self, storage, root, outside):
        """Many saves while another process swaps the folder: none may write or read outside, whatever it sees."""
        real, link, stop = root / "swap", root / "aside", threading.Event()
        swaps: list[int] = []
        real.mkdir()

        def swap() -> None:
            while not stop.is_set():
                with suppress(OSError):  # a save makes the folder anew in between
                    os.rename(real, link)
                    os.symlink(outside, real)
                with suppress(OSError):
                    os.unlink(real)
                with suppress(OSError):
                    os.rename(link, real)
                swaps.append(1)

        with ThreadPoolExecutor(1) as pool:
            swapping = pool.submit(swap)
            try:
                for turn in range(200):
                    try:
                        storage.save(f"swap/{turn}", b"x")
                        assert storage.get_file("swap/f") != SECRET
                    except (FileMissing, StorageBroken, FileExists, StorageError):
                        pass
            finally:
                stop.set()
            swapping.result()
        assert swaps
        assert os.listdir(outside) == ["f"]

    def test_the_root_itself_may_be_a_link(self, tmp_path, outside):
        (tmp_path / "nas").symlink_to(outside)
        assert LocalFileSystemStorage("local", str(tmp_path / "nas")).get_file("f") == SECRET

    def test_what_is_no_regular_file_is_refused_at_once(self, storage, root):
        os.mkfifo(root / "kept/fifo")
        with pytest.raises(StorageBroken):
            storage.get_file("kept/fifo")
        assert [info.path for info in storage.list_files()] == ["kept/f"]


class TestStaging:
    @pytest.mark.parametrize("attributes", [True, False])
    def test_nothing_stays_in_the_staging_area(self, root, attributes):
        storage = LocalFileSystemStorage("local", str(root), attributes=attributes)
        records = 0 if attributes else 1
        storage.save("a/f", b"1")
        storage.save("a/f", b"2")
        storage.save("a/g", b"1", if_absent=True)
        storage.delete("a/g")
        assert len(staged(root)) == records
        for call in (
            lambda: storage.save("a/f", BreakingReader(2_000_000)),
            lambda: storage.save("a/f", b"x", sha256="0" * 64),
            lambda: storage.save("a/f", b"x", if_absent=True),
            lambda: storage.save("a/f/below", b"x"),
            lambda: storage.save("a", b"x"),
        ):
            with pytest.raises((DepotError, SourceBroke)):
                call()
        assert len(staged(root)) == records
        storage.delete("a/f")
        assert staged(root) == []
        assert sorted(os.listdir(root)) == [".depot-stage"]

    def test_the_staging_area_cannot_be_reached(self, storage, root):
        storage.create_parts("x/f")
        assert [info.path for info in storage.list_files()] == ["kept/f"]
        assert storage.list_with_prefix("").cursor is None

    def test_the_source_keeps_its_own_errors(self, storage):
        with pytest.raises(SourceBroke):
            storage.save("f", BreakingReader(10))
        with pytest.raises(ConnectionResetError):
            storage.save("f", BreakingReader(10, ConnectionResetError(errno.ECONNRESET, "reset")))

    def test_what_a_killed_save_left_can_be_discarded(self, storage, root):
        (root / ".depot-stage/tmp-dead").write_bytes(b"x")
        assert storage.discard_staged(datetime.now(UTC) - timedelta(hours=1)) == 0
        assert storage.discard_staged(datetime.now(UTC) + timedelta(hours=1)) == 1
        assert staged(root) == []

    def test_a_file_that_vanishes_from_the_root_mid_save_is_not_reported_saved(self, storage, root):
        def source():
            yield b"some bytes"
            (name,) = [name for name in staged(root) if name.startswith("tmp-")]
            (root / ".depot-stage" / name).unlink()
            yield b"more"

        with pytest.raises(UploadLost):
            storage.save("f", source())
        assert not storage.exists("f")

    def test_a_failing_rename_leaves_no_made_folders(self, storage, root):
        (root / "kept/f2").mkdir()
        with pytest.raises(FileExists):
            storage.save("kept/f2", b"x")
        with pytest.raises(FileExists):
            storage.save("kept/f/x/y", b"x")
        assert sorted(os.listdir(root)) == [".depot-stage", "kept"]

    @pytest.mark.parametrize("call", ["rename", "link", "open"])
    def test_a_folder_that_another_process_removes_meanwhile_is_made_again(self, storage, root, monkeypatch, call):
        """Whoever deletes the last file of a folder removes it: also between our making it and our using it."""
        real, removed = getattr(os, call), []

        def remove_first(*args, **kwargs):
            if not removed and str(args[0]).startswith("new" if call == "open" else "tmp-"):
                os.rmdir(root / "new")
                removed.append(1)
            return real(*args, **kwargs)

        monkeypatch.setattr(os, call, remove_first)
        storage.save("new/f", b"x", if_absent=call == "link")
        assert removed
        assert storage.get_file("new/f") == b"x"

    def test_a_root_that_goes_away_is_not_an_empty_disk(self, storage, root):
        root.rename(root.with_name("unmounted"))
        for call in (
            lambda: storage.exists("kept/f"),
            lambda: list(storage.list_files()),
            lambda: storage.save("f", b"x"),
            lambda: storage.list_parts("f", "0" * 32),
        ):
            with pytest.raises(StorageBroken, match="mounted"):
                call()
        assert not root.exists()
        assert storage.health().error == "storage_broken"

    def test_the_root_is_a_file(self, tmp_path):
        (tmp_path / "root").write_text("x")
        with pytest.raises(StorageBroken):
            LocalFileSystemStorage("local", str(tmp_path / "root")).save("f", b"x")


class TestErrno:
    @pytest.mark.parametrize(
        ("number", "kind", "says"),
        [
            (errno.ESTALE, StorageBroken, "remount"),
            (errno.ELOOP, StorageBroken, "symbolic link"),
            (errno.EIO, StorageBroken, "input/output"),
            (errno.EACCES, StorageRefused, "owns"),
            (errno.EPERM, StorageRefused, "owns"),
            (errno.EROFS, StorageRefused, "read-only"),
            (errno.ENOSPC, StorageFull, "room"),
            (errno.EDQUOT, StorageFull, "quota"),
            (errno.ENOENT, FileMissing, "no such file"),
            (errno.ENOTEMPTY, FileExists, "folder"),
            (errno.E2BIG, StorageError, "failed"),
        ],
    )
    def test_each_says_what_to_do_and_never_names_a_path(self, number, kind, says):
        with pytest.raises(kind, match=says) as caught, local_errors.translated():
            raise OSError(number, os.strerror(number), "/nas/canary/patient.csv")
        assert "canary" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__

    def test_errors_that_are_ours_already_pass(self):
        with pytest.raises(TruncatedBody), local_errors.translated():
            raise TruncatedBody

    def test_a_folder_that_exists_and_cannot_be_entered_is_called_broken(self, storage, root, monkeypatch):
        """`d??????????`: mkdir says EEXIST, open says it is not there. No file system here does that, so `open` is made to."""
        (root / "broken").mkdir()
        real = os.open

        def broken(path, flags, *args, **kwargs):
            if path == "broken":
                raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
            return real(path, flags, *args, **kwargs)

        monkeypatch.setattr(os, "open", broken)
        with pytest.raises(StorageBroken, match="restart the services container"):
            storage.save("broken/f", b"x")

    def test_a_full_disk_leaves_nothing(self, storage, root, monkeypatch):
        def full(descriptor, data):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(StorageFull):
            storage.save("kept/f", b"new")
        monkeypatch.undo()
        assert storage.get_file("kept/f") == b"kept"
        assert staged(root) == []


class TestDurability:
    def test_data_is_synced_before_it_shows_and_folders_after(self, storage, root, monkeypatch):
        """The order of system calls is the guarantee, so it is what is looked at."""
        calls: list[str] = []

        def spy(name, describe):
            real = getattr(os, name)

            def call(*args, **kwargs):
                result = real(*args, **kwargs)
                calls.append(describe(*args))
                return result

            monkeypatch.setattr(os, name, call)

        def where(descriptor):
            return os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), root)

        spy("fsync", lambda descriptor: "sync " + where(descriptor))
        spy("setxattr", lambda *_: "meta")
        spy("rename", lambda *_: "show")
        storage.save("new/er/f", b"x")
        calls = ["sync file" if "tmp-" in call else call for call in calls]
        assert calls == ["meta", "sync file", "sync .", "sync new", "show", "sync new/er"]

    def test_a_part_is_synced_before_its_record(self, storage, root, monkeypatch):
        handle = storage.create_parts("p/f")
        folder = root / f".depot-stage/up-{handle}"
        seen: list[tuple[str, int]] = []

        def count() -> int:
            return sum(name.startswith("p-") for name in os.listdir(folder))

        for name in ("fsync", "fdatasync"):
            real = getattr(os, name)
            monkeypatch.setattr(os, name, lambda fd, real=real, name=name: (seen.append((name, count())), real(fd)))
        storage.write_part("p/f", handle, 1, 0, b"x")
        assert seen == [("fdatasync", 0), ("fsync", 1)]


class TestMetadata:
    @pytest.mark.parametrize("attributes", [True, False])
    def test_a_crash_at_the_rename_keeps_old_data_with_old_metadata(self, root, monkeypatch, attributes):
        storage = LocalFileSystemStorage("local", str(root), attributes=attributes)
        storage.save("f", b"old", "text/old", {"which": "old"})

        class Crash(BaseException):
            pass

        def crash(*_args, **_kwargs):
            raise Crash

        with monkeypatch.context() as patched:
            patched.setattr(os, "rename", crash)
            patched.setattr(os, "unlink", crash)  # nor does a dead process clear up
            with pytest.raises(Crash):
                storage.save("f", b"newer", "text/new", {"which": "new"})
        after = LocalFileSystemStorage("local", str(root), attributes=attributes)
        info = after.get_metadata("f")
        assert (after.get_file("f"), info.content_type, dict(info.metadata)) == (b"old", "text/old", {"which": "old"})
        after.save("f", b"newer", "text/new", {"which": "new"})
        assert after.get_metadata("f").content_type == "text/new"

    def test_a_file_system_without_attributes_gets_records(self, storage, root, monkeypatch):
        def unsupported(*_args):
            raise OSError(errno.ENOTSUP, "Operation not supported")

        monkeypatch.setattr(os, "setxattr", unsupported)
        monkeypatch.setattr(os, "getxattr", unsupported)
        storage.save("f", b"x", "text/csv", {"a": "é"})
        info = storage.get_metadata("f")
        assert (info.content_type, dict(info.metadata), info.sha256 is not None) == ("text/csv", {"a": "é"}, True)
        assert len(staged(root)) == 1

    def test_a_file_edited_by_hand_loses_its_digest(self, storage, root):
        before = storage.get_metadata("kept/f")
        (root / "kept/f").write_bytes(b"KEPT")
        after = storage.get_metadata("kept/f")
        assert before.sha256 is not None
        assert after.sha256 is None
        assert after.etag != before.etag

    def test_a_file_that_depot_did_not_write_can_be_read(self, storage, root):
        (root / "kept/by-hand").write_bytes(b"x")
        info = storage.get_metadata("kept/by-hand")
        assert (info.size, info.content_type, info.sha256, dict(info.metadata)) == (
            1, "application/octet-stream", None, {},
        )  # fmt: skip

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"of":1}'])
    def test_an_attribute_that_is_not_ours_is_ignored(self, storage, root, body):
        os.setxattr(root / "kept/f", local_meta.ATTRIBUTE, body)
        assert storage.get_metadata("kept/f").sha256 is None

    def test_the_largest_metadata_fits(self, storage):
        storage.save("f", b"x", "text/" + "x" * 507, {"a": '"' * 680})
        assert storage.get_metadata("f").metadata["a"] == '"' * 680


class TestParts:
    def test_a_part_that_was_not_acknowledged_is_not_there(self, storage, root, monkeypatch):
        handle = storage.create_parts("p/f")
        one = storage.write_part("p/f", handle, 1, 0, b"one")

        def fails(descriptor):
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patched:
            patched.setattr(os, "fdatasync", fails)
            with pytest.raises(StorageBroken):
                storage.write_part("p/f", handle, 2, 3, b"two")
            with pytest.raises(StorageBroken):
                storage.write_part("p/f", handle, 1, 0, b"ONE")
        assert storage.list_parts("p/f", handle) == []
        with pytest.raises(UploadStateConflict):
            storage.complete_parts("p/f", handle, [one])

    def test_a_staged_file_that_lost_bytes_is_not_shown(self, storage, root):
        handle = storage.create_parts("p/f")
        part = storage.write_part("p/f", handle, 1, 0, b"12345")
        os.truncate(root / f".depot-stage/up-{handle}/data", 3)
        with pytest.raises(ObjectCorrupt):
            storage.complete_parts("p/f", handle, [part])
        assert not storage.exists("p/f")

    def test_completing_copies_nothing(self, storage, root):
        handle = storage.create_parts("p/f")
        part = storage.write_part("p/f", handle, 1, 0, b"x")
        inode = (root / f".depot-stage/up-{handle}/data").stat().st_ino
        storage.complete_parts("p/f", handle, [part])
        assert (root / "p/f").stat().st_ino == inode
        assert staged(root) == []

    def test_a_handle_cannot_name_another_folder(self, storage, root):
        handle = storage.create_parts("p/f")
        storage.abort_parts("kept/f", f"{handle}/../../kept")
        storage.abort_parts("kept/f", f"{handle}/../meta/../../kept")
        assert storage.get_file("kept/f") == b"kept"
        with pytest.raises(UploadLost):
            storage.write_part("kept/f", f"{handle}/../../kept", 1, 0, b"x")

    def test_an_upload_whose_beginning_was_cut_short_can_be_swept(self, storage, root):
        handle = "a" * 32
        (root / f".depot-stage/up-{handle}").mkdir()
        assert [(upload.path, upload.handle) for upload in storage.open_uploads()] == [("", handle)]
        storage.abort_parts("x/f", handle)
        assert staged(root) == []

    def test_writers_racing_with_completion_never_change_the_visible_file(self, storage):
        body, other = b"a" * 200_000, b"b" * 200_000
        for _ in range(10):
            handle = storage.create_parts("r/f")
            part = storage.write_part("r/f", handle, 1, 0, body)
            start = threading.Barrier(2)

            def rewrite(handle: str = handle, start: threading.Barrier = start) -> None:
                start.wait()
                with suppress(UploadLost):
                    storage.write_part("r/f", handle, 1, 0, other)

            with ThreadPoolExecutor(1) as pool:
                racing = pool.submit(rewrite)
                start.wait()
                try:
                    storage.complete_parts("r/f", handle, [part])
                except UploadStateConflict:
                    storage.abort_parts("r/f", handle)  # the rewrite came first
                    racing.result()
                    continue
                racing.result()
            assert storage.get_file("r/f") == body

    def test_racing_writes_of_one_part_leave_one_of_them_whole(self, storage):
        handle = storage.create_parts("r/f")
        bodies = [bytes([65 + n]) * 300_000 for n in range(4)]
        with ThreadPoolExecutor(4) as pool:
            parts: list[Part] = list(pool.map(lambda body: storage.write_part("r/f", handle, 1, 0, body), bodies))
        kept = []
        for part in parts:
            try:
                storage.complete_parts("r/f", handle, [part])
                kept.append(part)
            except (UploadStateConflict, UploadLost):
                pass
        assert len(kept) == 1
        info = storage.get_metadata("r/f")
        storage.save("check", storage.get_file("r/f"), sha256=kept[0].sha256)
        assert info.size == 300_000


class TestDownload:
    def test_an_open_download_is_not_changed_by_a_save(self, storage):
        with storage.open("kept/f") as download:
            storage.save("kept/f", b"another")
            assert download.read() == b"kept"

    def test_a_file_cut_short_while_it_is_read_is_truncated(self, storage, root):
        with storage.open("kept/f") as download:
            os.truncate(root / "kept/f", 2)
            with pytest.raises(TruncatedBody):
                download.read()

    def test_a_download_leaks_no_descriptor(self, storage):
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            with storage.open("kept/f") as download:
                download.read()
            with pytest.raises(FileMissing):
                storage.open("kept/no")
            with pytest.raises(DigestMismatch):
                storage.save("kept/f", b"x", sha256="0" * 64)
            next(storage.list_files())
            storage.list_with_prefix("", None, 1)
        assert len(os.listdir("/proc/self/fd")) == before


class TestListing:
    def test_a_page_of_a_large_folder_holds_only_a_page(self, storage, root):
        """3,000 names, pages of 7: batches are read again rather than kept."""
        (root / "big").mkdir()
        names = [f"big/{n:04d}" for n in range(3000)]
        for name in names:
            (root / name).touch()
        page = storage.list_with_prefix("big", None, 7)
        assert [info.path for info in page.items] == names[:7]
        assert [info.path for info in storage.list_with_prefix("big", page.cursor, 7).items] == names[7:14]
        assert [info.path for info in storage._listed("big/", "", 11)] == names

    def test_names_that_are_not_ours_are_passed_over(self, storage, root):
        for name in (b"\xff\xfe", "Zoe\u0308".encode(), b"back\\slash", b"new\nline"):
            with open(os.fsencode(root) + b"/kept/" + name, "wb"):
                pass
        assert [info.path for info in storage.list_files()] == ["kept/f"]

    def test_folders_between_files_are_walked_in_path_order(self, storage, root):
        for name in ("b/a", "b-/a", "b.c", "b0", "b/a.d/x", "b/a/x"):
            if name != "b/a":
                storage.save(name, b"")
        found = [info.path for info in storage.list_files()]
        assert found == sorted(found)
        assert len(found) == 6


def test_the_link_of_a_lost_nfs_reply_is_recognised(storage, root, monkeypatch):
    """The server linked, its reply was lost, the repetition says EEXIST: the name is our own file, so it was us."""
    real = os.link

    def link(*args, **kwargs):
        real(*args, **kwargs)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(local_stage.os, "link", link)
    assert storage.save("nfs/f", b"x", if_absent=True) == "nfs/f"
    assert storage.get_file("nfs/f") == b"x"
    assert staged(root) == []
