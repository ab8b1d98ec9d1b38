# pyright: standard
"""The cost, in a step of a search, of everything that looks at all of a vocabulary, beside the model's own passes.

64 places where a token is predicted: 4 contexts with 16 tokens of target, or 64 prefixes.
"""

from __future__ import annotations

import random
import string
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Final

import torch
from jaxtyping import Float
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from optimize.config import BeamConfig, GcgConfig, UnigramConfig
from optimize.objectives import Cost
from optimize.objectives.cached_scorer import CachedScorer
from optimize.objectives.continuation import SafeContinuation
from optimize.objectives.objective import Objective
from optimize.objectives.protocols import Weighted, embeddings_of
from optimize.objectives.readability import Readability
from optimize.scoring import Example, Scorer
from optimize.scoring.modes import inference
from optimize.scoring.reader import _divergences, _token_nll
from optimize.search.beam import Beam
from optimize.search.driver import _sift
from optimize.search.gcg import Gcg
from optimize.search.method import Archive, Ids
from optimize.search.proposals import Proposals
from optimize.search.unigram import Unigram
from optimize.search.vocabulary import Vocabulary, allowed_ids
from optimize.soft.module import TokenEmbeddings
from safethink.models.soft_rows import RowTable
from tests.benchmarks.frame import BenchRow
from tests.benchmarks.wide_vocabulary import PEAKED, ROWS, VOCABULARY, one_layer, random_logits, share, step_share

NUM_CONTEXTS: Final = 4
CONTEXT, TARGET, LENGTH = 24, 16, 4
"""Tokens of a context, of what follows a prefix, and of the prefix."""
NUM_TRIED: Final = 2000
"""Candidates in the archive of a search that is under way."""
CANDIDATES: Final = 64
"""Scored in a step."""
TAILS: Final = tuple(f"so {word}.\n\n" for word in ("be it", "it goes", "they said", "on"))
BOTH: Final = "own forward and backward at 64 places"


def rows() -> Iterator[BenchRow]:
    """Shares of the model's own passes, or of a step of `generate`."""
    model = one_layer()
    examples = [
        Example(tuple(range(50 * i, 50 * i + CONTEXT)), tuple(range(50 * i + 25, 50 * i + 25 + TARGET)))
        for i in range(NUM_CONTEXTS)
    ]
    scorer = Scorer(model, examples)
    yield _coordinate_gradient(scorer)
    yield from _losses(model, scorer)
    yield _projection(model, scorer)
    yield _next_tokens(model, scorer)
    yield from _methods(model)
    yield from _filters(model)


def _coordinate_gradient(scorer: Scorer) -> BenchRow:
    """What a gradient step takes beside what the terms' own passes take."""
    cached, allowed = CachedScorer(scorer), torch.arange(VOCABULARY)
    prefix = torch.tensor(range(5, 5 + LENGTH))
    terms = SafeContinuation(cached), Readability(cached)
    known = {term.name: term.gradient(prefix) for term in terms}
    embeddings = sum((each.embeddings for each in known.values()), torch.zeros(()))
    costs = known[Readability.name].token_costs
    assert costs is not None, "a likelihood tells tokens apart"
    objective = Objective(scorer.model, [Weighted(term) for term in terms])
    plain = embeddings @ embeddings_of(scorer.model, allowed).T + costs
    exact = torch.allclose(objective.coordinate_gradient(prefix, allowed), plain, rtol=1e-4, atol=1e-6)
    for term in terms:
        # What the passes say is known, so that what is left is the work on the vocabulary.
        term.gradient = lambda prefix, name=term.name: known[name]
    return share(
        "coordinate_gradient_over_backward",
        lambda: objective.coordinate_gradient(prefix, allowed),
        lambda: scorer.gradient(prefix),
        exact,
        over=BOTH,
    )


def _losses(model: Qwen3ForCausalLM, scorer: Scorer) -> Iterator[BenchRow]:
    """Cross-entropy and KL divergence of targets, from logits."""
    logits = random_logits(PEAKED).view(NUM_CONTEXTS, TARGET, VOCABULARY)
    labels = torch.randint(VOCABULARY, (NUM_CONTEXTS, TARGET), generator=torch.Generator().manual_seed(1))
    log_probs = logits.double().log_softmax(-1)
    plain = -log_probs.gather(-1, labels[..., None])[..., 0]
    exact = torch.allclose(_token_nll(logits, labels).double(), plain, rtol=0.0, atol=1e-4)
    yield step_share("nll_over_generate_step", model, lambda: _token_nll(logits, labels), exact)
    before = [each.log_softmax(-1) for each in random_logits(PEAKED).flip(0).view(logits.shape)]
    mask = torch.ones(NUM_CONTEXTS, TARGET, dtype=torch.bool)
    base = torch.stack(before).double()
    divergence = (base.exp() * (base - log_probs)).sum(-1).mean(-1)
    exact = torch.allclose(_divergences(before, logits[:, None], mask)[:, 0].double(), divergence, rtol=1e-5)
    yield step_share("kl_over_generate_step", model, lambda: _divergences(before, logits[:, None], mask), exact)


