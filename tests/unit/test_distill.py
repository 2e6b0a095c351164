"""Every method of distillation on a task of two words: it learns, leaves its teacher alone, and ends as a model."""

import json

import pytest
import torch
from pydantic import TypeAdapter
from transformers import AutoModelForMaskedLM, LlamaConfig, LlamaForCausalLM

import lissom
from lissom.data.batches import collate, shuffled_batches
from lissom.data.encoding import encode
from lissom.data.tables import Row, write_table
from lissom.distill.cache import cache_signals, estimate_bytes
from lissom.distill.config import DistillParams
from lissom.distill.joint import joint_loss
from lissom.distill.language import IGNORED, language_loss, mask_tokens
from lissom.distill.lstm import fixed_channel, squared_error_loss, word_tokenizer, word_vectors
from lissom.distill.material import Material
from lissom.distill.mobilebert import only_block, transfer_loss
from lissom.distill.mutual import MutualLoss, mutual_losses
from lissom.distill.offline_config import (
    LanguageModelParams,
    LstmDistillation,
    MobileBertDistillation,
    PatientDistillation,
    TinyBertDistillation,
    WordAugmentationParams,
)
from lissom.distill.online_config import JointDistillation
from lissom.distill.patient import patient_loss
from lissom.distill.run import distill
from lissom.distill.teacher import LiveTeacher
from lissom.distill.tinybert import Projections, layers_loss, make_student
from lissom.distill.words import more_texts
from lissom.errors import InputError
from lissom.models.compressed import logits_of
from lissom.models.signals import Wanted, expose_scores
from lissom.models.students import cut, mobilebert_student
from lissom.models.together import Together
from lissom.training.checkpoint import Checkpoints
from lissom.training.config import TrainingParams
from lissom.training.hooks import Hook
from lissom.training.loop import fit
from lissom.training.losses import task_loss
from lissom.training.predicting import accuracy
from tests.unit import tiny

FAST = {"epochs": 8, "batch_size": 8, "learning_rate": 5e-3, "precision": "float32", "freeze_word_table": False}
SHORT = FAST | {"epochs": 1}
METHODS = {
    "logits": {"blocks": [0, 2], "training": FAST},
    "distilbert": {"training": FAST},
    "patient": {"blocks": [0, 1], "training": FAST},
    "tinybert": {
        "shape": {"blocks": 2, "hidden_size": 16, "intermediate_size": 24},
        "layers_training": FAST | {"keep": "last"},
        "training": FAST,
    },
    "mobilebert": {
        "shape": {"bottleneck_size": 16, "intermediate_size": 24, "ffns": 2, "embedding_size": 16},
        "transfer_training": SHORT | {"keep": "last"},
        "training": FAST | {"epochs": 12},
    },
    "lstm": {
        "embedding_size": 16,
        "hidden_size": 8,
        "classifier_size": 8,
        "min_count": 1,
        "training": FAST | {"weight_decay": 0},
    },
    "mutual": {"peers": [{"blocks": [0, 1]}, {"blocks": [0, 3], "seed": 1}], "training": FAST},
    "joint": {"blocks": [0, 2], "training": FAST},
    "fastbert": {"exit_size": 16, "backbone_training": FAST, "training": FAST | {"keep": "last"}},
    "deep_to_shallow": {"exit_size": 16, "training": FAST},
    "born_again": {"blocks": [0, 2], "training": FAST},
    "ema": {"blocks": [0, 2], "momentum": 0.9, "training": FAST},
}
methods = pytest.mark.parametrize("method", METHODS)


def params_of(method: str, **changes):
    return TypeAdapter(DistillParams).validate_python({"method": method, **METHODS[method], **changes})


