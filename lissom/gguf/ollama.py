"""A folder that `ollama create` takes as it is: GGUF files with their proof, Modelfiles and a README."""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

from lissom.artifacts import write_json, write_text
from lissom.data.encoding import Encoded
from lissom.errors import InputError
from lissom.gguf.answers import WRITTEN, compare_answers, prompt_tokens
from lissom.gguf.card import CARD_JSON, CARD_MARKDOWN, Agreement, Card, GgufFile
from lissom.gguf.checks import check_marks, check_system, check_templates, check_tokens
from lissom.gguf.config import FileTypeName, GgufParams
from lissom.gguf.file import GgufModel, gguf_model
from lissom.gguf.folder import F32, file_facts, model_name, write_files, write_modelfiles, write_proof, write_readme
from lissom.gguf.modelfile import Value
from lissom.gguf.proof import compare, torch_windows, windows_of
from lissom.gguf.settings import context_of
from lissom.models.compressed import CompressedModel
from lissom.models.generation import end_ids
from lissom.serving.cores import usable_cores
from lissom.tasks.chat import render
from lissom.tasks.language_modeling import LanguageModeling

PLAIN = "{{ .Prompt }}"
"""Ollama's template of a model that continues texts."""
BOUNDS: dict[FileTypeName, float] = {
    "f16": 0.005, "bf16": 0.02, "q8_0": 0.02, "q6_k": 0.05, "q5_k_m": 0.15, "q5_k_s": 0.15, "q5_1": 0.15, "q5_0": 0.15,
    "q4_k_m": 0.2, "q4_k_s": 0.25, "q4_1": 0.5, "q4_0": 0.5, "q3_k_l": 0.6, "q3_k_m": 0.7, "q3_k_s": 1.0, "q2_k": 2.0,
}  # fmt: skip
"""Largest mean KL divergence by type, in nats: for models of a hundred million parameters, which lose more than those
of billions."""


def write_ollama(
    model: CompressedModel, folder: Path, train: Encoded, test: Encoded, texts: Sequence[str], params: GgufParams,
    conversations: Sequence[str] = (),
) -> Card:  # fmt: skip
    """Write and prove the files of a language model.

    Args:
        model: the model.
        folder: an empty folder.
        train: texts from which importances are measured.
        test: texts on which llama.cpp is compared with torch.
        texts: texts whose tokens are compared.
        params: types, bounds and the settings of the Modelfile.
        conversations: messages in JSON, whose texts by the chat template are compared, and the tokens of these.

    Raises:
        InputError: llama.cpp cannot hold the model, or differs from torch by more than allowed; or there is no text to
            compare.
    """
    source, task = gguf_model(model), model.manifest.task
    assert isinstance(task, LanguageModeling)
    check_system(task, params.system)
    name = model_name(task.name, params)
    paths = write_files(source, folder, name, train, params)
    context = context_of(model.network, source.architecture, task.max_length)
    all_texts = [*texts, *(render(each, task.chat_template, task.chat_tokens)[0] for each in conversations)]
    if not all_texts:
        raise InputError("export.gguf: there are no test texts, on which llama.cpp is compared with torch")
    check_marks(paths[F32], model.network.config, source.vocabulary.tokens)
    check_tokens(paths[F32], model.tokenizer, all_texts, end_ids(model.network))
    rendered = check_templates(paths[F32], task, conversations)
    longest = min(context, task.max_length)
    windows = torch_windows(model.network, windows_of(test, params.proof_tokens, longest))
    agreements = compare(paths, windows, longest, usable_cores())
    _check(agreements, params)
    prompts = _prompts(model, test, params.prompts, longest)
    for kind, path in paths.items():
        write_proof(path, agreements[kind])
    shipped = {kind: paths[kind] for kind in params.types}
    answers = compare_answers(shipped, model, prompts, longest, usable_cores()) if prompts else {}
    files = tuple(
        GgufFile(
            **file_facts(source, paths[kind]), type=kind, agreement=agreements[kind], answers=answers.get(kind),
            bound=None if kind == F32 else bound_of(kind, params),
        )
        for kind in params.types
    )  # fmt: skip
    if F32 not in params.types:
        paths[F32].unlink()
    card = Card(
        name=name, base=model.manifest.base, architecture=source.architecture.name, parameters=source.parameters,
        network_parameters=sum(parameter.numel() for parameter in model.network.parameters()),
        heads=tuple(groups * source.shapes.group for groups in source.shapes.groups), neurons=source.shapes.neurons,
        context=context, f32=agreements[F32], f32_tolerance=params.f32_tolerance, files=files,
        texts_tokenized=len(all_texts), conversations_rendered=rendered, calibration_tokens=params.calibration_tokens,
    )  # fmt: skip
    _write_texts(source, folder, card, params)
    return card


