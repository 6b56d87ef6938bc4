"""A stand-in for vLLM: the calls of it that pgrpo makes, on the CPU, one prompt at a time, strict about its arguments.

It holds a model of its own, read from the folder that it is given, so what it samples depends on the weights that
reached it and on nothing else.
"""
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from transformers import AutoModelForCausalLM, DynamicCache


@dataclass(kw_only=True)
class SamplingParams:
    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    stop_token_ids: list
    seed: int
    detokenize: bool


def TokensPrompt(*, prompt_token_ids): return dict(prompt_token_ids=prompt_token_ids)


class LLM:
    made = []  # every LLM, in order

    def __init__(
        self, *, model, dtype, max_model_len, gpu_memory_utilization, skip_tokenizer_init, generation_config, seed
    ):
        assert skip_tokenizer_init and generation_config == "vllm" and 0 < gpu_memory_utilization < 1
        self.dtype, self.max_model_len, self.seed = dtype, max_model_len, seed
        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        self.handed = []   # (name, weight) of the last load
        self.loads, self.stale = 0, False
        LLM.made.append(self)
        torch.manual_seed(seed)  # as the real one does to its caller's random state

    def apply_model(self, func): return [func(self)]

    def load_weights(self, weights):
        own, self.handed = dict(self._model.named_parameters()), []
        for name, weight in weights:
            if name not in own: raise KeyError(f"there is no weight {name}")
            if (weight.shape, weight.dtype) != (own[name].shape, own[name].dtype):
                raise ValueError(f"{name} is {weight.dtype} {tuple(weight.shape)}")
            with torch.no_grad(): own[name].copy_(weight)
            self.handed.append((name, weight))
        self.loads, self.stale = self.loads + 1, True
        return {name for name, _ in self.handed}

    def reset_prefix_cache(self):
        self.stale = False
        return True

    @torch.no_grad()
    def generate(self, prompts, sampling_params, use_tqdm=True):
        if self.stale: raise RuntimeError("the cache holds keys and values of older weights")
        return [
            SimpleNamespace(outputs=[self._complete(p["prompt_token_ids"], how)])
            for p, how in zip(prompts, sampling_params, strict=True)
        ]

    def _complete(self, prompt, how):
        if len(prompt) > self.max_model_len: raise ValueError("the prompt is too long")
        assert how.top_p == 1 and how.top_k in (0, -1)
        generator, cache = torch.Generator().manual_seed(how.seed), DynamicCache(config=self._model.config)
        ids, new = torch.tensor([prompt]), []
        while len(new) < how.max_tokens and (not new or new[-1] not in how.stop_token_ids):
            logits = self._model(input_ids=ids, past_key_values=cache, use_cache=True).logits[0, -1].float()
            if how.temperature:
                new.append(int(torch.multinomial((logits / how.temperature).softmax(-1), 1, generator=generator)))
            else: new.append(int(logits.argmax()))
            ids = torch.tensor([[new[-1]]])
        return SimpleNamespace(token_ids=new, finish_reason="stop" if new[-1] in how.stop_token_ids else "length")
