"""What a model is asked with beside the picture: class labels and captions, from a CSV or from class sub-folders, one for every image of both sets.

    labels.csv      image,class      a whole number, or a name where there are exactly as many names as the model has classes
    captions.csv    image,caption    text, empty for the empty prompt

`image` is the path relative to its set, or the file name alone where only one image has it; where both sets hold the same path, members/PATH and
nonmembers/PATH tell them apart (the pictures of a .npz are images[0], images[1], …). Nothing is decoded and no torch is here: the look is over before any
device time is spent.
"""

import csv
import io
import re
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from scipy.stats import chi2_contingency

from audit.errors import ImageSetError, RequestError
from models.errors import ModelError
from models.imagefiles import names_of
from models.safety import shown

SETS = ("members", "nonmembers")
MAX_BYTES, MAX_ROWS, MAX_CELL = 256 * 2**20, 2_000_000, 4096
COLUMN = {"labels": "class", "captions": "caption"}
WHOLE = re.compile(r"[0-9]{1,9}")
WORDNET = re.compile(r"n[0-9]{8}")  # ImageNet's folders, whose sorted order is its numbering everywhere
NAMED = 3  # names that a warning spells out at either end
DIFFERENT_P, LEAST_EXPECTED = 1e-4, 5
EMPTY_PROMPT = "The model takes text and no captions were given: every image was asked about with the empty prompt. Images trained with captions leak more with theirs."


@dataclass(frozen=True)
class Condition:
    """What every image is asked with.

    Attributes:
        kind: "labels", "captions", or None where the model is asked with nothing (or with the empty prompt).
        said: {set: {path: int or str}}, every image file of both sets; source: the CSV's name or "sub-folders"; warnings: sentences for the report.
    """

    kind: str | None = None
    said: dict = field(default_factory=dict)
    source: str | None = None
    warnings: tuple[str, ...] = ()

    def to_json(self):
        """measurement.asked_with of report.json: {"kind", "source"}, or None."""
        return {"kind": self.kind, "source": self.source} if self.kind else None

    def of(self, side, path):
        """{"label": int}, {"caption": str} or {}: what queries.json holds of an image."""
        return {} if self.kind is None else {self.kind[:-1]: self.said[side][path]}


def condition_of(request, classes, captions):
    """The Condition of a model that is asked with nothing, a class or a caption.

    Args: request: audit.request.Request; classes: number of classes of a class-conditional model, else None; captions: bool, it takes text.
    Raises: RequestError: a class-conditional model without labels, a file that cannot be read or is not what it should be, a label that the model does not have,
        an image without a row; ImageSetError: a set cannot be read.
    """
    unused = [f"--{name} was given, but this model takes no {what}: it was not used." for name, what, takes in _kinds(classes, captions) if getattr(request, name) and not takes]
    if classes is None and not captions:
        return Condition(warnings=tuple(unused))
    names = None if classes is None and request.captions is None else _names(request)
    if classes is None:
        if names is None:
            return Condition(warnings=(*unused, EMPTY_PROMPT))
        path = Path(request.captions)
        return Condition("captions", _matched(path, read_csv(path, "caption"), names, "captions"), path.name, tuple(unused))
    if request.labels is None:
        said, warnings = _from_folders(names, classes)
        return Condition("labels", said, "sub-folders", (*unused, *warnings, *_other_classes(said)))
    path = Path(request.labels)
    rows, warnings = _as_numbers(path, read_csv(path, "class"), classes)
    said = _matched(path, rows, names, "labels")
    return Condition("labels", said, path.name, (*unused, *warnings, *_other_classes(said)))


def _kinds(classes, captions):
    return (("labels", "class labels", classes is not None), ("captions", "captions", bool(captions)))


def _other_classes(said):
    """A warning where the two sets hold the classes in other shares than luck gives (chi-squared, p below 1e-4; classes of few images count together), else nothing."""
    counts = [Counter(said[side].values()) for side in SETS]
    total = [max(1, sum(side.values())) for side in counts]
    rows, rest = [], [0, 0]
    for label in sorted(counts[0].keys() | counts[1].keys()):
        pair = [side[label] for side in counts]
        if sum(pair) * min(total) / sum(total) >= LEAST_EXPECTED:
            rows.append((label, pair))
        else:
            rest = [a + b for a, b in zip(rest, pair, strict=True)]
    table = [pair for _, pair in rows] + ([rest] if all(rest) else [])
    if len(table) < 2 or not rows or chi2_contingency(table).pvalue >= DIFFERENT_P:
        return ()
    label, pair = max(rows, key=lambda row: abs(row[1][0] / total[0] - row[1][1] / total[1]))
    shares = " against ".join(f"{100 * n / of:.0f} % of the {words}" for n, of, words in zip(pair, total, ("members", "non-members"), strict=True))
    return (f"The sets hold the classes in different shares (class {label}: {shares}), so whatever tells classes apart counts as a leak: draw both from the same source.",)


