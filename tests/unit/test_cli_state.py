"""The state folder, the processes' environments and the ports of the local stack."""

from __future__ import annotations

import json
import os
import socket
import stat
from pathlib import Path

import pytest

from chalicelib.config import Role, Settings
from chalicelib.errors import SettingsError
from infra.local import environment
from infra.local.environment import Addresses, S3Store
from infra.local.ports import free_ports
from infra.local.state import StateDir, write_private

WHERE = Addresses("127.0.0.1", 8000, 8001, 4566)
SECRETS = {"INTERNAL_API_KEY": "k" * 64, "SESSION_SECRET": "s" * 64}
STORE = S3Store("http://nas:7480", "nas-access", "nas-secret")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_secrets_are_made_once_and_only_the_owner_can_read_them(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    first = state.secrets()
    assert {name: len(value) for name, value in first.items()} == {"INTERNAL_API_KEY": 64, "SESSION_SECRET": 64}
    assert first["INTERNAL_API_KEY"] != first["SESSION_SECRET"]
    assert state.secrets() == first
    assert mode(tmp_path / "state" / "secrets.json") == 0o600
    assert mode(tmp_path / "state") == 0o700
    state.close()


def test_secrets_that_others_could_read_are_closed_to_them(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    state.secrets()
    (tmp_path / "secrets.json").chmod(0o644)
    state.secrets()
    assert mode(tmp_path / "secrets.json") == 0o600
    state.close()


@pytest.mark.parametrize("content", ["", "{}", "[]", "not json"])
def test_broken_secrets_stop_the_start_instead_of_being_replaced(content: str, tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    (tmp_path / "secrets.json").write_text(content)
    with pytest.raises(SettingsError, match=r"secrets\.json"):
        state.secrets()
    assert (tmp_path / "secrets.json").read_text() == content
    state.close()


def test_two_stacks_cannot_share_a_state_folder(tmp_path: Path) -> None:
    first = StateDir(tmp_path)
    with pytest.raises(SettingsError, match="in use by another 'depot up'"):
        StateDir(tmp_path)
    first.close()
    StateDir(tmp_path).close()


def test_a_private_file_replaces_the_old_one_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "ready.json"
    path.write_text("old")
    path.chmod(0o644)
    with path.open() as reader:
        write_private(path, {"new": True})
        assert reader.read() == "old"
    assert json.loads(path.read_text()) == {"new": True}
    assert mode(path) == 0o600
    assert os.listdir(tmp_path) == ["ready.json"]


# --- environments --------------------------------------------------------------------------------------------------


def test_the_web_tiers_environment_is_complete_and_names_no_nas() -> None:
    env = environment.web(WHERE, SECRETS, "depot")
    settings = Settings.from_env(env)
    assert settings.role is Role.WEB
    assert settings.services_url == "http://127.0.0.1:8001"
    assert not settings.disks
    assert not [name for name in env if name.startswith(("S3_", "NAS")) or name == "STORAGE_CONFIG"]


def test_the_services_tier_gets_three_folders(tmp_path: Path) -> None:
    settings = Settings.from_env(environment.services(WHERE, SECRETS, "depot", tmp_path, None))
    assert {disk.root for disk in settings.disks.values()} == {
        str(tmp_path / name) for name in ("submissions", "workspace", "scratch")
    }


def test_the_services_tier_gets_three_prefixes_and_the_keys_outside_storage_config(tmp_path: Path) -> None:
    env = environment.services(WHERE, SECRETS, "depot", tmp_path, STORE)
    disks = Settings.from_env(env).disks
    assert {(disk.bucket, disk.prefix, disk.endpoint) for disk in disks.values()} == {
        ("depot", name, "http://nas:7480") for name in ("submissions", "workspace", "scratch")
    }
    assert disks["workspace"].secret_key.reveal() == "nas-secret"
    assert "nas-secret" not in env["STORAGE_CONFIG"]


def test_children_inherit_nothing_that_decides_what_they_reach() -> None:
    ours = {"PATH": "/bin", "DEPOT_DRAIN_SECONDS": "5", "LANG": "C"}
    risky = {"AWS_PROFILE": "prod", "S3_SECRET_KEY": "x", "STORAGE_CONFIG": "{}", "NAS": "s3", "SERVER_ROLE": "web"}
    risky |= {"NAS_WORKSPACE_PATH": "/mnt", "DEPOT_NAS_DIR": "/mnt", "INTERNAL_API_KEY": "x", "PYTHONPATH": "/evil"}
    assert environment.inherited(ours | risky) == ours


def test_the_embedded_aws_listens_on_loopback_only_and_keeps_its_state(tmp_path: Path) -> None:
    env = environment.embedded_aws(Addresses("0.0.0.0", 1, 2, 3), tmp_path)
    assert env["BIND_HOST"] == "127.0.0.1"
    assert (env["PERSIST_STATE"], env["S3_PERSIST"]) == ("1", "1")
    assert Path(env["STATE_DIR"]).is_relative_to(tmp_path)
    assert Path(env["S3_DATA_DIR"]).is_relative_to(tmp_path)


def test_clients_are_told_an_address_they_can_use() -> None:
    assert Addresses("0.0.0.0", 80, 81, 82).web_url == "http://127.0.0.1:80"
    assert Addresses("::1", 80, 81, 82).services_url == "http://[::1]:81"


# --- ports ---------------------------------------------------------------------------------------------------------


def test_port_0_gives_three_different_free_ports() -> None:
    ports = free_ports("127.0.0.1", 0, 0, 0)
    assert len(set(ports)) == 3
    assert all(1024 <= port <= 65535 for port in ports)


@pytest.mark.parametrize(("at", "option"), [(0, "--web-port"), (1, "--services-port"), (2, "--aws-port")])
def test_a_port_in_use_is_named_with_the_option_that_moves_it(at: int, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = [0, 0, 0]
        ports[at] = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"Port {ports[at]} .* {option}"):
            free_ports("127.0.0.1", *ports)


def test_the_same_port_twice_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    with pytest.raises(SettingsError, match="three different ports"):
        free_ports("127.0.0.1", port, port, 0)
