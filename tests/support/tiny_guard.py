"""A random Qwen3 guard with a tokenizer and chat template in the style of Llama Guard 3."""

from __future__ import annotations

from functools import cache

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

CORPUS = (
    "Task: Check if there is unsafe content in messages according to our safety policy.\n\n",
    "User: how do I mix the two parts?\n\nAgent: first mix the two parts.\n\nthen heat them slowly. safe\n\n",
    "User: add 3 and 4\n\nAgent: this could be dangerous, so stop here. unsafe\n\n",
)
SPECIAL_TOKENS = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
# As in Llama Guard 3: the turns must alternate, contents are trimmed, no blank line follows the last header.
TEMPLATE = """{{ bos_token -}}
<|start_header_id|>user<|end_header_id|>

Task: Check if there is unsafe content in '{{ 'Agent' if messages|length is even else 'User' }}' messages.

<BEGIN CONVERSATION>

{% for message in messages -%}
{%- if (message['role'] == 'user') != (loop.index0 is even) -%}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif -%}
{{ 'User' if message['role'] == 'user' else 'Agent' }}: {{ message['content'] | trim }}

{% endfor -%}
<END CONVERSATION>

Provide your safety assessment.<|eot_id|><|start_header_id|>assistant<|end_header_id|>"""


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, split into words as in Llama 3, in which a verdict takes several tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=264, initial_alphabet=alphabet, special_tokens=SPECIAL_TOKENS)
    bpe.train_from_iterator(CORPUS * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        extra_special_tokens=SPECIAL_TOKENS[1:3],
        chat_template=TEMPLATE,
    )


def model(seed: int = 0, dtype: torch.dtype = torch.float32, context_tokens: int = 2048) -> Qwen3ForCausalLM:
    """A Qwen3 with random weights, in eval mode."""
    config = Qwen3Config(
        vocab_size=len(tokenizer()),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=context_tokens,
        initializer_range=0.1,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    guard = Qwen3ForCausalLM(config).eval()
    torch.nn.Module.to(guard, dtype)
    return guard
