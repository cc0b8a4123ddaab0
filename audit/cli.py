"""The command line: `python -m audit COMMAND`. stdout: progress and result; stderr: one error line; exit codes as in docs/cli.md."""

import argparse
import json
import logging
import sys
import warnings
from pathlib import Path

from audit import __version__
from audit.errors import AuditError, RequestError
from audit.presets import PRESETS
from audit.request import DEVICES, PRECISIONS

OK, COULD_NOT_RUN, INCONCLUSIVE, INTERRUPTED = 0, 2, 3, 130


class _Parser(argparse.ArgumentParser):
    """argparse that speaks in one line instead of a usage dump."""

    def error(self, message):
        raise RequestError(f"{message[0].upper()}{message[1:]}. See {self.prog} --help.")


def main(argv=None):
    """Run one command. Returns the exit code; never raises for a user's mistake."""
    from models.errors import ModelError

    warnings.simplefilter("ignore")  # stderr carries one error line and nothing else
    logging.disable(logging.ERROR)
    try:
        args = _parser().parse_args(argv)
        return args.command(args)
    except (AuditError, ModelError) as error:
        return _fail(str(error))
    except BrokenPipeError:
        sys.stderr.close()  # the reader of stdout went away: nothing is left to say
        return OK
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        return _fail(f"An internal error stopped the command ({type(error).__name__}: {' '.join(str(error).split())[:200]}). Report it with the command that you ran.")


def _fail(message):
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return COULD_NOT_RUN


def _parser():
    parser = _Parser(prog="python -m audit", description="Which training images does a diffusion checkpoint give away, to whom, and how sure is that?")
    parser.add_argument("--version", action="version", version=f"afterimage {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)

    def command(name, function, text):
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=function)
        return sub

    demo = command("demo", _demo, "audit both bundled checkpoints, a leaky one and its well-behaved twin")
    demo.add_argument("--out", metavar="DIR", help="folder that gets leaky/ and twin/")
    _run_flags(command("run", _run, "audit a checkpoint with members and non-members of its training set"))
    inspect = command("inspect", _inspect, "show what is recognised in a checkpoint")
    inspect.add_argument("checkpoint", metavar="P", help="folder, file or .zip")
    inspect.add_argument("--json", action="store_true", help="machine-readable")
    attacks = command("attacks", _attacks, "show the attacks' cards")
    attacks.add_argument("--json", action="store_true", help="machine-readable")
    rescore = command("rescore", _rescore, "compute all numbers again from a run's stored tables, without the model")
    rescore.add_argument("folder", metavar="DIR", help="run folder")
    export = command("export", _export, "write a run's loss tables as .npz")
    export.add_argument("folder", metavar="DIR", help="run folder")
    export.add_argument("--tables", required=True, metavar="F.npz", help="file to write")
    report = command("report", _report, "write a run's report as one offline document")
    report.add_argument("folder", metavar="DIR", help="run folder")
    report.add_argument("--html", required=True, metavar="F", help="file to write")
    report.add_argument("--thumbnails", action="store_true", help="include thumbnails: the report then shows training images")
    command("jobs", _jobs, "list the jobs").add_argument("--json", action="store_true", help="machine-readable")
    command("cancel", _cancel, "cancel a job").add_argument("id", metavar="ID", help="job id, or its first characters")
    command("worker", _worker, "run the worker in the foreground")
    return parser


