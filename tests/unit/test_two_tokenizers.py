"""Checkpoints with a sentencepiece model of either language: read as transformers reads them, trained, saved, served."""

import json
import random
import shutil

import pytest
import sentencepiece
import torch
from transformers import MarianConfig, MarianMTModel, MarianTokenizer

import lissom
from lissom.data.tables import Row, write_table
from lissom.errors import InputError, ModelFormatError
from lissom.export.onnx import export_onnx
from lissom.models.base import load_base
from lissom.models.config import BaseParams
from lissom.models.students import take_stacks
from lissom.serving.classifier import OnnxClassifier
from lissom.tasks.translation import Translation

TASK = Translation(name="colours", pair=False, max_length=40)
ENGLISH = ("a", "small", "boy", "sees", "the", "red", "house", "near", "old", "trees", "while", "two", "dogs", "run")
GERMAN = (
    "ein",
    "kleiner",
    "Junge",
    "sieht",
    "das",
    "rote",
    "Haus",
    "bei",
    "alten",
    "Bäumen",
    "während",
    "Hunde",
    "über",
)
ODD = [
    "", " ", "  two  spaces ", "\ttab\nnew line", "\ufb01ne \uff46\uff55 ½", "日 and 😀", ">>de<< a boy", ">>fr<<a boy", "a </s> boy",
    "<unk> boy", "a\u00a0boy\u00a0", "du\u0308st", "the boy sees ä",
]  # fmt: skip


