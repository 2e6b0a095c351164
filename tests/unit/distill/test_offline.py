"""What students of a fixed teacher compare, and what they train."""

from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, models

from lissom.data.batches import collate, shuffled_batches
from lissom.data.labels import Scale
from lissom.data.tables import Row, write_table
from lissom.distill.blockless_config import LstmDistillation
from lissom.distill.cache import cache_signals, estimate_bytes
from lissom.distill.lstm import FixedChannel, squared_error_loss, with_predictions, word_tokenizer, word_vectors
from lissom.distill.material import Material
from lissom.distill.mobilebert import only_block, transfer_loss
from lissom.distill.offline_config import (
    MobileBertDistillation,
    PatientDistillation,
    ShapeParams,
    SignalsParams,
    TinyBertDistillation,
)
from lissom.distill.patient import patient_loss
from lissom.distill.run import distill
from lissom.distill.tinybert import Projections, layers_loss, make_student, prediction_loss, teacher_signals
from lissom.errors import InputError
from lissom.models.compressed import logits_of
from lissom.models.families import FAMILIES, family_of
from lissom.models.signals import SignalSpec, expose_scores, signals_of
from lissom.models.sites import window_of
from lissom.models.students import mobilebert_student, take_blocks
from lissom.models.together import Together
from lissom.tasks.regression import Regression
from lissom.training.teacher import LiveTeacher
from tests.unit import tiny
from tests.unit.distill.recipes import METHODS, SHORT, params_of


def test_signals_cached_on_disk_are_the_live_ones(teacher, material, tmp_path):
    student = take_blocks(teacher, (0, 2))
    data = material.texts(student)
    for spec in (SignalSpec(hidden=(0, 2, 4), scores=(1, 3)), SignalSpec(hidden=(2,), pooled=True)):
        folder = tmp_path / str(spec.pooled)
        cached = cache_signals(teacher.network, data, 0, spec, folder)
        files = sum(path.stat().st_size for path in folder.iterdir())
        assert files + cached.logits.numel() * 4 == estimate_bytes(teacher.network, data, spec)
        with expose_scores(teacher.network), torch.no_grad():
            for members in shuffled_batches(data.lengths, 8, 3, 0)[:4]:
                batch = collate(data, members, 0)
                live, read = LiveTeacher(teacher.network, spec).signals(batch), cached.signals(batch)
                real = batch.mask.bool()
                assert torch.allclose(read.logits, live.logits, atol=1e-5)
                for entry in spec.hidden:
                    difference = read.hidden[entry] - live.hidden[entry]
                    assert (difference if spec.pooled else difference[real]).abs().max() < 1e-5
                pairs = (real[:, :, None] & real[:, None, :])[:, None]
                for block in spec.scores:
                    assert ((read.scores[block] - live.scores[block]) * pairs).abs().max() < 1e-5


def test_tinybert_losses_vanish_for_the_teacher_itself(teacher):
    params = TinyBertDistillation(method="tinybert", blocks=(0, 1, 2, 3))
    student, batch = make_student(params, teacher), tiny.batch("bert")
    targets = (0, 1, 2, 3, 4)
    spec = SignalSpec(hidden=targets, scores=(0, 1, 2, 3))
    together = Together([student.network, Projections(student.network, teacher.network)])
    with expose_scores(student.network, teacher.network), torch.no_grad():
        assert (
            float(layers_loss(LiveTeacher(teacher.network, spec), targets, params, student.network)(together, batch))
            < 1e-9
        )