def _run_flags(run):
    for name in ("checkpoint", "members", "nonmembers"):
        run.add_argument(f"--{name}", metavar="P", help={"checkpoint": "folder, file or .zip"}.get(name, "folder, .zip or .npz of images"))
    run.add_argument("--out", metavar="DIR", help="run folder; the same request there is resumed")
    run.add_argument("--config", metavar="F.yaml", help="the same names as these flags, and settings: {attack: {name: value}}; a flag wins")
    run.add_argument("--detach", action="store_true", help="submit, print the job's id and return")
    run.add_argument("--name", help="what to call the run (default: the checkpoint's name)")
    run.add_argument("--preset", metavar="|".join(PRESETS), help="how densely to measure (standard)")
    run.add_argument("--attacks", metavar="A,B|all", help="canonical names (default: all that fit --budget)")
    for name, text in (
        ("timesteps", "K, instead of the preset's"),
        ("draws", "S noise draws, instead of the preset's"),
        ("seed", "of noise, split and permutations (0)"),
        ("budget", "what attacks may cost beyond the loss grid, in loss grids, cheapest first (1; with --attacks all 10; named attacks: no limit)"),
        ("batch-size", "instead of a measured one"),
    ):
        run.add_argument(f"--{name}", type=_whole, metavar="N", help=text)
    run.add_argument("--device", metavar="|".join(DEVICES), help="where the network runs (auto)")
    run.add_argument("--precision", metavar="|".join(PRECISIONS), help="fp32 unless asked")


def _whole(text):
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def request_from(args):
    """audit.request.Request from parsed `run` flags and the --config file. Raises RequestError."""
    from audit.attacks import check_settings, choose
    from audit.request import BUDGET_OF_ALL, Request

    given = _config_file(args.config) if args.config else {}
    for name in ("checkpoint", "members", "nonmembers", "out", "name", "preset", "attacks", "timesteps", "draws", "seed", "budget", "batch_size", "device", "precision"):
        if getattr(args, name) is not None:
            given[name] = getattr(args, name)
    for name in ("checkpoint", "members", "nonmembers"):
        if not given.get(name):
            raise RequestError(f"--{name} is missing. Expected a path{' to a checkpoint' if name == 'checkpoint' else ' to a folder, .zip or .npz of images'}.")
        path = Path(given[name]).expanduser()
        if not path.exists():
            raise RequestError(f"--{name}: {path.name} was not found. Check the path.")
        given[name] = str(path.resolve())
    attacks = given.get("attacks", ())
    attacks = [a.strip() for a in attacks.split(",") if a.strip()] if isinstance(attacks, str) else list(attacks)
    if "all" in attacks:
        given.setdefault("budget", BUDGET_OF_ALL)
    given["attacks"] = choose(attacks) if attacks else ()
    check_settings(given.get("settings", {}))
    given.setdefault("name", Path(given["checkpoint"]).stem)
    out = given.pop("out", None)
    return Request.from_json(given), out and Path(out).expanduser().resolve()


def _config_file(path):
    import yaml

    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RequestError(f"--config: {Path(path).name} cannot be read ({type(error).__name__}). Expected YAML with the names of the flags.") from None
    known = {"checkpoint", "members", "nonmembers", "out", "name", "preset", "attacks", "timesteps", "draws", "seed", "budget", "batch-size", "device", "precision", "settings"}
    if not isinstance(data, dict) or set(data) - known:
        unknown = sorted(set(data) - known)[:3] if isinstance(data, dict) else type(data).__name__
        raise RequestError(f"--config: {Path(path).name} holds {unknown}. Expected only the names {', '.join(sorted(known))}.")
    return {k.replace("-", "_"): v for k, v in data.items() if v is not None}


def _loaded(configuration):
    """The configuration, its warnings (an unknown AUDIT_* variable) printed."""
    config = configuration.load()
    for warning in config.warnings:
        print(f"warning: {warning}")
    return config


def _demo(args):
    from audit import config as configuration
    from audit.cli_progress import print_result, wait
    from audit.demo import submit_demo

    config = _loaded(configuration)
    out = args.out and Path(args.out).expanduser().resolve()
    jobs = submit_demo(config, out)
    for job in jobs:
        print(f"{job.name} · {job.folder}", flush=True)
    for job in jobs:
        if wait(config, job.id) == INTERRUPTED:
            return INTERRUPTED
    for job in jobs:
        print_result(job.folder)
    return OK


