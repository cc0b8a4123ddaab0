"""CLIP's tokenizer: words, merges by rank, cutting and padding, and files that were made to harm."""

import json
import time

import pytest

from models.errors import CheckpointError, UnsafeCheckpoint
from models.tokenizer import END, START, ClipTokenizer, _words, files_of, read_tokenizer
from tests.models import tiny

KNOWN = len(tiny.VOCAB)


@pytest.fixture
def folder(tmp_path):
    tiny.save_tokenizer(tmp_path / "tokenizer")
    return tmp_path


def tokens(tokenizer, text):
    """Tokens of a text, without start, and without the ends that follow it."""
    row = [tiny.VOCAB[number] for number in tokenizer.ids([text])[0]]
    assert row[0] == START and row[-1] == END
    while row and row[-1] == END:
        row.pop()
    return row[1:]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The  cat\tsat.", ["the", "cat", "sat", "."]),
        ("it's we'll 1 2345", ["it", "'s", "we", "'ll", "1", "2", "3", "4", "5"]),
        ("a'b ''s x'S", ["a", "'", "b", "''", "s", "x", "'s"]),
        ("e\u0301tude — “x”…", ["étude", "—", "“", "x", "”…"]),
        ("ab<|endoftext|>c", ["ab", "<|endoftext|>", "c"]),
        ("½ ² ١ 猫a_b", ["½", "²", "١", "猫a", "_", "b"]),
        ("  ", []),
    ],
)
def test_words(text, words):
    assert list(_words(text)) == words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the cat", ["the</w>", "cat</w>"]),
        ("cath", ["ca", "t", "h</w>"]),
        ("thethe", ["th", "e", "the</w>"]),
        ("cats", ["ca", "t", "s</w>"]),
        ("cat's on", ["cat</w>", "'s</w>", "on</w>"]),
        ("!!!!!", ["!!", "!!", "!</w>"]),
        ("!!!!", ["!!!!</w>"]),
    ],
)
def test_pairs_are_merged_by_rank(folder, text, expected):
    tokenizer = read_tokenizer(folder, "tokenizer", KNOWN, 16)
    assert tokens(tokenizer, text) == expected


def test_signs_that_are_not_known_count_as_the_end_token_and_text_is_cut(folder):
    tokenizer = read_tokenizer(folder, "tokenizer", KNOWN, 16)
    end = tiny.VOCAB.index(END)
    row = tokenizer.ids(["猫", "on " * 50, ""])
    assert row.shape == (3, 12) and list(row[0]) == [end - 1, *[end] * 11] and list(row[1]) == [end - 1, *[tiny.VOCAB.index("on</w>")] * 10, end]
    assert list(row[2]) == [end - 1, *[end] * 11]
    assert tokenizer.ids([]).shape == (0, 12)


def test_the_encoders_positions_limit_the_length(folder):
    assert read_tokenizer(folder, "tokenizer", KNOWN, 8).length == 8
    (folder / "tokenizer" / "tokenizer_config.json").write_text('{"model_max_length": 1e30}')
    assert read_tokenizer(folder, "tokenizer", KNOWN, 16).length == 16


@pytest.mark.parametrize("merges", [list(tiny.MERGES), [pair.split() for pair in tiny.MERGES]], ids=["text", "pairs"])
def test_one_file_with_everything_is_read_alike(folder, merges):
    plain = read_tokenizer(folder, "tokenizer", KNOWN, 16)
    for name in ("vocab.json", "merges.txt"):
        (folder / "tokenizer" / name).unlink()
    vocab = {token: number for number, token in enumerate(tiny.VOCAB)}
    (folder / "tokenizer" / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": vocab, "merges": merges}}))
    assert files_of(folder, "tokenizer") == ("tokenizer/special_tokens_map.json", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json")
    text = ["the cat's on!!!", "cats"]
    assert (read_tokenizer(folder, "tokenizer", KNOWN, 16).ids(text) == plain.ids(text)).all()


def test_a_hostile_caption_takes_no_minutes(folder):
    tokenizer, began = read_tokenizer(folder, "tokenizer", KNOWN, 16), time.process_time()
    tokenizer.ids(["c" * 10**7, "猫" * 10**6, " " * 10**7, "' " * 10**6])
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("vocab.json", {"a": 10**9}, "does not number its tokens"),
        ("vocab.json", {"a": -1}, "does not number its tokens"),
        ("vocab.json", {"a": "1"}, "does not number its tokens"),
        ("vocab.json", {"a": True}, "does not number its tokens"),
        ("vocab.json", {"a": 1}, "has no <|startoftext|>"),
        ("vocab.json", ["a"], "no JSON object"),
        ("merges.txt", "a b c\n", "not pairs"),
        ("tokenizer_config.json", {"model_max_length": 1}, "model_max_length is 1"),
        ("special_tokens_map.json", {"pad_token": {"content": "nowhere"}}, "has no nowhere"),
    ],
    ids=lambda v: str(v)[:30],
)
def test_files_that_cannot_be_are_refused(folder, name, content, match):
    (folder / "tokenizer" / name).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(CheckpointError, match=match.replace("|", r"\|")) as caught:
        read_tokenizer(folder, "tokenizer", KNOWN, 16)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_files_that_are_too_large_are_not_read(folder, name):
    with open(folder / "tokenizer" / name, "ab") as file:
        file.truncate(20_000_000)
    with pytest.raises(CheckpointError, match=f"{name} has 19 MB"):
        read_tokenizer(folder, "tokenizer", KNOWN, 16)


@pytest.mark.parametrize("key", ["auto_map", "trust_remote_code"])
def test_code_named_by_the_tokenizer_is_refused(folder, key):
    tiny.edit(folder / "tokenizer" / "tokenizer_config.json", **{key: {"AutoTokenizer": ["evil.Tokenizer", None]}})
    with pytest.raises(UnsafeCheckpoint, match=key):
        read_tokenizer(folder, "tokenizer", KNOWN, 16)


def test_a_word_is_remembered_but_not_all_of_them(monkeypatch):
    monkeypatch.setattr("models.tokenizer.MAX_CACHED", 4)
    tokenizer = ClipTokenizer({token: number for number, token in enumerate(tiny.VOCAB)}, [tuple(pair.split()) for pair in tiny.MERGES], 12)
    first = tokenizer.ids(["a b c d e f"])
    assert (tokenizer.ids(["a b c d e f"]) == first).all() and len(tokenizer._known) <= 4
