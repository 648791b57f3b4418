"""Chat templates that stand in where a tokenizer has none (base models), as Google publishes them.

Pure data, read by `families`. A tokenizer's own template always goes first.
"""

from __future__ import annotations

__all__ = ["TURNS_1_TO_3", "TURNS_4"]

# The chat template of google/gemma-2b-it and google/gemma-2-2b-it (tokenizer_config.json), as Google
# describes it at https://ai.google.dev/gemma/docs/core/prompt-structure. The one of Gemma 3 and 3n
# differs only in a system turn, which it puts before the first question, as `prompt` does by itself.
TURNS_1_TO_3 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)

# Plain turns of Gemma 4 without tools, images and thinking, as Google describes them at
# https://ai.google.dev/gemma/docs/core/prompt-formatting-gemma4: with a system turn of its own.
TURNS_4 = (
    "{{ bos_token }}"
    "{% set first = 1 if messages[0]['role'] == 'system' else 0 %}"
    "{% for message in messages %}"
    "{% if loop.index0 >= first and (message['role'] == 'user') != ((loop.index0 - first) % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<|turn>' + role + '\n' + message['content'] | trim + '<turn|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{'<|turn>model\n'}}{% endif %}"
)