def bound_of(kind: FileTypeName, params: GgufParams) -> float:
    """Return the largest mean KL divergence of a type."""
    return params.max_kl_divergence.get(kind, BOUNDS[kind])


def _prompts(model: CompressedModel, test: Encoded, wanted: int | Sequence[str], longest: int) -> list[list[int]]:
    """Return the tokens of prompts: a user's own, or the first halves of so many test texts.

    Raises:
        InputError: a prompt of the user leaves no room for an answer.
    """
    if isinstance(wanted, int):
        windows = windows_of(test, int(test.lengths.sum()), longest - WRITTEN)
        return [window[: max(1, len(window) // 2)] for window in islice(windows, wanted)]
    prompts = [prompt_tokens(model, text) for text in wanted]
    for text, tokens in zip(wanted, prompts, strict=True):
        if len(tokens) > longest - WRITTEN:
            raise InputError(
                f"export.gguf.prompts: {text[:40]!r}... has {len(tokens)} tokens; at most {longest - WRITTEN} leave "
                f"room for an answer of {WRITTEN} in the model's {longest}"
            )
    return prompts


def _check(agreements: Mapping[FileTypeName, Agreement], params: GgufParams) -> None:
    """Raise `InputError` for what is worse than allowed."""
    difference = agreements[F32].max_logit_difference
    if difference > params.f32_tolerance:
        raise InputError(
            f"export.gguf: with the weights in float32, llama.cpp and torch differ by up to {difference:.2g} in a "
            f"logit over {agreements[F32].tokens} tokens; export.gguf.f32_tolerance is {params.f32_tolerance:g}"
        )
    for kind in params.types:
        if kind == F32:
            continue
        divergence, bound = agreements[kind].mean_kl_divergence, bound_of(kind, params)
        if not divergence <= bound:
            raise InputError(
                f"export.gguf: {kind} has a mean KL divergence of {divergence:.3g} from torch over "
                f"{agreements[kind].tokens} tokens; allowed are {bound:g}. Take a type with more bits, train with it "
                f"in mind, or set export.gguf.max_kl_divergence: {{{kind}: ...}}"
            )


def _write_texts(source: GgufModel, folder: Path, card: Card, params: GgufParams) -> None:
    """Write the card, a Modelfile for every type and the README."""
    write_json(folder / CARD_JSON, card.model_dump(mode="json"))
    write_text(folder / CARD_MARKDOWN, card.markdown())
    ends = [source.vocabulary.tokens[token] for token in end_ids(source.model.network)]
    parameters: tuple[tuple[str, Value], ...] = (
        ("num_ctx", min(params.context, card.context)),
        ("temperature", params.temperature),
        ("repeat_penalty", params.repeat_penalty),
        *(("stop", end) for end in dict.fromkeys(ends)),
    )
    task = source.model.manifest.task
    chats = isinstance(task, LanguageModeling) and task.chat_template is not None
    # Without a template anywhere, engines make one up; a model that was not made for chat continues the text.
    write_modelfiles(
        folder, {file.type: file.file for file in card.files}, parameters, params, params.system,
        template=None if chats else PLAIN,
    )  # fmt: skip
    write_readme(folder, card.name, f"ollama run {card.name}", params.types)
