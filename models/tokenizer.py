"""CLIP's tokenizer, from its files read as data: text -> lower case -> words -> pairs merged by rank -> numbers.

Source: Radford et al. 2021 (byte pair encoding of OpenAI's CLIP), as transformers' CLIPTokenizer splits words.
Differs from source: a caption is cut after 10,000 characters and a word after 300, so that none can take minutes; words beyond the encoder's length are not looked at.
"""

import itertools
import os
import re
import unicodedata
from pathlib import Path

import numpy as np

from models.errors import CheckpointError
from models.safety import read_json, read_text, shown

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_ENDS = "</w>"
MAX_CAPTION, MAX_WORD = 10_000, 300
MAX_LENGTH = 1_024
MAX_FILE_BYTES = 16 * 2**20  # CLIP's vocabulary has 49,408 entries: 1 MB, or 4 MB with the merges in one file
MAX_CACHED = 50_000
SAVED_BY = "CLIPTokenizer's save_pretrained"
WHOLE = re.compile(r"<\|startoftext\|>|<\|endoftext\|>|'(?:s|t|re|ve|m|ll|d)")
SHAPES = re.compile(r"L+|N|\.+")  # letters together, digits singly, anything else together


class ClipTokenizer:
    """Words to numbers.

    Args:
        vocab: {token: number}; merges: pairs of tokens, first merged first; length: numbers per text, start, end and padding included; pad: the token that fills up.
    Raises: CheckpointError: a special token is not in the vocabulary.
    """

    def __init__(self, vocab, merges, length, pad=END):
        for token in (START, END, pad):
            if token not in vocab:
                raise CheckpointError(f"The tokenizer's vocabulary has no {shown(token, 30)}. Expected CLIP's vocab.json: copy the tokenizer folder again.")
        self.vocab, self.length = vocab, length
        self.start, self.end, self.pad = vocab[START], vocab[END], vocab[pad]
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._known = {START: (self.start,), END: (self.end,)}

    def ids(self, texts):
        """int64 (N, length): start, the words' numbers cut to fit, end, padding."""
        rows = np.full((len(texts), self.length), self.pad, dtype=np.int64)
        for row, text in zip(rows, texts, strict=True):
            numbers = [self.start]
            for word in _words(text):
                numbers += self._of_word(word)
                if len(numbers) >= self.length - 1:
                    break
            numbers = [*numbers[: self.length - 1], self.end]
            row[: len(numbers)] = numbers
        return rows

    def _of_word(self, word):
        """Numbers of a word; parts that the vocabulary does not know count as its end token, as CLIP's own do."""
        if word not in self._known:
            if len(self._known) >= MAX_CACHED:
                self._known = {START: (self.start,), END: (self.end,)}
            self._known[word] = tuple(self.vocab.get(part, self.end) for part in self._parts(word))
        return self._known[word]

    def _parts(self, word):
        """The word's bytes, merged by rank."""
        parts = [BYTES[byte] for byte in word[:MAX_WORD].encode("utf-8", errors="replace")]
        parts[-1] += WORD_ENDS
        while len(parts) > 1:
            pairs = list(itertools.pairwise(parts))
            best = min(pairs, key=lambda pair: self.ranks.get(pair, len(self.ranks)))
            if best not in self.ranks:
                break
            merged, index = [], 0
            while index < len(parts):
                both = index < len(pairs) and pairs[index] == best
                merged.append(parts[index] + parts[index + 1] if both else parts[index])
                index += 1 + both
            parts = merged
        return parts


def _words(text):
    """Words of a caption: contractions, runs of letters, single digits, runs of other signs."""
    text = unicodedata.normalize("NFC", text[:MAX_CAPTION]).lower()
    shape = "".join(" " if sign.isspace() else kind if (kind := unicodedata.category(sign)[0]) in "LN" else "." for sign in text)
    position = 0
    while position < len(text):
        found = WHOLE.match(text, position) or SHAPES.match(shape, position)
        if found is None:
            position += 1
            continue
        yield text[position : found.end()]
        position = found.end()


def _byte_names():
    """The printable character that stands for each byte: itself where it prints, else one from 256 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


BYTES = _byte_names()


def files_of(root, folder):
    """Relative names of the tokenizer's files, those that are there.

    Raises: CheckpointError: neither vocab.json with merges.txt nor tokenizer.json, or one that is no file.
    """
    there = [name for name in ("merges.txt", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.json") if os.path.lexists(Path(root) / folder / name)]
    for name in there:
        if not (Path(root) / folder / name).is_file():
            raise CheckpointError(f"{folder}/{name} is not a regular file. Expected the file that {SAVED_BY} writes: copy the folder again.")
    whole = "tokenizer.json" in there
    there = [name for name in there if name != "tokenizer.json"]
    if not {"vocab.json", "merges.txt"} <= set(there):
        if not whole:
            raise CheckpointError(f"{folder}/vocab.json or merges.txt is missing. Expected the tokenizer that the model was trained with: copy the whole folder.")
        there = [*(name for name in there if name.endswith(("_map.json", "_config.json"))), "tokenizer.json"]
    return tuple(f"{folder}/{name}" for name in sorted(there))


def read_tokenizer(root, folder, known, longest):
    """ClipTokenizer of a folder.

    Args: root: Path; folder: relative; known: tokens that the text encoder has rows for; longest: its positions.
    Raises: CheckpointError, UnsafeCheckpoint.
    """
    names = {name.rpartition("/")[2] for name in files_of(root, folder)}
    config = read_json(root, f"{folder}/tokenizer_config.json") if "tokenizer_config.json" in names else {}
    special = read_json(root, f"{folder}/special_tokens_map.json") if "special_tokens_map.json" in names else {}
    if "tokenizer.json" in names:
        name, model = f"{folder}/tokenizer.json", read_json(root, f"{folder}/tokenizer.json", MAX_FILE_BYTES).get("model")
        vocab, merges = (model.get("vocab"), model.get("merges")) if isinstance(model, dict) else (None, None)
    else:
        name, vocab = f"{folder}/vocab.json", read_json(root, f"{folder}/vocab.json", MAX_FILE_BYTES)
        lines = read_text(root, f"{folder}/merges.txt", MAX_FILE_BYTES, SAVED_BY).splitlines()
        merges = [line for line in lines if line and not line.startswith("#version")]
    if not isinstance(vocab, dict) or not all(type(number) is int and 0 <= number < known for number in vocab.values()):
        raise CheckpointError(f"{name} does not number its tokens from 0 to {known - 1}, the rows of the text encoder. Expected files of one model: copy both folders again.")
    merges = [tuple(pair.split()) if isinstance(pair, str) else tuple(pair) if isinstance(pair, list) else () for pair in merges if pair] if isinstance(merges, list) else [()]
    if not all(len(pair) == 2 and all(isinstance(part, str) for part in pair) for pair in merges):
        raise CheckpointError(f"{folder} holds merges that are not pairs of tokens. Expected the file that {SAVED_BY} writes: copy it again.")
    length = config.get("model_max_length", longest)
    length = longest if type(length) not in (int, float) or length > longest else int(length)
    if not 2 <= length <= MAX_LENGTH:
        came = shown(config.get("model_max_length"))
        raise CheckpointError(f"{folder}/tokenizer_config.json: model_max_length is {came}. Expected 2 to {min(longest, MAX_LENGTH)}: copy it again.")
    pad = special.get("pad_token") or config.get("pad_token") or END
    pad = pad.get("content") if isinstance(pad, dict) else pad
    return ClipTokenizer(vocab, merges, length, pad if isinstance(pad, str) else END)
