"""Every term against one plain forward per prefix and context, in float64; and what is made of them together."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from optimize.config import ObjectiveConfig, RacingConfig
from optimize.contexts import Context, ContextSet
from optimize.objectives import (
    BenignDivergence,
    BenignLikelihood,
    CachedScorer,
    ContextTerm,
    Length,
    Objective,
    Readability,
    SafeContinuation,
    TermGradient,
    Unlikelihood,
    Weighted,
    WholeTerm,
    build,
    terms,
    through_rows,
)
from optimize.objectives.racing import CostMatrix
from optimize.scoring import Example, Scorer
from optimize.testing import terms as conformance
from safethink.config import LimitsConfig
from safethink.errors import ConfigError, SafeThinkError
from safethink.guarded import SafeThink
from safethink.prompts import Prompt
from safethink.thinking.opening import open_prompt
from tests.support import tiny_reasoner

VOCABULARY = 97
CLIP = 5.0
# RMSNorm and softmax compute in float32 whatever the weights are.
EXACT = {"atol": 1e-6, "rtol": 0.0}


@pytest.fixture(scope="module")
def model():
    return tiny_reasoner.model(VOCABULARY, hidden_size=16).double()


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    """Contexts and targets of many lengths, with a separator behind the prefix."""
    generator = torch.Generator().manual_seed(1)
    lengths = [(5, 3), (17, 1), (9, 7), (30, 4), (6, 6)]

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(VOCABULARY, (count,), generator=generator).tolist())

    return [Example(ids(context), ids(target), separator=(11,)) for context, target in lengths]


@pytest.fixture(scope="module")
def candidates() -> Int[Tensor, "candidates length"]:
    return torch.randint(VOCABULARY, (6, 4), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def reading(model, examples) -> CachedScorer:
    return CachedScorer(Scorer(model, examples))


class Plain:
    """The same numbers by full forwards over embeddings, nothing cached, padded or batched."""

    def __init__(self, model, examples: Sequence[Example]) -> None:
        self.model, self.examples = model, examples
        self.table = model.get_input_embeddings().weight.detach()

    def log_probs(self, rows: Float[Tensor, "length hidden"], example: Example, separator: bool = True) -> Tensor:
        """Log-probabilities of the next token, from the one right after the context on."""
        followed = (example.separator if separator else ()) + example.target
        parts = [self.table[list(example.context)], rows, self.table[list(followed)]]
        return self.model(inputs_embeds=torch.cat(parts)[None]).logits[0, len(example.context) - 1 :].log_softmax(-1)

    def losses(self, rows) -> Float[Tensor, "contexts"]:
        return torch.stack([self._loss(rows, example) for example in self.examples])

    def _loss(self, rows, example: Example) -> Tensor:
        predicted = self.log_probs(rows, example)[-len(example.target) - 1 : -1]
        return functional.nll_loss(predicted, torch.tensor(example.target))

    def nll(self, rows, ids: Int[Tensor, "length"]) -> Float[Tensor, "contexts"]:
        each = [functional.nll_loss(self.log_probs(rows, example)[: len(ids)], ids) for example in self.examples]
        return torch.stack(each)

    def divergence(self, rows) -> Float[Tensor, "contexts"]:
        return torch.stack([self._divergence(rows, example) for example in self.examples])

    def _divergence(self, rows, example: Example) -> Tensor:
        places = slice(-len(example.target) - 1, -1)
        without = self.log_probs(rows[:0], example, separator=False)[places].detach()
        return (without.exp() * (without - self.log_probs(rows, example)[places])).sum(-1).mean()


@dataclass(frozen=True)
class Case:
    """A term, and the formula that it stands for."""

    make: Callable[[CachedScorer], WholeTerm | ContextTerm]
    formula: Callable[[Plain, Tensor, Tensor], Tensor]


CASES = {
    "continuation": Case(SafeContinuation, lambda plain, rows, ids: plain.losses(rows).mean()),
    "unlikelihood": Case(
        lambda reading: Unlikelihood(reading, CLIP),
        lambda plain, rows, ids: -plain.losses(rows).clamp(max=CLIP).mean(),
    ),
    "benign": Case(BenignLikelihood, lambda plain, rows, ids: plain.losses(rows).mean()),
    "benign_kl": Case(BenignDivergence, lambda plain, rows, ids: plain.divergence(rows).mean()),
    "nll": Case(Readability, lambda plain, rows, ids: plain.nll(rows, ids).mean()),
    "length": Case(
        lambda reading: Length(), lambda plain, rows, ids: rows.new_tensor(float(len(rows))) + 0 * rows.sum()
    ),
}


def costs_of(term: WholeTerm | ContextTerm, candidates: Tensor) -> Tensor:
    """What a term says of whole candidates."""
    if isinstance(term, ContextTerm):
        return term.context_costs(candidates, range(term.num_contexts)).mean(1)
    return term.costs(candidates)


@pytest.fixture(params=CASES)
def case(request) -> Case:
    return CASES[request.param]


def test_a_term_is_what_its_formula_says_of_a_plain_forward(case, model, examples, candidates, reading):
    plain = Plain(model, examples)
    with torch.no_grad():
        expected = torch.stack([case.formula(plain, plain.table[ids], ids) for ids in candidates])
    costs = costs_of(case.make(reading), candidates)
    torch.testing.assert_close(costs.to(expected), expected, **EXACT)


def test_its_gradient_is_that_of_the_formula(case, model, examples, candidates, reading):
    plain, ids = Plain(model, examples), candidates[0]
    rows = plain.table[ids].clone().requires_grad_()
    (expected,) = torch.autograd.grad(case.formula(plain, rows, ids), rows)
    gradient = case.make(reading).gradient(ids)
    found = torch.zeros_like(expected) if gradient is None else gradient.embeddings.to(expected)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_token_by_token_or_in_rows_a_prefix_costs_the_same(case, model, candidates, reading):
    term, table = case.make(reading), model.get_input_embeddings().weight.detach()
    if term.name == "nll":
        assert term.soft_cost(table[candidates[0]]) == 0.0, "rows have no likelihood"
        return
    soft = torch.stack([term.soft_cost(table[ids]) for ids in candidates])
    hard = costs_of(term, candidates)
    torch.testing.assert_close(soft.to(hard), hard, **EXACT)


@pytest.mark.parametrize("name", ["continuation", "unlikelihood", "benign", "benign_kl", "nll"])
def test_some_contexts_are_scored_as_among_all(name, candidates, reading):
    term = CASES[name].make(reading)
    assert isinstance(term, ContextTerm)
    whole = term.context_costs(candidates, range(5))
    torch.testing.assert_close(term.context_costs(candidates, [3, 1]), whole[:, [3, 1]], **EXACT)


def test_what_is_unlikely_enough_is_left_alone(model, examples, candidates):
    reading = CachedScorer(Scorer(model, examples))
    losses = reading.losses(candidates[:1]).continuation
    over = Unlikelihood(reading, clip=losses.min().item() - 0.01)
    assert costs_of(over, candidates[:1]).item() == pytest.approx(-losses.min().item() + 0.01)
    assert not over.gradient(candidates[0]).embeddings.any()
    assert Unlikelihood(reading, clip=100.0).gradient(candidates[0]).embeddings.any()


def test_readability_says_exactly_what_every_label_costs(model, examples, candidates, reading):
    plain, ids = Plain(model, examples), candidates[0]
    term = Readability(reading)
    costs = term.gradient(ids).token_costs
    assert costs is not None
    other = ids.clone()
    other[-1] = 13
    # A last label is no input of the NLL, so its cost is exact.
    change = (costs[-1, 13] - costs[-1, ids[-1]]).item()
    with torch.no_grad():
        expected = plain.nll(plain.table[other], other).mean() - plain.nll(plain.table[ids], ids).mean()
    assert change == pytest.approx(expected.item(), abs=1e-5)
    assert costs_of(term, other[None]).item() - costs_of(term, ids[None]).item() == pytest.approx(change, abs=1e-5)


def weighted(reading: CachedScorer) -> list[Weighted]:
    return [Weighted(SafeContinuation(reading)), Weighted(Readability(reading), 0.1), Weighted(Length(), 0.2)]


def test_the_total_is_the_weighted_sum_and_lengths_may_differ(model, candidates, reading):
    objective = Objective(model, weighted(reading))
    mixed = [(5, 6, 7), tuple(candidates[0].tolist()), (8,), (9, 10, 11)]
    cost = objective.cost(mixed)
    torch.testing.assert_close(
        cost.total, cost.terms["continuation"] + 0.1 * cost.terms["nll"] + 0.2 * cost.terms["length"], **EXACT
    )
    alone = [objective.cost([ids]).candidate(0) for ids in mixed]
    for index, expected in enumerate(alone):
        assert cost.candidate(index) == pytest.approx(expected, abs=1e-6)
    assert list(alone[0]) == ["total", "continuation", "nll", "length"]
    assert cost.exact.all()


def test_terms_over_the_same_contexts_forward_once_and_are_counted_once(model, candidates, reading, monkeypatch):
    asked = []
    losses = Scorer.losses
    monkeypatch.setattr(Scorer, "losses", lambda self, *args: asked.append(args) or losses(self, *args))
    objective = Objective(model, weighted(reading))
    objective.cost([tuple(ids) for ids in candidates.tolist()] + [(1, 2)])
    assert len(asked) == 2, "one per length"
    assert objective.tokens == reading.tokens > 0


def test_the_coordinate_gradient_is_that_of_the_sum(model, examples, candidates, reading):
    plain, ids, allowed = Plain(model, examples), candidates[0], torch.arange(3, 40)
    objective = Objective(model, weighted(reading))
    rows = plain.table[ids].clone().requires_grad_()
    loss = plain.losses(rows).mean() + 0.1 * plain.nll(rows, ids).mean()
    (gradient,) = torch.autograd.grad(loss, rows)
    labels = Readability(reading).gradient(ids).token_costs
    assert labels is not None
    expected = gradient @ plain.table[allowed].T + 0.1 * labels[:, allowed].double()
    found = objective.coordinate_gradient(ids, allowed)
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)


def test_a_soft_prefix_goes_where_its_loss_falls(model, candidates, reading):
    objective = Objective(model, [Weighted(SafeContinuation(reading)), Weighted(Unlikelihood(reading, CLIP), 0.0)])
    rows = model.get_input_embeddings().weight.detach()[candidates[0]].clone().requires_grad_()
    loss = objective.soft_loss(rows)
    (gradient,) = torch.autograd.grad(loss, rows)
    assert objective.soft_loss(rows.detach() - 0.01 * gradient) < loss


class Worst:
    """A term of one's own: the loss of the context that is hardest to bring back."""

    name = "worst"

    def __init__(self, reading: CachedScorer) -> None:
        self.reading, self.meters = reading, (reading,)

    def costs(self, candidates: Int[Tensor, "candidates length"]) -> Float[Tensor, "candidates"]:
        return self.reading.losses(candidates).continuation.amax(1)

    def soft_cost(self, rows: Float[Tensor, "length hidden"]) -> Float[Tensor, ""]:
        return self.reading.scorer.soft_losses(rows).amax()

    def gradient(self, prefix: Int[Tensor, "length"]) -> TermGradient:
        return through_rows(self.reading.model, prefix, self.soft_cost)


