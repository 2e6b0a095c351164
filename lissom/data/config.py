"""Params of the data: where texts and labels come from."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from lissom.section import Section

TaskKind = Literal["classification", "regression"]
"""Kinds of tasks; each is a module in `lissom/tasks`."""
NUMERIC: frozenset[TaskKind] = frozenset({"regression"})
"""The tasks whose labels are numbers; others have names of classes."""

DataSource = Annotated[str, StringConstraints(pattern=r"^(embedded|files|hub):\S.*$")]


class DataParams(Section):
    """One labelled data set, of single texts or of pairs."""

    source: DataSource
    """`embedded:python-docs`, `files:folder` (train, dev, test as tsv, csv, jsonl or parquet) or `hub:owner/name`."""

    task: TaskKind = "classification"
    """Whether a label is the name of a class or a number to predict."""

    text: str = "text"
    """Column of the text (`files:` and `hub:`)."""

    text_pair: str | None = None
    """Column of the second text, for tasks on pairs."""

    label: str = "label"
    """Column of the label."""

    empty_texts: Literal["drop", "refuse"] = "drop"
    """What becomes of rows whose text is empty or white space: left out, counted and noted, or the stage ends."""

    dev_fraction: float = Field(default=0.1, gt=0, lt=0.5)
    """Share of train that becomes dev if the source has no dev split."""

    train_examples: int | None = Field(default=None, ge=1)
    """Take this many examples of train (seeded, stratified; numbers by their deciles); null takes all."""

    transfer: str | None = None
    """A file of unlabelled texts (same columns, no label needed) that the teacher labels for distillation."""

    transfer_examples: int | None = Field(default=None, ge=0)
    """Take this many transfer texts (seeded); null takes all, 0 none. `embedded:python-docs` generates this many, and
    with null none. Texts that are also in dev or test are left out first."""

    seed: int = 0
    """Seed of every split and subset."""

    @property
    def is_numeric(self) -> bool:
        """Return whether labels are numbers."""
        return self.task in NUMERIC

    @model_validator(mode="after")
    def _transfer_has_a_source(self) -> "DataParams":
        if self.transfer_examples and self.transfer is None and not self.source.startswith("embedded:"):
            raise ValueError(
                f"transfer_examples is {self.transfer_examples}, but transfer names no file: "
                "set data.transfer to a file of unlabelled texts, or transfer_examples to null"
            )
        if self.is_numeric and self.source.startswith("embedded:"):
            raise ValueError(
                f"task is {self.task}, but {self.source} has classes for labels; set data.task: classification"
            )
        if self.text_pair == self.text or self.label in (self.text, self.text_pair):
            raise ValueError("text, text_pair and label must be three different columns")
        return self