def _names(request):
    """{set: names of its image files, as text}."""
    try:
        return {side: [as_text(name) for name in names_of(getattr(request, side))] for side in SETS}
    except ModelError as error:
        raise ImageSetError(str(error)) from None


def as_text(name):
    """A file name as queries.json holds it: bytes that are not UTF-8 become escapes."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


# ------------------------------------------------------------------ the file


def read_csv(path, column):
    """[(line, image, value)] of a CSV with the columns `image` and `column`, in any order, beside others that are not read.

    Args: path: UTF-8, with or without a byte order mark; column: "class" or "caption".
    Raises: RequestError: one line that names the file and the row.
    """
    path, flag = Path(path), f"--{'labels' if column == 'class' else 'captions'}"
    expected = f"Expected a UTF-8 .csv with the columns image,{column}"
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise RequestError(f"{flag}: {path.name} is larger than {MAX_BYTES // 2**20} MB. {expected}: one row an image.")
        data = path.read_bytes()
    except OSError as error:
        raise RequestError(f"{flag}: {path.name} cannot be read ({error.strerror}). {expected}.") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RequestError(f"{flag}: {path.name} is not UTF-8. {expected}: save it again with that encoding.") from None
    if "\0" in text:
        raise RequestError(f"{flag}: {path.name} holds zero bytes. {expected}: save it again as text.")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    found = []
    try:
        header = [cell.strip().casefold() for cell in next(reader, [])]
        if header.count("image") != 1 or header.count(column) != 1:
            first = ",".join(header)
            raise RequestError(f"{flag}: {path.name} begins with {shown(first, 60)}. {expected}, divided by commas, as its first line.")
        image_at, value_at = header.index("image"), header.index(column)
        for row in reader:
            line = reader.line_num
            if not row or not any(cell.strip() for cell in row):
                continue
            if len(row) <= max(image_at, value_at):
                raise RequestError(f"{flag}: line {line} of {path.name} has {len(row)} of {len(header)} cells. Expected all: complete it.")
            if len(row) > len(header):
                raise RequestError(f"{flag}: line {line} of {path.name} has {len(row)} cells, {len(header)} columns. Expected quotes around text with commas: correct it.")
            image, value = row[image_at].strip(), row[value_at].strip()
            if max(len(image), len(value)) > MAX_CELL:
                raise RequestError(f"{flag}: line {line} of {path.name} holds a cell of {max(len(image), len(value)):,} characters. Expected at most {MAX_CELL:,}: shorten it.")
            if not image:
                raise RequestError(f"{flag}: line {line} of {path.name} names no image. Expected a path relative to its set: complete it.")
            found.append((line, _key(image), value))
            if len(found) > MAX_ROWS:
                raise RequestError(f"{flag}: {path.name} has more than {MAX_ROWS:,} rows. {expected}: one row an image.")
    except csv.Error:
        raise RequestError(f"{flag}: {path.name} cannot be read near line {reader.line_num}. {expected}: look for a quote that is never closed, or a huge cell.") from None
    if not found:
        raise RequestError(f"{flag}: {path.name} has no rows. {expected}: one row an image.")
    return found


def _key(name):
    """A path as names are compared: slashes forward, no leading ./, accents composed (macOS writes them apart)."""
    name = unicodedata.normalize("NFC", name.replace("\\", "/"))
    while name.startswith("./"):
        name = name[2:]
    return name


def _as_numbers(path, rows, classes):
    """([(line, image, int)], warnings): labels of a file as numbers from 0 to classes - 1."""
    whole = [bool(WHOLE.fullmatch(value)) for _, _, value in rows]
    if all(whole):
        for line, image, value in rows:
            if int(value) >= classes:
                where = f"line {line} of {path.name}: {shown(image, 60)} has class {value}"
                raise RequestError(f"--labels: {where}. Expected 0 to {classes - 1}, the model's {classes} classes: correct it.")
        return [(line, image, int(value)) for line, image, value in rows], ()
    if any(whole):
        line, image, value = next(row for row, is_whole in zip(rows, whole, strict=True) if not is_whole)
        where = f"line {line} of {path.name}: class of {shown(image, 60)} is {shown(value, 40)}"
        raise RequestError(f"--labels: {where}. Expected a whole number from 0 to {classes - 1}, as in other rows.")
    names = sorted({value for _, _, value in rows})
    if len(names) != classes or "" in names:
        what = f"{path.name} names {len(names)} classes ({', '.join(shown(name, 20) for name in names[:NAMED])}{', …' if len(names) > NAMED else ''})"
        raise RequestError(f"--labels: {what}, the model has {classes}: which number stands for which cannot be told. Expected whole numbers from 0 to {classes - 1}.")
    number = {name: index for index, name in enumerate(names)}
    return [(line, image, number[value]) for line, image, value in rows], (_numbered(names, path.name),)


def _numbered(names, where):
    """The warning that names became numbers."""
    pairs = [f"{index} = {shown(name, 30)}" for index, name in enumerate(names)]
    listed = pairs if len(pairs) <= 2 * NAMED else [*pairs[:NAMED], "…", *pairs[-NAMED:]]
    return f"The class names of {where} were numbered in sorted order ({', '.join(listed)}). Another order in the training makes every number of this audit wrong: check it."


def _matched(path, rows, names, kind):
    """{set: {path: value}}: the row of every image. Raises RequestError: two rows that differ, a row that fits several images, an image without one."""
    flag, by_key = f"--{kind}", {}
    for line, image, value in rows:
        if by_key.setdefault(image, (line, value))[1] != value:
            raise RequestError(f"{flag}: {path.name} has two different rows for {shown(image, 60)} (lines {by_key[image][0]} and {line}). Expected one: remove the other.")
    owners, files = defaultdict(list), defaultdict(list)
    for side in SETS:
        for name in names[side]:
            owners[_key(name)].append(side)
            files[_key(name).rsplit("/", 1)[-1]].append((side, name))
    said, missing, total = {side: {} for side in SETS}, [], 0
    for side in SETS:
        for name in names[side]:
            total += 1
            key = _key(name)
            file = key.rsplit("/", 1)[-1]
            found = by_key.get(f"{side}/{key}")
            if found is None and key in by_key:
                if len(owners[key]) > 1:
                    both = shown(key, 60)
                    raise RequestError(f"{flag}: both sets hold {both}, and {path.name} has one row for it. Expected two, members/{both} and nonmembers/{both}.")
                found = by_key[key]
            if found is None and file != key and file in by_key:
                if len(files[file]) > 1:
                    raise RequestError(f"{flag}: {len(files[file])} images are called {shown(file, 60)}, and {path.name} has one row for it. Expected paths relative to the set.")
                found = by_key[file]
            if found is None:
                missing.append(name)
                continue
            said[side][name] = found[1]
    if missing:
        few = f"{len(missing):,} of {total:,} images have" if len(missing) > 1 else f"1 of {total:,} images has"
        raise RequestError(f"{flag}: {few} no row in {path.name} (first: {shown(missing[0], 60)}). Expected a row for every image: add {'them' if len(missing) > 1 else 'it'}.")
    return said


# ------------------------------------------------------------------ sub-folders


def _from_folders(names, classes):
    """({set: {path: int}}, warnings) from class sub-folders, where they can only mean one thing.

    Whole numbers from 0 to classes - 1 stand for themselves. WordNet ids, as many as the model has classes, are numbered in sorted order: every ImageNet pipeline
    does. Other names are refused, because another order would load as well and give other numbers.
    """
    advice = f"Expected --labels F.csv (image,class), or sub-folders 0 to {classes - 1}."
    folders = {side: _folders(names[side]) for side in SETS}
    found = {folder for side in SETS for folder in folders[side].values()}
    if not found or None in found:
        raise RequestError(f"The model has {classes} classes and needs a label for every image, and none were given. {advice}")
    if all(map(WHOLE.fullmatch, found)):
        numbers = {folder: int(folder) for folder in found}
        if max(numbers.values()) >= classes or len(set(numbers.values())) < len(found):
            wrong = max(found, key=lambda folder: numbers[folder])
            raise RequestError(f"The model has {classes} classes, and the sets have sub-folders up to {shown(wrong, 20)}, which are no labels of it. {advice}")
        warning = f"Class labels are the numbers of the sub-folders ({len(found)} of the model's {classes} classes)."
    elif all(map(WORDNET.fullmatch, found)) and len(found) == classes:
        numbers = {folder: index for index, folder in enumerate(sorted(found))}
        warning = _numbered(sorted(found), "the sub-folders")
    else:
        few = ", ".join(shown(folder, 20) for folder in sorted(found)[:NAMED])
        raise RequestError(f"The model has {classes} classes and needs a label for every image; the sub-folders ({few}, …) do not say which number is theirs. {advice}")
    return {side: {name: numbers[folder] for name, folder in folders[side].items()} for side in SETS}, (warning,)


def _folders(names):
    """{path: name of the sub-folder right below the set}, None where an image lies in none; a folder that holds the whole set (of a .zip) is passed over."""
    parts = {name: name.split("/")[:-1] for name in names}
    depth = 0
    while len({p[depth] if len(p) > depth else None for p in parts.values()}) == 1:
        first = next(iter(parts.values()))
        if len(first) <= depth + 1 or WHOLE.fullmatch(first[depth]) or WORDNET.fullmatch(first[depth]):
            break
        depth += 1
    return {name: p[depth] if len(p) > depth else None for name, p in parts.items()}