def test_a_term_of_ones_own_joins_the_others(model, candidates, reading):
    assert isinstance(Worst(reading), WholeTerm)
    objective = Objective(model, [*weighted(reading), Weighted(Worst(reading), 2.0)])
    cost = objective.cost([tuple(ids) for ids in candidates.tolist()])
    torch.testing.assert_close(cost.terms["worst"], reading.losses(candidates).continuation.amax(1))
    without = Objective(model, weighted(reading)).coordinate_gradient(candidates[0], torch.arange(9))
    assert not torch.allclose(objective.coordinate_gradient(candidates[0], torch.arange(9)), without)


def test_terms_have_different_names_and_there_are_some(model, reading):
    with pytest.raises(ConfigError, match="continuation, continuation"):
        Objective(model, [Weighted(SafeContinuation(reading)), Weighted(SafeContinuation(reading), 0.5)])
    with pytest.raises(ConfigError, match="none"):
        Objective(model, [])


def test_no_term_is_turned_around(model, reading):
    with pytest.raises(ConfigError, match=r"the weight of unlikelihood is -0\.1"):
        Objective(model, [*weighted(reading), Weighted(Unlikelihood(reading, CLIP), -0.1)])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_one_line_with_term_and_prefix(model, candidates, reading, value):
    class Broken(Worst):
        def costs(self, candidates):
            return super().costs(candidates).masked_fill(candidates[:, 0] == 7, value)

        def soft_cost(self, rows):
            return super().soft_cost(rows) * value

    objective = Objective(model, [*weighted(reading), Weighted(Broken(reading))])
    objective.cost([(5, 6)])
    with pytest.raises(SafeThinkError, match=rf"^worst of the prefix of token ids 7, 8 is {value}") as caught:
        objective.cost([(5, 6), (1,), (7, 8)])
    assert "\n" not in str(caught.value)
    with pytest.raises(SafeThinkError, match="gradient of worst of the prefix of token ids 5, 6"):
        objective.coordinate_gradient(torch.tensor([5, 6]), torch.arange(9))
    with pytest.raises(SafeThinkError, match="worst of a soft prefix"):
        objective.soft_loss(torch.zeros(2, 16, dtype=torch.float64))