def sentences(count: int, start: int, labelled: bool) -> list[Row]:
    """Good films and bad ones, all different."""
    fillers = [word for word in tiny.WORDS if word not in ("good", "bad")]
    rows = []
    for number in range(start, start + count):
        words = [fillers[number % 17], fillers[number // 17 % 17], fillers[number * 7 % 13]]
        words.insert(number % 4, ("bad", "good")[number % 2])
        rows.append(Row(" ".join(words), None, tiny.TASK.labels[number % 2] if labelled else None))
    return rows


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    model = tiny.model("bert")
    table = write_table(folder / "train.arrow", sentences(96, 0, True))
    data = encode([table], model.tokenizer, 16, tiny.TASK.labels, folder / "tokens")
    fit(model.network, data, 0, task_loss, TrainingParams(**FAST))
    assert accuracy(model.network, data, 0) > 0.95
    return model


@pytest.fixture
def material(teacher, tmp_path):
    tables = {
        "train": write_table(tmp_path / "train.arrow", sentences(96, 0, True)),
        "transfer": write_table(tmp_path / "transfer.arrow", sentences(32, 200, False)),
        "dev": write_table(tmp_path / "dev.arrow", sentences(32, 300, True)),
    }
    return Material(teacher=teacher, tables=tables, scratch=tmp_path, base=lambda seed: tiny.model("bert", seed))


@methods
def test_every_method_learns_and_ends_as_a_model(method, material, tmp_path):
    before = {name: tensor.clone() for name, tensor in material.teacher.network.state_dict().items()}
    result = distill(params_of(method), material)
    student, dev = result.model, material.encode(result.model, "dev")
    assert accuracy(student.network, dev, student.pad_id) > 0.9
    assert all(torch.equal(tensor, before[name]) for name, tensor in material.teacher.network.state_dict().items())
    assert (
        material.teacher.network.config._attn_implementation == tiny.model("bert").network.config._attn_implementation
    )
    assert all(parameter.grad is None for parameter in material.teacher.network.parameters())
    assert all(parameter.requires_grad for parameter in student.network.parameters())
    lissom.save(student, tmp_path / "model")
    loaded, batch = lissom.load(tmp_path / "model"), tiny.batch("bert")
    batch.input_ids.clamp_(max=student.network.config.vocab_size - 1)
    with torch.no_grad():
        assert torch.equal(logits_of(loaded.network, batch), logits_of(student.network, batch))
    steps = [record["step"] for record in result.history if "loss" in record]
    assert steps == sorted(set(steps)) and steps[-1] == sum(fitted.steps for fitted in result.trainings.values())
    json.dumps(result.metrics)


class Killed(Exception):
    pass


class KillAt(Hook):
    def __init__(self, steps: int) -> None:
        self.left = steps

    def after_step(self, step: int, total: int) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


@pytest.mark.parametrize("method", ["tinybert", "mobilebert", "mutual", "fastbert", "born_again", "ema"])
def test_a_killed_method_resumes_to_the_same_weights(method, material, tmp_path):
    """In a second training of several, or where more than one network is trained."""
    short = {name: value | {"epochs": 2} for name, value in METHODS[method].items() if name.endswith("training")}
    params = params_of(method, **short, **({"generations": 2} if method == "born_again" else {}))
    expected = distill(params, material).model.network.state_dict()
    killer = KillAt(44 if method in ("tinybert", "mobilebert", "fastbert", "born_again") else 20)
    interrupted = Material(
        **(vars(material) | {"checkpoints": Checkpoints(tmp_path / "c", 0), "hooks": lambda _: [killer]})
    )
    with pytest.raises(Killed):
        distill(params, interrupted)
    resumed = Material(**(vars(material) | {"checkpoints": Checkpoints(tmp_path / "c", 0)}))
    again = distill(params, resumed).model.network.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in expected.items())


def test_pairs_work_where_tokens_differ(material, teacher, tmp_path):
    pairs = Material(
        teacher=tiny.model("bert"),
        tables={
            name: write_table(tmp_path / f"pair-{name}.arrow", [Row(row.text, "the good film", row.label) for row in table.rows()])
            for name, table in material.tables.items()
        },
        scratch=tmp_path,
    )  # fmt: skip
    task = tiny.TASK.model_copy(update={"pair": True})
    pairs.teacher.manifest = pairs.teacher.manifest.model_copy(update={"task": task})
    result = distill(params_of("lstm", training=SHORT | {"weight_decay": 0}), pairs)
    assert result.model.network.config.pair and result.metrics["augmented_texts"] > 0


def test_signals_cached_on_disk_are_the_live_ones(teacher, material, tmp_path):
    student = cut(teacher, (0, 2))
    data = material.lesson(student)
    for wanted in (Wanted(hidden=(0, 2, 4), scores=(1, 3)), Wanted(hidden=(2,), first_token=True)):
        folder = tmp_path / str(wanted.first_token)
        cached = cache_signals(teacher.network, data, 0, wanted, folder)
        files = sum(path.stat().st_size for path in folder.iterdir())
        assert files + cached.logits.numel() * 4 == estimate_bytes(teacher.network, data, wanted)
        with expose_scores(teacher.network), torch.no_grad():
            for members in shuffled_batches(data.lengths, 8, 3, 0)[:4]:
                batch = collate(data, members, 0)
                live, read = LiveTeacher(teacher.network, wanted).signals(batch), cached.signals(batch)
                real = batch.attention_mask.bool()
                assert torch.allclose(read.logits, live.logits, atol=1e-5)
                for entry in wanted.hidden:
                    difference = read.hidden[entry] - live.hidden[entry]
                    assert (difference if wanted.first_token else difference[real]).abs().max() < 1e-5
                pairs = (real[:, :, None] & real[:, None, :])[:, None]
                for block in wanted.scores:
                    assert ((read.scores[block] - live.scores[block]) * pairs).abs().max() < 1e-5


def test_a_cache_that_is_too_large_or_a_teacher_without_blocks_is_refused(material):
    with pytest.raises(InputError, match=r"would take .* GB.*source: live"):
        distill(params_of("patient", signals={"source": "cached", "cache_gigabytes": 1e-9}), material)
    lstm = distill(params_of("lstm", training=SHORT | {"weight_decay": 0}), material).model
    other = Material(**(vars(material) | {"teacher": lstm}))
    for method in ("patient", "tinybert", "distilbert"):
        with pytest.raises(InputError, match="no Transformer blocks"):
            distill(params_of(method), other)


def test_tinybert_losses_vanish_for_the_teacher_itself(teacher):
    params = TinyBertDistillation(method="tinybert", blocks=(0, 1, 2, 3))
    student, batch = make_student(params, teacher), tiny.batch("bert")
    targets = (0, 1, 2, 3, 4)
    wanted = Wanted(hidden=targets, scores=(0, 1, 2, 3))
    together = Together([student.network, Projections(student.network, teacher.network)])
    with expose_scores(student.network, teacher.network), torch.no_grad():
        assert float(layers_loss(LiveTeacher(teacher.network, wanted), targets, params)(together, batch)) < 1e-9


def test_tinybert_projections_learn_in_the_first_phase_alone(teacher):
    params = params_of("tinybert")
    student, batch = make_student(params, teacher), tiny.batch("bert")
    projections = Projections(student.network, teacher.network)
    wanted = Wanted(hidden=(0, 2, 4), scores=(1, 3))
    with expose_scores(student.network, teacher.network):
        loss = layers_loss(LiveTeacher(teacher.network, wanted), (0, 2, 4), params)
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
        live = LiveTeacher(teacher.network, Wanted(hidden=(1, 2, 3), first_token=True))
        loss = patient_loss(live, (1, 2, 3), params)(teacher.network, batch)
        assert float(loss) == pytest.approx(float(task_loss(teacher.network, batch)), rel=1e-5)
        skewed = patient_loss(
            LiveTeacher(teacher.network, Wanted(hidden=(2, 3, 4), first_token=True)), (2, 3, 4), params
        )
        assert float(skewed(teacher.network, batch)) > float(loss) + 1e-3


def test_mobilebert_trains_one_block_at_a_time(teacher):
    student = mobilebert_student(teacher, blocks=None, bottleneck=16, intermediate=24, ffns=2, embedding=8, seed=0)
    params, batch = MobileBertDistillation(method="mobilebert"), tiny.batch("bert")
    live = LiveTeacher(teacher.network, Wanted(hidden=(2,), scores=(1,)))
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


def test_peers_learn_from_each_other_without_gradients_across():
    torch.manual_seed(0)
    logits = [torch.randn(4, 3, requires_grad=True) for _ in range(2)]
    labels = torch.tensor([0, 1, 2, 0])
    losses = mutual_losses(logits, labels, 1.0)
    swapped = mutual_losses(logits[::-1], labels, 1.0)
    assert [float(loss) for loss in swapped] == [float(loss) for loss in losses[::-1]]
    assert torch.autograd.grad(losses[0], logits[1], allow_unused=True)[0] is None
    equal = mutual_losses([logits[0], logits[0]], labels, 1.0)
    assert float(equal[0]) == pytest.approx(float(torch.nn.functional.cross_entropy(logits[0], labels)), rel=1e-6)


def still(seed: int = 0):
    """Without dropout, whose masks two networks would draw in turn."""
    model = tiny.model("bert", seed)
    for module in model.network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout_prob"):
            module.dropout_prob = 0.0
    return model


def test_without_the_kl_peers_train_as_if_alone(material):
    data, params = material.lesson(material.teacher), TrainingParams(**SHORT)
    peers, alone = [still(0), still(5)], [still(0), still(5)]
    objective = MutualLoss(0.0, 0.0)
    fit(Together([peer.network for peer in peers]), data, 0, objective, params, hooks=[objective])
    for peer, solo in zip(peers, alone, strict=True):
        fit(solo.network, data, 0, task_loss, params)
        own = solo.network.state_dict()
        assert all(torch.equal(tensor, own[name]) for name, tensor in peer.network.state_dict().items())
    twins = [still(1), still(1)]
    fit(Together([twin.network for twin in twins]), data, 0, MutualLoss(1.0, 0.0), params)
    first, second = (twin.network.state_dict() for twin in twins)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_joint_training_stops_the_pull_on_the_teacher_unless_asked(teacher):
    student, batch = tiny.model("bert", 3), tiny.batch("bert")
    gradients = []
    for co_train in (0.0, 0.5):
        learner = tiny.model("bert", 4)
        params = JointDistillation(method="joint", blocks=(0,), co_train=co_train)
        joint_loss(params)(Together([learner.network, student.network]), batch).backward()
        gradients.append(learner.network.classifier.weight.grad)
    plain = tiny.model("bert", 4)
    task_loss(plain.network, batch).backward()
    assert torch.allclose(gradients[0], plain.network.classifier.weight.grad, atol=1e-6)
    assert not torch.allclose(gradients[1], gradients[0], atol=1e-4)


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_the_average_follows_or_stays(momentum, material):
    from lissom.distill.ema import MovingAverage, ema_loss

    pair = Together([tiny.model("bert").network, tiny.model("bert", 7).network])
    pair[1].requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in pair[1].state_dict().items()}
    params = params_of("ema").loss
    fit(
        pair,
        material.lesson(material.teacher),
        0,
        ema_loss(params),
        TrainingParams(**SHORT),
        hooks=[MovingAverage(pair, momentum)],
    )
    expected = before if momentum else pair[0].state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in pair[1].state_dict().items())


