"""Ctrl-C while a command waits: all of its jobs end, and the same command goes on with them."""

import pytest

from audit import cli_progress
from audit.cli import main
from audit.jobs import submit
from audit.jobs.store import Store


@pytest.fixture
def stop(monkeypatch, tmp_path):
    """A home without a worker, where the first look at a waiting job is answered with Ctrl-C; its Store."""

    def ctrl_c(config):
        raise KeyboardInterrupt

    (tmp_path / "home").mkdir(mode=0o700)
    monkeypatch.setenv("AUDIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(submit, "ensure_worker", lambda config: False)
    monkeypatch.setattr(cli_progress, "ensure_worker", ctrl_c)
    return Store(tmp_path / "home")


def test_ctrl_c_ends_both_audits_of_the_demo_and_the_same_command_goes_on(stop, capsys):
    assert main(["demo"]) == 130 and "To resume, run the same command." in capsys.readouterr().out
    first = {job.name: job for job in stop.list()}
    assert len(first) == 2 and all(job.state == "cancelled" for job in first.values())
    assert main(["demo"]) == 130
    assert {job.name: job.folder for job in stop.list()} == {name: job.folder for name, job in first.items()}


def test_with_a_folder_of_its_own_too(stop, tmp_path):
    for _ in range(2):
        assert main(["demo", "--out", str(tmp_path / "out")]) == 130
        assert sorted(job.folder for job in stop.list()) == [str(tmp_path / "out" / name) for name in ("leaky", "twin")]
        assert all(job.state == "cancelled" for job in stop.list())


def test_a_stopped_demo_whose_folder_is_gone_begins_anew(stop):
    main(["demo"])
    for job in stop.list():
        (stop.home / "runs" / job.id / "request.json").unlink()
    assert main(["demo"]) == 130 and len(stop.list()) == 4
