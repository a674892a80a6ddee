"""StorageManager: the storage for a purpose, by the server's role."""

import json

import pytest

from chalicelib.config import Settings
from chalicelib.errors import FileMissing, SecurityError, SettingsError, UnknownDisk
from chalicelib.storage.manager import StorageManager, resolve_disk
from chalicelib.storage.remote import RemoteStorageDriver
from nas_gateway import wiring
from nas_gateway.drivers.memory import MemoryStorage
from nas_gateway.files.tracked import TrackedStorage
from tests.support.gateway import outcomes

WEB = {"SERVER_ROLE": "web", "INTERNAL_API_KEY": "k" * 32, "SERVICES_URL": "http://127.0.0.1:1"}


@pytest.fixture
def web():
    def configured(**env: str) -> Settings:
        settings = Settings.from_env(WEB | env)
        StorageManager.configure(settings)
        return settings

    yield configured
    StorageManager.clear_cache()


def test_in_the_web_role_every_disk_is_the_remote_driver(web):
    web()
    for storage in (
        StorageManager.get_workspace_storage(),
        StorageManager.get_scratch_storage(),
        StorageManager.get_submission_storage(),
        StorageManager.get_storage("any-name"),
    ):
        assert type(storage) is RemoteStorageDriver


def test_in_the_web_role_a_local_disk_in_the_configuration_is_remote_all_the_same(web):
    config = {"disks": {"workspace": {"driver": "local", "root": "/mnt/nas"}}}
    web(STORAGE_CONFIG=json.dumps(config))
    storage = StorageManager.get_workspace_storage()
    assert type(storage) is RemoteStorageDriver
    assert storage.disk == "workspace"


def test_the_seeds_web_example_asks_the_services_tier_for_the_purpose(web):
    config = {"disks": {"remote_scratch": {"driver": "remote", "service_url": "https://services:8001"}}}
    web(STORAGE_CONFIG=json.dumps(config), SCRATCH_STORAGE_DISK="remote_scratch")
    assert StorageManager.get_scratch_storage().disk == "scratch"


def test_the_web_role_takes_no_factory_of_disks(web):
    settings = web()
    with pytest.raises(SecurityError):
        StorageManager.configure(settings, wiring.storage_factory)
    with pytest.raises(SecurityError):
        wiring.gateway(settings)


def test_the_services_role_gives_the_tracked_disk_and_caches_it(gateway):
    storage = StorageManager.get_workspace_storage()
    assert isinstance(storage, TrackedStorage)
    assert isinstance(storage.driver, MemoryStorage)
    assert StorageManager.get_workspace_storage() is storage
    StorageManager.configure(gateway.settings, wiring.storage_factory)
    assert StorageManager.get_workspace_storage() is not storage


def test_a_developers_save_is_tracked(gateway):
    saved = StorageManager.get_workspace_storage().save("upload_prechecks/1/p.csv", "a,b\n", "text/csv")
    assert outcomes(saved.file_id) == [
        ("file_uploaded_via_stream", "intent"),
        ("file_uploaded_via_stream", "completed"),
    ]
    assert StorageManager.get_workspace_storage().get_file("upload_prechecks/1/p.csv") == b"a,b\n"


def test_a_submission_finds_its_path(gateway):
    submission = {"cohort": "VACS", "protocol_year": "2024", "file_type": "patient", "filename": "p.csv"}
    saved = StorageManager.save_submission_file(submission, b"x")
    assert saved == "submissions/VACS/2024/patient/p.csv"

    class Submission:
        cohort, protocol_year, file_type, filename = "VACS", 2024, "patient", "q.csv"

    assert StorageManager.save_submission_file(Submission(), b"x") == "submissions/VACS/2024/patient/q.csv"


def test_temp_files_are_gone_after_the_block_also_after_an_error(gateway):
    storage = StorageManager.get_scratch_storage()
    with StorageManager.temp_file_context("a.csv") as path:
        storage.save(path, b"x")
        assert storage.exists(path)
    assert not storage.exists(path)
    with pytest.raises(RuntimeError, match="mine"):
        with StorageManager.temp_file_context("b.csv") as path:
            storage.save(path, b"x")
            raise RuntimeError("mine")
    assert not storage.exists(path)
    with StorageManager.temp_file_context() as path:
        pass  # nothing was saved: nothing to delete, no error
    with pytest.raises(FileMissing):
        storage.delete(path)


def test_names_for_a_purpose_stand_for_the_configured_disk(gateway):
    config = {"disks": {"nas_s3": {"driver": "memory"}, "fast": {"driver": "memory"}}}
    settings = Settings.from_env(
        {
            "SERVER_ROLE": "services",
            "INTERNAL_API_KEY": "k" * 32,
            "STORAGE_CONFIG": json.dumps(config),
            "SUBMISSION_STORAGE_DISK": "nas_s3",
            "SCRATCH_STORAGE_DISK": "fast",
        }
    )
    assert resolve_disk(settings, "submissions") == "nas_s3"
    assert resolve_disk(settings, "scratch") == "fast"
    assert resolve_disk(settings, "fast") == "fast"
    with pytest.raises(UnknownDisk):
        resolve_disk(settings, "elsewhere")
    with pytest.raises(UnknownDisk):
        StorageManager.get_storage("elsewhere")


def test_without_settings_the_environment_is_read_and_says_what_is_missing(monkeypatch):
    StorageManager.clear_cache()
    monkeypatch.delenv("SERVER_ROLE", raising=False)
    with pytest.raises(SettingsError, match="SERVER_ROLE"):
        StorageManager.get_workspace_storage()
