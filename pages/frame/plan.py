"""What page New audit says about a checkpoint, two sets and a price. Only `st.text`, tables and constants: names come from outside."""

import os
import shlex
import shutil
import subprocess
from collections import Counter

import pandas as pd
import streamlit as st

from audit import format as fmt
from audit.api import api_words
from audit.attacks import ATTACKS
from audit.glossary import GLOSSARY
from audit.planner import power_head, power_lines
from audit.stats.power import planned
from pages.frame import samples as sampled

SIDES = {"members": "members", "nonmembers": "non-members"}
DIFFERENCES = 3  # named at most
FEW = 20  # images a side below which only enormous leaks show
LEAST = 10  # the driver refuses fewer
TO_LOOK_AT = ("inferred", "default", "self-test")  # decided_by values that no file vouches for
THREAT_HELP = " ".join(f"{word}: {GLOSSARY[word]}" for word in ("white-box", "gray-box", "black-box"))
CONFIDENCE = {
    "certain": ("certain", "check_circle", "blue"),
    "likely": ("likely: check the marked rows", "help", "orange"),
    "incomplete": ("incomplete: fill in what is missing", "edit_note", "orange"),
}
NOTES = 3  # named at most


def line(key, icon, text):
    """One line with an icon before it: `text` may hold names from outside. Args: icon: Material name, a constant."""
    colour = {"check_circle": ":blue", "warning": ":orange", "error": ":red"}.get(icon, ":gray")
    with st.container(horizontal=True, wrap=False, gap="small", key=f"line_{key}"):
        st.markdown(f"{colour}[:material/{icon}:]", width="content")
        st.text(text, width="stretch")