@pytest.fixture(scope="module")
def guarded() -> SafeThink:
    limits = LimitsConfig(max_step_tokens=8, max_trace_tokens=40)
    return SafeThink(tiny_reasoner.model(), tiny_reasoner.tokenizer(), monitor=lambda *texts: 1.0, limits=limits)


def context(guarded: SafeThink, name: str) -> Context:
    prompt = Prompt.from_text(f"mix {name}", id=name)
    ids = open_prompt(guarded.thought, prompt)
    return Context(
        prompt=prompt, prompt_ids=ids, trace_ids=(70, 71), step_ids=(72, 73, 74), depth=1, target_ids=(75, 76)
    )


@pytest.fixture(scope="module")
def contexts(guarded) -> ContextSet:
    unsafe, harmless = ([context(guarded, f"{kind}-{n}") for n in range(3)] for kind in ("a", "b"))
    return ContextSet(unsafe=tuple(unsafe), harmless=tuple(harmless), num_watched=3, num_fired=3)


def test_a_configuration_names_the_terms_and_those_without_weight_are_left_out(guarded, contexts):
    def names(contexts: ContextSet = contexts, **weights: float) -> list[str]:
        return [each.term.name for each in terms(guarded, contexts, ObjectiveConfig(**weights))]

    assert names() == ["continuation", "nll", "benign"]
    assert names(contexts.replace(harmless=())) == ["continuation", "nll"]
    assert names(continuation_weight=0, nll_weight=0, benign_weight=0, length_weight=1) == ["length"]
    every = names(unlikelihood_weight=1, benign_kl_weight=1, length_weight=1, reward_weight=1)
    assert sorted(every) == sorted(["reward", *CASES])
    with pytest.raises(ConfigError, match="every weight is 0"):
        build(guarded, contexts, ObjectiveConfig(continuation_weight=0, nll_weight=0, benign_weight=0))


