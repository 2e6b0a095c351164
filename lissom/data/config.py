"""Params of the data: where texts and labels come from."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from lissom.section import Section

TaskKind = Literal["classification", "regression", "token_classification", "language_modeling", "translation"]
"""Kinds of tasks; each is a module in `lissom/tasks`."""
NUMERIC: frozenset[TaskKind] = frozenset({"regression"})
"""The tasks whose labels are numbers; others have names of classes."""
PER_TOKEN: frozenset[TaskKind] = frozenset({"token_classification"})
"""The tasks that label every word of a text, in place of the text."""
UNLABELLED_TASKS: frozenset[TaskKind] = frozenset({"language_modeling"})
"""The tasks that need texts alone."""
WRITTEN: frozenset[TaskKind] = frozenset({"translation"})
"""The tasks whose labels are texts, which a model writes token by token."""
EMBEDDED: dict[str, TaskKind] = {
    "embedded:python-docs": "classification",
    "embedded:python-reference": "language_modeling",
}
"""The data sets that come with Python, and their tasks."""

DataSource = Annotated[str, StringConstraints(pattern=r"^(embedded|files|hub):\S.*$")]


class DataParams(Section):
    """One labelled data set, of single texts or of pairs."""

    source: DataSource
    """`embedded:python-docs`, `embedded:python-reference`, `files:folder` (train, dev, test as tsv, csv, jsonl or
    parquet; tagged words also as conll, long texts as txt) or `hub:owner/name`."""

    task: TaskKind = "classification"
    """Whether a label is the name of a class, a number to predict, or a list with a tag for every word; or
    `language_modeling`, which has no labels; or `translation`, whose label is a text."""

    text: str = "text"
    """Column of the text (`files:` and `hub:`); for `token_classification` a list of words."""

    text_pair: str | None = None
    """Column of the second text, for tasks on pairs."""

    label: str = "label"
    """Column of the label; for `token_classification` a list of tags such as `O`, `B-person` and `I-person`; for
    `translation` the text's translation."""

    empty_texts: Literal["drop", "refuse"] = "drop"
    """What becomes of rows whose text is empty or white space: left out, counted and noted, or the stage ends."""

    dev_fraction: float = Field(default=0.1, gt=0, lt=0.5)
    """Share of train that becomes dev if the source has no dev split."""

    train_examples: int | None = Field(default=None, ge=1)
    """Take this many examples of train (seeded, stratified; numbers by their deciles); null takes all."""

    transfer: str | None = None
    """A file of unlabelled texts (same columns, no label needed; or a txt file with a text on every line) that the
    teacher labels for distillation. For `language_modeling` a txt file is one text."""

    transfer_examples: int | None = Field(default=None, ge=0)
    """Take this many transfer texts (seeded); null takes all, 0 none. `embedded:python-docs` generates this many, and
    with null none. Texts that are also in dev or test are left out first."""

    seed: int = 0
    """Seed of every split and subset."""

    @property
    def is_numeric(self) -> bool:
        """Return whether labels are numbers."""
        return self.task in NUMERIC

    @property
    def is_per_token(self) -> bool:
        """Return whether every word of a text has a label."""
        return self.task in PER_TOKEN

    @property
    def has_labels(self) -> bool:
        """Return whether texts have labels."""
        return self.task not in UNLABELLED_TASKS

    @property
    def is_written(self) -> bool:
        """Return whether a label is a text that a model writes."""
        return self.task in WRITTEN

    @property
    def has_classes(self) -> bool:
        """Return whether a label is one of a few names, or a list of them."""
        return self.has_labels and not self.is_numeric and not self.is_written

    @property
    def predicts_tokens(self) -> bool:
        """Return whether a model's outputs are logits of a vocabulary, `[tokens, vocabulary]`."""
        return self.is_written or not self.has_labels

    @model_validator(mode="after")
    def _transfer_has_a_source(self) -> "DataParams":
        if self.transfer_examples and self.transfer is None and self.source != "embedded:python-docs":
            raise ValueError(
                f"transfer_examples is {self.transfer_examples}, but transfer names no file: "
                "set data.transfer to a file of unlabelled texts, or transfer_examples to null"
            )
        if self.task != EMBEDDED.get(self.source, self.task):
            raise ValueError(
                f"task is {self.task}, but {self.source} is for {EMBEDDED[self.source]}; set data.task to that"
            )
        if (self.is_per_token or self.predicts_tokens) and self.text_pair is not None:
            raise ValueError(f"text_pair is {self.text_pair!r}, but {self.task} is for single texts; set it to null")
        if self.text_pair == self.text or self.label in (self.text, self.text_pair):
            raise ValueError("text, text_pair and label must be three different columns")
        return self
