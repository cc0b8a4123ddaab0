"""Start an audit: a checkpoint, two sets of images, and what it will cost."""
# ruff: noqa: E402  (the guard comes before every other import)

from pages.frame import guard

guard()

from pathlib import Path

import streamlit as st

from audit.attacks import ATTACKS
from audit.errors import AuditError
from audit.jobs.submit import submit_audit
from audit.presets import PRESETS
from audit.pricing import shares
from audit.request import Request
from pages.frame import checks, go, heading, intake, loader, notice, start_demo
from pages.frame import config as settings
from pages.frame import plan as words
from pages.frame import samples as sampled
from pages.frame import terms as access

STEPS = {"checkpoint": "1 Checkpoint", "images": "2 Images", "price": "3 Attacks and price"}
MANIFEST, WORD = "Manifest", "My word"
SPLIT_HELP = "Which picture is a member was decided by a fair coin each, before training. Folders that were filled in any other way are not such a split."
MANIFEST_HELP = "The file that python -m audit split wrote. Put it into the inbox."
WORD_ALLOWS = "Your word allows an ε lower bound, which the report says rests on it. It changes nothing in the verdict."
CHECKPOINT_HELP = "A diffusers folder (or a .zip of one), or a .pt or .safetensors of improved-diffusion, guided-diffusion or pytorch-ddpm."
SAID = {
    "labels": (
        "Class labels in the inbox",
        "A .csv with the columns image,class. Without it the sub-folders of both sets are the classes, where there are as many as the model has.",
    ),
    "captions": ("Captions in the inbox", "A .csv with the columns image,caption. Without it every image is asked about with the empty prompt."),
}
REFERENCE_HELP = (
    "A second model that was not trained on the members, such as the base of a fine-tune, with the same image shape and number of timesteps. "
    "What makes an image easy for both cancels; what only the checkpoint knows stays."
)
PRESET_LABELS = {"quick": "Quick · 20 timesteps", "standard": "Standard · 50", "thorough": "Thorough · all"}


def main():
    """The demo's banner, the three steps, and the one that the URL names."""
    config = settings()
    if st.session_state.pop("new_started", False):
        go("runs")
    heading("New audit", "What to audit, with which images, and what it will cost.")
    _demo_banner()
    step = _steps()
    if step == "price":
        columns = st.columns([1.15, 1], gap="medium")
        with columns[0]:
            preset, used = _preset(), _attacks(config)
        _price(config, columns[1], preset, used)
        return
    left, right = st.columns([1, 1.1], gap="large")
    if step == "checkpoint":
        with left:
            intake.choose(config, intake.CHECKPOINT, "checkpoint", "Where is it", CHECKPOINT_HELP)
            form = st.container(key="new_form")
            with st.expander("Reference checkpoint", icon=":material/compare_arrows:", key="new_reference"):
                intake.choose(config, intake.CHECKPOINT, "reference", "Where is the reference", REFERENCE_HELP)
        answers = checks.follow(config, _asked())
        with form:
            _form(answers)
        with right, st.container(border=True, key="check_checkpoint"):
            _recognised(config, answers)
    else:
        with left:
            intake.choose(config, intake.IMAGES, "members", "Members - were trained on", "A folder, .zip or .npz of images that the model was trained on.")
            help = "A folder, .zip or .npz of images from the same source that the model never saw."
            intake.choose(config, intake.IMAGES, "nonmembers", "Non-members - same source, never trained on", help)
            _choose_said(config)
            _choose_split(config)
        with right, st.container(border=True, key="check_images"):
            _inputs(config, checks.follow(config, _asked()))


def _demo_banner():
    with st.container(border=True, key="new_demo"):
        words_, button = st.columns([3, 1], vertical_alignment="center")
        about = "The bundled demo audits a leaky model and its well-behaved twin on real images. About 2 minutes on this CPU, no network."
        words_.markdown(f"**No checkpoint at hand?** {about}")
        if button.button("Run the demo", icon=":material/play_circle:", key="new_run_demo", width="stretch"):
            start_demo()


