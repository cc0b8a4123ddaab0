"""The command line: `python -m audit COMMAND`. stdout: progress and result; stderr: one error line; exit codes as in docs/cli.md."""

import argparse
import json
import logging
import sys
import warnings
from pathlib import Path

from audit import __version__
from audit.cli_gate import gate, gate_flags, path_given
from audit.cli_request import override_flags, overrides_from, request_from, run_flags, whole_number
from audit.errors import AuditError, RequestError

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
    demo.add_argument("--out", type=path_given, metavar="DIR", help="folder that gets leaky/ and twin/")
    run_flags(command("run", _run, "audit a checkpoint with members and non-members of its training set"))
    inspect = command("inspect", _inspect, "show what is recognised in a checkpoint")
    inspect.add_argument("checkpoint", type=path_given, metavar="P", help="folder, file or .zip")
    inspect.add_argument("--json", action="store_true", help="machine-readable")
    inspect.add_argument("--images", type=path_given, metavar="P", help="pictures on which the usual values of missing settings are compared: a hint, nothing is decided by it")
    override_flags(inspect)
    attacks = command("attacks", _attacks, "show the attacks' cards")
    attacks.add_argument("--json", action="store_true", help="machine-readable")
    rescore = command("rescore", _rescore, "compute all numbers again from a run's stored tables, without the model")
    rescore.add_argument("folder", type=path_given, metavar="DIR", help="run folder")
    export = command("export", _export, "write a run's loss tables as .npz")
    export.add_argument("folder", type=path_given, metavar="DIR", help="run folder")
    export.add_argument("--tables", type=path_given, required=True, metavar="F.npz", help="file to write")
    report = command("report", _report, "write a run's report as one offline document")
    report.add_argument("folder", type=path_given, metavar="DIR", help="run folder")
    report.add_argument("--html", type=path_given, required=True, metavar="F", help="file to write")
    report.add_argument("--thumbnails", action="store_true", help="include thumbnails: the report then shows training images")
    control = command("control", _control, "run the same settings on the bundled leaky checkpoint, and add the outcome to a finished run as a control")
    control.add_argument("folder", type=path_given, metavar="DIR", help="run folder")
    protect = command("protections", _protections, "measure a finished run's gray-box attacks again through one API after another: what each protection costs an attacker")
    protect.add_argument("folder", type=path_given, metavar="DIR", help="run folder; the checkpoint must still be where it was")
    protect.add_argument("--images", type=whole_number, default=None, metavar="N", help="held-out images that are measured again, half of each class (300)")
    split = command("split", _split, "draw members and non-members at random, before training, and write the manifest that later audits verify against")
    split.add_argument("folder", type=path_given, metavar="FOLDER", help="folder, .zip or .npz of images")
    split.add_argument("--out", type=path_given, required=True, metavar="F", help="manifest to write; an existing file is refused")
    split.add_argument("--seed", type=whole_number, metavar="N", help="of the coins (a fresh one; the manifest holds it)")
    split.add_argument("--query", type=whole_number, metavar="N", help="only N images get a coin, the others are for training only")
    split.add_argument("--copy", type=path_given, metavar="DIR", help="new folder that gets members/, nonmembers/ and training/ as copies")
    gate_flags(command("gate", gate, "hold a finished run against limits: exit code 0 kept, 1 broken, 3 undecided"))
    command("jobs", _jobs, "list the jobs").add_argument("--json", action="store_true", help="machine-readable")
    command("cancel", _cancel, "cancel a job").add_argument("id", metavar="ID", help="job id, or its first characters")
    command("worker", _worker, "run the worker in the foreground")
    return parser


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
    for i, job in enumerate(jobs):
        if wait(config, job.id, behind=[other.id for other in jobs[i + 1 :]]) == INTERRUPTED:
            return INTERRUPTED
    for job in jobs:
        print_result(job.folder)
    return OK


def _run(args):
    from audit import config as configuration
    from audit.cli_progress import print_result, wait
    from audit.jobs.submit import submit_audit
    from audit.planner import plan_of_files

    request, out = request_from(args)
    config = _loaded(configuration)
    for line in plan_of_files(request.members, request.nonmembers):
        print(line)
    job, created = submit_audit(config, request, out)
    print(f"{job.name} · job {job.id} · {job.folder}" + ("" if created else " · already known"), flush=True)
    if args.detach:
        print(job.id)
        return OK
    if wait(config, job.id, f"run the same command with --out {job.folder}") == INTERRUPTED:
        return INTERRUPTED
    return INCONCLUSIVE if print_result(job.folder) == "inconclusive" else OK


