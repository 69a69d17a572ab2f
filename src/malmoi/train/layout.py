"""Which process does what: a job's processes as a grid, one axis for each way of sharing the work.

    pipeline   consecutive layers; activations go from stage to stage
    replicate  other rows of the batch, the same weights
    shard      other rows of the batch, each weight cut into slices that are gathered when a layer needs them
    tensor     the same rows; each layer's matrices and the row's tokens are cut

The product of the four is the number of processes; the last axis varies fastest, so that the processes that talk most
are neighbours on one machine. Experts borrow the shard axis: `expert` consecutive processes of it hold an equal part of
every layer's experts each. Nothing here needs torch, and everything that cannot work is refused here, before the first
weight is made.
"""

from __future__ import annotations

from dataclasses import dataclass

from malmoi.config import MalmoiError, ModelConfig, ParallelConfig, TrainConfig


@dataclass(frozen=True, slots=True)
class Layout:
    """The sizes of the axes. `stages` are the pieces that the layers are cut into: one or two for each process."""

    pipeline: int
    replicate: int
    shard: int
    expert: int
    tensor: int
    stages: int

    @property
    def rows(self) -> int:
        """Into how many parts the rows of a batch are cut."""
        return self.replicate * self.shard

    @property
    def processes(self) -> int:
        return self.pipeline * self.rows * self.tensor

    def rows_of(self, rank: int) -> int:
        """Which part of the rows a process reads."""
        return rank // self.tensor % self.rows


def layout(parallel: ParallelConfig, processes: int, model: ModelConfig, train: TrainConfig) -> Layout:
    """The grid that `parallel` asks for on so many processes.

    Raises `MalmoiError`, naming the two numbers that do not fit, for a combination that cannot work.
    """
    others = parallel.pipeline_parallel * parallel.data_parallel_replicate * parallel.tensor_parallel
    shard = parallel.data_parallel_shard or max(processes // others, 1)
    if others * shard != processes:
        raise MalmoiError(
            f"The job has {processes} processes, but parallel asks for {others * shard} (pipeline_parallel "
            f"{parallel.pipeline_parallel} x data_parallel_replicate {parallel.data_parallel_replicate} x "
            f"data_parallel_shard {shard} x tensor_parallel {parallel.tensor_parallel}). Make the product equal."
        )
    pieces = 2 if parallel.pipeline_schedule == "interleaved" and parallel.pipeline_parallel > 1 else 1
    grid = Layout(
        pipeline=parallel.pipeline_parallel,
        replicate=parallel.data_parallel_replicate,
        shard=shard,
        expert=parallel.expert_parallel,
        tensor=parallel.tensor_parallel,
        stages=parallel.pipeline_parallel * pieces,
    )
    _check_batch(grid, train)
    _check_model(grid, model)
    if train.torch_compile:
        raise MalmoiError("train.torch_compile is for one process so far. Leave it out of a job of several.")
    if train.max_minutes is not None and processes > 1:
        raise MalmoiError(
            "train.max_minutes is for one process: the clocks of several do not agree. Set train.max_steps or "
            "train.num_train_epochs."
        )
    return grid


def _divides(parts: int, whole: int, axis: str, what: str) -> None:
    if whole % parts:
        raise MalmoiError(f"{axis} = {parts} does not divide {what} = {whole}. Choose numbers that fit.")


def _check_batch(grid: Layout, train: TrainConfig) -> None:
    rows = "data_parallel_replicate x data_parallel_shard"
    _divides(grid.rows, train.per_device_train_batch_size, rows, "train.per_device_train_batch_size")
    _divides(grid.tensor, train.sequence_length, "tensor_parallel", "train.sequence_length")
    pieces = train.gradient_accumulation_steps
    if train.short_rows_steps and (grid.pipeline > 1 or grid.tensor > 1):
        raise MalmoiError(
            "train.short_rows_steps changes the shape of a batch, which pipeline_parallel and tensor_parallel fix. Set "
            "it to 0, or use data_parallel_* alone."
        )
    if grid.pipeline == 1:
        return
    if pieces < grid.stages:
        raise MalmoiError(
            f"A pipeline of {grid.stages} stages needs at least as many pieces of a batch to keep busy, but "
            f"train.gradient_accumulation_steps = {pieces}. Raise it (and lower per_device_train_batch_size)."
        )
    if grid.stages > grid.pipeline:
        _divides(grid.pipeline, pieces, "pipeline_parallel (interleaved)", "train.gradient_accumulation_steps")


def _check_model(grid: Layout, model: ModelConfig) -> None:
    _divides(grid.tensor, model.num_attention_heads, "tensor_parallel", "model.num_attention_heads")
    _divides(grid.tensor, model.num_key_value_heads, "tensor_parallel", "model.num_key_value_heads")
    if grid.stages > model.num_hidden_layers:
        raise MalmoiError(
            f"{grid.stages} pipeline stages are more than model.num_hidden_layers = {model.num_hidden_layers}: some "
            f"would have nothing to do."
        )
    if model.num_experts == 0:
        _divides(grid.tensor, model.intermediate_size, "tensor_parallel", "model.intermediate_size")
        if grid.expert > 1:
            raise MalmoiError(f"expert_parallel = {grid.expert}, but the model has no experts (model.num_experts = 0).")
    else:
        _divides(grid.expert, model.num_experts, "expert_parallel", "model.num_experts")
        _divides(grid.expert, grid.shard, "expert_parallel", "data_parallel_shard")


def layers_of(stage: int, grid: Layout, layers: int) -> range:
    """The layers of a stage: consecutive, equal in number where that is possible, else one more for the later ones."""
    return range(layers * stage // grid.stages, layers * (stage + 1) // grid.stages)
