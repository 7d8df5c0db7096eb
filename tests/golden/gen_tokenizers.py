#!/usr/bin/env python3
"""Makes tests/golden/tokenizers/: four small tokenizers of the kinds that dscore reads, and
golden.json with what the `tokenizers` library makes of tricky texts with them.

    pip install tokenizers==0.23.*
    python3 tests/golden/gen_tokenizers.py
"""

import json
import os

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tokenizers")

CORPUS = """The river was low that summer, and the boys walked across it every day. They carried
their shoes in their hands; they didn't mind the stones. "It's only water," the older one said.
"We'll be home before the others." In 1987 there were 12 houses on the bank, in 2004 only 3.
He couldn't say when the last family had left, or where they'd gone, or what they'd taken.

The mill stood empty. Its wheel had not turned since the flood, and the swallows nested in the
roof. There was a smell of flour still, and of wet wood. They'd found a coin there once, and a
knife without a handle, and they went on looking, as one does.  Nothing was ever where it had been.

for (int i = 0; i < n; i++) {
    total += price[i] * count[i];
}

Der Fluß führte wenig Wasser. L'été, la rivière était basse. 川の水は少なかった。
Река обмелела летом.
"""

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

TEXTS = [
    "",
    " ",
    "  ",
    "a",
    " a",
    "a ",
    "Hello, world!",
    "The river was low that summer.",
    "   three spaces before,   between   and after   ",
    "tab\tand\ttabs\t\t",
    "line\nline\n\nline\n",
    "\r\n windows \r\n\r\n",
    "\n",
    "\n\n\n  \n",
    "it's we'll they'd I'm you've they're DON'T IT'S",
    "1 12 123 1234 12345 3.14159 1,000,000",
    "½ ² ٣ Ⅷ",
    "for (int i=0;i<n;i++) { x[i] += 1; }",
    "Fluß führte été rivière",
    "川の水は少なかった。",
    "Река обмелела",
    "日本語とEnglishの混在テキスト",
    "😀 😀😀 👩‍👩‍👧‍👦 🇫🇷",
    "e\u0301 e\u0301\u0301 n\u0303",
    "\u00a0nbsp\u00a0\u00a0",
    "\u2003em\u3000ideographic",
    "zero\u200bwidth\ufeffbom",
    "\u2581 already marked \u2581\u2581",
    "<0x41> <0x0A>",
    "\x01\x7f\x80\x9f\xad",
    "\U0010ffff\ud7ff\ue000\ufffd",
    "العربية עברית हिन्दी ไทย",
    "<|endoftext|>",
    "a<|endoftext|>b",
    "<s>",
    "</s>",
    "<s>a</s> b <s>",
    "text <|end|>  \n  more",
    "<|end|><|end|>",
    "x<tool>y <tool> z",
    "<too",
    "<<<tool>>>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "the" * 60,
    " " * 100,
    "'" * 9,
    "''s 's''t",
    "…—–“quoted”‘single’",
    "İıſK ẞß ﬁ ﬅ",
    "ſ's 'ſ 'S 'LL",
    "a\u0085b\u2028c\u2029d\u000be\u000cf",
    CORPUS,
]


def train(tokenizer, size, special, alphabet):
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=alphabet,
        min_frequency=2,
    )
    tokenizer.train_from_iterator([CORPUS], trainer)


def description(tokenizer):
    return json.loads(tokenizer.to_str())


def write(folder, name, text):
    os.makedirs(os.path.join(HERE, folder), exist_ok=True)
    with open(os.path.join(HERE, folder, name), "w", encoding="utf-8") as f:
        f.write(text)


def write_json(folder, value):
    write(
        folder,
        "tokenizer.json",
        json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n",
    )
    return Tokenizer.from_file(os.path.join(HERE, folder, "tokenizer.json"))


def gpt2():
    """vocab.json + merges.txt"""
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    train(t, 380, ["<|endoftext|>"], pre_tokenizers.ByteLevel.alphabet())
    model = description(t)["model"]
    write("gpt2", "vocab.json", json.dumps(model["vocab"], ensure_ascii=False) + "\n")
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    write("gpt2", "merges.txt", "#version: 0.2\n" + "\n".join(merges) + "\n")
    return t


def byte_level():
    """As LLaMA 3: a Split, bytes, whole words first, a begin token from the template."""
    t = Tokenizer(models.BPE(ignore_merges=True))
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    t.decoder = decoders.ByteLevel()
    train(t, 360, [], pre_tokenizers.ByteLevel.alphabet())
    d = description(t)
    vocab = d["model"]["vocab"]
    vocab["Ġstones"] = len(vocab)  # no merge makes it: only ignore_merges finds it
    t = Tokenizer.from_str(json.dumps(d))
    t.add_special_tokens(
        [
            AddedToken("<s>", special=True),
            AddedToken("</s>", special=True),
            AddedToken("<|end|>", special=True, rstrip=True),
        ]
    )
    t.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("<<tool>>", lstrip=True)])
    t.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single="<s> $A",
                pair="<s> $A <s> $B",
                special_tokens=[("<s>", t.token_to_id("<s>"))],
            ),
        ]
    )
    return write_json("byte_level", description(t))


def sentencepiece():
    """As LLaMA 2: characters, byte fallback, no pre-tokenizer."""
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % i for i in range(256)]
    # Training in words keeps the merges inside words, as SentencePiece does.
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    train(t, 440, special, ["▁"])
    t.pre_tokenizer = None
    t.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    t.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> <s> $B </s>",
        special_tokens=[("<s>", 1), ("</s>", 2)],
    )
    d = description(t)
    d["added_tokens"] = [a for a in d["added_tokens"] if a["id"] < 3]
    d["model"]["merges"] = [m if isinstance(m, str) else " ".join(m) for m in d["model"]["merges"]]
    return write_json("sentencepiece", d)


def metaspace():
    """Metaspace with Digits, unknown characters, merges across what the other kinds split."""
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="first", split=False),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    t.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    train(t, 160, ["<unk>", "<s>", "</s>"], ["▁"])
    t.add_tokens([AddedToken("<tool>", normalized=True)])
    return write_json("metaspace", description(t))


def main():
    cases = []
    for name, make in [
        ("gpt2", gpt2),
        ("byte_level", byte_level),
        ("sentencepiece", sentencepiece),
        ("metaspace", metaspace),
    ]:
        tokenizer = make()
        for text in TEXTS:
            text = text.encode("utf-16", "surrogatepass").decode("utf-16")
            for special in [False, True]:
                tokenizer.encode_special_tokens = not special
                ids = tokenizer.encode(text, add_special_tokens=special).ids
                case = {"tokenizer": name, "text": text, "special": special, "ids": ids}
                for key, skip in [("decoded", True), ("decoded_special", False)]:
                    back = tokenizer.decode(ids, skip_special_tokens=skip)
                    if back != text:  # absent: the text itself
                        case[key] = back
                if special and cases[-1]["ids"] == ids:
                    continue  # nothing special about it
                cases.append(case)
    lines = ",\n".join(json.dumps(c, ensure_ascii=True, separators=(",", ":")) for c in cases)
    with open(os.path.join(HERE, "golden.json"), "w", encoding="utf-8") as f:
        f.write("[\n" + lines + "\n]\n")
    print(len(cases), "cases")


main()
