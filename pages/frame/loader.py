"""What a checkpoint's files do not say: the questions that its format asks, as a form. Answers are kept for each checkpoint, whichever step is on screen."""

import streamlit as st

SET, SEEN = "new_settings", "new_questions"  # {path: {name: value}}; {path: the newest answer of a check about it}
ALWAYS = ("weights",)
DECIDED_BY_NO_FILE = ("inferred", "default", "recipe", "user", "self-test")
TOGETHER = {"num_head_channels": "num_heads"}  # another way to say the same: asked for where that is missing


def given(choice):
    """{setting: value} that the user has set for this checkpoint. Args: choice: intake.Choice."""
    return dict(st.session_state.get(SET, {}).get(choice.path, {}))


def remember(choice, info):
    """Keep what was recognised: the form stays while a check tries another value, or refuses it."""
    st.session_state.setdefault(SEEN, {})[choice.path] = info


def put(choice, name, value):
    """Set one setting, or with None leave it to the files again."""
    kept = st.session_state.setdefault(SET, {}).setdefault(choice.path, {})
    kept.pop(name, None)
    if value not in (None, ""):
        kept[name] = value


def questions(info, answers):
    """(missing, others) of the format's questions: what must be filled in, and what no file decided and may be changed.

    Args: info: the `checkpoint` part of a check; answers: {setting: value} given so far.
    """
    missing, decided = set(info["missing"]), {setting["name"]: setting["decided_by"] for setting in info["settings"]}
    first, others = [], []
    for question in info.get("questions") or ():
        name = question["name"]
        if name in missing or TOGETHER.get(name) in missing or (name == "recipe" and missing):
            first.append(question)
        elif name in answers or name in ALWAYS or (decided.get(name) in DECIDED_BY_NO_FILE and name not in (info.get("fixed") or ())):
            others.append(question)
    return first, others


def form(choice):
    """Draw the questions about a checkpoint that a check has recognised; nothing before."""
    info = st.session_state.get(SEEN, {}).get(choice.path)
    if not info:
        return
    answers = given(choice)
    missing, others = questions(info, answers)
    if not missing and not others:
        return
    decided = {setting["name"]: setting for setting in info["settings"]}
    with st.expander("Settings the file does not say", expanded=bool(info["missing"]), icon=":material/tune:", key="new_loader"):
        if missing:
            st.text("Nothing in the file shows these, and a wrong value loads without an error: give them as for the training, or name a recipe.")
        for question in [*missing, *others]:
            _ask(choice, question, answers.get(question["name"]), decided.get(question["name"]))


def _ask(choice, question, value, decided):
    """One widget: empty means that the files, or nobody, decides."""
    name, kind = question["name"], question["kind"]
    key = f"new_set_{name}_{hash(choice.path)}"
    hint = f"{decided['decided_by']}: {decided['value']}" if decided and value is None else "not said by the file"
    look = {"key": key, "help": question["words"], "placeholder": hint, "on_change": _changed, "args": (choice, name, key)}
    if kind in ("choice", "switch"):
        options = question["values"] if kind == "choice" else [True, False]
        shown = {"format_func": {True: "yes", False: "no"}.get} if kind == "switch" else {}
        st.selectbox(name, options, index=options.index(value) if value in options else None, **shown, **look)
    elif kind == "text":
        st.text_input(name, value=value, max_chars=40, **look)
    else:
        number, whole = (int, True) if kind == "whole" else (float, False)
        bounds = {"min_value": number(question["low"]), "max_value": number(question["high"])}
        st.number_input(name, value=value, step=1 if whole else 1e-4, format=None if whole else "%g", **bounds, **look)


def _changed(choice, name, key):
    put(choice, name, st.session_state[key])
