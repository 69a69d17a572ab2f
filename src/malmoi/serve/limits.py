"""How much one client may ask for: every number in one place, each checked before memory is taken for it.

Servers of language models have fallen to a count (`n` = a million), to a nesting (JSON, schemas), to a size (headers,
bodies) and to waiting (a client that never finishes its request). Each has its number here. Sizes are bytes, times
seconds.
"""

from __future__ import annotations

from typing import Any

from malmoi.serve.errors import ApiError

# the connection
CONNECTIONS = 1_024  # open at once; who comes then gets 503
HEADER_BYTES = 16_384  # cookies that other programs of this machine left in the browser fit
BODY_BYTES = 1_000_000  # a million letters are more than any context here holds
PICTURE_BODY_BYTES = 10_000_000  # where the model reads pictures
BODY_SECONDS = 30.0  # for a request to arrive whole; who sends slower holds a connection for nothing
JSON_DEPTH = 32  # OpenAI's own requests need 8
KEEP_ALIVE_SECONDS = 30

# what is asked for
ANSWERS = 8  # n: each holds memory of its own
PROMPTS = 8  # of one /v1/completions
MESSAGES = 1_024
PARTS = 64  # of a message
STOPS = 16
STOP_CHARACTERS = 256
TOP_LOGPROBS = 20  # OpenAI's bound
BIASES = 1_024
TOOLS = 64
ANSWER_IDS = 131_072
INPUTS = 64  # texts of one /v1/embeddings

# grammars
SCHEMA_BYTES = 32_768
SCHEMA_DEPTH = 16
SCHEMA_NODES = 512  # objects and lists: the compiler's work grows with them
SCHEMA_REPEATS = 1_024  # minItems, maxLength ...: a number in a schema is unrolled
GRAMMAR_SECONDS = 5.0  # then the process that compiles is killed

# the queue
THREADS = 4  # that tokenize and render
RUNNING = 64  # requests in the engine
WAITING = 256  # in the queue; the next one is told when to come back
PER_KEY = 192  # of one key, in the queue or running: others always find a place
REQUEST_SECONDS = 600.0  # from the question to the last token
SEND_SECONDS = 30.0  # for one piece of a stream to leave; who reads nothing for so long is gone
HEARTBEAT_SECONDS = 10.0  # a stream with nothing to say shows that it lives
DRAIN_SECONDS = 30  # after SIGTERM, for streams to finish

_REPEATS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")


def require_schema(schema: Any, param: str) -> None:
    """Refuse a JSON schema that is too deep, has too many parts or counts too far to be compiled for a client."""
    waiting, nodes = [(schema, 1)], 0
    while waiting:
        node, depth = waiting.pop()
        if not isinstance(node, (dict, list)):
            continue
        nodes += 1
        if depth > SCHEMA_DEPTH:
            raise ApiError(400, f"The schema is deeper than {SCHEMA_DEPTH} levels.", param, "schema_limit")
        if nodes > SCHEMA_NODES:
            raise ApiError(400, f"The schema has more than {SCHEMA_NODES} objects and lists.", param, "schema_limit")
        if isinstance(node, dict):
            for name in _REPEATS:
                count = node.get(name, 0)
                if isinstance(count, (int, float)) and abs(count) > SCHEMA_REPEATS:
                    raise ApiError(400, f"The schema's {name} is above {SCHEMA_REPEATS}.", param, "schema_limit")
        waiting += [(child, depth + 1) for child in (node.values() if isinstance(node, dict) else node)]