def test_the_violating_step_counts_as_far_as_the_safe_one_reaches(guarded, contexts):
    config = ObjectiveConfig(unlikelihood_weight=1.0, unlikelihood_clip=100.0)
    cost = build(guarded, contexts, config).cost([(80, 81)])
    separator = guarded.thought.separator_ids
    loss = Scorer(guarded.model, [Example(each.ids, each.step_ids[:2], separator) for each in contexts.unsafe])
    expected = loss.losses(torch.tensor([[80, 81]])).continuation.mean()
    assert cost.terms["unlikelihood"].item() == pytest.approx(-expected.item(), abs=1e-5)


class Shifted(Length):
    """A term that is no mean over contexts and tells candidates apart."""

    name = "shifted"

    def costs(self, candidates: Int[Tensor, "candidates length"]) -> Float[Tensor, "candidates"]:
        return candidates[:, 0] / 100.0


@pytest.fixture(scope="module")
def rivals(model) -> list[tuple[int, ...]]:
    """Prefixes of two lengths."""
    rows = torch.randint(VOCABULARY, (40, 3), generator=torch.Generator().manual_seed(5)).tolist()
    return [tuple(row[: 2 + place % 2]) for place, row in enumerate(rows)]


@pytest.fixture(scope="module")
def many(model) -> tuple[list[Example], list[Example]]:
    """Sets of contexts of which one is no multiple of the other."""
    generator = torch.Generator().manual_seed(4)
    rows = torch.randint(VOCABULARY, (23, 9), generator=generator).tolist()
    examples = [Example(tuple(row[:5]), tuple(row[5:])) for row in rows]
    return examples[:16], examples[16:]


def several(model, many) -> list[Weighted]:
    large, small = (CachedScorer(Scorer(model, examples)) for examples in many)
    return [
        Weighted(SafeContinuation(large)),
        Weighted(Readability(large), 0.1),
        Weighted(BenignLikelihood(small), 0.7),
        Weighted(Shifted()),
    ]


