"""Params of parallel training; imports no torch."""

from typing import Literal

from pydantic import Field, model_validator

from lissom.section import Section


class ParallelParams(Section):
    """Layout of trainings on `data x tensor x pipeline` processes, one per accelerator.

    With `auto` in place of the section, a cost model chooses the layout and reports its reasons.
    """

    nodes: int = Field(default=1, ge=1)
    """Number of machines; each runs the same number of processes."""

    data: int = Field(default=1, ge=1)
    """Replicas, each of which works on its share of every batch."""

    tensor: int = Field(default=1, ge=1)
    """Processes that share the heads and neurons of every block (Megatron); they should sit in one machine."""

    pipeline: int = Field(default=1, ge=1)
    """Pipeline stages, each with a contiguous range of blocks."""

    microbatches: int = Field(default=1, ge=1)
    """Micro-batches per replica and step. In a pipeline more of them reduce the bubble; without one, gradients are
    accumulated over them, which saves memory."""

    schedule: Literal["gpipe", "1f1b", "interleaved_1f1b", "zero_bubble", "varuna", "varuna_eager"] = "1f1b"
    """Order of work in a pipeline; `lissom schedule` draws all but `zero_bubble`."""

    chunks: int = Field(default=2, ge=2)
    """Stages per process, for `interleaved_1f1b` and `zero_bubble`."""

    recompute: bool = False
    """Recompute activations in the backward pass instead of storing them; `varuna` and `varuna_eager` always do."""

    shard: bool = False
    """Shard weights, gradients and moments over the replicas (FSDP2), for models that do not fit otherwise."""

    sequence: bool = False
    """Sequence parallelism between the tensor-parallel layers, which saves memory."""

    timeout_seconds: float = Field(default=600, ge=1)
    """Time after which processes report one that does not respond, and exit."""

    restarts: int = Field(default=3, ge=0)
    """Number of restarts of all processes from the last checkpoint after one of them has failed."""

    @property
    def world(self) -> int:
        """Return the number of processes."""
        return self.data * self.tensor * self.pipeline

    @property
    def spreads(self) -> bool:
        """Return whether a training differs from a single process without micro-batches and recomputation."""
        return self.world > 1 or self.microbatches > 1 or self.recompute

    @property
    def stages(self) -> int:
        """Return the number of pipeline stages, over all processes."""
        return self.pipeline * (self.chunks if self.schedule in ("interleaved_1f1b", "zero_bubble") else 1)

    @property
    def parts(self) -> int:
        """Return the number of micro-batches of a step, over all replicas."""
        return self.data * self.microbatches

    @property
    def factors(self) -> str:
        """Return the layout as text."""
        return f"data {self.data} x tensor {self.tensor} x pipeline {self.pipeline} = {self.world} processes"

    @model_validator(mode="after")
    def _layout_holds(self) -> "ParallelParams":
        problems = []
        if self.world % self.nodes:
            problems.append(f"they cannot be spread evenly over {self.nodes} nodes")
        elif (self.world // self.nodes) % self.tensor:
            problems.append(
                f"{self.world // self.nodes} on each of {self.nodes} nodes: tensor {self.tensor} would cross machines, "
                "and it needs their fast connections"
            )
        grouped = self.schedule in ("interleaved_1f1b", "zero_bubble")
        if self.pipeline > 1 and grouped and self.microbatches % self.pipeline:
            problems.append(
                f"schedule {self.schedule}: microbatches {self.microbatches} is no multiple of pipeline {self.pipeline}"
            )
        if self.pipeline > 1 and self.schedule == "1f1b" and self.microbatches < self.pipeline:
            problems.append(
                f"schedule 1f1b: microbatches {self.microbatches} is less than pipeline {self.pipeline}, which "
                "would never be full; gpipe goes on with any number"
            )
        if self.pipeline == 1 and "schedule" in self.model_fields_set and self.schedule != "1f1b":
            problems.append(f"schedule {self.schedule} is one of a pipeline: set pipeline to 2 or more")
        if self.shard and (self.tensor > 1 or self.pipeline > 1 or self.data == 1):
            problems.append("shard spreads weights over replicas: it needs data > 1, tensor 1 and pipeline 1")
        if self.sequence and (self.tensor == 1 or self.pipeline > 1):
            problems.append("sequence splits what tensor does not: it needs tensor > 1 and pipeline 1")
        if problems:
            raise ValueError(f"{self.factors}: " + "; ".join(problems))
        return self
