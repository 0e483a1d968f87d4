from __future__ import annotations

from tiny_text_model import tiny_tokenizer
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from monoscope.features.vocabulary import Vocabulary


def fast(tokens: list[str], decoder: decoders.Decoder | None, **special: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=tokens[0]))
    if decoder is not None:
        tokenizer.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def test_byte_level_tokens_are_their_bytes() -> None:
    tokenizer = tiny_tokenizer()
    vocabulary = Vocabulary.of(tokenizer, 0)
    assert len(vocabulary) == len(tokenizer)
    assert vocabulary.special[:4] == (True, True, True, False)
    assert vocabulary.text[:3] == ("<pad>", "<bos>", "<eos>")
    text = "the red cat\n\u21b5 caf\u00e9"
    ids = tokenizer(text)["input_ids"]
    assert b"".join(vocabulary.bytes[i] for i in ids).decode() == text
    assert " cat" in vocabulary.text
    partial = vocabulary.bytes.index(b"\xc3")
    assert vocabulary.text[partial] == "\\xc3"


def test_sentence_pieces_have_spaces_and_bytes() -> None:
    decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    vocabulary = Vocabulary.of(
        fast(["<unk>", "\u2581the", "<0x0A>", "\u2581\u2581", "ing"], decoder, unk_token="<unk>"), 0
    )
    assert vocabulary.bytes == (b"<unk>", b" the", b"\n", b"  ", b"ing")


def test_word_pieces_join_or_begin_words() -> None:
    vocabulary = Vocabulary.of(fast(["[UNK]", "play", "##ing"], decoders.WordPiece(), unk_token="[UNK]"), 0)
    assert vocabulary.text == ("[UNK]", " play", "ing")


def test_ids_beyond_the_tokenizer_and_no_tokenizer_at_all() -> None:
    assert Vocabulary.of(fast(["a", "b"], None), 4).text == ("a", "b", "<2>", "<3>")
    assert Vocabulary.of(None, 2).text == ("<0>", "<1>")
