"""Each family of reasoners in small: its tags, its order of turns, its class; a random model that says what it is told.

The templates are our own and minimal: they have the control tokens, the turns and the generation prompt of the
published ones, and what those do with an earlier answer, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MllamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.mllama.configuration_mllama import MllamaTextConfig

from tests.support.chat_reasoner import CORPUS

_CHATML = "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
_FORGETFUL = (
    "{% set content = message.content.split('</think>')[-1] if message.role == 'assistant' else message.content %}"
)


def _template(turn: str, prompt: str, before: str = "") -> str:
    turns = f"{{% for message in messages %}}{turn}{{% endfor %}}"
    return f"{before}{turns}{{% if add_generation_prompt %}}{prompt}{{% endif %}}"


QWEN3 = _template(
    f"{_FORGETFUL}<|im_start|>{{{{ message.role }}}}\n{{{{ content }}}}<|im_end|>\n",
    "<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}",
)
OPENED = _template(
    f"{_FORGETFUL}<|im_start|>{{{{ message.role }}}}\n{{{{ content }}}}<|im_end|>\n", "<|im_start|>assistant\n<think>\n"
)
DEEPSEEK = _template(
    f"{_FORGETFUL}"
    "{% if message.role == 'assistant' %}<｜Assistant｜>{{ content }}<｜end▁of▁sentence｜>"
    "{% elif message.role == 'user' %}<｜User｜>{{ content }}{% else %}{{ content }}{% endif %}",
    "<｜Assistant｜><think>\n",
    "{{ bos_token }}",
)
PHI4 = _template(
    "<|im_start|>{{ message.role }}<|im_sep|>{{ message.content }}<|im_end|>",
    "<|im_start|>assistant<|im_sep|>",
    "<|im_start|>system<|im_sep|>Use the format: <think> {Thought section} </think> {Solution section}.<|im_end|>",
)
HARMONY = _template(
    "{% if '<|channel|>analysis<|message|>' in message.content %}{{ raise_exception('channel tags in content') }}"
    "{% endif %}"
    "{% if message.role == 'system' %}<|start|>developer<|message|># Instructions\n\n{{ message.content }}\n\n<|end|>"
    "{% elif message.role == 'user' %}<|start|>user<|message|>{{ message.content }}<|end|>"
    "{% else %}<|start|>assistant<|channel|>final<|message|>{{ message.content }}<|end|>{% endif %}",
    "<|start|>assistant",
    "<|start|>system<|message|>Reasoning: medium\n\n"
    "# Valid channels: analysis, commentary, final. Channel must be included for every message.<|end|>",
)
SKY = _template(
    _CHATML,
    "<|im_start|>assistant\n",
    "{% if messages[0].role != 'system' %}<|im_start|>system\nFormat: <|begin_of_thought|> {thought with steps "
    "separated with '\\n\\n'} <|end_of_thought|> <|begin_of_solution|> {solution} <|end_of_solution|><|im_end|>\n"
    "{% endif %}",
)
LLAMA3 = _template(
    "<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n{{ message.content | trim }}<|eot_id|>",
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "{{ bos_token }}",
)

_THINK = {"<think>": False, "</think>": False}
_IM = {"<|endoftext|>": True, "<|im_start|>": True, "<|im_end|>": True}
_DEEPSEEK = {
    "<｜begin▁of▁sentence｜>": True,
    "<｜end▁of▁sentence｜>": True,
    "<｜User｜>": False,
    "<｜Assistant｜>": False,
}
_HARMONY = dict.fromkeys(("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>"), True)
_LLAMA3 = dict.fromkeys(("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), True)
_SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}


@dataclass(frozen=True)
class Published:
    """A family as it was published.

    Attributes:
        family: what it is called here.
        template: its chat template.
        control: its control tokens, and whether each is special.
        eos: the one that ends a turn.
        bos: the one that begins a chat, where there is one.
        build: makes a tiny random model of its class.
    """

    family: str
    template: str
    control: Mapping[str, bool]
    eos: str
    build: Any
    bos: str | None = None

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Its tokenizer, with the control tokens of the family."""
        return byte_level(self.template, tuple(self.control.items()), self.eos, self.bos)

    def model(self) -> PreTrainedModel:
        """A tiny random model of its class."""
        torch.manual_seed(0)
        tokenizer = self.tokenizer()
        ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.eos_token_id, "bos_token_id": 0}
        return self.build(vocab_size=len(tokenizer), **_SMALL, **ids).float().eval()