@pytest.mark.slow
def test_the_mean_over_all_columns_is_the_total_whatever_the_numbers_of_contexts(model, many, rivals):
    terms = several(model, many)
    columns = CostMatrix(terms, rivals)
    assert columns.num_columns == 16
    found = columns(range(40), range(16)).mean(1)
    expected = [sum(each.weight * costs_of(each.term, torch.tensor([ids])).item() for each in terms) for ids in rivals]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), **EXACT)


def test_a_column_is_the_same_alone_as_among_others_and_nothing_is_scored_twice(model, many, rivals):
    whole, parts = CostMatrix(several(model, many), rivals), several(model, many)
    expected = whole(range(40), range(16))
    columns = CostMatrix(parts, rivals)
    for some, columns_of_heat in ((range(40), [3, 5, 12]), ([7, 2, 30], [0, 1, 4, 11]), ([2], [2, 6, 7])):
        found = columns(some, columns_of_heat)
        torch.testing.assert_close(found, expected[list(some)][:, columns_of_heat], **EXACT)
    tokens = Objective(model, parts).tokens
    columns([2], [5, 12, 6])
    assert Objective(model, parts).tokens == tokens


def test_a_race_finds_what_full_scoring_finds_and_forwards_less(model, many, rivals):
    full, raced = Objective(model, several(model, many)), Objective(model, several(model, many), RacingConfig())
    begun = full.tokens
    expected, found = full.cost(rivals), raced.cost(rivals)
    assert raced.tokens - begun < 0.8 * (full.tokens - begun)
    assert 8 <= found.exact.sum() < 40
    torch.testing.assert_close(found.total[found.exact], expected.total[found.exact], **EXACT)
    winner = int(found.total.argmin())
    assert found.exact[winner]
    assert expected.total[winner] <= 1.01 * expected.total.min()
    assert found.candidate(winner) == pytest.approx(expected.candidate(winner), abs=1e-6)
    assert all(each.isfinite().all() for each in found.terms.values())
    assert found.incumbent is expected.incumbent is None


@pytest.mark.slow
def test_a_winner_meets_the_incumbent_in_one_batch_and_costs_of_both_are_kept(model, many, rivals):
    config = RacingConfig(keep=2)
    full, raced = Objective(model, several(model, many)), Objective(model, several(model, many), config)
    worst = rivals[int(full.cost(rivals).total.argmax())]
    found = raced.cost(rivals, worst)
    assert len(found.total) == 40
    expected = full.cost([worst]).candidate(0)
    assert found.incumbent == pytest.approx(expected, abs=1e-6)
    assert full.cost(rivals, worst).incumbent is None, "what it costs has not changed"
    winner = rivals[int(found.total.argmin())]
    begun = raced.tokens
    again = raced.cost(rivals[:2], winner)
    resumed = Objective(model, several(model, many), config)
    resumed.load_state_dict(json.loads(json.dumps(raced.state_dict())))
    for objective in (raced, resumed):
        same = objective.cost(rivals[:2], winner)
        assert same.incumbent == again.incumbent == found.candidate(int(found.total.argmin()))
        assert torch.equal(same.exact, again.exact)
        assert torch.equal(same.total, again.total)
    # Of two contexts of the first heat, and nothing for the incumbent.
    assert raced.tokens - begun == 2 * (resumed.tokens - Objective(model, several(model, many)).tokens)


def test_an_incumbent_that_nothing_beats_is_not_scored_again(model, many, rivals):
    raced = Objective(model, several(model, many), RacingConfig(keep=1, keep_share=0.5))
    best = rivals[int(Objective(model, several(model, many)).cost(rivals).total.argmin())]
    others = [ids for ids in rivals if ids != best]
    first = raced.cost(others, best)
    begun = raced.tokens
    second = raced.cost(others, best)
    assert first.incumbent == second.incumbent
    assert first.incumbent is not None
    assert first.total.min() > first.incumbent["total"]
    whole = Objective(model, several(model, many))
    read = whole.tokens
    whole.cost(others)
    assert raced.tokens - begun < 0.6 * (whole.tokens - read)


def test_ours_keep_what_the_suite_asks_of_every_term(case, model, examples, candidates) -> None:
    def make() -> WholeTerm | ContextTerm:
        return case.make(CachedScorer(Scorer(model, examples)))

    table = model.get_input_embeddings().weight
    for check in conformance.checks(make, table, [tuple(ids) for ids in candidates.tolist()]):
        check()
