"""What the attacker sees and may spend: the API of `--api` and the budget of `--budget`, as a few controls, kept for the other steps."""

import streamlit as st

from audit.api import parse_api
from audit.errors import RequestError
from audit.request import DEFAULT_BUDGET
from pages.frame.states import notice

KEPT = "new_terms"
API_HELP = (
    "Its answer to a noised picture and a step is the clean picture that the model predicts, changed as below. White-box attacks are skipped. "
    "A protection that is worth its price lowers the AUC here."
)
BUDGET_HELP = (
    "What attacks may cost beyond the loss grid, in loss grids, cheapest first; the others are listed as skipped. "
    f"Left empty: {DEFAULT_BUDGET} where all attacks are ticked, no limit where some are left out."
)


def terms():
    """{"api": as audit.api.Api.to_json, or None; "budget": loss grids, or None; "problem": one line, or ""}, as `choose` last left it."""
    return st.session_state.get(KEPT, {"api": None, "budget": None, "problem": ""})


def limit(attacks, budget):
    """Loss grids that count, None = no limit. Args: attacks: of the request, () = all; budget: of the request, or None."""
    return budget if budget is not None or attacks else DEFAULT_BUDGET


def choose():
    """Draw the controls."""
    with st.expander("API and budget", icon=":material/api:", key="new_terms_box"):
        api, problem = None, ""
        if st.checkbox("Attack only what an API shows", key="new_api", help=API_HELP, persist_state="session"):
            try:
                api = parse_api(_api()).to_json()
            except RequestError as error:
                problem = str(error)
                notice("api", "warning", problem)
        look = {"placeholder": "as the attacks ask", "help": BUDGET_HELP, "persist_state": "session"}
        budget = st.number_input("Budget, in loss grids", min_value=0, max_value=10_000, value=None, step=1, key="new_budget", **look)
    st.session_state[KEPT] = {"api": api, "budget": budget, "problem": problem}


def _api():
    """The keys of audit.api.Api that the controls say."""
    keep = {"persist_state": "session"}
    with st.grid(2, min_column_width=150):
        steps = st.number_input(
            "Steps that can be asked about", min_value=2, max_value=10**6, value=None, step=1, placeholder="all of them", key="new_api_steps",
            help="Evenly spread over the schedule; timesteps of the run then count those.", **keep,
        )  # fmt: skip
        bits = st.number_input("Bits of a picture", min_value=1, max_value=8, value=8, step=1, key="new_api_bits", help="Depth of each channel.", **keep)
        noise = st.number_input(
            "Noise on a picture, sd", min_value=0.0, max_value=2.0, value=0.0, step=0.01, format="%.3g", key="new_api_noise",
            help="On the scale from -1 (black) to 1 (white); the same query gets the same noise.", **keep,
        )  # fmt: skip
        jpeg = st.number_input("JPEG quality", min_value=1, max_value=100, value=None, step=1, placeholder="no JPEG", key="new_api_jpeg", help="Of each picture shown.", **keep)
    return {"steps": steps, "bits": bits, "noise": noise, "jpeg": jpeg}
