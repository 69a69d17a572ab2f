"""The cut layers of a mesh of one compute what the whole ones do; who holds what."""

import torch
from crew import a_job_of_one
from tiny_run import PatternBatches, tiny_model

from malmoi.config import ParallelConfig, TrainConfig
from malmoi.train import tensor_parallel
from malmoi.train.layout import layout
from malmoi.train.parallel import build_mesh


def test_a_mesh_of_one_changes_nothing(tmp_path):
    changes = {"attention_bias": True, "mlp_bias": True, "attention_sinks": True, "ngram_sizes": (2,)}
    model = tiny_model(**changes, ngram_vocab_size=64).eval()
    batch = PatternBatches().batch(0)
    expected = model.hidden_states(batch.input_ids, document_ids=batch.document_ids)
    with a_job_of_one(tmp_path):
        train = TrainConfig(sequence_length=16, per_device_train_batch_size=4)
        mesh = build_mesh(layout(ParallelConfig(), 1, model.config, train), "cpu")["tensor"]
        tensor_parallel.cut(model.model, list(model.model.layers), mesh)
        found = model.hidden_states(batch.input_ids, document_ids=batch.document_ids)
        cut = {name for name, parameter in model.named_parameters() if tensor_parallel.is_cut(parameter, mesh)}
        own = tensor_parallel.own_tokens(batch.input_ids, mesh)
    torch.testing.assert_close(found, expected)
    assert torch.equal(own, batch.input_ids)
    kinds = {name.split(".", 3)[-1] for name in cut if ".layers." in name}
    products = {f"self_attn.{n}_proj" for n in "qkvo"} | {f"mlp.{n}_proj" for n in ("gate", "up", "down")}
    assert kinds == {f"{n}.{kind}" for n in products for kind in ("weight", "bias")} | {"self_attn.sinks"}
    assert len(cut) == 2 * len(kinds)  # nothing outside the two layers