def _control(args):
    from audit import config as configuration
    from audit.analysis import analyse
    from audit.cli_progress import print_result, wait
    from audit.files import write_json
    from audit.jobs.submit import stopped_folder, submit_audit
    from audit.known_leak import FILE, found_in, request_like
    from audit.measured import read_measured
    from audit.report.run import open_run

    folder = Path(args.folder).expanduser().resolve()
    open_run(folder)
    config = _loaded(configuration)
    request = request_like(read_measured(folder).request)
    job, created = submit_audit(config, request, stopped_folder(config, request))
    print(f"{job.name} · job {job.id} · {job.folder}" + ("" if created else " · already known"), flush=True)
    if wait(config, job.id) == INTERRUPTED:
        return INTERRUPTED
    write_json(folder / FILE, found_in(open_run(job.folder).report))
    analyse(folder)
    print_result(folder)
    return OK


def _protections(args):
    from audit import config as configuration
    from audit.cli_progress import wait
    from audit.jobs.submit import submit_protections
    from audit.protections import IMAGES, read
    from audit.report.protected import lines
    from audit.report.run import open_run
    from audit.request import Request

    folder = Path(args.folder).expanduser().resolve()
    request = Request.from_json(open_run(folder).request)
    config = _loaded(configuration)
    job = submit_protections(config, folder, request, IMAGES if args.images is None else args.images)
    print(f"{job.name} · job {job.id} · {job.folder}", flush=True)
    if wait(config, job.id) == INTERRUPTED:
        return INTERRUPTED
    for line in lines(read(folder)):
        print(line)
    return OK


def _inspect(args):
    from models.checkpoint import inspect_checkpoint

    info = inspect_checkpoint(args.checkpoint, **overrides_from(args)).to_json()
    ranking = _ranking(args, info) if args.images is not None else None
    if args.json:
        print(json.dumps(info | ({} if ranking is None else {"ranking": ranking}), indent=1))
        return OK
    print(f"{Path(args.checkpoint).name}: {info['format']}, {info['confidence']}")
    rows = [
        ("network", info["architecture"], ""),
        ("parameters", f"{info['parameters']:,}", ""),
        ("weights", info["weights"], ""),
        ("image shape", "x".join("?" if n is None else str(n) for n in info["image_shape"]), ""),
    ]
    rows += [(s["name"], s["value"], s["decided_by"]) for s in info["settings"]]
    for name, value, source in rows:
        print(f"  {name:<22} {value!s:<28} {source}".rstrip())
    for missing in info["missing"]:
        print(f"  missing: {missing}")
    if info["missing"] and ranking is None:
        print("  hint: --images FOLDER compares the usual values of what is missing on your pictures")
    if ranking is not None:
        print(f"  images: {ranking['words']}")
    for note in info["notes"]:
        print(f"  note: {note}")
    print(f"  sha256 {info['sha256']}")
    return OK


def _ranking(args, info):
    """{"words", "best", "ratios"} of the usual values of what is missing, on the first pictures of --images. Raises CheckpointError, ImageError."""
    from models.checkpoint import rank_missing
    from models.errors import CheckpointError
    from models.imagefiles import first_pictures
    from models.pixels import to_model_range

    channels, *size = info["image_shape"]
    if not info["missing"]:
        return {"words": "nothing is missing, so there is nothing to compare", "best": None, "ratios": []}
    if None in size:
        raise CheckpointError(f"{Path(args.checkpoint).name} does not show the size of its pictures. Expected --image-size: give it, then its other settings can be compared.")
    ranking = rank_missing(args.checkpoint, to_model_range(first_pictures(args.images, channels, tuple(size))), **overrides_from(args))
    if ranking is None:
        return {"words": "there are no usual values to compare", "best": None, "ratios": []}
    return {"words": ranking.words, "best": ranking.best, "ratios": [[name, ratio] for name, ratio in ranking.ratios]}