def _run(args):
    from audit import config as configuration
    from audit.cli_progress import print_result, wait
    from audit.jobs.submit import submit_audit

    request, out = request_from(args)
    config = _loaded(configuration)
    job, created = submit_audit(config, request, out)
    print(f"{job.name} · job {job.id} · {job.folder}" + ("" if created else " · already known"), flush=True)
    if args.detach:
        print(job.id)
        return OK
    if wait(config, job.id) == INTERRUPTED:
        return INTERRUPTED
    return INCONCLUSIVE if print_result(job.folder) == "inconclusive" else OK


def _inspect(args):
    from models.checkpoint import inspect_checkpoint

    info = inspect_checkpoint(args.checkpoint).to_json()
    if args.json:
        print(json.dumps(info, indent=1))
        return OK
    print(f"{Path(args.checkpoint).name}: {info['format']}, {info['confidence']}")
    rows = [
        ("network", info["architecture"], ""),
        ("parameters", f"{info['parameters']:,}", ""),
        ("weights", info["weights"], ""),
        ("image shape", "x".join(map(str, info["image_shape"])), ""),
    ]
    rows += [(s["name"], s["value"], s["decided_by"]) for s in info["settings"]]
    for name, value, source in rows:
        print(f"  {name:<22} {value!s:<28} {source}".rstrip())
    for missing in info["missing"]:
        print(f"  missing: {missing}")
    print(f"  sha256 {info['sha256']}")
    return OK


def _attacks(args):
    from audit.attacks import ATTACKS

    cards = [ATTACKS[name].card for name in ATTACKS]
    if args.json:
        print(json.dumps([card.to_json() for card in cards], indent=1, ensure_ascii=False))
        return OK
    for card in cards:
        print(f"{card.name} · {card.title} · {card.threat_model}\n  score: {card.equation}\n  source: {card.source}")
        print(f"  differs: {card.differs}\n  settings: {', '.join(s.name for s in card.settings)}\n  weak: {'; '.join(card.weaknesses)}")
    return OK


def _rescore(args):
    from audit.analysis import analyse
    from audit.cli_progress import print_result

    analyse(args.folder)
    print_result(args.folder)
    return OK


def _export(args):
    from audit.report.export import export_npz

    print(f"wrote {export_npz(args.folder, args.tables).name}")
    return OK


def _report(args):
    from audit.files import write_text
    from audit.report.html import render
    from audit.report.run import open_run

    text = render(open_run(args.folder), thumbnails=args.thumbnails)
    try:
        write_text(args.html, text)
    except OSError as error:
        raise RequestError(f"{Path(args.html).name} cannot be written ({error.strerror}). Choose another place.") from None
    print(f"wrote {Path(args.html).name}")
    return OK


def _store():
    from audit import config as configuration
    from audit.jobs.store import Store

    config = configuration.load()
    config.prepare_home()
    return Store(config.home)


def _jobs(args):
    jobs = _store().list()
    if args.json:
        fields = ("id", "name", "state", "folder", "created", "finished", "error", "result")
        print(json.dumps([{f: getattr(job, f) for f in fields} for job in jobs], indent=1))
        return OK
    for job in jobs:
        print(f"{job.id}  {job.state:<10} {round(100 * job.fraction):>3} %  {job.name}" + (f"  {job.error}" if job.error else ""))
    if not jobs:
        print("no jobs")
    return OK


def _cancel(args):
    from audit.errors import JobError

    store = _store()
    found = [job for job in store.list() if job.id.startswith(args.id)]
    if len(found) != 1:
        raise JobError(f"{len(found)} jobs begin with {args.id!r}. Expected one: see python -m audit jobs.")
    store.request_cancel(found[0].id)
    print(f"cancelling {found[0].id}")
    return OK


def _worker(args):
    from audit.worker import main as work

    return work()
