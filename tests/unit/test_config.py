"""Settings: every name is read, every bad value stops the start with one line that names it."""

import json

import pytest

from chalicelib.config import Role, Secret, Settings
from chalicelib.errors import SettingsError

KEY = "k" * 32
WEB = {"SERVER_ROLE": "web", "INTERNAL_API_KEY": KEY, "SERVICES_URL": "http://services:8001"}
SERVICES = {"SERVER_ROLE": "services", "INTERNAL_API_KEY": KEY, "NAS_WORKSPACE_PATH": "/mnt/nas/naaccord"}
PRODUCTION = {"DEPOT_ENV": "production", "SESSION_SECRET": "s" * 32}


def test_a_web_tier_needs_a_key_and_the_services_url():
    settings = Settings.from_env(WEB)
    assert settings.role is Role.WEB
    assert settings.services_url == "http://services:8001"
    assert any("HTTP" in line for line in settings.warnings)


def test_nas_workspace_path_alone_makes_the_three_disks():
    settings = Settings.from_env(SERVICES)
    assert {name: disk.root for name, disk in settings.disks.items()} == {
        "submissions": "/mnt/nas/naaccord/submissions",
        "workspace": "/mnt/nas/naaccord/workspace",
        "scratch": "/mnt/nas/naaccord/scratch",
    }
    assert (settings.workspace_disk, settings.submission_disk, settings.scratch_disk) == (
        "workspace",
        "submissions",
        "scratch",
    )


def test_the_seeds_services_example_works():
    config = {
        "disks": {
            "nas_s3": {"driver": "s3", "bucket": "naaccord-prod-submissions", "endpoint": "https://nas.internal"},
            "local_scratch": {"driver": "local", "root": "/mnt/fast-ssd/scratch"},
        }
    }
    env = {
        "SERVER_ROLE": "services",
        "INTERNAL_API_KEY": KEY,
        "STORAGE_CONFIG": json.dumps(config),
        "SUBMISSION_STORAGE_DISK": "nas_s3",
        "SCRATCH_STORAGE_DISK": "local_scratch",
        "S3_ACCESS_KEY": "access",
        "S3_SECRET_KEY": "secret",
    }
    settings = Settings.from_env(env)
    assert settings.disks["nas_s3"].access_key.reveal() == "access"
    assert settings.disks["nas_s3"].checksums == "when_required"
    assert (settings.submission_disk, settings.scratch_disk) == ("nas_s3", "local_scratch")


def test_two_keys_may_be_configured_for_rotation_and_no_third():
    settings = Settings.from_env(WEB | {"INTERNAL_API_KEY": f"{'a' * 32}, {'b' * 32}"})
    assert [key.reveal()[0] for key in settings.internal_api_keys] == ["a", "b"]
    with pytest.raises(SettingsError, match="INTERNAL_API_KEY holds at most two"):
        Settings.from_env(WEB | {"INTERNAL_API_KEY": ",".join(("a" * 32, "b" * 32, "c" * 32))})