def test_tinybert_losses_as_released_count_padding_and_classes(teacher):
    """The formulas of the released code, written out."""
    params = params_of("tinybert", compat=True)
    student, batch, mse = make_student(params, teacher), tiny.batch("bert"), torch.nn.functional.mse_loss
    projections = Projections(student.network, teacher.network, shared=True)
    assert projections.embedding is projections.hidden and projections.hidden.bias is not None
    spec, own_spec = SignalSpec(hidden=(0, 2, 4), scores=(1, 3)), SignalSpec(hidden=(0, 1, 2), scores=(0, 1))
    live = LiveTeacher(teacher.network, spec)
    keys = ~batch.mask.bool()[:, None, None, :]
    with expose_scores(student.network, teacher.network), torch.no_grad():
        own, goal = signals_of(student.network, batch, own_spec), live.signals(batch)
        together = Together([student.network, projections])
        actual = layers_loss(live, (0, 2, 4), params, student.network)(together, batch)
        predicted = prediction_loss(live, params, tiny.TASK)(student.network, batch)
    with torch.no_grad():
        expected = sum(mse(projections.hidden(own.hidden[k]), goal.hidden[2 * k]) for k in range(3))
        for block in range(2):
            # transformers adds -10000 to padded keys; the released code then sets scores <= -100 to 0 on both sides.
            ours, theirs = (
                torch.where(scores + keys * -1e4 <= -1e2, 0.0, scores)
                for scores in (own.scores[block], goal.scores[2 * block + 1])
            )
            expected = expected + mse(ours, theirs)
        soft = -(goal.logits.softmax(-1) * own.logits.log_softmax(-1)).mean()
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(predicted, soft)


def ragged(folder):
    """Texts of 1 to 12 words."""
    texts = [" ".join((tiny.WORDS * 2)[number % 5 : number % 5 + 1 + number % 12]) for number in range(40)]
    return write_table(folder / "ragged.arrow", [Row(text, None, "good") for text in texts])


@pytest.mark.parametrize("compat", [False, True])
def test_tinybert_losses_are_the_same_live_and_cached(compat, teacher, tmp_path):
    """The released code counts padding: then a cache must hold what the teacher says there."""
    params = params_of("tinybert", compat=compat)
    tables = {"train": ragged(tmp_path)}
    material = Material(teacher=teacher, tables=tables, scratch=tmp_path)
    student = make_student(params, teacher)
    data = material.encode(student, "train")
    assert len(set(data.lengths)) > 8
    torch.manual_seed(0)
    together = Together([student.network, Projections(student.network, teacher.network, shared=compat)])
    spec = teacher_signals((0, 2, 4), params)
    losses = {}
    for source in ("live", "cached"):
        signals = SignalsParams(source=source)
        with (
            material.inner_signals(data, spec, signals, params.training) as answers,
            expose_scores(student.network),
            torch.no_grad(),
        ):
            loss = layers_loss(answers, (0, 2, 4), params, student.network)
            losses[source] = [
                float(loss(together, collate(data, members, 0))) for members in shuffled_batches(data.lengths, 8, 1, 0)
            ]
    assert losses["cached"] == pytest.approx(losses["live"], rel=1e-5)


@pytest.mark.parametrize("family", [name for name in tiny.FAMILY_NAMES if FAMILIES[name].decoder])
def test_what_is_meant_for_bidirectional_teachers_refuses_causal_ones(family, tmp_path):
    """Before any text is read: there are none."""
    causal = Material(teacher=tiny.model(family), tables={}, scratch=tmp_path)
    with pytest.raises(InputError, match=f"bidirectional student, and this teacher, a {family}, is causal"):
        distill(params_of("mobilebert"), causal)
    with pytest.raises(InputError, match=f"compat: true given, and the teacher, a {family}, is causal"):
        distill(params_of("tinybert", compat=True), causal)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("method", ["patient", "tinybert"])
def test_causal_teachers_teach_what_they_look_at(method, family, material):
    short = {name: value | {"epochs": 1} for name, value in METHODS[method].items() if name.endswith("training")}
    causal = Material(**(vars(material) | {"teacher": tiny.model(family)}))
    shape = {"blocks": [0, 2], "shape": None} if method == "tinybert" else {}
    result = distill(params_of(method, **short, **shape), causal)
    losses = [record["loss"] for record in result.history if "loss" in record]
    assert losses and all(torch.isfinite(torch.tensor(losses)))