def test_the_lstm_learns_from_logits_alone_at_alpha_0(material, teacher):
    params = LstmDistillation(**({"method": "lstm"} | METHODS["lstm"]))
    student = distill(params_of("lstm", training=SHORT | {"weight_decay": 0}), material).model
    batch = tiny.batch("bert")
    batch.input_ids.clamp_(max=student.network.config.vocab_size - 1)
    other = type(batch)(batch.input_ids, batch.attention_mask, batch.token_type_ids, 2 - batch.labels, batch.indices)
    loss = squared_error_loss(LiveTeacher(teacher.network), params.alpha)
    student.network.eval()
    with torch.no_grad():
        assert float(loss(student.network, batch)) == float(loss(student.network, other))
    table = student.network.embeddings.word_embeddings
    fixed = word_vectors(student.tokenizer, teacher, 16)
    assert torch.allclose(table.weight[:, :16], fixed, atol=1e-6)
    assert not torch.allclose(table.weight[:, 16:], fixed, atol=1e-3)
    with fixed_channel(table, 16):
        loss(student.network, batch).backward()
    assert table.weight.grad[:, :16].abs().sum() == 0 < table.weight.grad[:, 16:].abs().sum()


def test_words_are_whole_and_rare_ones_unknown(material):
    tokenizer = word_tokenizer(material, 1, pair=False)
    assert tokenizer.encode("The GOOD film").tokens == ["the", "good", "film"]
    assert tokenizer.encode("the quux").tokens == ["the", "[UNK]"]
    assert word_tokenizer(material, 10**6, pair=False).get_vocab_size() == 3