def _steps():
    """The step that the URL names; anything else there is the first one."""
    step = st.query_params.get("step")
    step = step if step in STEPS else "checkpoint"
    st.session_state["new_step"] = step  # the URL leads: a link or Back may have changed it
    look = {"label_visibility": "collapsed", "width": "stretch", "wrap": True}
    st.segmented_control("Step", list(STEPS), format_func=STEPS.get, key="new_step", required=True, on_change=_step_chosen, **look)
    return step


def _step_chosen():
    _to_step(st.session_state["new_step"])


def _to_step(step):
    st.query_params["step"] = step


def _choices():
    return {key: intake.choice_of(key) for key in ("checkpoint", "members", "nonmembers")}


def _asked():
    """The payload of a check for all choices of now, whichever step they were made in."""
    chosen, named, manifest = _choices(), {"reference": intake.choice_of("reference")}, _how()["manifest"]
    if manifest:
        named["manifest"] = manifest
    named |= _said()
    (attacks, budget), samples = st.session_state.get("new_attacks_kept", ((), None)), sampled.chosen()
    how = {"overrides": loader.given(chosen["checkpoint"]), "api": access.terms()["api"], "budget": budget, "pool": samples.pool, "settings": samples.settings or None}
    return checks.payload(chosen | named, st.session_state.get("new_preset_kept", "standard"), attacks, **how)


def _form(answers):
    """What the file does not say, as soon as somebody knows what it is."""
    choice = _choices()["checkpoint"]
    if not choice.path:
        return
    if info := answers.part("checkpoint"):
        loader.remember(choice, info)
    loader.form(choice)


def _how():
    """How the split was drawn, as `_choose_split` last left it: {"random": bool, "manifest": Choice, or None for the owner's word}."""
    return st.session_state.get("new_split_kept", {"random": False, "manifest": None})


def _choose_split(config):
    """Draw the choice of how the sets were split: stated, a manifest of the inbox, or the owner's word that coins decided."""
    how = {"random": st.checkbox("Split drawn at random before training", key="new_split_random", help=SPLIT_HELP, persist_state="session"), "manifest": None}
    if how["random"]:
        look = {"label_visibility": "collapsed", "persist_state": "session"}
        shown_by = st.segmented_control("Shown by", [MANIFEST, WORD], default=MANIFEST, required=True, key="new_split_by", **look)
        if shown_by == MANIFEST:
            how["manifest"] = _inbox_file(config, "manifest", "Manifest in the inbox", ".json", MANIFEST_HELP)
        else:
            st.caption(WORD_ALLOWS)
    st.session_state["new_split_kept"] = how


def _said():
    """{"labels" | "captions": Choice} of the checkpoint of now, empty where it takes neither or no file was chosen."""
    return st.session_state.get("new_said", {}).get(_choices()["checkpoint"].path, {})


def _choose_said(config):
    """Draw the choice of a file that says what the model is asked with, for a model that takes labels or captions."""
    asks = checks.known(_asked()).part("asks_for")
    if not asks:
        return
    choice = _inbox_file(config, asks["kind"], SAID[asks["kind"]][0], ".csv", SAID[asks["kind"]][1])
    kept = st.session_state.setdefault("new_said", {})
    kept[_choices()["checkpoint"].path] = {asks["kind"]: choice} if choice.path else {}


def _inbox_file(config, key, label, ending, help):
    """Draw the choice of a file of the inbox. Returns intake.Choice."""
    inbox = Path(config.inbox)
    names = [name for name in intake.inbox_entries(inbox, (ending,)) if not name.endswith("/")] if inbox.is_dir() else []
    hint = "Choose a file" if names else f"The inbox holds no {ending} file"
    look = {"persist_state": "session", "placeholder": hint}
    picked = st.selectbox(label, names, index=None, key=f"new_{key}", help=help, **look)
    if not picked:
        return intake.Choice()
    try:
        return intake.Choice(str(intake.from_inbox(inbox, picked)), picked)
    except AuditError as error:
        notice(f"choice_{key}", "warning", str(error))
        return intake.Choice(name=picked, problem=str(error))


