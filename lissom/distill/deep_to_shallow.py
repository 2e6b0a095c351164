"""Be your own teacher: every exit learns from labels and from the deepest exit's logits and features.

Zhang et al. 2019, arXiv:1905.08094, eq. 2-4: for shallow exits (1 - alpha) CE + alpha T^2 KL + lambda ||F - F_L||^2,
for the deepest only CE. Returns the model with its exits, or with the deepest one only.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lissom.data.batches import Batch
from lissom.distill.material import DistillationResult, Material
from lissom.distill.self_config import DeepToShallowDistillation
from lissom.models.edits import AddExits, DropExits
from lissom.models.exits import all_features
from lissom.models.students import take_blocks
from lissom.tasks.task import Task
from lissom.training.losses import distillation_loss
from lissom.training.objective import Objective, objective


def distill(params: DeepToShallowDistillation, material: Material) -> DistillationResult:
    """Add the exits and train the whole network."""
    student = take_blocks(material.teacher, params.blocks)
    torch.manual_seed(params.training.seed)
    student.edit([AddExits(size=params.exit_size)])
    result = material.train(
        "training", student.network, material.texts(student), student.pad_id,
        deep_loss(params, material.task), params.training,
        identity=params.model_dump_json(), score=material.scorer(student, params.training),
    )  # fmt: skip
    if not params.keep_exits:
        student.edit([DropExits()])
    return DistillationResult(student, {"training": result})


def deep_loss(params: DeepToShallowDistillation, task: Task) -> Objective:
    """Return the loss of a network with exits."""

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(network, PreTrainedModel)
        *shallow, deep = all_features(network, batch)
        *exits, last = network.exits
        answer = last.classifier(deep)
        total = task.loss(answer, batch.targets)
        for exit_module, features in zip(exits, shallow, strict=True):
            total = total + distillation_loss(
                task, exit_module.classifier(features), answer, batch.targets, params.loss
            )
            total = total + params.feature_weight * (features.float() - deep.detach().float()).square().sum(-1).mean()
        return total

    return objective(loss)