def test_patience_of_a_causal_student_reaches_every_token():
    """The first token has seen nothing but itself, so that it would teach the rest of the text nothing."""
    teacher, student, batch = tiny.model("llama", seed=1), tiny.model("llama"), tiny.batch("llama")
    live = LiveTeacher(teacher.network, SignalSpec(hidden=(1, 2, 3), pooled=True))
    params = PatientDistillation(method="patient", blocks=(0, 1, 2, 3), beta=1.0)
    loss = patient_loss(live, (1, 2, 3), params, tiny.TASK)
    vectors = []
    student.network.model.embed_tokens.register_forward_hook(
        lambda _, __, output: (output.retain_grad(), vectors.append(output))[2:] or None
    )
    terms = loss.terms[1:]
    outputs = loss.forward(student.network, batch)
    torch.stack([term.value(outputs, batch) for term in terms]).sum().backward()
    reached = vectors[0].grad.abs().amax(-1) > 0
    assert torch.equal(reached, batch.mask.bool())


def test_tinybert_students_see_as_far_as_the_blocks_they_learn_from():
    """Of a teacher with two blocks without a window and two with one."""
    params = TinyBertDistillation(
        method="tinybert", shape=ShapeParams(blocks=2, hidden_size=16, intermediate_size=20), layer_map=(3, 4)
    )
    teacher = tiny.model("qwen2")
    for layer_map, windows in (((3, 4), [4, 4]), ((2, 4), [None, 4]), (None, [None, 4])):
        student = make_student(params.model_copy(update={"layer_map": layer_map}), teacher)
        assert [window_of(student.network, block) for block in range(2)] == windows


def test_tinybert_projections_learn_in_the_first_phase_alone(teacher):
    params = params_of("tinybert")
    student, batch = make_student(params, teacher), tiny.batch("bert")
    projections = Projections(student.network, teacher.network)
    spec = SignalSpec(hidden=(0, 2, 4), scores=(1, 3))
    with expose_scores(student.network, teacher.network):
        loss = layers_loss(LiveTeacher(teacher.network, spec), (0, 2, 4), params, student.network)
        loss(Together([student.network, projections]), batch).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in projections.parameters())
    assert student.network.classifier.weight.grad is None
    assert not any("rojection" in name for name in student.network.state_dict())


def test_patience_vanishes_for_copied_blocks(teacher):
    batch = tiny.batch("bert")
    params = PatientDistillation(
        method="patient", blocks=(0, 1, 2, 3), beta=1.0, training={"loss": {"alpha": 0.0, "mixing": "sum"}}
    )
    with torch.no_grad():
        live = LiveTeacher(teacher.network, SignalSpec(hidden=(1, 2, 3), pooled=True))
        loss = patient_loss(live, (1, 2, 3), params, tiny.TASK)(teacher.network, batch)
        assert float(loss) == pytest.approx(float(tiny.LOSS(teacher.network, batch)), rel=1e-5)
        skewed = patient_loss(
            LiveTeacher(teacher.network, SignalSpec(hidden=(2, 3, 4), pooled=True)), (2, 3, 4), params, tiny.TASK
        )
        assert float(skewed(teacher.network, batch)) > float(loss) + 1e-3


def test_mobilebert_trains_one_block_at_a_time(teacher):
    student = mobilebert_student(teacher, blocks=None, bottleneck=16, intermediate=24, ffns=2, embedding=8, seed=0)
    params, batch = MobileBertDistillation(method="mobilebert"), tiny.batch("bert")
    live = LiveTeacher(teacher.network, SignalSpec(hidden=(2,), scores=(1,)))
    with expose_scores(student.network, teacher.network), only_block(student.network, 2):
        transfer_loss(live, [2], params)(student.network, batch).backward()
    for name, parameter in student.network.named_parameters():
        assert (parameter.grad is not None) == name.startswith("mobilebert.encoder.layer.1."), name
    assert all(parameter.requires_grad for parameter in student.network.parameters())
    with pytest.raises(InputError, match="its own of the teacher, which has 4"):
        distill(
            params_of("mobilebert", shape={"blocks": 3, "bottleneck_size": 16}),
            Material(teacher=teacher, tables={}, scratch=None),
        )


