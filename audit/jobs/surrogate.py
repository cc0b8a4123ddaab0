"""The training of a surrogate as a step of an audit: resumable, kept in AUDIT_HOME by what it follows from, its own samples in the run folder.

A surrogate that cannot be used costs its own attacks and nothing else: the reason stands in their rows.
"""

import json
import secrets
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from audit.attacks import asked_of, choose
from audit.errors import AuditError
from audit.jobs import tasks_surrogate
from audit.jobs.cluster import EngineLost
from audit.jobs.facts import Facts
from audit.report.pictures import SURROGATE as PICTURE
from audit.sources import SURROGATE
from audit.surrogates import FOLDER, surrogate_key, surrogate_settings

POLL_S = 0.5
PREFIX = "surrogate_"  # of the attacks' names


@dataclass(frozen=True)
class Surrogate:
    """What an audit knows of its surrogate.

    Attributes: path: its checkpoint; key: of `surrogate_key`; training: what `tasks_surrogate.train_surrogate` returns; info: CheckpointInfo as JSON;
        facts: audit.jobs.facts.Facts of what is measured on it, tables without prefix.
    """

    path: str
    key: str
    training: dict
    info: dict
    facts: Facts

    def to_json(self, request):
        """What measurement.json says of it."""
        plan, settings = self.facts.plan, surrogate_settings(request.settings.get("surrogate", {}))
        return {
            "key": self.key, "settings": asdict(settings),
            **{name: self.info[name] for name in ("sha256", "format", "architecture", "parameters")}, **self.training,
            "timesteps": list(plan["timesteps"]), "probes": list(plan["probes"]), "own": [{"probe": p, "timesteps": list(t), "draws": s} for p, t, s in plan["own"]],
            "model_calls_per_image": self.facts.calls_per_image, "model_calls_once": self.facts.shared_calls,
        }  # fmt: skip


def asked(request):
    """Names of the attacks of a request that ask a surrogate."""
    return asked_of(choose(request.attacks), SURROGATE) if request.attacks else ()


def beside(place, made):
    """The Place where the surrogate is measured too."""
    return replace(place, surrogate=made.path, surrogate_version=made.key)


def prepare(audit, pool):
    """Train the surrogate of an audit, or take the kept one, and see what is measured on it.

    Args: audit: audit.jobs.steps.Audit after its pools are there; pool: audit.pool.Pool of the target's samples.
    Returns: (Surrogate, "") or (None, the reason why there is none).
    Raises: what stops a job.
    """
    from audit.jobs.steps import TaskFailed, run_task

    request, ticket, images = audit.request, audit.ticket, str(pool.folder / "images.npy")
    height, width, channels = pool.info["shape"]
    try:
        training = surrogate_settings(request.settings.get("surrogate", {})).training((channels, height, width))
    except AuditError as error:
        return None, str(error)
    key = surrogate_key(pool.info["sha256"], training, pool.left_out.tolist())
    folder = audit.config.home / FOLDER / key
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    ticket.phase("Training the surrogate")
    try:
        made = _train(audit, pool, images, training, folder)
        ticket.phase("Opening the surrogate")
        place = replace(audit.place, surrogate=str(folder / "model"), surrogate_version=key)
        arguments = (place, images, len(pool), _wish(request))
        info, facts = run_task(audit.engines, audit.engine, ticket, "surrogate", tasks_surrogate.open_surrogate, *arguments)
    except TaskFailed as error:
        if not error.sentence:
            raise
        ticket.log.write(f"no surrogate: {error.sentence}")
        return None, error.sentence
    shutil.copyfile(folder / PICTURE, audit.folder / PICTURE)
    hours = made["training_seconds"] / 3600
    ticket.log.write(f"surrogate {key}: {info['architecture']}, {info['parameters']:,} parameters, {made['steps_done']:,} steps in {hours:.2f} hours, sha256 {info['sha256']}")
    return Surrogate(str(folder / "model"), key, made, info, facts), ""


def _wish(request):
    """What the attacks on the surrogate ask of the measurement: those that stand behind surrogate_NAME, with their settings."""
    from audit.jobs.steps import wish_of

    names = {name: name.removeprefix(PREFIX) for name in asked(request)}
    settings = {base: request.settings[name] for name, base in names.items() if name in request.settings}
    return wish_of(request) | {"attacks": tuple(names.values()), "settings": settings, "budget": None, "api": None, "also": ()}


def _train(audit, pool, images, training, folder):
    """Run the training task to its end and say where it is. Returns what the task returns."""
    from audit.jobs.steps import value_of

    engine, ticket = audit.engine, audit.ticket
    flag = engine.flag(f"{ticket.job.id}-{secrets.token_hex(4)}")
    ticket.add_flag(flag)
    handle = engine.submit("training the surrogate", tasks_surrogate.train_surrogate, audit.place, images, pool.kept, training, str(folder), flag, device=True)
    told = ""
    try:
        while not engine.wait([handle], POLL_S):
            if ticket.overdue:
                audit.engines.kill()
                ticket.check()
            if not ticket.must_stop and (words := progress_words(folder)) not in ("", told):
                ticket.update(phase=words)
                told = words
    except EngineLost:
        raise  # nobody is left to see the flag
    except Exception:
        flag.set()
        raise
    ticket.remove_flag(flag)
    ticket.check()
    return value_of(engine.result(handle))


def progress_words(folder):
    """`Training the surrogate: 35 % of 4,000 steps`, in twentieths: each one is a line in plain output; "" where nothing is known yet."""
    try:
        at = json.loads((Path(folder) / tasks_surrogate.PROGRESS).read_text(encoding="utf-8"))
        return f"Training the surrogate: {at['step'] * 20 // at['steps'] * 5} % of {at['steps']:,} steps"
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return ""
