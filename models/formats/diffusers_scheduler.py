"""The noise that a diffusers checkpoint was trained with: from its scheduler's file, or, where there is none, from the user.

A scheduler's file names the sampler that was saved with the model; the noise of the training is what its betas say, whatever the sampler.
"""

import inspect
from dataclasses import dataclass

from models import schedule as schedules
from models.base import PREDICTION_TYPES, Setting
from models.errors import CheckpointError
from models.overrides import decide
from models.safety import read_json, shown

PLACES = ("scheduler/scheduler_config.json", "scheduler_config.json")
DDPM_DEFAULTS = {
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
    "prediction_type": "epsilon",
}
_LATENT = {"beta_start": 0.00085, "beta_end": 0.012}
# What each scheduler class assumes where its file is silent, as far as it differs from DDPM. Samplers of one trained model: the noise it was trained with is the same.
SCHEDULERS = {
    "DDPMScheduler": {"variance_type": "fixed_small"},
    "DDPMParallelScheduler": {"variance_type": "fixed_small"},
    "DDIMScheduler": {},
    "DDIMParallelScheduler": {},
    "DDIMInverseScheduler": {},
    "PNDMScheduler": {},
    "RePaintScheduler": {},
    "DPMSolverMultistepScheduler": {},
    "DPMSolverMultistepInverseScheduler": {},
    "DPMSolverSinglestepScheduler": {},
    "DEISMultistepScheduler": {},
    "UniPCMultistepScheduler": {},
    "SASolverScheduler": {},
    "EulerDiscreteScheduler": {},
    "EulerAncestralDiscreteScheduler": {},
    "LMSDiscreteScheduler": {},
    "HeunDiscreteScheduler": _LATENT,
    "KDPM2DiscreteScheduler": _LATENT,
    "KDPM2AncestralDiscreteScheduler": _LATENT,
    "LCMScheduler": _LATENT | {"beta_schedule": "scaled_linear"},
    "TCDScheduler": _LATENT | {"beta_schedule": "scaled_linear"},
}
VARIANCE_OF = {kind: kind.removesuffix("_log") for kind in ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range")}
MAX_STEPS = 100_000
OURS = ("train_timesteps", "beta_schedule", "prediction_type", "beta_start", "beta_end", "variance")  # what a user may say where no scheduler's file does
DIFFUSERS_NAMES = {"cosine": "squaredcos_cap_v2"}


@dataclass(frozen=True)
class Noise:
    """What is known of the noise.

    Attributes:
        cls, config: scheduler class and its configuration, defaults filled in; name: relative name of its file, "" where the user decides.
        schedule: models.schedule.Schedule, or None where something is missing; prediction_type, steps: None where missing; variance: of models.base.VARIANCES.
        settings: who decided what; missing: names of settings that nobody gave; notes: what was assumed, a line each.
    """

    cls: str
    config: dict
    name: str
    schedule: schedules.Schedule | None
    variance: str
    settings: tuple[Setting, ...]
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def prediction_type(self):
        """One of PREDICTION_TYPES, or None."""
        return self.config["prediction_type"]

    @property
    def steps(self):
        """Timesteps of the training, or None."""
        return self.config["num_train_timesteps"]


def from_file(root, name, index_entry, user, class_of, learned, unet_name):
    """Noise of a scheduler's file.

    Args:
        root: Path; name: relative, of PLACES; index_entry: model_index.json's line for it, or None; user: {override: value}, none of which may be about the noise;
        class_of: how a class is read from a configuration (diffusers_parts.class_of); learned: whether the network returns its variance too; unet_name: its file, for messages.
    Raises: CheckpointError.
    """
    for setting in OURS:
        if setting in user:
            raise CheckpointError(f"{setting} cannot be set where {name} says it. Expected one of both: leave {setting} out, or edit {name}.")
    given = _current(read_json(root, name), name)
    cls = class_of(given, name, index_entry, tuple(SCHEDULERS), "schedulers")
    config = DDPM_DEFAULTS | SCHEDULERS[cls] | {k: v for k, v in given.items() if not k.startswith("_")}
    schedule = _schedule(config, name)
    variance = _variance(config, cls, name, learned, unet_name)
    return Noise(cls, config, name, schedule, variance, _settings(config, given, cls, name, variance))


def _current(given, name):
    """A scheduler's file in today's words: before diffusers 0.9 `predict_epsilon` false meant prediction_type sample, which today's diffusers passes over in silence."""
    if "predict_epsilon" not in given:
        return given
    said, kind = given["predict_epsilon"], given.get("prediction_type")
    if type(said) is not bool:
        raise CheckpointError(f"{name}: predict_epsilon is {shown(said)}. Expected true or false: copy the file again.")
    meant = "epsilon" if said else "sample"
    if kind not in (None, meant) and (not said or kind == "sample"):
        raise CheckpointError(f"{name} says predict_epsilon {str(said).lower()} and prediction_type {shown(kind)}. Expected one of both: leave out the one that is wrong.")
    return given | {"prediction_type": kind or meant}


def from_user(user, from_yaml, yaml_name, learned):
    """Noise without a scheduler's file: what the user or a .yaml says; the rest is missing.

    Args: user, from_yaml: {override: value}; yaml_name: the .yaml's; learned: whether the network returns its variance too.
    Raises: CheckpointError: the variance contradicts the network.
    """
    said = from_yaml | user
    if said.get("beta_schedule") == "cosine" and (extra := {"beta_start", "beta_end"} & set(said)):
        raise CheckpointError(f"{sorted(extra)[0]} means nothing with beta_schedule cosine. Expected one of both: leave it out.")
    line = {"beta_start": DDPM_DEFAULTS["beta_start"], "beta_end": DDPM_DEFAULTS["beta_end"]} if said.get("beta_schedule") in ("linear", "sigmoid") else {}
    wanted = [name for name in OURS if not (name.startswith("beta_") and name != "beta_schedule" and said.get("beta_schedule") in (None, "cosine"))]
    certain = {"variance": "learned_range"} if learned else {}
    decided = decide(wanted, user, from_yaml, yaml_name, {}, {}, line | {"variance": "fixed_small"}, certain)
    if not learned and decided["variance"] == "learned_range":
        raise CheckpointError("variance is learned_range, but the network has as many channels out as in. Expected fixed_small or fixed_large: correct it.")
    name = decided["beta_schedule"]
    config = DDPM_DEFAULTS | {"num_train_timesteps": decided["train_timesteps"], "prediction_type": decided["prediction_type"], "beta_schedule": DIFFUSERS_NAMES.get(name, name)}
    config |= {key: decided[key] for key in ("beta_start", "beta_end") if decided[key] is not None}
    notes = [f"{s.name} {s.value:g} is diffusers' default: nobody said it" for s in decided.settings if s.decided_by == "default" and s.name.startswith("beta_")]
    if learned:
        notes.append("the network returns a variance too; it is read as learned_range, as OpenAI's scripts train it")
    return Noise("DDPMScheduler", config, "", None if decided.missing else _schedule(config, "beta_schedule"), decided["variance"], decided.settings, decided.missing, tuple(notes))


def _schedule(scheduler, name):
    """Schedule of a scheduler's configuration, every number checked before it is used."""
    prediction_type = scheduler["prediction_type"]
    if prediction_type not in PREDICTION_TYPES:
        raise CheckpointError(f"{name}: prediction_type is {shown(prediction_type)}. Expected {', '.join(PREDICTION_TYPES)}: flow-matching models are not supported.")
    if scheduler.get("use_flow_sigmas"):
        raise CheckpointError(f"{name} uses flow sigmas. Expected a DDPM-like noise schedule: flow-matching models are not supported.")
    if scheduler.get("timestep_type") == "continuous":
        raise CheckpointError(
            f"{name} tells the network noise levels, not timesteps (timestep_type continuous). Expected a model of whole timesteps: such models are not supported."
        )
    steps, trained = scheduler["num_train_timesteps"], scheduler["trained_betas"]
    if type(steps) is not int or not 2 <= steps <= MAX_STEPS:
        raise CheckpointError(f"{name}: num_train_timesteps is {shown(steps)}. Expected a whole number from 2 to {MAX_STEPS}: copy the file again.")
    if trained is not None:
        if not isinstance(trained, list) or len(trained) != steps or not all(type(b) in (int, float) for b in trained):
            came = f"{len(trained)} entries" if isinstance(trained, list) else shown(trained)
            raise CheckpointError(f"{name}: trained_betas has {came} for {steps} timesteps. Expected one number per timestep: copy the file again.")
    elif not all(type(scheduler[key]) in (int, float) and 0 < scheduler[key] < 1 for key in ("beta_start", "beta_end")):
        raise CheckpointError(
            f"{name}: beta_start {shown(scheduler['beta_start'])} and beta_end {shown(scheduler['beta_end'])}. Expected numbers between 0 and 1: copy the file again."
        )
    return schedules.from_betas(schedules.betas_for(scheduler))


def _variance(scheduler, scheduler_class, name, learned, unet_name):
    """One of models.base.VARIANCES, or an error where the two files contradict each other."""
    said = scheduler.get("variance_type")
    if said is not None and (not isinstance(said, str) or said not in VARIANCE_OF):
        raise CheckpointError(f"{name}: variance_type is {shown(said)}. Expected one of {', '.join(VARIANCE_OF)}: copy the file again.")
    if (said in ("learned", "learned_range")) != learned:
        expected = "variance_type learned or learned_range" if learned else "out_channels twice in_channels"
        raise CheckpointError(
            f"{name} says variance_type {said}, {unet_name} has {'two channels out for each' if learned else 'as many channels out as'} in. "
            f"Expected {expected}: copy both files of one model."
        )
    if learned or scheduler_class.startswith("DDPM"):
        return VARIANCE_OF[said or "fixed_small"]
    return "fixed_small"  # other samplers have no reverse variance of their own: the posterior's, as Ho et al. 2020


def _settings(scheduler, given, scheduler_class, scheduler_name, variance):
    """How each setting was decided: the file that says it, or "default" where diffusers' class fills it in."""
    betas = ("trained_betas",) if scheduler["trained_betas"] else ("beta_schedule", "beta_start", "beta_end")
    rows = [Setting("scheduler", scheduler_class, scheduler_name)]
    for name in ("prediction_type", "num_train_timesteps", *betas, "rescale_betas_zero_snr"):
        value = f"{len(scheduler[name])} numbers" if name == "trained_betas" else scheduler[name]
        rows.append(Setting(name, value, scheduler_name if name in given else "default"))
    said = given.get("variance_type") is not None and (variance.startswith("learned") or scheduler_class.startswith("DDPM"))
    return (*rows, Setting("variance", variance, scheduler_name if said else "default"))


def check(noise):
    """Compare our float64 noise levels with those of the scheduler's own class. Raises CheckpointError."""
    import diffusers

    cls = getattr(diffusers, noise.cls)
    known = set(inspect.signature(cls.__init__).parameters) & (set(DDPM_DEFAULTS) - {"prediction_type"})
    try:
        own = cls(**{k: noise.config[k] for k in known}).alphas_cumprod
    except Exception as error:  # NotImplementedError for a schedule that this class does not have, ValueError for others
        raise CheckpointError(
            f"{noise.cls} refuses its configuration ({shown(' '.join(str(error).split()), 100)}). Expected the file of the training: check scheduler_config.json."
        ) from None
    schedules.check_against(noise.schedule, own)
