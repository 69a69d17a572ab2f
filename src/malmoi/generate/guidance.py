"""Classifier-free guidance: a picture that follows its prompt more closely.

The model scores the next token twice, after the prompt and the picture so far, and after the picture alone. What the
prompt changes is exaggerated: the log-probabilities become l + s (c - l), with c those of the prompt, l those without
it and s the `guidance_scale`; s = 1 is the model as it is (Ho and Salimans, "Classifier-Free Diffusion Guidance", 2022;
for tokens: Gafni et al., "Make-A-Scene", 2022, section 3.5). Training makes that possible by showing some pictures
without a caption. Both rows go through the engine side by side, as two branches of one job.

V vocabulary
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from malmoi.generate import sampling
from malmoi.generate.image_form import ImageForm
from malmoi.generate.request import Finish
from malmoi.generate.writer import Writer


class Guided(Writer):
    """A writer of a picture that its prompt has begun; `without` are the tokens as they would stand without the prompt.
    After the picture it goes on as any other writer."""

    def __init__(self, tokens: list[int], *arguments: Any, without: list[int], **settings: Any) -> None:
        super().__init__(tokens, *arguments, **settings)
        self.without = without

    def guided(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The next token's scores (1, V) out of those with and without the prompt (2, V)."""
        if not (isinstance(self.matcher, ImageForm) and self.matcher.inside):
            return rows[:1]
        with_prompt, alone = (sampling.log_softmax(row) for row in rows)
        guided = alone + self.config.guidance_scale * (with_prompt - alone)
        return np.asarray(guided, dtype=rows.dtype)[None]

    def push(self, token: int) -> Finish | None:
        self.without.append(token)
        return super().push(token)
