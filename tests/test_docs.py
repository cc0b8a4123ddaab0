"""What the documents say exists, exists, and the other way round."""

import re
from pathlib import Path

from audit.attacks import ATTACKS
from audit.config import VARIABLES
from models.formats import FORMATS

ROOT = Path(__file__).resolve().parent.parent


def test_every_attack_and_format_is_in_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in [*ATTACKS, *FORMATS]:
        assert f"`{name}`" in readme


def test_every_setting_and_recipe_of_a_checkpoint_is_in_its_page():
    from models.formats import get
    from models.overrides import OVERRIDES

    page = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    for name in [*OVERRIDES, *(recipe for format_name in FORMATS for recipe in getattr(get(format_name), "recipes", ()))]:
        assert f"`{name}`" in page


def test_every_linked_file_exists():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links {target}"


def test_every_variable_is_in_the_configuration_page():
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    names = list(VARIABLES)
    assert names and all(f"`{name}`" in text for name in names)


def test_every_requirement_has_its_reason():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme[readme.index("## Dependencies") :]
    for line in (ROOT / "requirements.txt").read_text().split():
        assert re.split(r"[=<>]", line)[0] in table
