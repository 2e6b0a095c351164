"""Shrink the word table, then let the model recover."""

from components.recovery import passed_on, recovered
from components.stage import Outcome, Stage
from lissom.data.prepare import load_table
from lissom.factorize.config import NoFactorization
from lissom.factorize.plan import plan
from lissom.models.vocabulary import changed_tokens


def factorize(stage: Stage) -> Outcome:
    """Plan on train and transfer texts, cut, train against the teacher; say what changed for test texts."""
    model, params = stage.load("model"), stage.params.factorize
    if isinstance(params, NoFactorization):
        return passed_on(model)
    full = model.tokenizer
    domain = stage.encode(model, "train", "transfer")
    model.edit(plan(model.network, full, domain, model.manifest.task.max_length, params))
    outcome = recovered(stage, model, stage.encode(model, "train", "transfer"), params.method, params.training)
    outcome.metrics["vocabulary"] = model.network.config.vocab_size
    if params.min_count is not None:
        texts = load_table(stage.inputs["data"], "test").texts()
        outcome.metrics["test_tokens"] = changed_tokens(full, model.tokenizer, texts)
    return outcome