def _next(label, step, reason):
    """The button to the next step; disabled, with the reason beside it, until this one is ready."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        look = {"icon": ":material/arrow_forward:", "icon_position": "right", "type": "secondary" if reason else "primary"}
        st.button(label, disabled=bool(reason), key=f"new_next_{step}", on_click=_to_step, args=(step,), **look)
        if reason:
            with st.container(key=f"small_reason_{step}", width="stretch"):
                st.text(reason)


def _recognised(config, answers):
    info, problem = answers.part("checkpoint"), answers.problem("checkpoint")
    words.recognised(info, problem)
    if info:
        words.settings(info)
        words.notes(info)
        if info["missing"]:
            _ranking(answers)
        else:
            words.self_test(answers.part("self_test"), answers.pending)
            _other_reading(_choices()["checkpoint"], info, answers.part("self_test"))
    reference = intake.choice_of("reference")
    if reference.path and (said := words.reference_line(reference.name, answers.part("plan"), answers.problem("plan"))):
        words.line("reference", *said)
    if _choices()["checkpoint"].path:
        checks.waiting(config, answers, "Measuring …" if info else "Reading the checkpoint …")
    _next("Next: images", "images", words.checkpoint_reason(_choices(), answers))


def _ranking(answers):
    """Which usual values denoise the user's own images best: a hint, once there are images."""
    found = answers.part("ranking")
    if found:
        words.line("ranking", "lightbulb", found["words"] + (" It is a hint: give what the training used." if found["best"] else ""))
    elif not answers.pending:
        words.line("ranking", "lightbulb", "Once images are chosen, the usual values are tried on them, as a hint.")


def _other_reading(choice, info, tested):
    """Where another prediction type denoises and may be set: one click."""
    better, settable = (tested or {}).get("better"), [question["name"] for question in info.get("questions") or ()]
    if better and "prediction_type" in settable:
        st.button(f"Use {better}", icon=":material/swap_horiz:", key="new_use_better", on_click=loader.put, args=(choice, "prediction_type", better))


def _inputs(config, answers):
    st.subheader("Input checks", anchor=False)
    chosen = _choices()
    images, problem = answers.part("images"), answers.problem("images")
    if problem:
        words.line("images_error", "error", problem)
    elif images:
        words.input_checks(images)
        if found := answers.part("provenance"):
            words.line("provenance", *words.provenance_line(found))
        elif problem := answers.problem("provenance"):
            words.line("provenance", "error", problem)
        if said := words.asked_with_line(answers.part("asks_for"), answers.part("asked_with"), answers.problem("asked_with")):
            words.line("asked_with", *said)
        words.self_test(answers.part("self_test"), answers.pending)
        words.power(images["members"], images["nonmembers"])
    elif chosen["members"].path and not chosen["nonmembers"].path:
        words.line("one_class", "warning", "Only members were given. Without non-members there is no ROC and no verdict: add a folder of non-members.")
    elif chosen["nonmembers"].path and not chosen["members"].path:
        words.line("one_class", "warning", "Only non-members were given. Without members there is no ROC and no verdict: add a folder of members.")
    elif not chosen["members"].path:
        st.text("What is found in the two sets appears here.")
    elif not chosen["checkpoint"].path:
        st.text("Choose a checkpoint too: its image shape decides how the images are read.")
    elif answers.problem("checkpoint"):
        words.line("no_shape", "warning", "The checkpoint cannot be read, so the images were not.")
    elif None in ((answers.part("checkpoint") or {}).get("image_shape") or ()):
        words.line("no_shape", "warning", "The file does not say how large its images are: give image_size in step 1, and they are read.")
    if all(choice.path for choice in chosen.values()):
        checks.waiting(config, answers, "Measuring …" if images else "Reading the images …")
    _next("Next: attacks and price", "price", words.images_reason(chosen, answers, _how()))


def _preset():
    names = list(PRESETS)
    preset = st.segmented_control(
        "Preset",
        names,
        default="standard",
        format_func=lambda name: PRESET_LABELS.get(name, name),
        required=True,
        key="new_preset",
        width="stretch",
        wrap=True,
        persist_state="session",
        help="How many timesteps of the schedule are measured, and with how many noise draws each: quick 2, standard 4, thorough 2.",
    )
    st.session_state["new_preset_kept"] = preset
    return preset