def test_a_short_key_warns_in_development_and_stops_production():
    assert any("INTERNAL_API_KEY" in line for line in Settings.from_env(WEB | {"INTERNAL_API_KEY": "short"}).warnings)
    with pytest.raises(SettingsError, match="INTERNAL_API_KEY must be at least 32 characters in production"):
        Settings.from_env(SERVICES | PRODUCTION | {"INTERNAL_API_KEY": "short"})


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({}, "SERVER_ROLE must be one of web, services, testing"),
        (WEB | {"SERVER_ROLE": "both"}, "SERVER_ROLE must be one of web, services, testing, not 'both'"),
        ({"SERVER_ROLE": "web"}, "INTERNAL_API_KEY required for web server role"),
        (SERVICES | {"INTERNAL_API_KEY": " , "}, "INTERNAL_API_KEY required for services server role"),
        (WEB | {"INTERNAL_API_KEY": "schlüssel" * 5}, "INTERNAL_API_KEY must be printable ASCII"),
        (WEB | {"SERVICES_URL": ""}, "SERVICES_URL required for web server role"),
        (WEB | {"SERVICES_URL": "services:8001"}, "SERVICES_URL must be a URL"),
        (WEB | PRODUCTION, "SERVICES_URL must begin with https:// in production"),
        (SERVICES | {"DEPOT_ENV": "production"}, "SESSION_SECRET required"),
        (SERVICES | PRODUCTION | {"SESSION_SECRET": "short"}, "SESSION_SECRET must be at least 32"),
        (SERVICES | {"NAS_WORKSPACE_PATH": ""}, "STORAGE_CONFIG or NAS_WORKSPACE_PATH required"),
        (SERVICES | {"STORAGE_CONFIG": "{"}, "STORAGE_CONFIG is not JSON"),
        (SERVICES | {"STORAGE_CONFIG": "{}"}, "STORAGE_CONFIG must be JSON of the form"),
        (SERVICES | {"STORAGE_CONFIG": '{"disks":{"a":{"driver":"ftp"}}}'}, "driver must be one of"),
        (SERVICES | {"STORAGE_CONFIG": '{"disks":{"a":{"driver":"local","root":"rel"}}}'}, "root must be an absolute"),
        (SERVICES | {"STORAGE_CONFIG": '{"disks":{"a":{"driver":"s3"}}}'}, "bucket is required"),
        (SERVICES | {"STORAGE_CONFIG": '{"disks":{"a":{"driver":"memory","root":"/x"}}}'}, "unknown key 'root'"),
        (SERVICES | {"WORKSPACE_STORAGE_DISK": "nowhere"}, "WORKSPACE_STORAGE_DISK names 'nowhere'"),
        (SERVICES | {"DEPOT_BODY_STALL_SECONDS": "0"}, "DEPOT_BODY_STALL_SECONDS must be a number above 0"),
        (SERVICES | {"DEPOT_BODY_STALL_SECONDS": "soon"}, "DEPOT_BODY_STALL_SECONDS must be a number above 0"),
        (SERVICES | {"AWS_ENDPOINT_URL": "localhost"}, "AWS_ENDPOINT_URL must be a URL"),
    ],
)
def test_a_bad_setting_is_one_line_that_names_it(env, says):
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(env)
    assert says in caught.value.message
    assert "\n" not in caught.value.message


def test_secrets_do_not_show():
    settings = Settings.from_env(WEB | {"SESSION_SECRET": "never-to-be-seen-in-any-output-at-all"})
    shown = repr(settings) + str(settings.internal_api_keys)
    assert KEY not in shown
    assert "never-to-be-seen" not in shown
    assert f"{Secret('x')}" == "Secret(***)"


@pytest.mark.parametrize(
    ("one", "other", "refused"),
    [
        ({"driver": "s3", "bucket": "b"}, {"driver": "s3", "bucket": "b", "prefix": "x"}, True),
        ({"driver": "s3", "bucket": "b", "prefix": "x"}, {"driver": "s3", "bucket": "b", "prefix": "x/y"}, True),
        ({"driver": "s3", "bucket": "b", "prefix": "x"}, {"driver": "s3", "bucket": "b", "prefix": "xy"}, False),
        ({"driver": "s3", "bucket": "b"}, {"driver": "s3", "bucket": "c", "prefix": "x"}, False),
        ({"driver": "s3", "bucket": "b"}, {"driver": "s3", "bucket": "b"}, False),
        ({"driver": "local", "root": "/nas"}, {"driver": "local", "root": "/nas/x"}, True),
        ({"driver": "local", "root": "/nas/x"}, {"driver": "local", "root": "/nas/xy"}, False),
    ],
)
def test_no_disk_may_lie_inside_another(one, other, refused):
    """It would list the other's files, and the unfinished uploads beside them."""
    for pair in ({"a": one, "b": other}, {"b": other, "a": one}):
        env = SERVICES | {"STORAGE_CONFIG": json.dumps({"disks": pair})}
        if refused:
            with pytest.raises(SettingsError, match="lies inside"):
                Settings.from_env(env)
        else:
            Settings.from_env(env)
