"""Colours that people can tell apart and text that they can read, from the real config; and words that this program does not use."""

import ast
import itertools
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from audit.report import palette
from pages.frame.theme import style

ROOT = Path(__file__).resolve().parent.parent
CONFIG = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text(encoding="utf-8"))
THEME, SERVER = CONFIG["theme"], CONFIG["server"]

# Machado, Oliveira, Fernandes 2009, severity 1.0, for linear RGB
SIGHT = {
    "normal": np.eye(3),
    "protan": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "deutan": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
    "tritan": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]),
}


def linear(colour):
    """#RRGGBB -> linear RGB in [0, 1]."""
    c = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(a, b):
    """WCAG 2 contrast ratio."""
    light, dark = sorted((linear(c) @ [0.2126, 0.7152, 0.0722] for c in (a, b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def lab(colour, sight):
    """CIELAB under D65 as seen with one kind of sight."""
    rgb = np.clip(SIGHT[sight] @ linear(colour), 0, 1)
    xyz = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]) @ rgb / [0.95047, 1.0, 1.08883]
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def ciede2000(one, two):
    """Distance of two CIELAB colours. Source: Sharma, Wu, Dalal 2005."""
    (l1, a1, b1), (l2, a2, b2) = one, two
    g = 0.5 * (1 - np.sqrt((c := ((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2) ** 7) / (c + 25**7)))
    a1, a2 = (1 + g) * a1, (1 + g) * a2
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = np.degrees(np.arctan2(b1, a1)) % 360, np.degrees(np.arctan2(b2, a2)) % 360
    turn = 0.0 if c1 * c2 == 0 else (h2 - h1 + 180) % 360 - 180
    dl, dc, dh = l2 - l1, c2 - c1, 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2))
    lm, cm, hm = (l1 + l2) / 2, (c1 + c2) / 2, h1 + h2 if c1 * c2 == 0 else (h1 + turn / 2) % 360
    t = 1 - 0.17 * np.cos(np.radians(hm - 30)) + 0.24 * np.cos(np.radians(2 * hm)) + 0.32 * np.cos(np.radians(3 * hm + 6)) - 0.2 * np.cos(np.radians(4 * hm - 63))
    sl, sc, sh = 1 + 0.015 * (lm - 50) ** 2 / np.sqrt(20 + (lm - 50) ** 2), 1 + 0.045 * cm, 1 + 0.015 * cm * t
    rt = -np.sin(np.radians(60 * np.exp(-(((hm - 275) / 25) ** 2)))) * 2 * np.sqrt(cm**7 / (cm**7 + 25**7))
    return float(np.sqrt((dl / sl) ** 2 + (dc / sc) ** 2 + (dh / sh) ** 2 + rt * dc / sc * dh / sh))


def worst_distance(colours):
    """Smallest CIEDE2000 of any two, over the four kinds of sight."""
    return min(ciede2000(lab(a, sight), lab(b, sight)) for sight in SIGHT for a, b in itertools.combinations(colours, 2))


@pytest.mark.parametrize(
    "one, two, distance",
    [((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425), ((50, 2.5, 0), (73, 25, -18), 27.1492), ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082)],
)
def test_the_distance_itself_on_published_pairs(one, two, distance):
    """Sharma, Wu, Dalal 2005, table 1, rows 1, 20 and 34 (four decimals there)."""
    assert ciede2000(one, two) == pytest.approx(distance, abs=1e-4)


@pytest.mark.parametrize("ground", palette.GROUNDS)
def test_series_stand_out_on_all_grounds(ground):
    for colour in (palette.MEMBER, palette.NONMEMBER, *palette.SERIES):
        assert contrast(colour, ground) >= 3.0, (colour, ground)


def test_series_can_be_told_apart_with_every_kind_of_sight():
    assert worst_distance([palette.MEMBER, palette.NONMEMBER]) > 45
    assert worst_distance(palette.SERIES) > 18


def test_verdict_bars_can_be_told_apart_and_seen():
    for mode, ground in (("bar_light", "light"), ("bar_dark", "dark")):
        bars = [getattr(look, mode) for look in palette.VERDICTS.values()]
        assert worst_distance(bars) > 11
        assert all(contrast(bar, THEME[ground]["backgroundColor"]) >= 3.0 for bar in bars)
    assert palette.VERDICTS["inconclusive"].bar_style == "dashed"
    assert len({look.icon for look in palette.VERDICTS.values()}) == len(palette.VERDICTS)


def test_heat_map_rises_in_lightness():
    lightness = [lab(colour, "normal")[0] for colour in palette.HEAT]
    assert lightness == sorted(lightness) and contrast(palette.HEAT[0], THEME["dark"]["backgroundColor"]) > 1.8


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_can_be_read(mode):
    theme = THEME[mode]
    for ground in (theme["backgroundColor"], theme["secondaryBackgroundColor"], theme["sidebar"]["backgroundColor"]):
        assert contrast(theme["textColor"], ground) >= 12
        assert contrast(theme["linkColor"], ground) >= 4.5
    for slot in ("red", "orange", "blue", "gray"):
        assert contrast(theme[f"{slot}TextColor"], theme[f"{slot}BackgroundColor"]) >= 4.5
    on_button = {"light": "#FFFFFF", "dark": "#11151B"}[mode]
    assert contrast(on_button, theme["primaryColor"]) >= 4.5 and on_button in style()


def test_one_palette_for_config_figures_and_frame():
    assert tuple(THEME["chartCategoricalColors"]) == palette.SERIES
    for look in palette.VERDICTS.values():
        assert THEME["light"][f"{look.badge}Color"] == look.bar_light and THEME["dark"][f"{look.badge}Color"] == look.bar_dark
        assert look.bar_light in style() and look.bar_dark in style()


def test_the_server_answers_this_machine_only():
    assert SERVER["address"] == "127.0.0.1" and SERVER["allowedHosts"] == ["localhost", "127.0.0.1"]
    assert SERVER["enableXsrfProtection"] and not SERVER["enableStaticServing"]


def test_a_page_shows_only_what_it_draws_by_name():
    """Streamlit would print every bare expression of a page: a call whose value nobody wanted, a docstring in the wrong place."""
    assert CONFIG["runner"]["magicEnabled"] is False


# --- words ------------------------------------------------------------------------------------------------------------------------------------

BANNED = re.compile(r"\b(safe|secure|anonymous|guaranteed|oops|please)\b|\bsignificant(?!.{0,40}p [=<])|!\s*$", re.IGNORECASE)
SPOKEN = [
    *sorted((ROOT / "pages").rglob("*.py")),
    ROOT / "audit" / "glossary.py",
    *(ROOT / "audit" / name for name in ("cli.py", "cli_gate.py", "gate.py", "planner.py", "splitter.py", "provenance.py")),
    *(ROOT / "audit" / "report" / name for name in ("words.py", "html.py", "build.py", "claims.py", "parts.py", "evidence.py")),
]


def spoken(path):
    """String literals of a file without docstrings, dictionary keys and other code-like words."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documents = {
        id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents and " " in node.value.strip() and "{" not in node.value:
            yield node.value


@pytest.mark.parametrize("path", SPOKEN, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_banned_word_is_spoken(path):
    assert not [text for text in spoken(path) if BANNED.search(text)]


def test_the_word_check_can_fail():
    assert BANNED.search("This model is safe to release.") and BANNED.search("A significant leak") and not BANNED.search("significant (p = 0.03)")