def _attacks(args):
    from audit.attacks import ATTACKS

    cards = [ATTACKS[name].card for name in ATTACKS]
    if args.json:
        print(json.dumps([card.to_json() for card in (*cards, *(ATTACKS[name].card for name in ATTACKS.derived()))], indent=1, ensure_ascii=False))
        return OK
    for card in cards:
        print(f"{card.name} · {card.title} · {card.threat_model}\n  score: {card.equation}\n  source: {card.source}")
        print(f"  differs: {card.differs}\n  settings: {', '.join(s.name for s in card.settings)}\n  weak: {'; '.join(card.weaknesses)}")
    print(f"surrogate_NAME · NAME on a model that is trained on generated samples · black-box; only when named\n  {', '.join(ATTACKS.derived())}")
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


def _split(args):
    from audit import format as fmt
    from audit.planner import LEAST, power_lines
    from audit.splitter import split

    drawn = split(Path(args.folder).expanduser(), Path(args.out).expanduser(), args.seed, args.query, args.copy and Path(args.copy).expanduser())
    manifest, counts = drawn.manifest, drawn.counts
    left = [f"{''.join(c if c.isprintable() else '?' for c in name)}: {reason}" for name, reason in drawn.left_out]
    print(f"{fmt.count(len(manifest['images']))} images read" + (f", {fmt.count(len(left))} left out (first: {left[0]})" if left else ""))
    print(f"{fmt.count(drawn.sharing)} of them share their coin with a near duplicate")
    print(f"{fmt.count(counts['member'])} members, {fmt.count(counts['nonmember'])} non-members, {fmt.count(counts['training'])} for training only")
    for line in power_lines(counts["member"], counts["nonmember"]) if min(counts["member"], counts["nonmember"]) >= LEAST else ():
        print(f"  {line}")
    print(f"wrote {Path(args.out).name} (seed {manifest['seed']}, sha256 {fmt.fingerprint(manifest['sha256'])})")
    _say_next(args, counts, npz=args.folder.lower().endswith(".npz"))
    return OK


def _say_next(args, counts, npz):
    """The two commands that follow a split: train on what the coins allow, then audit."""
    import shlex

    places = {name: shlex.quote(str(Path(args.copy or "DIR") / name) + (".npz" if npz else "")) for name in ("members", "nonmembers", "training")}
    trained = [places["members"]] + ([places["training"]] if counts["training"] else [])
    print("Next: train on the members" + (" and the training images" if counts["training"] else "") + " alone, with this trainer or yours, then audit:")
    print("  python -m models.train " + " ".join(f"--images {place}" for place in trained) + " --out MODEL")
    print(f"  python -m audit run --checkpoint MODEL --members {places['members']} --nonmembers {places['nonmembers']} --manifest {shlex.quote(args.out)}")
    if not args.copy:
        print(f"DIR is yours to fill: {Path(args.out).name} says which image has which role; --copy DIR writes the folders.")


def _store():
    from audit import config as configuration
    from audit.jobs.store import Store

    config = configuration.load()
    config.prepare_home()
    return Store(config.home)


def _on_device(store):
    """All jobs that measure something, newest first."""
    from audit.jobs.store import ON_DEVICE

    return [job for job in store.list(None) if job.kind in ON_DEVICE]


def _jobs(args):
    jobs = _on_device(_store())
    if args.json:
        fields = ("id", "kind", "name", "state", "folder", "created", "finished", "cancel_requested", "error", "result")
        print(json.dumps([{f: getattr(job, f) for f in fields} for job in jobs], indent=1))
        return OK
    for job in jobs:
        state = "cancelling" if job.active and job.cancel_requested else job.state
        print(f"{job.id}  {state:<10} {round(100 * job.fraction):>3} %  {job.name}" + (f"  {job.error}" if job.error else ""))
    if not jobs:
        print("no jobs")
    return OK


def _cancel(args):
    from audit.errors import JobError

    store = _store()
    found = [job for job in _on_device(store) if job.id.startswith(args.id)]
    if len(found) != 1:
        raise JobError(f"{len(found)} jobs begin with {args.id!r}. Expected one: see python -m audit jobs.")
    store.request_cancel(found[0].id)
    print(f"cancelling {found[0].id}")
    return OK


def _worker(args):
    from audit.worker import main as work

    return work()
