"""Settings from the environment, and the home folder that others must not write to."""

import os
import re
from pathlib import Path

import pytest

from audit import config
from audit.config import VARIABLES, filesystem_of, load
from audit.errors import HomeError

ROOT = Path(__file__).resolve().parents[2]


def test_defaults_lie_in_the_users_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    made = load({})
    assert made.home == tmp_path / ".afterimage" and made.inbox == made.home / "inbox"
    assert (made.idle_exit, made.max_upload_mb, made.shard_images, made.devices, made.scheduler) == (600, 200, None, None, None)


def test_every_variable_is_read(tmp_path):
    pem = tmp_path / "a.pem"
    pem.touch()
    values = {
        "AUDIT_HOME": str(tmp_path / "h"), "AUDIT_INBOX": str(tmp_path), "AUDIT_DEVICES": "0,2", "AUDIT_IDLE_EXIT": "5", "AUDIT_MAX_UPLOAD_MB": "7",
        "AUDIT_SHARD_SECONDS": "3", "AUDIT_SHARD_IMAGES": "9", "AUDIT_SCHEDULER": "tls://h:1", "AUDIT_TLS_CA": str(pem), "AUDIT_TLS_CERT": str(pem), "AUDIT_TLS_KEY": str(pem),
    }  # fmt: skip
    assert set(values) == set(VARIABLES)
    changed = load(values)
    default = load({})
    for name in ("home", "inbox", "devices", "idle_exit", "max_upload_mb", "shard_seconds", "shard_images", "scheduler", "tls_ca", "tls_cert", "tls_key"):
        assert getattr(changed, name) != getattr(default, name), name


def test_an_unknown_variable_warns_in_one_line():
    made = load({"AUDIT_HOEM": "/x", "AUDITOR": "me"})
    assert len(made.warnings) == 1 and "AUDIT_HOEM" in made.warnings[0] and "\n" not in made.warnings[0]
    assert load({"AUDIT_HOME": "/x"}).warnings == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AUDIT_IDLE_EXIT", "soon"), ("AUDIT_IDLE_EXIT", "-1"), ("AUDIT_IDLE_EXIT", "nan"), ("AUDIT_MAX_UPLOAD_MB", "0"), ("AUDIT_MAX_UPLOAD_MB", "1.5"),
        ("AUDIT_SHARD_SECONDS", "60"), ("AUDIT_SHARD_IMAGES", "0"), ("AUDIT_DEVICES", "one"), ("AUDIT_DEVICES", "0,0"), ("AUDIT_SCHEDULER", "tcp://h:8786"), ("AUDIT_SCHEDULER", "tls://h:8786"),
    ],
)  # fmt: skip
def test_bad_values_are_refused_by_name(name, value):
    with pytest.raises(HomeError) as error:
        load({name: value})
    assert ("AUDIT_TLS" if value.startswith("tls") else name) in str(error.value) and "Expected" in str(error.value)


def test_the_home_is_made_for_its_owner_alone(tmp_path):
    old = os.umask(0)
    try:
        made = load({"AUDIT_HOME": str(tmp_path / "deep" / "home")}).prepare_home()
    finally:
        os.umask(old)
    assert {p.name for p in made.home.iterdir()} == {"inbox", "checkpoints", "images", "pools", "runs", "tmp"}
    for folder in (made.home, *made.home.iterdir()):
        assert folder.stat().st_mode & 0o777 == 0o700
    made.prepare_home()


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_home_that_others_may_write_is_refused(tmp_path, mode):
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(mode)
    with pytest.raises(HomeError, match="writable by others"):
        load({"AUDIT_HOME": str(home)}).prepare_home()
    assert list(home.iterdir()) == []


def test_a_home_of_somebody_else_is_refused(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    monkeypatch.setattr(config.os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(HomeError, match="belongs to another user"):
        load({"AUDIT_HOME": str(home)}).prepare_home()


def test_a_home_that_is_a_file_or_cannot_be_made_is_refused(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for home in (file, file / "below"):
        with pytest.raises(HomeError) as error:
            load({"AUDIT_HOME": str(home)}).prepare_home()
        assert str(tmp_path) not in str(error.value)


def test_a_home_on_nfs_is_refused(tmp_path, monkeypatch):
    table = tmp_path / "mountinfo"
    table.write_text(
        "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
        "30 22 0:26 / /home/a\\040b rw,relatime shared:2 - nfs4 server:/x rw\n"
        "31 30 0:27 / /home/a\\040b/local rw - tmpfs tmpfs rw\n"
        "torn line\n"
    )
    assert filesystem_of("/home/a b/me", table) == "nfs4"
    assert filesystem_of("/home/a b/local/x", table) == "tmpfs"
    assert filesystem_of("/home/a bc", table) == "ext4"
    assert filesystem_of("/x", tmp_path / "missing") == ""
    monkeypatch.setattr(config, "filesystem_of", lambda path: "nfs4")
    with pytest.raises(HomeError, match=r"network file system \(nfs4\)"):
        load({"AUDIT_HOME": str(tmp_path / "home")}).prepare_home()


def test_a_missing_inbox_is_refused(tmp_path):
    with pytest.raises(HomeError, match="AUDIT_INBOX"):
        load({"AUDIT_HOME": str(tmp_path / "home"), "AUDIT_INBOX": str(tmp_path / "no")}).prepare_home()


def test_the_document_lists_exactly_the_variables_with_their_words():
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(AUDIT_[A-Z_]+)` \| (.*) \|$", text, re.M))
    assert rows == {name: f"{default} | {meaning}" for name, (default, meaning) in VARIABLES.items()}


def test_no_variable_is_read_anywhere_else():
    for file in [*(ROOT / "audit").rglob("*.py"), *(ROOT / "models").rglob("*.py"), *(ROOT / "pages").rglob("*.py")]:
        unknown = set(re.findall(r"\bAUDIT_[A-Z_]+\b", file.read_text(encoding="utf-8"))) - set(VARIABLES) - {"AUDIT_TLS", "AUDIT_"}
        assert not unknown, (file.name, unknown)