def test_the_lstm_learns_from_logits_alone_at_alpha_0(material, teacher):
    params = LstmDistillation(**({"method": "lstm"} | METHODS["lstm"]))
    student = distill(params_of("lstm", training=SHORT | {"weight_decay": 0}), material).model
    batch = tiny.batch("bert")
    batch.ids.clamp_(max=student.network.config.vocab_size - 1)
    other = replace(batch, targets=2 - batch.targets)
    loss = squared_error_loss(LiveTeacher(teacher.network), params.alpha, tiny.TASK)
    student.network.eval()
    with torch.no_grad():
        assert float(loss(student.network, batch)) == float(loss(student.network, other))
    table = student.network.embeddings.word_embeddings
    fixed = word_vectors(student.tokenizer, teacher, 16)
    assert torch.allclose(table.weight[:, :16], fixed, atol=1e-6)
    assert not torch.allclose(table.weight[:, 16:], fixed, atol=1e-3)
    channel = FixedChannel(16)
    channel.begin(student.network)
    loss(student.network, batch).backward()
    channel.on_gradients()
    assert table.weight.grad[:, :16].abs().sum() == 0 < table.weight.grad[:, 16:].abs().sum()


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_the_lstm_takes_the_teachers_prediction_for_a_missing_label(alpha):
    teacher, network, batch = tiny.model("bert", seed=1).network, tiny.model("bert").network, tiny.batch("bert")
    loss = squared_error_loss(LiveTeacher(teacher), alpha, tiny.TASK)
    with torch.no_grad():
        predictions = logits_of(teacher, batch).argmax(-1)
        wrong = (predictions + 1) % 3
        known = torch.tensor([True, False] * 3)
        some = replace(batch, targets=torch.where(known, wrong, -1))
        filled = replace(batch, targets=torch.where(known, wrong, predictions))
        assert float(loss(network, some)) == float(loss(network, filled))
    numbers = torch.tensor([0.5, float("nan")])
    task = Regression(name="n", pair=False, max_length=16, scale=Scale(mean=0.0, deviation=1.0))
    assert with_predictions(numbers, torch.tensor([[7.0], [8.0]]), task).tolist() == [0.5, 8.0]


@pytest.mark.parametrize("size", [2, 5, 16, 31, 32, 40])
@pytest.mark.parametrize("words", [["good"], ["good", "bad", "film"], tiny.WORDS])
def test_word_vectors_keep_the_distances_of_small_vocabularies(words, size, teacher):
    """More directions may be asked for than there are words."""
    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, **{w: i for i, w in enumerate(words, 2)}}))
    vectors = word_vectors(tokenizer, teacher, size)
    assert vectors.shape == (len(words) + 2, size) and bool(torch.isfinite(vectors).all())
    if size >= len(words) + 2:
        table = teacher.network.get_submodule(family_of(teacher.network).word_table)
        ids = [tiny.VOCABULARY.index(word) for word in ("[PAD]", "[UNK]", *words)]
        assert torch.allclose(torch.cdist(vectors, vectors), torch.cdist(*[table.weight[ids].detach()] * 2), atol=1e-4)


def test_words_are_whole_and_rare_ones_unknown(material):
    tokenizer = word_tokenizer(material, 1, None, pair=False)
    assert tokenizer.encode("The GOOD film").tokens == ["the", "good", "film"]
    assert tokenizer.encode("the quux").tokens == ["the", "[UNK]"]
    assert word_tokenizer(material, 10**6, None, pair=False).get_vocab_size() == 2
    assert word_tokenizer(material, 10**6, "<mask>", pair=False).encode("a <mask> b").tokens == [
        "[UNK]",
        "<mask>",
        "[UNK]",
    ]