def recognised(info, problem):
    """Head of the panel of step 1. Args: info: CheckpointInfo as a dict, or None; problem: why there is none, or ""."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.subheader("Recognised", anchor=False, width="content")
        if info:
            with st.container(key="name_format", width="content"):
                st.text(info["format"])
            word, icon, colour = CONFIDENCE.get(info["confidence"], CONFIDENCE["likely"])
            st.badge(word, icon=f":material/{icon}:", color=colour)
        elif problem:
            st.badge("not recognised", icon=":material/error:", color="gray")
    if problem:
        line("checkpoint_error", "error", problem)
    elif not info:
        st.text("What the files say, and which file said it, appears here.")


def settings_rows(info):
    """Rows setting | value | from of a recognised checkpoint; those that no file vouches for are marked in `from`."""
    shape = " × ".join("?" if side is None else str(side) for side in info["image_shape"])
    rows = [{"setting": "family", "value": info["words"], "from": "the names of files and tensors"}] if info.get("words") else []
    rows += [
        {"setting": "network", "value": info["architecture"], "from": _network_file(info["files"])},
        {"setting": "parameters", "value": fmt.millions(info["parameters"]), "from": "the weights"},
        {"setting": "image shape", "value": shape, "from": "the network's configuration"},
        {"setting": "weights", "value": {"ema": "EMA", "raw": "raw", "only": "the only ones"}.get(info["weights"], info["weights"]), "from": "the files"},
        {"setting": "SHA-256", "value": fmt.fingerprint(info["sha256"]), "from": "the files used"},
    ]
    for setting in info["settings"]:
        mark = " · check" if setting["decided_by"] in TO_LOOK_AT else ""
        by = {"user": "you"}.get(setting["decided_by"], setting["decided_by"])
        rows.append({"setting": setting["name"], "value": str(setting["value"]), "from": by + mark})
    return rows + [{"setting": name, "value": "not said by the files", "from": "missing · check"} for name in info["missing"]]


def _network_file(files):
    """The configuration of the network among the files used."""
    configs = [name for name in files if name.endswith("config.json") and "scheduler" not in name]
    return configs[0] if configs else "the weights"


def settings(info):
    """The table of what was decided by which file."""
    rows = settings_rows(info)
    alt = "Settings of the checkpoint: name, value, and the file that each came from"
    widths = {"setting": st.column_config.TextColumn(width=110), "value": st.column_config.TextColumn(width=210)}
    st.dataframe(pd.DataFrame(rows), hide_index=True, height=min(36 * (len(rows) + 1), 400), key="new_settings", alt=alt, column_config=widths)


def notes(info):
    """What would change the answer, a line each."""
    for number, text in enumerate((info.get("notes") or ())[:NOTES]):
        line(f"note_{number}", "info", f"{text[:1].upper()}{text[1:]}.")


def reference_line(name, plan, problem):
    """(icon, sentence) on the reference, or None while nothing is known. Args: name: what the user calls it; plan: part of a check; problem: why there is none, or ""."""
    if problem:
        return "error", problem
    if not plan or not plan.get("reference"):
        return None
    other = plan["reference"]
    said = "; ".join([f"Reference {name}: {other['format']}, {other['architecture']}, {fmt.millions(other['parameters'])} parameters", *plan["warnings"]])
    return "check_circle", f"{said.rstrip('.')}. Every score will be the checkpoint’s minus its."


def self_test_words(result):
    """(icon, sentence) of a self-test result {passed, error, baseline, per_t, hint}; the baseline is what an untrained network amounts to."""
    baseline = fmt.number(result["baseline"], 2)
    error = "not a number" if result["error"] is None else fmt.number(result["error"])
    if result["passed"]:
        return "check_circle", f"Self-test passed. Denoising error {error} on your images; an untrained network has {baseline}."
    worse = result["error"] is None or result["error"] >= 0.9 * result["baseline"]  # a misread prediction type may still beat the baseline a little
    verdict = "no better than an untrained network" if worse else f"an untrained network has {baseline}"
    return "error", f"Self-test failed. Denoising error {error}, {verdict}. {result.get('hint') or ''}".strip()


def self_test(result, pending):
    """One line; without images it says when it will run, and nothing while it runs."""
    if result is None and pending:
        return
    if result is None:
        line("self_test", "info", "Self-test: runs once images are chosen, before any long computation.")
    else:
        line("self_test", *self_test_words(result))


def input_check_lines(images):
    """[(icon, sentence)] of what was found in the two sets. Args: images: the `images` part of a check."""
    channels = {1: "grey", 3: "RGB"}
    total = images["members"] + images["nonmembers"]
    shape = images.get("shape")
    what = f", used as {shape[1]} × {shape[2]} {channels.get(shape[0], f'{shape[0]} channels')}" if shape else ""
    both = f"{fmt.count(images['members'])} members and {fmt.count(images['nonmembers'])} non-members"
    if not images.get("complete", True):
        return [("info", f"{both} found by their names{what}. Sets this large are read when the audit runs, which names what it leaves out.")]
    lines = [("check_circle", f"{both} read, {fmt.count(total)} in all{what}")]
    left_out = images.get("left_out") or []
    if left_out:
        reasons = Counter(entry["reason"] for entry in left_out)
        lines.append(("warning", f"{fmt.count(len(left_out))} left out: " + ", ".join(f"{fmt.count(n)} {reason}" for reason, n in reasons.most_common(3))))
    else:
        lines.append(("check_circle", "Every file was read"))
    exact = (images.get("duplicates") or {}).get("exact") or 0
    if exact:
        lines.append(("warning", f"{fmt.count(exact)} exact duplicates: kept once inside a set, left out of both when in both"))
    else:
        lines.append(("check_circle", "No exact duplicates"))
    lines += near_lines(images.get("duplicates") or {})
    lines += [("warning", text) for text in difference_lines(images.get("differences") or ())]
    least = min(images["members"], images["nonmembers"])
    if LEAST <= least < FEW:
        smallest = planned(images["members"], images["nonmembers"])["minimum_detectable_auc"]
        lines.append(("warning", f"{least} images a side can show only a leak above AUC {fmt.auc(smallest)}."))
    return lines


def near_lines(duplicates):
    """[(icon, sentence)] of near duplicates; empty where nobody looked for them. Args: duplicates: of queries.json."""
    if duplicates.get("near") is None:
        return []
    near, groups = duplicates["near"], duplicates.get("clusters") or 0
    lines = [("warning", f"{fmt.count(near)} near duplicates across the sets, left out of both") if near else ("check_circle", "No near duplicates across the sets")]
    if groups:
        lines.append(("info", f"{fmt.count(groups)} groups of near duplicates inside a set: each stays together wherever images are split"))
    return lines


def difference_lines(differences):
    """Sentences on what tells the sets apart without the model. Args: differences: of a check's `images` part."""
    lines = []
    for found in differences[:DIFFERENCES]:
        what = found["what"][:1].upper() + found["what"][1:]
        if "z" in found:
            more, z = ("members" if found["z"] > 0 else "non-members"), fmt.number(abs(found["z"]), 1)
            lines.append(f"{what} differs: {more} have more of it (z = {z}). The blind baseline may find this.")
        else:
            (name, share), (_, other) = found["members"], found["nonmembers"]
            lines.append(f"{what} differs: members {fmt.percent(share)} {name}, non-members {fmt.percent(other)}. The blind baseline may find this.")
    if len(differences) > DIFFERENCES:
        lines.append(f"Further features that differ: {len(differences) - DIFFERENCES}.")
    return lines


