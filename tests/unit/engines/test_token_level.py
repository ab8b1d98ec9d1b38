"""Effects on single tokens: what a look shows and a continuation weighs is what one plain forward says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from safethink.config import (
    EntryPointDefenseConfig,
    EvalConfig,
    LimitsConfig,
    NoneConfig,
    RowConfig,
    SamplingConfig,
    ThoughtConfig,
    yaml_config,
)
from safethink.defenses import Needs, build
from safethink.defenses.draft import Draft
from safethink.defenses.effects import Defense, Task, Until, View
from safethink.defenses.moves import answer, extend, look, score, weigh
from safethink.engines import ExtendRequest, LookRequest, WeighRequest
from safethink.engines.build import end_ids
from safethink.engines.hf import HfEngine, _view
from safethink.engines.sampling import Sampling
from safethink.engines.stopping import Stopper
from safethink.errors import ConfigError
from safethink.evaluation import variants
from safethink.guarded import SafeThink
from safethink.monitors.function import ConstantMonitor, FunctionMonitor
from safethink.prefix import built_in
from safethink.prompts import Prompt
from safethink.runtime.row import Row
from safethink.runtime.scheduler import refuse_unfit, run
from safethink.thinking.format import Thought
from safethink.thinking.opening import open_prompt
from safethink.thinking.reading import trace_text
from safethink.tokens import FIRST_SOFT_ID, Tokens
from tests.support import chat_reasoner, plugins
from tests.support.source import ROOT

TOKENIZER = chat_reasoner.tokenizer()
THOUGHT = Thought(ThoughtConfig(), TOKENIZER, context_tokens=512)
LIMITS = LimitsConfig(max_step_tokens=10, max_trace_tokens=24, max_answer_tokens=6)
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
TOP = 5
WORDS = THOUGHT.encoder.text("Wait, think safely")


def sliding_model() -> Gemma3ForCausalLM:
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        **SIZES, num_key_value_heads=2, head_dim=8, vocab_size=len(TOKENIZER), sliding_window=8, initializer_range=0.3
    )
    return Gemma3ForCausalLM(config).double().eval()


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, num_key_value_heads=4, vocab_size=len(TOKENIZER), initializer_range=0.3)
    return LlamaForCausalLM(config).double().eval()


MODELS = [chat_reasoner.model, llama, sliding_model]


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return chat_reasoner.model()


def engine(model: PreTrainedModel) -> HfEngine:
    return HfEngine(model, Stopper(THOUGHT, ()), Sampling())


def opened(row: int) -> tuple[int, ...]:
    return open_prompt(THOUGHT, Prompt.from_text("zz " * (1 + 7 * row % 23) + str(row)))


def plain_view(model: PreTrainedModel, ids: tuple[int, ...], layer: int | None) -> View:
    """The same from one forward without cache, batch or padding."""
    with torch.inference_mode():
        output = model(torch.tensor([ids]), output_hidden_states=True)
    scores = output.logits[0, -1].double().log_softmax(-1)
    top = scores.topk(TOP)
    return View(
        tuple(top.indices.tolist()),
        tuple(top.values.tolist()),
        float(-(scores.exp() * scores).sum()),
        () if layer is None else tuple(output.hidden_states[layer][0, -1].tolist()),
    )


def plain_weights(model: PreTrainedModel, ids: tuple[int, ...], continuation: tuple[int, ...]) -> list[float]:
    with torch.inference_mode():
        scores = model(torch.tensor([ids + continuation])).logits[0].double().log_softmax(-1)
    return [float(scores[len(ids) + place - 1, token]) for place, token in enumerate(continuation)]


def assert_same(seen: View, expected: View) -> None:
    assert seen.token_ids == expected.token_ids
    assert seen.log_probabilities == pytest.approx(expected.log_probabilities, abs=1e-6)
    assert seen.entropy == pytest.approx(expected.entropy, abs=1e-6)
    assert seen.hidden == pytest.approx(expected.hidden, abs=1e-5)


@given(
    row=st.lists(st.sampled_from([0.0, 0.0, 2.5, 2.5 + 2**-20, -30.0, -2000.0, -torch.inf]), min_size=1, max_size=50),
    top_k=st.integers(0, 60),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
)
@example([0.0] * 33, 5, torch.float32)
@example([-torch.inf] * 20 + [60_000.0], 3, torch.float16)
@example([-65_000.0, -torch.inf], 2, torch.float16)
@example([2.0**19, 2.0**19 - 2048], 2, torch.bfloat16)
def test_a_view_is_that_of_a_sort_in_float64(row: list[float], top_k: int, dtype: torch.dtype) -> None:
    """Equal logits and banned tokens included; of equals the first in the vocabulary comes first."""
    row[0] = 1.0 if max(row) == -torch.inf else row[0]
    logits = torch.tensor(row, dtype=torch.float64).to(dtype)
    plain = logits.double().log_softmax(-1)
    seen, order = _view(logits, top_k, ()), logits.double().argsort(descending=True, stable=True)[:top_k]
    assert seen.token_ids == tuple(order.tolist())
    assert list(seen.log_probabilities) == pytest.approx(plain[order].tolist(), abs=1e-6)
    assert seen.entropy == pytest.approx(float(torch.special.entr(plain.exp()).sum()), abs=1e-9)


@pytest.mark.parametrize("make_model", MODELS)
def test_a_look_is_a_plain_forward_alone_and_in_a_ragged_batch(make_model) -> None:
    model = make_model()
    layers = [None, 0, 1, -1, -2]
    requests = [LookRequest(row, opened(row), TOP, layers[row % 5]) for row in range(10)]
    together = engine(model).look(requests)
    for request, seen in zip(requests, together, strict=True):
        assert_same(seen, plain_view(model, request.ids, request.layer))
        assert_same(engine(model).look([request])[0], seen)


@pytest.mark.slow
@pytest.mark.parametrize("make_model", MODELS)
def test_what_a_continuation_weighs_is_a_plain_forward_alone_and_in_a_ragged_batch(make_model) -> None:
    model = make_model()
    requests = [WeighRequest(row, opened(row), (WORDS * 3)[: 3 * row % 8]) for row in range(10)]
    together = engine(model).weigh(requests)
    for request, weights in zip(requests, together, strict=True):
        assert list(weights) == pytest.approx(plain_weights(model, request.ids, request.continuation), abs=1e-6)
        assert engine(model).weigh([request])[0] == pytest.approx(weights, abs=1e-6)
    assert together[0] == (), "nothing weighs nothing"


@pytest.mark.slow
@pytest.mark.parametrize("make_model", MODELS)
def test_looks_and_weighs_stay_exact_between_extensions_and_rollbacks(make_model) -> None:
    model = make_model()
    warm = engine(model)
    ids = [opened(row) for row in range(6)]
    for turn in range(4):
        asked = [ExtendRequest(row, each, len(each), Until.STEP, 8, 10 * turn + row) for row, each in enumerate(ids)]
        grown = [each + more.tokens.ids for each, more in zip(ids, warm.extend(asked), strict=True)]
        views = warm.look([LookRequest(row, each, TOP, -1) for row, each in enumerate(grown)])
        weights = warm.weigh([WeighRequest(row, each[:-2], WORDS) for row, each in enumerate(grown)])
        for each, view, weighed in zip(grown, views, weights, strict=True):
            assert_same(view, plain_view(model, each, -1))
            assert list(weighed) == pytest.approx(plain_weights(model, each[:-2], WORDS), abs=1e-6)
        # Some go on, some roll the step back, some inject.
        moves = [(each, before, before + WORDS) for each, before in zip(grown, ids, strict=True)]
        ids = [move[(row + turn) % 3] for row, move in enumerate(moves)]


def test_soft_rows_are_looked_behind_and_weighed_behind(model: PreTrainedModel) -> None:
    reading = engine(model)
    with torch.inference_mode():
        soft = reading.add_rows(model.get_input_embeddings()(torch.tensor(WORDS)))
    ids = opened(3)
    (seen,) = reading.look([LookRequest(0, ids + soft, TOP, -1)])
    assert_same(seen, plain_view(model, ids + WORDS, -1))
    (weights,) = reading.weigh([WeighRequest(0, ids + soft, WORDS)])
    assert list(weights) == pytest.approx(plain_weights(model, ids + WORDS, WORDS), abs=1e-6)
    with pytest.raises(ValueError, match="a soft row has no probability"):
        WeighRequest(0, ids, (FIRST_SOFT_ID,))


def test_only_what_was_not_read_is_forwarded(model: PreTrainedModel) -> None:
    warm = engine(model)
    ids = opened(2)

    def forwarded(ask) -> int:
        before = warm.stats.forwarded
        ask()
        return warm.stats.forwarded - before

    (extension,) = warm.extend([ExtendRequest(0, ids, len(ids), Until.STEP, 8, 1)])
    grown = ids + extension.tokens.ids
    assert forwarded(lambda: warm.look([LookRequest(0, grown, TOP)])) == 1
    assert forwarded(lambda: warm.look([LookRequest(0, (*grown, 7), TOP, -1)])) == 1
    assert forwarded(lambda: warm.look([LookRequest(0, grown, TOP)])) == 1, "what is asked for is read again"
    assert forwarded(lambda: warm.weigh([WeighRequest(0, grown, WORDS)])) == len(WORDS) + 1
    more = ExtendRequest(0, grown + WORDS, len(grown) + len(WORDS), Until.STEP, 1, 2)
    assert forwarded(lambda: warm.extend([more])) == 1


def test_nothing_asked_is_nothing_answered(model: PreTrainedModel) -> None:
    assert engine(model).look([]) == []
    assert engine(model).weigh([]) == []


def test_more_tokens_than_there_are_is_all_of_them(model: PreTrainedModel) -> None:
    (seen,) = engine(model).look([LookRequest(0, opened(0), 10_000)])
    assert sorted(seen.token_ids) == list(range(model.config.vocab_size))
    assert torch.tensor(seen.log_probabilities).exp().sum() == pytest.approx(1)


# A defense that asks for them


def follow(task: Task, top_k: int) -> Defense:
    """Take the best-scored of the `top_k` likeliest tokens, the likelier one where scores are equal."""
    trace = task.start
    while True:
        view = yield from look(trace, top_k)
        if not view.room:
            return (yield from answer(Draft(trace, stop="length")))
        scores = []
        for token_id in view.token_ids:
            scores.append((yield from score(trace + Tokens.sampled((token_id,)))))
        trace += Tokens.sampled((view.token_ids[scores.index(max(scores))],))
        if trace.ids[-1:] == task.close:
            return (yield from answer(Draft(trace, stop="thought")))


def finish(defense: Defense, model: PreTrainedModel, liked: str = ""):
    monitor = FunctionMonitor(lambda prompt, trace: trace.count(liked) / 100 if liked else 1.0)
    stopper = Stopper(THOUGHT, end_ids(model, TOKENIZER))
    greedy = HfEngine(model, stopper, Sampling(temperature=0.0))
    (done,) = run([Row(Prompt.from_text("Add 3."), opened(0), defense)], greedy, monitor, THOUGHT, LIMITS)
    return done


def test_following_the_likeliest_token_is_greedy_decoding(model: PreTrainedModel) -> None:
    done = finish(follow(Task(close=THOUGHT.close_ids), top_k=3), model)
    expected = chat_reasoner.generate(model, opened(0), LIMITS.max_trace_tokens)[: len(done.verdict.trace)]
    assert done.verdict.trace.ids == expected
    assert len(expected) > 3
    assert done.usage.sampled == len(expected) + len(done.verdict.answer)
    assert done.usage.dropped == 0
    assert done.usage.monitor_calls == 3 * len(expected)


@pytest.mark.slow
def test_a_monitor_chooses_among_the_likeliest(model: PreTrainedModel) -> None:
    done = finish(follow(Task(close=THOUGHT.close_ids), top_k=50), model, liked="e")
    plain = finish(follow(Task(close=THOUGHT.close_ids), top_k=1), model, liked="e")
    text, unguided = (trace_text(THOUGHT, each.verdict.trace) for each in (done, plain))
    assert text.count("e") > unguided.count("e")


def test_what_is_injected_counts_once_for_all_looks_at_it(model: PreTrainedModel) -> None:
    def reminded(task: Task) -> Defense:
        trace = task.start + Tokens.injected(WORDS)
        view = yield from look(trace)
        weights = yield from weigh(trace, WORDS)
        assert view.entropy > 0
        assert list(weights) == pytest.approx(plain_weights(model, opened(0) + WORDS, WORDS), abs=1e-6)
        step = yield from extend(trace, Until.THOUGHT)
        return (yield from answer(Draft(trace + step.tokens, stop=step.stop)))

    done = finish(reminded(Task()), model)
    assert done.usage.forced == len(WORDS)
    assert done.usage.dropped == 0


class PlainEngine:
    """An engine that samples and shows nothing."""

    def extend(self, requests):
        raise NotImplementedError

    def release(self, row: int) -> None:
        """Nothing is kept."""


@Needs(token_level=True)
def follows(task: Task) -> Defense:
    return follow(task, top_k=3)


def test_an_engine_that_shows_no_tokens_is_refused_when_the_run_is_built(model: PreTrainedModel) -> None:
    refuse_unfit(engine(model), build(follows))
    refuse_unfit(PlainEngine(), build(NoneConfig()))
    guarded = SafeThink(model, TOKENIZER, monitor=ConstantMonitor(), defense=follows)
    guarded.engine = PlainEngine()
    said = "defense 'follows' looks at single tokens, and PlainEngine does not show them"
    with pytest.raises(ConfigError, match=said):
        guarded.variant(defense=follows)


def test_a_declared_token_level_defense_runs_through_the_door(model: PreTrainedModel) -> None:
    greedy = SafeThink(
        model,
        TOKENIZER,
        monitor=ConstantMonitor(),
        defense=follows,
        sampling=SamplingConfig(temperature=0.0),
        limits=LIMITS,
    )
    own, plain = greedy("Add 3."), greedy.variant(defense=NoneConfig())("Add 3.")
    assert own.trace_ids == plain.trace_ids


def test_an_evaluation_refuses_it_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "from tests.unit.engines.test_token_level import follows"
    plugins.install(tmp_path, monkeypatch, module, "[safethink.defenses]\nfollows = third_party:follows\n")
    row = RowConfig(name="following", defense=EntryPointDefenseConfig(name="follows"))
    config = yaml_config.load(EvalConfig, ROOT / "configs/eval/testbed.yaml").replace(rows=(row,))
    with pytest.raises(ConfigError, match="'follows' looks at single tokens, and PlainEngine does not show them"):
        variants.load(config, built_in("wait-think-safely"), TOKENIZER, PlainEngine())