@cache
def byte_level(
    template: str, control: tuple[tuple[str, bool], ...], eos: str, bos: str | None = None
) -> PreTrainedTokenizerFast:
    """Byte-level BPE whose merges cross blanks and line breaks, with control tokens, special ones or not."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator(CORPUS * 4, trainer)
    bpe.add_tokens([AddedToken(name, special=special, normalized=False) for name, special in control if not special])
    bpe.add_special_tokens([AddedToken(name, special=True, normalized=False) for name, special in control if special])
    named = {"eos_token": eos, "pad_token": eos} | ({} if bos is None else {"bos_token": bos})
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, **named)
    fast.chat_template = template
    return fast


def _qwen3(**sizes: Any) -> PreTrainedModel:
    return Qwen3ForCausalLM(Qwen3Config(head_dim=8, **sizes))


def _qwen2(**sizes: Any) -> PreTrainedModel:
    return Qwen2ForCausalLM(Qwen2Config(**sizes))


def _llama(**sizes: Any) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**sizes))


def _phi3(**sizes: Any) -> PreTrainedModel:
    return Phi3ForCausalLM(Phi3Config(**sizes))


def _gpt_oss(**sizes: Any) -> PreTrainedModel:
    config = GptOssConfig(head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=64, **sizes)
    return GptOssForCausalLM._from_config(config, attn_implementation="eager", experts_implementation="eager")


def _mllama(**sizes: Any) -> PreTrainedModel:
    return MllamaForCausalLM(MllamaTextConfig(cross_attention_layers=[], **sizes))


PUBLISHED = {
    each.family + f"-{kind}" * bool(kind): each
    for kind, each in (
        ("qwen", Published("deepseek-r1-distill", DEEPSEEK, _DEEPSEEK | _THINK, "<｜end▁of▁sentence｜>", _qwen2,
                           "<｜begin▁of▁sentence｜>")),
        ("llama", Published("deepseek-r1-distill", DEEPSEEK, _DEEPSEEK | _THINK, "<｜end▁of▁sentence｜>", _llama,
                            "<｜begin▁of▁sentence｜>")),
        ("", Published("qwen3", QWEN3, _IM | _THINK, "<|im_end|>", _qwen3)),
        ("", Published("qwen3-thinking-2507", OPENED, _IM | _THINK, "<|im_end|>", _qwen3)),
        ("", Published("qwq", OPENED, _IM | _THINK, "<|im_end|>", _qwen2)),
        ("", Published("phi-4-reasoning", PHI4, _IM | {"<|im_sep|>": True} | _THINK, "<|im_end|>", _phi3)),
        ("", Published("gpt-oss", HARMONY, _HARMONY, "<|return|>", _gpt_oss)),
        ("", Published("begin-of-thought", SKY, _IM, "<|im_end|>", _qwen2)),
        ("", Published("llava-cot", LLAMA3, _LLAMA3, "<|eot_id|>", _mllama, "<|begin_of_text|>")),
        ("", Published("llamav-o1", LLAMA3, _LLAMA3, "<|eot_id|>", _mllama, "<|begin_of_text|>")),
    )
}  # fmt: skip
"""By name; the last two look alike to a configuration, and have to be named."""
NAMED = ("llava-cot", "llamav-o1")


def steer(model: PreTrainedModel, path: Mapping[int, int]) -> None:
    """Make `model` say what is in `path`: the token at each position. What is said elsewhere is the model's own.

    The logits are pushed, so everything before them is the real class at work, its positions included.
    """
    positions: list[torch.Tensor] = []

    def remember(_module: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        positions[:] = [kwargs.get("position_ids", args[-1])]

    def push(_module: torch.nn.Module, _args: Sequence[Any], logits: torch.Tensor) -> torch.Tensor:
        for lane, column in ((lane, column) for lane in range(logits.shape[0]) for column in range(logits.shape[1])):
            row = positions[0][min(lane, positions[0].shape[0] - 1)]
            following = path.get(int(row[column - logits.shape[1]]) + 1)
            if following is not None:
                logits[lane, column, following] += 1e4
        return logits

    rotary = next(module for name, module in model.named_modules() if name.endswith("rotary_emb"))
    rotary.register_forward_pre_hook(remember, with_kwargs=True)
    head = model.get_output_embeddings()
    assert head is not None
    head.register_forward_hook(push)