def _projection(model: Qwen3ForCausalLM, scorer: Scorer) -> BenchRow:
    """The tokens nearest to rows, each a blend of two tokens."""
    table, surroundings = model.model.embed_tokens.weight, TokenEmbeddings(RowTable(model), range(VOCABULARY))
    soft = (table[100 : 100 + LENGTH] + table[900 : 900 + LENGTH]) / 2
    lengths = table.double().norm(dim=1)
    plain = [int((table.double() @ row.double() / lengths).argmax()) for row in soft]
    prefix = torch.tensor(range(5, 5 + LENGTH))
    return share(
        "projection_over_backward",
        lambda: surroundings.nearest(soft),
        lambda: scorer.gradient(prefix),
        surroundings.nearest(soft) == tuple(plain),
        over=BOTH,
    )


def _next_tokens(model: Qwen3ForCausalLM, scorer: Scorer) -> BenchRow:
    """What the reasoner would say behind 16 prefixes, averaged over the contexts; the forward is most of it."""
    proposals = Proposals(scorer, range(VOCABULARY))
    drawn = torch.randint(VOCABULARY, (ROWS // NUM_CONTEXTS, 2), generator=torch.Generator().manual_seed(2))
    prefixes: list[Ids] = [tuple(ids) for ids in drawn.tolist()]
    found = proposals.next_tokens(prefixes)[0][0]
    with inference(model):
        contexts = [range(50 * i, 50 * i + CONTEXT) for i in range(NUM_CONTEXTS)]
        alone = [model(torch.tensor([[*context, *prefixes[0]]])).logits[0, -1] for context in contexts]
    plain = torch.stack([logits.double().log_softmax(-1) for logits in alone]).mean(0).log_softmax(-1)
    (batch,), strategy = scorer._batches, scorer._in_batch._strategy

    def forward() -> Tensor:
        with inference(model):
            return strategy.follow(model, batch, drawn.repeat(NUM_CONTEXTS, 1), 1)

    logits = forward()

    class Known(type(strategy)):
        """Says again what the forward said, so that what is left is the work on the vocabulary."""

    scorer._in_batch._strategy = Known(strategy.name, strategy.read, lambda *_: logits)
    row = share(
        "proposals_over_forward",
        lambda: proposals.next_tokens(prefixes),
        forward,
        torch.allclose(found.double(), plain, rtol=0.0, atol=1e-4),
        over="own forward at 64 places",
    )
    scorer._in_batch._strategy = strategy
    return row


class _Words:
    """All tokens, each of which survives."""

    allowed = tuple(range(VOCABULARY))

    def survive(self, candidates: Sequence[Ids]) -> list[bool]:
        """All do."""
        return [True] * len(candidates)

    def text(self, ids: Sequence[int]) -> str:
        """The ids."""
        return str(ids)


class _Known:
    """An objective and proposer that says what it knows already."""

    tokens = 0

    def __init__(self) -> None:
        self.slopes = torch.randn(LENGTH, VOCABULARY, generator=torch.Generator().manual_seed(1))

    def cost(self, candidates: Sequence[Ids], incumbent: Ids | None = None) -> Cost:
        """Not asked here."""
        raise NotImplementedError

    def coordinate_gradient(self, prefix: Tensor, allowed: Tensor) -> Float[Tensor, "length allowed"]:
        """Of the first places."""
        return self.slopes[: len(prefix), allowed]

    def next_tokens(self, prefixes: Sequence[Ids], everywhere: bool = False) -> list[Float[Tensor, "1 allowed"]]:
        """The same for all."""
        return [self.slopes[:1]] * len(prefixes)


def _methods(model: Qwen3ForCausalLM) -> Iterator[BenchRow]:
    """Proposals of a step, and the first of them that are to be scored."""
    known, dice = _Known(), random.Random(0)

    def archive(length: int) -> Archive:
        some = [tuple(dice.choices(_Words.allowed, k=length)) for _ in range(NUM_TRIED)]
        return Archive({ids: dice.random() for ids in some})

    def proposed(method: Unigram | Gcg | Beam, tried: Archive) -> Callable[[], list[Ids]]:
        def propose() -> list[Ids]:
            proposals = method.propose(torch.Generator().manual_seed(3))
            return _sift(proposals, _Words(), tried, CANDIDATES).alive

        return propose

    tried = archive(1)
    slopes = known.slopes[0]
    order = [(token,) for token in slopes.argsort(stable=True).tolist() if (token,) not in tried]
    step = proposed(Unigram(UnigramConfig(length=LENGTH, ranked_by="gradient"), known, _Words(), tried), tried)
    yield step_share("unigram_proposals_over_generate_step", model, step, step() == order[:CANDIDATES])

    tried = archive(LENGTH)
    gcg = Gcg(GcgConfig(length=LENGTH), known, _Words(), (), tried)
    gcg._incumbents = [(parent := tried.ranked()[0], tried.costs[parent])]
    step = proposed(gcg, tried)
    top = known.slopes.argsort(1)[:, : gcg._config.top_k].tolist()
    best = {(place, token) for place in range(LENGTH) for token in top[place]}
    made = [[edit for edit in enumerate(ids) if edit[1] != parent[edit[0]]] for ids in step()]
    yield step_share("gcg_proposals_over_generate_step", model, step, all(best.issuperset(edits) for edits in made))

    tried = archive(2)
    beam = Beam(BeamConfig(length=LENGTH), _Words(), (), tried, known)
    beam._beams = [(token,) for token in range(beam._config.beams)]
    step = proposed(beam, tried)
    noise = -torch.empty(len(beam._beams), VOCABULARY).exponential_(generator=torch.Generator().manual_seed(3)).log()
    wanted = (slopes + noise).argsort(1, descending=True)[:, : beam._config.branches].tolist()
    grown = {(first, token) for (first,), tokens in zip(beam._beams, wanted, strict=True) for token in tokens}
    yield step_share("beam_branches_over_generate_step", model, step, grown.issuperset(step()))


def _filters(model: Qwen3ForCausalLM) -> Iterator[BenchRow]:
    """The filter of a step's candidates, and that of the tokens, which a search does once."""
    tokenizer = _tokenizer()
    started = time.process_time()
    allowed = allowed_ids(tokenizer, model)
    seconds = time.process_time() - started
    letters = [chr(code) for code in range(33, 127)]
    # Of the single bytes those that are printable; of the joined tokens all are.
    exact = len(allowed) == VOCABULARY - 256 + len([*letters, " "])
    yield BenchRow(
        "allowed_tokens_seconds_once_a_search", seconds, seconds, seconds, exact=exact, note="processor time"
    )
    vocabulary = Vocabulary(tokenizer, allowed, TAILS)
    dice = random.Random(0)
    candidates: list[Ids] = [tuple(dice.choices(allowed, k=LENGTH)) for _ in range(CANDIDATES)]
    plain = [_comes_back(tokenizer, ids) for ids in candidates]
    alive = vocabulary.survive(candidates)
    yield step_share(
        "survive_over_generate_step", model, lambda: vocabulary.survive(candidates), alive == plain and any(alive)
    )


def _comes_back(tokenizer: PreTrainedTokenizerFast, ids: Ids) -> bool:
    """Whether a prefix comes back behind a line break and every tail, text by text."""
    text = str(tokenizer.decode(list(ids)))
    return all(tokenizer.encode(before + text)[-len(ids) :] == list(ids) for before in ("\n", *TAILS))


def _tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 151,936 tokens: syllables, and words of up to three of them, with and without a blank."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {letter: index for index, letter in enumerate(letters)}
    merges: list[tuple[str, str]] = []

    def join(left: str, right: str) -> str:
        ids[left + right] = len(ids)
        merges.append((left, right))
        return left + right

    consonants, vowels = [letter for letter in string.ascii_lowercase if letter not in "aeiou"], "aeiou"
    syllables = [join(*pair) for pair in product(consonants, vowels)]
    starts = [*syllables, *(join("Ġ", syllable) for syllable in syllables)]
    pairs = [join(*pair) for pair in product(starts, syllables)]
    for pair in product(pairs, syllables):
        if len(ids) == VOCABULARY:
            break
        join(*pair)
    backend = Tokenizer(BPE(vocab=ids, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False)