def provenance_line(found):
    """(icon, sentence) of a verified split, or of a manifest that vouches for nothing. Args: found: of audit.provenance.provenance_of, with a manifest."""
    if found["kind"] != "manifest":
        return "warning", f"{found['reason']}. It counts as your statement."
    both = " and ".join(f"{fmt.count_of(found['covered'][side]['audited'], found['covered'][side]['of'])} {word}" for side, word in SIDES.items())
    return "check_circle", f"Split verified by {found['manifest']}: {both}, {fmt.count(found['coins'])} coins"


def asked_with_line(asks, found, problem):
    """(icon, sentence) on what the model is asked with beside each image, or None where it takes nothing or nobody has looked.

    Args: asks: of a check, {"kind": "labels" | "captions", …}, or None; found: its asked_with, or None; problem: why there is none, or "".
    """
    if problem:
        return "error", problem
    if not asks or not found:
        return None
    what = {"labels": "Class labels", "captions": "Captions"}[asks["kind"]]
    said = [f"{what} of all images from {found['source']}"] if found["kind"] and found.get("source") else []
    said += [text.rstrip(".") for text in found["warnings"]]
    return ("warning" if found["warnings"] else "check_circle"), f"{'. '.join(said)}."


def input_checks(images):
    """The list, and the names of what was left out."""
    for number, (icon, text) in enumerate(input_check_lines(images)):
        line(f"input_{number}", icon, text)
    if images.get("left_out"):
        with st.expander("Names of the files left out"):
            st.dataframe(pd.DataFrame(images["left_out"])[["path", "set", "reason"]], hide_index=True, height="auto", key="new_left_out", alt="Files left out: name, set, reason")


def power(members, nonmembers):
    """The block "What these images can show"."""
    if min(members, nonmembers) < LEAST:
        return
    st.subheader(power_head(members, nonmembers), anchor=False, help=GLOSSARY["smallest visible leak"])
    with st.container(key="points_power", gap="xxsmall"):
        for text in power_lines(members, nonmembers):
            st.text(text)


def checkpoint_reason(chosen, answers):
    """Why step 1 is not ready, or ""."""
    if not chosen["checkpoint"].path:
        return "Choose a checkpoint first."
    if answers.problem("checkpoint"):
        return "This checkpoint cannot be audited."
    info = answers.part("checkpoint")
    if info and info["missing"]:
        return f"Fill in what the file does not say first: {', '.join(info['missing'])}."
    return "" if info else "The checkpoint has not been read yet."


def images_reason(chosen, answers, how):
    """Why step 2 is not ready, or "". Args: how: the split's choice of page New audit."""
    for key, what in (("members", "members"), ("nonmembers", "non-members")):
        if not chosen[key].path:
            return f"Choose a folder of {what} first."
    if answers.problem("images"):
        return "These sets cannot be audited."
    if answers.problem("provenance"):
        return "The manifest cannot be used for these sets."
    if answers.problem("asked_with"):
        return "What the model is asked with is not known for every image."
    if problem := split_reason(how, answers):
        return problem
    return "" if answers.part("images") else "The images have not been read yet."


def split_reason(how, answers):
    """Why the choice of how the split was drawn is not ready, or "". Args: how: {"random": bool, "manifest": Choice or None for the owner's word}."""
    if how["random"] and how["manifest"] is not None and not how["manifest"].path:
        return "Choose the manifest of the split, or say that it is your word."
    return answers.problem("provenance")


