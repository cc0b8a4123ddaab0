"""From the flags of `run`, and its configuration file, to an audit.request.Request."""

import argparse
from pathlib import Path

from audit.cli_gate import path_given
from audit.errors import RequestError
from audit.presets import PRESETS
from audit.request import DEFAULT_POOL_STEPS, DEVICES, PRECISIONS, SAMPLERS
from models.overrides import OVERRIDES

SPLIT_FLAGS = {"manifest": "randomised_split", "randomised_split": "manifest"}  # each and what it excludes
RUN_NAMES = ("checkpoint", "members", "nonmembers", "out", "name", "preset", "attacks", "timesteps", "draws", "seed", "budget", "batch_size", "device", "precision")
RUN_NAMES += (*SPLIT_FLAGS, "claimed_dp", "reference", "api", "labels", "captions", "pool", "pool_sampler", "pool_steps")
OVERRIDE_FLAGS = {"whole": "N", "number": "X", "text": "TEXT"}  # what stands for a value in --help; choices show themselves
KINDS = {"attacks": (str, list), "settings": (dict,), "randomised_split": (bool,), "claimed_dp": (str, list, int, float)}  # of the configuration file; the rest:
KINDS |= {"api": (str, dict), "pool": (str, int)}
KINDS |= dict.fromkeys(("timesteps", "draws", "seed", "budget", "batch_size", "pool_steps"), (int,))
EXPECTED = {"attacks": "names, or a list of names", "settings": "attack: {name: value}", "randomised_split": "true or false", "claimed_dp": "EPS,DELTA such as 3,1e-5"}
EXPECTED |= {"api": "KEY=VALUE,… such as steps=20,bits=8", "pool": "a number of samples, or a path"}
BESIDE = {  # paths that may be given: what is expected there, and what must hold
    "reference": ("a path to a checkpoint", Path.exists),
    "labels": ("a .csv with the columns image,class", Path.is_file),
    "captions": ("a .csv with the columns image,caption", Path.is_file),
    "manifest": ("the file that python -m audit split wrote", Path.is_file),
}


def run_flags(run):
    """Add the flags of `run` to its parser."""
    for name in ("checkpoint", "members", "nonmembers"):
        run.add_argument(f"--{name}", type=path_given, metavar="P", help={"checkpoint": "folder, file or .zip"}.get(name, "folder, .zip or .npz of images"))
    run.add_argument("--out", type=path_given, metavar="DIR", help="run folder; the same request there is resumed")
    run.add_argument("--config", type=path_given, metavar="F.yaml", help="the same names as these flags, and settings: {attack: {name: value}}; a flag wins")
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
        run.add_argument(f"--{name}", type=whole_number, metavar="N", help=text)
    run.add_argument("--device", metavar="|".join(DEVICES), help="where the network runs (auto)")
    run.add_argument("--precision", metavar="|".join(PRECISIONS), help="fp32 unless asked")
    drawn = run.add_mutually_exclusive_group()
    drawn.add_argument("--manifest", type=path_given, metavar="F", help="verify the split that `split` drew before training")
    drawn.add_argument("--randomised-split", action="store_true", default=None, help="your word that the split was drawn at random before training")
    run.add_argument("--reference", type=path_given, metavar="P", help="a checkpoint not trained on the members, such as the base of a fine-tune: its scores are subtracted")
    run.add_argument("--api", metavar="KEY=VALUE,…", help="attack only what an API shows: steps=20,bits=8,noise=0.02,jpeg=75; white-box attacks are skipped")
    run.add_argument("--labels", type=path_given, metavar="F.csv", help="image,class: what a class-conditional model is asked with; or class sub-folders 0, 1, …")
    run.add_argument("--captions", type=path_given, metavar="F.csv", help="image,caption: what a text-to-image model is asked with (the empty prompt)")
    run.add_argument("--pool", type=path_given, metavar="DIR|N", help="generated images (--checkpoint may then be left out), or how many samples to draw: for black-box attacks")
    run.add_argument("--pool-sampler", metavar="|".join(SAMPLERS), help="how samples are drawn (ddim)")
    run.add_argument("--pool-steps", type=whole_number, metavar="N", help=f"steps of ddim ({DEFAULT_POOL_STEPS})")
    run.add_argument("--claimed-dp", metavar="EPS,DELTA", help="a claimed differential privacy to check, such as 3,1e-5")
    override_flags(run)


def override_flags(command):
    """One flag per setting that a checkpoint's files may not say."""
    group = command.add_argument_group("what the checkpoint does not say")
    for name, override in OVERRIDES.items():
        flag, look = "--" + name.replace("_", "-"), {"dest": name, "default": None, "help": override.words}
        if override.kind == "switch":
            group.add_argument(flag, action=argparse.BooleanOptionalAction, **look)
        else:
            group.add_argument(flag, metavar="|".join(override.values) or OVERRIDE_FLAGS[override.kind], **look)