def test_words_are_changed_as_often_as_asked(tmp_path):
    letters = [f"{a}{b}" for a in tiny.LETTERS for b in tiny.LETTERS[:4]]
    rows = [Row(" ".join(letters[(i + k) % 104] for k in range(40)), None, "good") for i in range(60)]
    table = write_table(tmp_path / "t.arrow", rows)
    params = WordAugmentationParams(copies=5, ngram_probability=0.0)
    kinds = lambda words: ["N" if word < "m" else "V" for word in words]  # noqa: E731
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    new = [text for text, _ in more_texts(params, table, "[MASK]", tmp_path / "a", kinds).texts()]
    again = [text for text, _ in more_texts(params, table, "[MASK]", tmp_path / "b", kinds).texts()]
    assert new == again and len(new) == 300
    total, masked, replaced = 0, 0, 0
    for number, text in enumerate(new):
        old = rows[number % 60].text.split()
        for before, after in zip(old, text.split(), strict=True):
            total += 1
            masked += after == "[MASK]"
            replaced += after not in ("[MASK]", before)
            assert after == "[MASK]" or (before < "m") == (after < "m")
    deviation = (0.1 * 0.9 / total) ** 0.5
    assert abs(masked / total - 0.1) < 3 * deviation
    assert abs(replaced / total - 0.1 * 51 / 52) < 3.5 * deviation  # now and then a word is drawn for itself
    cut_params = WordAugmentationParams(copies=1, mask_probability=0, replace_probability=0, ngram_probability=1.0)
    for text, _ in more_texts(cut_params, table, "[MASK]", tmp_path, kinds).texts():
        assert 1 <= len(text.split()) <= 5 and any(text in row.text for row in rows)