def sentences(words, seed):
    generator = random.Random(seed)
    return [" ".join(generator.choices(words, k=generator.randint(2, 9))) for _ in range(300)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint in the layout of OPUS-MT: two models of pieces, and one numbering in an order of its own."""
    folder = tmp_path_factory.mktemp("opus")
    pieces = set()
    for name, words in (("source", ENGLISH), ("target", GERMAN)):
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences(words, 0)), model_prefix=str(folder / name), vocab_size=90,
            model_type="unigram", hard_vocab_limit=False, minloglevel=2,
        )  # fmt: skip
        (folder / f"{name}.model").rename(folder / f"{name}.spm")
        read = sentencepiece.SentencePieceProcessor(model_file=str(folder / f"{name}.spm"))
        pieces |= {read.id_to_piece(i) for i in range(read.get_piece_size()) if not read.is_control(i)} - {"<unk>"}
    ordered = ["</s>", "<unk>", *sorted(pieces), ">>de<<", ">>fr<<", "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(ordered)}))
    (folder / "tokenizer_config.json").write_text('{"source_lang": "en", "target_lang": "de"}')
    torch.manual_seed(0)
    network = MarianMTModel(
        MarianConfig(
            vocab_size=len(ordered), d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64,
            pad_token_id=len(ordered) - 1, eos_token_id=0, decoder_start_token_id=len(ordered) - 1,
            forced_eos_token_id=0, scale_embedding=True,
        )
    )  # fmt: skip
    network.save_pretrained(folder)
    return folder


def loaded(folder):
    return load_base(BaseParams(model=f"dir:{folder}", max_length=40), TASK, 0)


def table_of(folder, count=60):
    pairs = zip(sentences(ENGLISH, 1)[:count], sentences(GERMAN, 1)[:count], strict=True)
    return write_table(folder / "pairs.arrow", (Row(text, None, label) for text, label in pairs))


def test_both_tokenizers_read_as_transformers_does(checkpoint):
    model, theirs = loaded(checkpoint), MarianTokenizer.from_pretrained(checkpoint)
    texts, labels = [*ODD, *sentences(ENGLISH, 2)], [*ODD, *sentences(GERMAN, 2)]
    assert [model.tokenizer.encode(text).ids for text in texts] == theirs(texts).input_ids
    targets = theirs(text_target=labels).input_ids
    assert [model.target_tokenizer.encode(label).ids for label in labels] == targets
    assert model.tokenizer.encode(labels[-1]).ids != targets[-1]
    expected = [theirs.decode(ids, skip_special_tokens=True) for ids in targets]
    for tokenizer in (model.tokenizer, model.target_tokenizer):  # either writes the tokens of both
        assert [text.strip() for text in tokenizer.decode_batch(targets)] == expected


def test_runs_of_unknown_characters_are_found_one_by_one(checkpoint):
    """The German pieces have B and J, the English ones do not; transformers looks up "BJ", which is no piece."""
    model, theirs = loaded(checkpoint), MarianTokenizer.from_pretrained(checkpoint)
    tokens = [model.tokenizer.id_to_token(number) for number in model.tokenizer.encode("BJ").ids]
    assert tokens == ["▁", "B", "J", "</s>"]
    assert theirs.convert_ids_to_tokens(theirs("BJ").input_ids) == ["▁", "<unk>", "</s>"]


def test_pieces_without_a_number_are_written_in_shorter_ones(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "fewer")
    numbers = json.loads((folder / "vocab.json").read_text())
    last = max(numbers, key=numbers.get)
    dropped = max((piece for piece in numbers if piece.startswith("▁")), key=len)
    numbers[">>nl<<"] = numbers.pop(dropped)
    (folder / "vocab.json").write_text(json.dumps(numbers))
    word = dropped.removeprefix("▁")
    found = [
        [tokenizer.id_to_token(number) for number in tokenizer.encode(word).ids]
        for model in (loaded(checkpoint), loaded(folder))
        for tokenizer in (model.tokenizer, model.target_tokenizer)
    ]
    assert [dropped, "</s>"] in found[:2]
    assert [dropped, "</s>"] not in found[2:]
    assert all("<unk>" not in tokens for tokens in found), last


def test_a_model_keeps_both_tokenizers(checkpoint, tmp_path):
    model, table = loaded(checkpoint), table_of(tmp_path)
    data = model.encode([table], tmp_path / "encoded")
    theirs = MarianTokenizer.from_pretrained(checkpoint)
    rows = list(table.rows())
    assert data.tokens.tolist() == [token for row in rows for token in theirs(row.text).input_ids]
    assert data.targets.tolist() == [token for row in rows for token in theirs(text_target=row.label).input_ids]
    assert model.count_rows([table]) == len(data.targets)
    student = take_stacks(model, (0,), (0,))
    for each in (model, student):
        lissom.save(each, tmp_path / "saved")
        again = lissom.load(tmp_path / "saved")
        assert again.encode([table], tmp_path / "again").targets.tolist() == data.targets.tolist()


def test_a_lost_tokenizer_of_targets_is_an_error(checkpoint, tmp_path):
    lissom.save(loaded(checkpoint), tmp_path / "saved")
    (tmp_path / "saved/target_tokenizer.json").unlink()
    with pytest.raises(ModelFormatError, match=r"target_tokenizer\.json is missing"):
        lissom.load(tmp_path / "saved")


def test_an_exported_model_translates_by_itself(checkpoint, tmp_path):
    """Exported, one tokenizer.json reads the texts and writes the translations."""
    model = loaded(checkpoint)
    (tmp_path / "onnx").mkdir()
    export_onnx(model, tmp_path / "onnx", beams=1)
    theirs = MarianTokenizer.from_pretrained(checkpoint)
    network = MarianMTModel.from_pretrained(checkpoint).eval()
    texts = sentences(ENGLISH, 3)[:5]
    batch = theirs(texts, return_tensors="pt", padding=True)
    pad = network.config.pad_token_id
    written = network.generate(
        **batch, num_beams=1, do_sample=False, max_new_tokens=40, suppress_tokens=[pad], forced_eos_token_id=None
    )
    expected = theirs.batch_decode(written, skip_special_tokens=True)
    answers = OnnxClassifier(tmp_path / "onnx").predict(texts)
    assert [answer["translation"] for answer in answers] == [text.strip() for text in expected]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "source.spm").write_bytes(b"\xff" * 9), r"source\.spm is no sentencepiece model"),
        (lambda folder: (folder / "vocab.json").write_text('{"</s>": 0, "<unk>": 5}'), "are not 0, 1, 2"),
        (lambda folder: (folder / "vocab.json").write_text("{"), "do not make tokenizers"),
        (
            lambda folder: (folder / "config.json").write_text(
                (folder / "config.json").read_text().replace('"decoder_vocab_size": ', '"decoder_vocab_size": 1')
            ),
            "numbered apart",
        ),
    ],
    ids=["broken model", "gaps", "broken numbers", "two vocabularies"],
)
def test_what_cannot_be_read_is_refused(checkpoint, tmp_path, change, message):
    folder = shutil.copytree(checkpoint, tmp_path / "broken")
    change(folder)
    with pytest.raises(InputError, match=message):
        loaded(folder)