def _attacks(config):
    """The attack table with what each adds to the price, samples, API and budget, and the cards. Returns canonical names of those ticked."""
    table = st.container()
    sampled.choose(config)
    access.choose()
    samples, terms = sampled.chosen(), access.terms()
    costs = checks.known(_asked()).part("costs")

    def shares_of(used):
        return shares(costs, used, access.limit(*samples.named(used, terms["budget"])), terms["api"] is not None) if costs and used else {}

    with table:
        used = words.attack_table(ATTACKS, shares_of, samples)
        st.caption("What several attacks read is measured once: the first of them pays for it.")
        if len(used) == len(ATTACKS) and terms["budget"] is None:
            st.caption("All are ticked: the cheapest run that together cost at most one more loss grid. Untick one, and every attack still ticked runs, whatever it costs.")
    words.attack_cards(ATTACKS)
    st.session_state["new_attacks_kept"] = samples.named(used, terms["budget"])
    return used


def _price(config, column, preset, used):
    chosen, samples, (attacks, budget) = _choices(), sampled.chosen(), st.session_state["new_attacks_kept"]
    terms, settings, reference = access.terms(), loader.given(chosen["checkpoint"]), intake.choice_of("reference")
    answers, how = checks.follow(config, _asked()), _how()
    price = answers.part("price")
    with column, st.container(border=True, key="check_price"):
        st.subheader("Price", anchor=False)
        if price:
            words.price(config, price)
        elif not all(choice.path for choice in chosen.values()):
            st.text("Measured on this machine once a checkpoint and both sets are chosen.")
        elif answers.pending or answers.error or answers.job.state != "done":
            checks.waiting(config, answers, "Measuring on two batches …")
        else:
            st.text("Nothing was measured: the checkpoint or the sets cannot be audited, or the device is busy.")
        for number, (icon, text) in enumerate(_summary(answers, reference, terms, settings, samples)):
            words.line(f"summary_{number}", icon, text)
        if price and samples.attacks and not answers.part("training") and answers.pending:
            checks.waiting(config, answers, "Measuring the training …")
        name_key = words.name_key(chosen["checkpoint"])
        name = st.text_input("Name", max_chars=80, key=name_key, value=words.default_name(chosen["checkpoint"]), persist_state="session").strip()
        reason = words.start_reason(chosen, answers, used, name, price, config, how, samples, terms["problem"] or reference.problem)
        look = {"icon": ":material/play_arrow:", "type": "secondary" if reason else "primary", "width": "stretch"}
        wanted = {"preset": preset, "attacks": attacks, "api": terms["api"], "budget": budget, "overrides": settings, "settings": samples.settings}
        st.button("Start audit", disabled=bool(reason), key="new_start", on_click=_start, args=(config, chosen | _said(), reference, samples, name_key, how, wanted), **look)
        if error := st.session_state.pop("new_error", None):
            notice("start", "error", error)
        if reason:
            with st.container(key="small_reason_start"):
                st.text(reason)
        if all(choice.path for choice in chosen.values()):
            st.caption("Same as:")
            st.code(words.command(chosen, preset, attacks, how, reference, terms["api"], budget, settings, _said(), samples), language="bash", wrap_lines=True)


def _summary(answers, reference, terms, settings, samples):
    """[(icon, sentence)] of everything beside checkpoint, images and attacks."""
    lines = words.summary(reference, terms, settings, answers.part("plan"), samples)
    return lines + sampled.summary(samples, reference, answers.part("price"), answers.part("training"), answers.problem("training"))


def _start(config, chosen, reference, samples, name_key, how, wanted):
    """Look at every path once more and write the row; a second click finds the first row.

    A callback, so that the click also counts in the first run after the server was started again, which only brings the frame.
    """
    try:
        paths = {key: intake.checked_again(config, choice) for key, choice in chosen.items()}
        paths["reference"] = intake.checked_again(config, reference) if reference.path else None
        paths["pool"] = intake.checked_again(config, samples.own) if samples.own.path else samples.count
        manifest = how["manifest"] and intake.checked_again(config, how["manifest"])
        split = {"manifest": manifest, "randomised_split": how["random"] and how["manifest"] is None}
        _, created = submit_audit(config, Request(**paths, **split, **wanted, name=st.session_state[name_key].strip()))
    except AuditError as error:
        st.session_state["new_error"] = str(error)
        return
    st.session_state["runs_toast"] = "Audit started" if created else "This audit was on its way already"
    st.session_state["new_started"] = True


main()
