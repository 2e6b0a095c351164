"""The head of the model card is what the Hugging Face hub reads, whatever the names are."""

import html

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from lissom.data.prepare import DataCard
from lissom.report.standards import base_name
from lissom.report.tables import escape
from lissom.tasks.metric import ACCURACY, PEARSON
from lissom.tracking.front_matter import front_matter

HOSTILE = "x: [y]\n---\nlicense: mit\n# <img src=x onerror=alert(1)> | \"q\" 's' `code` *b* _i_ \\"


def hub_data(source: str = "hub:nyu-mll/glue:sst2@abc", name: str = "sst2") -> DataCard:
    return DataCard(
        name=name, task="classification", source=source, labels=("a", "b"), scale=None, pair=False, rows={}, label_counts={}, duplicates={},
    )  # fmt: skip


def head(
    base: str = "hub:owner/base@v1", data: DataCard | None = None, metric=ACCURACY, name: str = "lissom-sst2", **changes
):
    values = {
        "integers": True,
        "co2e_g": 12.5,
        "tracker": "codecarbon 3.3.2, measured",
        "country": "DEU",
        "hardware": "AMD EPYC",
    }
    text = front_matter(name, base, data or hub_data(), metric, 0.91, **(values | changes))
    return ModelCard(f"{text}\n# card\n").data


def test_the_hub_reads_every_field():
    read = head()
    assert (
        read.library_name == "lissom"
        and {"onnx", "int8"} <= set(read.tags)
        and read.pipeline_tag == "text-classification"
    )
    assert read.datasets == ["nyu-mll/glue"] and read.base_model == "owner/base" and read.metrics == ["accuracy"]
    assert read.to_dict()["co2_eq_emissions"] == {
        "emissions": 12.5, "source": "codecarbon 3.3.2, measured", "training_type": "fine-tuning", "geographical_location": "DEU", "hardware_used": "AMD EPYC",
    }  # fmt: skip
    (result,) = read.eval_results
    assert read.model_name == "lissom-sst2" and (result.task_type, result.dataset_type) == (
        "text-classification",
        "nyu-mll/glue",
    )
    assert (result.dataset_config, result.dataset_revision, result.dataset_split) == ("sst2", "abc", "test")
    assert (result.metric_type, result.metric_value, result.metric_name) == ("accuracy", 0.91, "test accuracy")


def test_what_is_not_on_the_hub_is_not_claimed_to_be():
    read = head(base="dir:/home/me/base", data=hub_data("files:/home/me/reviews", "reviews"), integers=False)
    assert read.datasets is None and read.base_model is None and "int8" not in read.tags
    assert read.eval_results[0].dataset_type == "reviews" and "/home/me" not in str(read)


def test_metrics_have_the_hubs_names():
    assert head(metric=PEARSON).metrics == ["pearsonr"]


def test_hostile_names_stay_values():
    read = head(name=HOSTILE, data=hub_data("files:x", HOSTILE), hardware=HOSTILE)
    assert read.license is None
    assert (
        read.model_name
        == read.eval_results[0].dataset_name
        == read.to_dict()["co2_eq_emissions"]["hardware_used"]
        == HOSTILE
    )


@pytest.mark.parametrize("name", [HOSTILE, "a & b &lt;", "plain name, 1.5 (x)", "[a](http://b)", "~~c~~ ```d"])
def test_markdown_shows_names_literally(name):
    """As a heading, in a sentence and in a table, by a parser of its own."""
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    page = parser.render(f"# {escape(name)}\n\nOf {escape(name)}.\n\n| a | b |\n| - | - |\n| {escape(name)} | c |\n")
    shown = html.escape(" ".join(name.split()), quote=False)
    page = page.replace("&quot;", '"')
    assert f"<h1>{shown}</h1>" in page and f"<p>Of {shown}.</p>" in page and f"<td>{shown}</td>\n<td>c</td>" in page


@pytest.mark.parametrize(
    ("source", "name"),
    [("hub:owner/base@main", "owner/base"), ("dir:/home/me/models/base/", "base"), ("package:module/folder", "module")],
)
def test_base_models_are_named_without_their_place(source, name):
    assert base_name(source) == name
