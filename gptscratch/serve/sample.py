"""One text of a request while it is decoded: what chooses its tokens, and what was sent of it."""

from __future__ import annotations

import itertools

from gptscratch.config import SampleConfig
from gptscratch.generation.generate import logits_processors, random_numbers
from gptscratch.generation.generator import Generator
from gptscratch.generation.logprobs import GeneratedToken, TokenTexts
from gptscratch.serve.schema import Prompt
from gptscratch.tokenizer.detokenize import DecodeStream, complete_text


class Sample:
    """A text that continues a prompt: the same one as that of ``sample``, whatever is decoded with it."""

    def __init__(
        self,
        generator: Generator,
        prompt: Prompt,
        config: SampleConfig,
        *,
        number: int = 0,
        max_tokens: int | None = None,
        n_best: int | None = None,
        scores_prompt: bool = False,
        stream: bool = False,
    ) -> None:
        """
        Args:
            number: of the text among those of the prompt; its seed is (seed, number).
            max_tokens: 0: only the prompt is scored; None: that of the config.
            n_best: adds log-probabilities, and this many alternatives.
            scores_prompt: the tokens of the prompt get them too.
            stream: tokens are reported as they come, otherwise when the text is complete.
        """
        self.config, self.n_best, self.stream = config, n_best, stream
        self.max_tokens = config.max_tokens if max_tokens is None else max_tokens
        tokenizer = generator.tokenizer
        self.prompt = prompt if isinstance(prompt, str) else complete_text(tokenizer, prompt)
        ids = tokenizer.encode(prompt, specials=True) if isinstance(prompt, str) else prompt
        self.prompt_ids = generator.readable(ids)
        self.texts = TokenTexts(DecodeStream(tokenizer, self.prompt, ids), config.stop)
        self.scores_prompt = scores_prompt
        self.prompt_offsets = _offsets(generator, prompt) if scores_prompt else []
        self.sampling = (config.temperature, config.top_k, config.top_p, config.min_p)
        self.random = random_numbers(config.seed, [number], generator.model.token_embedding.weight.device)
        self.processors = logits_processors(generator.model, [self.prompt_ids], config, generator.training)
        self.canceled = False  # set by another thread
        # Results:
        self.prompt_tokens: list[GeneratedToken] = []  # with what begins an empty prompt
        self.tokens: list[GeneratedToken] = []  # generated, and not reported yet
        self.generated = 0
        self.finish: str | None = None  # "stop", "length", or None while more can come
        self.error: Exception | None = None

    @property
    def done(self) -> bool:
        return self.finish is not None or self.error is not None

    def take(self, token: GeneratedToken, *, ends: bool) -> None:
        """One more token; with ``ends`` it is none of the text."""
        if ends:
            self._complete("stop")
            return
        self.generated += 1
        self.tokens += self.texts.feed(token)
        if self.texts.ended:
            self.finish = "stop"
        elif self.generated == self.max_tokens:
            self._complete("length")

    def _complete(self, reason: str) -> None:
        self.tokens += self.texts.feed(None)
        self.finish = reason

    def report(self) -> list[GeneratedToken]:
        """The tokens that were not reported yet."""
        new, self.tokens = self.tokens, []
        return new


def _offsets(generator: Generator, prompt: Prompt) -> list[int]:
    """Where each token of the prompt that the model reads begins in its text, in characters."""
    tokenizer = generator.tokenizer
    if isinstance(prompt, str):
        spans = tokenizer.spans(prompt, specials=True)
        return [start for token_id, start, _ in spans if generator.known([token_id])]
    stream = DecodeStream(tokenizer)
    return list(itertools.accumulate((len(stream.feed(i)) for i in prompt[:-1]), initial=0))