def start_reason(chosen, answers, used, name, price, config, how, samples, problem=""):
    """Why the audit cannot start, or "". A price that is still being measured is no reason.

    Args: used: names of the listed attacks that are ticked; samples: pages.frame.samples.Samples; problem: of what the attacker sees, or of the reference.
    """
    for key, what in (("checkpoint", "a checkpoint"), ("members", "a folder of members"), ("nonmembers", "a folder of non-members")):
        if not chosen[key].path:
            return f"Choose {what} first."
    if problem := answers.problem("checkpoint") or answers.problem("images") or answers.problem("asked_with") or problem or answers.problem("plan"):
        return problem
    if (info := answers.part("checkpoint")) and info["missing"]:
        return checkpoint_reason(chosen, answers)
    if problem := split_reason(how, answers):
        return problem
    result = answers.part("self_test")
    if result and not result["passed"]:
        return self_test_words(result)[1]
    if not used and not samples.attacks:
        return "Choose at least one attack."
    if problem := sampled.reason(samples, used):
        return problem
    if not name:
        return "Give the audit a name."
    if price and price["disk_bytes"] > (free := shutil.disk_usage(config.home).free):
        return f"Disk: {fmt.size(free)} free, this audit writes {fmt.size(price['disk_bytes'])}. Free space or set AUDIT_HOME elsewhere."
    return ""


def share_words(card, share, samples):
    """`5 new calls per image · 4 s here`; `no new calls, shared with PIA`; the names of its probes before anything was measured.

    Args: card: of the attack; share: audit.pricing.Share, or None; samples: pages.frame.samples.Samples.
    """
    if "pool" in card.needs:
        return sampled.share_words(samples)
    if share is None:
        return f"measured by {', '.join(card.probes)}"
    if share.skipped:
        return f"not run: {share.skipped}"
    if share.shared_with:
        return f"no new calls, shared with {ATTACKS[share.shared_with].card.short}"
    calls = [f"{fmt.count(share.calls)} new calls per image"] if share.calls or not share.once else []
    calls += [f"{fmt.count(share.once)} once for all images"] if share.once else []
    return f"{' and '.join(calls)} · {fmt.duration(share.seconds) if share.seconds >= 1 else 'less than a second'} here"


def attack_table(attacks, shares_of, samples):
    """Each attack: use it or not, its threat model, what it adds to the price.

    Two lines an attack, because four columns do not fit beside the price on a small screen; a real checkbox, for one click and for the keyboard.

    Args: attacks: registry; shares_of(ticked names): {attack: audit.pricing.Share}, or {} before anything was measured; samples: pages.frame.samples.Samples.
    Returns: canonical names of those ticked, in the registry's order.
    """
    used, places = [], {}
    with st.container(border=True, gap="small", key="attack_table"):
        st.caption("Attack · threat model · what it adds to the price", help=THREAT_HELP)
        for name, attack in attacks.items():
            with st.container(gap=None, key=f"attack_row_{name}"):
                if st.checkbox(attack.card.title, value=True, key=f"new_use_{name}", persist_state="session"):
                    used.append(name)
                places[name] = st.container(key=f"small_attack_{name}")
    shares = shares_of(tuple(used))
    for name, place in places.items():
        card = attacks[name].card
        place.text(f"{card.threat_model} · {share_words(card, shares.get(name), samples)}")
    return tuple(used)


def attack_cards(attacks):
    """One attack's card: equation, source, settings, probes, weaknesses."""
    with st.expander("What an attack does", icon=":material/style:"):
        titles = {name: attack.card.title for name, attack in attacks.items()}
        name = st.selectbox("Attack", list(titles), format_func=titles.get, key="new_card", label_visibility="collapsed")
        card = attacks[name].card
        parts = {
            "Score": card.equation,
            "Source": card.source,
            "Differs from the source": card.differs,
            "Measured by": ", ".join(card.probes),
            "Settings": "; ".join(f"{s.name}: {s.about}" for s in card.settings),
            "Known weaknesses": "; ".join(card.weaknesses),
        }
        for label, text in parts.items():
            if text:
                st.caption(label)
                st.text(text)


def price_tiles(config, price):
    """[(label, value, small line)] of the price card."""
    spread = round(100 * (price["high"] - price["low"]) / 2 / price["seconds"]) if price["seconds"] else 25
    memory = total_memory()
    return [
        (f"time on {device_words(price['device'])}", fmt.duration(price["seconds"]), f"± {spread}\u202f%, measured"),
        ("model calls", fmt.count(price["model_calls"]), f"{fmt.count(price['calls_per_image'])} per image"),
        ("memory", fmt.size(price["memory_bytes"]), f"of {fmt.size(memory)}" if memory else "of this machine"),
        ("disk", fmt.size(price["disk_bytes"]), f"of {fmt.size(shutil.disk_usage(config.home).free)} free"),
    ]


