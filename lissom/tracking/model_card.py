"""The model card, which is the description of a version in the registry and the README of a repository on the hub."""

from lissom.data.prepare import DataCard
from lissom.evaluate.figures import VARIANT, Evaluation
from lissom.models.config import NEW
from lissom.models.manifest import Manifest
from lissom.report.ledger import Ledger
from lissom.report.standards import base_name
from lissom.report.tables import escape, markdown, method_in_words
from lissom.tracking.front_matter import front_matter


def model_card(ledger: Ledger, final: Evaluation, manifest: Manifest, data: DataCard) -> str:
    """Return the card as Markdown: data, teacher, recipe, ledger, sizes, latency by machine, emissions, limits.

    The metadata for the hub is at its head. Names from outside are escaped.
    """
    task, machine, setting = manifest.task, final.machine, final.headline
    latency = setting.runners[VARIANT]
    recipe = (
        "\n".join(f"{number}. {escape(edit)}" for number, edit in enumerate(final.edits, start=1))
        or "none: the teacher itself"
    )
    kind = "pairs of texts" if task.pair else "texts"
    metadata = front_matter(
        f"lissom-{task.name}", manifest.base, data, ledger.metric, ledger.rows[-1].score,
        integers=final.exported.integer_kernels > 0,
        co2e_g=(ledger.spent.compressing.value + ledger.spent.teacher_kwh) * ledger.intensity_g_per_kwh,
        tracker=f"{manifest.steps[-1].cost['tracker']}, {ledger.energy_method}",
        country=ledger.country, hardware=machine["cpu"],
    )  # fmt: skip
    return f"""{metadata}
{markdown(ledger)}
## Use

Takes {kind} and predicts {escape(task.describe())}. Input: a table with the column{"s `text` and `text_pair`" if task.pair else " `text`"};
output: {task.answer_columns}.{_early(final)}

## Data

{escape(task.name)}: {", ".join(f"{count:,} {split}" for split, count in data.rows.items())}.

## Teacher

{escape(base_name(manifest.base))}, {_training_of_teacher(manifest)}.

## Recipe

{recipe}

## Size and speed

{final.megabytes:.2f} MB (tokenizer {final.tokenizer_megabytes:.2f} MB), {final.anatomy.total:,} parameters, {final.exported.integer_kernels} integer kernels,
{final.peak_rss_megabytes:.0f} MB peak memory of a serving process. On {escape(machine["cpu"])} ({escape(", ".join(machine["cpu_flags"]))}), one pinned thread, one text:
{latency.p50:.2f} ms median{_disturbed(setting.conditions.disturbed)}. Other machines differ, in ratios too.

## Emissions

{ledger.spent.compressing.value * 1000:.3g} Wh for compressing and {ledger.spent.teacher_kwh * 1000:.3g} Wh for the teacher ({escape(ledger.energy_method)},
{ledger.intensity_g_per_kwh:.0f} g CO2e per kWh, {escape(ledger.country)}); {ledger.inference.artifact.value:.3g} J for 1,000 inferences
({method_in_words(ledger.inference.power["artifact"].method)}).

## Limits

Learnt from the data above and its teacher, with their gaps and biases; texts beyond {task.max_length} tokens are cut; {task.metric.name} is
{task.metric.show(ledger.rows[-1].score)} on {final.quality.examples:,} test examples of the same source and says nothing of other sources.
"""


def _training_of_teacher(manifest: Manifest) -> str:
    if manifest.steps[0].method == "none":
        return "as it is"
    task = manifest.task
    target = "texts" if task.continues_texts else "translations" if task.writes_texts else "labels"
    way = "trained from random weights" if manifest.base.startswith(NEW) else "fine-tuned"
    return f"{way} on the {target} of train"


def _disturbed(reason: str | None) -> str:
    return "" if reason is None else f" (disturbed: {escape(reason)})"


def _early(final: Evaluation) -> str:
    if final.exits is None:
        return ""
    speed_setting = next(setting for setting in final.exits.settings if setting.speed == final.exits.chosen)
    return (
        f"\n\nEasy inputs leave early. The param `speed` (here {speed_setting.speed:g}) says how uncertain an answer may be to leave, "
        f"-1 never to 1 at once; at it a text takes {speed_setting.mean_depth:.2f} blocks and {speed_setting.flops_ratio:.1f}x fewer operations "
        "on average."
    )