def overrides_from(args, given=None):
    """{name: value} of the loader flags, checked; they win over `given`. Raises CheckpointError."""
    from models.overrides import check

    return check((given or {}) | {name: getattr(args, name) for name in OVERRIDES if getattr(args, name) is not None})


def whole_number(text):
    """The type of a flag that counts."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def request_from(args):
    """audit.request.Request from parsed `run` flags and the --config file. Raises RequestError."""
    from audit.attacks import check_settings, choose
    from audit.request import BUDGET_OF_ALL, Request

    given = _config_file(args.config) if args.config else {}
    for name in RUN_NAMES:
        if getattr(args, name) is not None:
            given[name] = getattr(args, name)
            if name in SPLIT_FLAGS:  # a flag wins over the file's other way to say it
                given.pop(SPLIT_FLAGS[name], None)
    pool = _pool(given)
    for name in ("checkpoint", "members", "nonmembers"):
        if not given.get(name):
            if name == "checkpoint" and isinstance(pool, str):
                given[name] = None
                continue
            raise RequestError(f"--{name} is missing. Expected a path{' to a checkpoint' if name == 'checkpoint' else ' to a folder, .zip or .npz of images'}.")
        path = _resolved(name, given[name])
        if not path.exists():
            raise RequestError(f"--{name}: {path.name} was not found. Check the path.")
        given[name] = str(path)
    for name, (expected, is_there) in BESIDE.items():
        if given.get(name):
            path = _resolved(name, given[name])
            if not is_there(path):
                raise RequestError(f"--{name}: {path.name} was not found. Expected {expected}: check the path.")
            given[name] = str(path)
    attacks = given.get("attacks", ())
    attacks = [a.strip() for a in attacks.split(",") if a.strip()] if isinstance(attacks, str) else list(attacks)
    if "all" in attacks:
        given.setdefault("budget", BUDGET_OF_ALL)
    given["attacks"] = choose(attacks) if attacks else ()
    check_settings(given.get("settings", {}))
    given["overrides"] = overrides_from(args, {name: given.pop(name) for name in OVERRIDES if name in given})
    given.setdefault("name", Path(given["checkpoint"] or pool).stem)
    out = given.pop("out", None)
    return Request.from_json(given), out and _resolved("out", out)


def _pool(given):
    """The number of samples, or the absolute path of generated images, put back into `given`; None without either. Raises RequestError."""
    pool = given.get("pool")
    if isinstance(pool, str) and pool.strip().isascii() and pool.strip().isdecimal():
        pool = int(pool)
    elif isinstance(pool, str):
        path = _resolved("pool", pool)
        if not path.exists():
            raise RequestError(f"--pool: {path.name} was not found. Expected a number of samples to draw, or a folder, .zip or .npz of generated images.")
        pool = str(path)
    if pool is not None:
        given["pool"] = pool
    return pool


def _resolved(name, text):
    """The absolute Path of a flag. Raises RequestError: no file can have that name."""
    try:
        path = Path(text).expanduser().resolve()
        path.exists()  # raises where the name is too long, or a folder above it is closed
    except (OSError, RuntimeError, ValueError) as error:
        raise RequestError(f"--{name}: {text[:40]!r} cannot be used ({getattr(error, 'strerror', None) or 'no such user or name'}). Expected a path.") from None
    return path


def _config_file(path):
    import yaml

    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # a date that does not exist is a ValueError
        raise RequestError(f"--config: {Path(path).name} cannot be read ({type(error).__name__}). Expected YAML with the names of the flags.") from None
    known = {name.replace("_", "-") for name in (*RUN_NAMES, *OVERRIDES)} | {"settings"}
    if not isinstance(data, dict) or set(data) - known:
        unknown = sorted(str(key)[:40] for key in set(data) - known)[:3] if isinstance(data, dict) else _named(data)
        raise RequestError(f"--config: {Path(path).name} holds {unknown}. Expected only the names {', '.join(sorted(known))}.")
    given = {k.replace("-", "_"): v for k, v in data.items() if v is not None}
    for name, value in given.items():
        if name not in OVERRIDES and not _is_kind(name, value):
            expected = EXPECTED.get(name) or ("a whole number" if KINDS.get(name) == (int,) else "text that is not empty")
            raise RequestError(f"--config: {name.replace('_', '-')} is {_named(value)}. Expected {expected}.")
    return given


def _is_kind(name, value):
    """Whether a value of the configuration file is of its flag's kind; YAML's true is no number."""
    kinds = KINDS.get(name)
    if kinds is None:
        return isinstance(value, str) and bool(value.strip()) and "\0" not in value
    return isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool)) and (name != "attacks" or all(isinstance(a, str) for a in value))


def _named(value):
    """A value from outside in an error: a list or mapping by its kind alone, since YAML lets a short file hold a huge one."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a mapping"
    return repr(value[:40]) if isinstance(value, str) else str(value)[:40]