def test_english_words_have_their_kinds():
    from lissom.distill.words import english_tagger

    assert english_tagger(["the", "film", "was", "good"]) == ["DT", "NN", "VBD", "JJ"]


def masked_language_model():
    torch.manual_seed(0)
    return AutoModelForMaskedLM.from_config(tiny.CONFIGS["bert"]()).eval()


def test_tokens_are_masked_as_bert_masks_them():
    torch.manual_seed(0)
    batch = tiny.batch("bert", size=4000, length=12)
    special, mask = torch.tensor([0, 1, 2, 3]), 3
    changed, targets = mask_tokens(batch, mask, special, tiny.SIZE, 0.15)
    real = batch.attention_mask.bool() & (batch.input_ids > 3)
    chosen = targets != IGNORED
    assert not (chosen & ~real).any() and torch.equal(changed.input_ids[~chosen], batch.input_ids[~chosen])
    assert torch.equal(targets[chosen], batch.input_ids[chosen])
    assert abs(float(chosen.sum() / real.sum()) - 0.15) < 0.01
    kept = (changed.input_ids == batch.input_ids)[chosen].float().mean()
    masked = (changed.input_ids == mask)[chosen].float().mean()
    assert abs(float(masked) - 0.8) < 0.02 and abs(float(kept) - 0.1) < 0.02


def with_mask_token(model):
    model.tokenizer_config["mask_token"] = "[UNK]"
    return model


def test_pretraining_learns_the_language_and_moves_the_trunk(material):
    model = with_mask_token(cut(material.teacher, None))
    language = Material(**(vars(material) | {"teacher": model, "language_model": masked_language_model}))
    changes = {"pretraining": {"training": SHORT | {"epochs": 2}}, "blocks": [0, 2], "training": FAST}
    result = distill(params_of("distilbert", **changes), language)
    losses = [record["loss"] for record in result.trainings["pretraining"].records]
    assert losses[-1] < losses[0]
    assert accuracy(result.model.network, language.encode(result.model, "dev"), 0) > 0.9
    with pytest.raises(InputError, match="none was given"):
        distill(params_of("distilbert", **changes), material)
    bare = Material(**(vars(material) | {"language_model": masked_language_model}))
    bare.teacher.tokenizer_config.pop("mask_token", None)
    with pytest.raises(InputError, match="no mask token"):
        distill(params_of("distilbert", **changes), bare)


def test_language_losses_vanish_for_the_teacher_itself_and_ignore_padding():
    model, batch = with_mask_token(tiny.model("bert")), tiny.batch("bert", size=16)
    network = masked_language_model()
    params = LanguageModelParams(language_weight=0.0)
    with torch.no_grad():
        assert float(language_loss(network, model, params)(network, batch)) == pytest.approx(0, abs=1e-5)
    config = LlamaConfig(**{**tiny.CONFIGS["llama"]().to_dict(), "num_hidden_layers": 2})
    causal = LlamaForCausalLM(config).eval()
    llama = tiny.model("llama")
    only_words = LanguageModelParams(kl_weight=0.0, cosine_weight=0.0, language_weight=1.0)
    with torch.no_grad():
        loss = float(language_loss(causal, llama, only_words)(causal, batch))
        logits = causal(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        targets = batch.input_ids[:, 1:].masked_fill(~batch.attention_mask[:, 1:].bool(), -100)
        expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten())
    assert loss == pytest.approx(float(expected), rel=1e-5)
