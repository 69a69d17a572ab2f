"""What may be asked, field by field: OpenAI's names, and vLLM's where OpenAI has none.

Every bound stands here, so that the OpenAPI document says what the server really takes. A field that is not in a schema
is an error that names it: to drop a wish silently would be to answer another question.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictStr

from malmoi.serve import limits

Stop = Annotated[StrictStr, Field(min_length=1, max_length=limits.STOP_CHARACTERS)]
Ids = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1, max_length=limits.ANSWER_IDS)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Body(BaseModel):
    """A JSON object whose fields are all known, and of the kind that they should be."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(Body):
    include_usage: bool = False


class Writing(Body):
    """What every request for text can say about how it is written."""

    model: str | None = Field(None, description="The name of the served model; it may be left out.")
    temperature: float | None = Field(None, ge=0, le=100, description="0: always the likeliest token.")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=2**31, description="0: off.")
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    seed: Seed | None = Field(None, description="Repeats an answer. Without one, one is drawn and told.")
    stream: bool | None = None
    user: str | None = Field(
        None, max_length=256, description="Whose request this is: prompts of different users share no cache."
    )


class Continuing(Writing):
    """What chat and plain completions have in common."""

    max_tokens: int | None = Field(None, ge=1, le=2**31)
    n: int | None = Field(None, ge=1, le=limits.ANSWERS)
    stop: Stop | Annotated[list[Stop], Field(max_length=limits.STOPS)] | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: (
        Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=limits.BIASES)] | None
    ) = Field(None, description="Token id, as a string, to what is added to its score.")
    stream_options: StreamOptions | None = None
    explain: bool | None = Field(
        None, description="Malmoi's own: how each token came to be chosen, with its seconds and estimated joules."
    )


class TextPart(Body):
    type: Literal["text"]
    text: str


class ImageUrl(Body):
    url: str = Field(description="data:image/png;base64,... only; nothing is ever fetched.")
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(Body):
    type: Literal["image_url"]
    image_url: ImageUrl


Parts = Annotated[list[TextPart | ImagePart], Field(max_length=limits.PARTS)]


class FunctionCall(Body):
    name: str
    arguments: str


class ToolCall(Body):
    id: str
    type: Literal["function"]
    function: FunctionCall


class Message(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Parts | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=limits.TOOLS)] | None = None
    tool_call_id: str | None = None


class JsonSchema(Body):
    name: str = Field(max_length=64)
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Function(Body):
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Body):
    type: Literal["function"]
    function: Function


class FunctionName(Body):
    name: str


class ToolChoice(Body):
    type: Literal["function"]
    function: FunctionName


class ChatRequest(Continuing):
    """POST /v1/chat/completions"""

    messages: list[Message] = Field(min_length=1, max_length=limits.MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=limits.TOP_LOGPROBS)
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=limits.TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = Field(None, description="An answer holds one call at most, whatever this says.")
    continue_final_message: bool | None = Field(None, description="Go on with the last message, the assistant's.")
    answer_ids: list[Annotated[int, Field(ge=0, lt=2**31)]] | None = Field(
        None, max_length=limits.ANSWER_IDS, description="Token ids of an answer begun; only what follows comes back."
    )


class CompletionRequest(Continuing):
    """POST /v1/completions"""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=limits.PROMPTS)] | Ids
    logprobs: int | None = Field(None, ge=0, le=limits.TOP_LOGPROBS)
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None


class InputText(Body):
    type: Literal["input_text", "output_text"]
    text: str
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    logprobs: Annotated[list[Any], Field(max_length=0)] | None = None


class InputItem(Body):
    type: Literal["message"] | None = None
    role: Literal["system", "developer", "user", "assistant"]
    id: str | None = None
    status: Literal["completed", "incomplete"] | None = None
    content: str | Annotated[list[InputText], Field(max_length=limits.PARTS)]


class TextFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = Field(None, max_length=64)
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class TextOptions(Body):
    format: TextFormat | None = None


class ResponsesRequest(Writing):
    """POST /v1/responses"""

    input: str | Annotated[list[InputItem], Field(min_length=1, max_length=limits.MESSAGES)]
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1, le=2**31)
    text: TextOptions | None = None
    store: Literal[False] | None = Field(None, description="Nothing is ever stored.")
    tools: Annotated[list[Any], Field(max_length=0)] | None = Field(None, description="Tools: /v1/chat/completions.")


class EmbeddingsRequest(Body):
    """POST /v1/embeddings"""

    input: str | Annotated[list[str], Field(min_length=1, max_length=limits.INPUTS)]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = Field(None, max_length=256)


class ImagesRequest(Body):
    """POST /v1/images/generations"""

    prompt: str = Field(min_length=1)
    model: str | None = None
    n: int | None = Field(None, ge=1, le=limits.ANSWERS)
    response_format: Literal["b64_json"] | None = Field(None, description="Pictures come as base64; none is stored.")
    temperature: float | None = Field(None, ge=0, le=100)
    guidance_scale: float | None = Field(None, ge=0, le=100)
    seed: Seed | None = None
    user: str | None = Field(None, max_length=256)


class TokenizeRequest(Body):
    """POST /tokenize"""

    text: str
    model: str | None = None


class DetokenizeRequest(Body):
    """POST /detokenize"""

    tokens: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field(max_length=limits.ANSWER_IDS)
    model: str | None = None