def price(config, priced):
    """Four numbers with what each stands beside."""
    with st.grid(2, min_column_width=128):
        for label, value, small in price_tiles(config, priced):
            st.metric(label, value, small, delta_color="off", delta_arrow="off")


def device_words(device):
    """`this CPU` or `this GPU`. Args: device: of a price, "CPU, 2 cores" or "cuda"."""
    return "this CPU" if str(device).lower().startswith("cpu") else "this GPU"


def total_memory():
    """Bytes of memory of this machine, or None where the system does not tell."""
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names or "SC_PAGE_SIZE" not in names:  # Windows
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def default_name(choice):
    """A run's name from what the user calls the checkpoint."""
    return choice.name.removesuffix(".zip")[:80] or "audit"


def name_key(choice):
    """Key of the name's input: another checkpoint brings its own default, and a typed name survives a change of step."""
    return f"new_name_{hash(choice.path)}"


def summary(reference, terms, settings, plan, samples):
    """[(icon, sentence)] of what the audit holds beside its checkpoint, images and attacks, for a last look before Start.

    Args: reference: intake.Choice; terms: of pages.frame.terms; settings: {name: value} set by the user; plan: part of a check, or None;
        samples: pages.frame.samples.Samples.
    """
    lines = [("compare_arrows", f"Relative to the reference {reference.name}")] if reference.path else []
    if terms["api"]:
        lines.append(("api", f"Through an API that shows {api_words(terms['api'])}"))
    if terms["budget"] is not None:
        lines.append(("savings", f"Budget: {fmt.count(terms['budget'])} loss grid{'' if terms['budget'] == 1 else 's'} beyond the first"))
    if settings:
        lines.append(("tune", "You set " + ", ".join(f"{name} {value}" for name, value in settings.items())))
    skipped = [name for name in (plan or {}).get("skipped", ()) if not (samples.pool and name in ATTACKS and "pool" in ATTACKS[name].card.needs)]
    if skipped:
        count = len(skipped)
        lines.append(("info", f"{fmt.count(count)} attack{'' if count == 1 else 's'} will not run, each for the reason beside it: {', '.join(map(_short, skipped))}"))
    return lines


def _short(attack):
    return ATTACKS[attack].card.short if attack in ATTACKS else attack


def command(chosen, preset, attacks, how=None, reference=None, api=None, budget=None, settings=None, said=None, samples=None):
    """The same audit on the command line, quoted for this system's shell.

    Args: api, budget: of the request, or None; reference, settings, samples: as in `summary`; said: {"labels" | "captions": Choice}.
    """
    flags = [(f"--{key}", chosen[key].path) for key in ("checkpoint", "members", "nonmembers")]
    if how and how["random"]:
        flags.append(("--randomised-split",) if how["manifest"] is None else ("--manifest", how["manifest"].path or "F"))
    flags += [(f"--{key}", choice.path) for key, choice in (said or {}).items()]
    flags += [("--reference", reference.path)] if reference and reference.path else []
    flags += [_flag(name, value) for name, value in (settings or {}).items()]
    if api:
        flags.append(("--api", ",".join(f"{key}={value:g}" for key, value in api.items() if value is not None)))
    flags += [("--preset", preset)] + ([("--attacks", ",".join(attacks))] if attacks else [])
    flags += [("--budget", str(budget))] if budget is not None else []
    before, more = sampled.flags(samples) if samples else ([], [])
    flags += more
    start = ("python", "-m", "audit", "run")
    if os.name == "nt":
        return "\n".join([*before, subprocess.list2cmdline([*start, *(word for flag in flags for word in flag)])])
    return "\n".join([*before, " \\\n  ".join(shlex.join(part) for part in (start, *flags))])


def _flag(name, value):
    """A loader setting as its flag: --num-heads 4, --rescale-timesteps, --no-rescale-timesteps."""
    flag = name.replace("_", "-")
    return (f"--{'' if value else 'no-'}{flag}",) if isinstance(value, bool) else (f"--{flag}", str(value))
