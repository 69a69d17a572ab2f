"""The study: the best is found, interrupted = straight, what was cut off is counted, nothing is tried twice."""

import math

import pytest

from malmoi.config import MalmoiError
from malmoi.train.guard import DivergedError
from malmoi.train.progress import Step
from malmoi.train.search_space import Setting
from malmoi.train.sweep import FEWEST, LEAST_STEPS, PARTS, REPEATS, Sweep, length

pytest.importorskip("optuna")

RATE = Setting("train.learning_rate", low=1e-4, high=1e-1, scale="log")
WORD = Setting("train.optimizer", choices=("muon", "adamw"))
OWN = {"train.learning_rate": 5e-2, "train.optimizer": "adamw"}


def loss_of(values, part, extra_seed=0):
    """A valley at a learning rate of 0.003, a little deeper with muon."""
    distance = math.log10(values["train.learning_rate"] / 3e-3) ** 2
    start = 3.0 - 0.2 * part + 0.01 * extra_seed
    return start + distance + (0.1 if values["train.optimizer"] == "adamw" else 0.0)


def step(number, held_out=None, events=()):
    return Step(number, PARTS, 1.0, 0.1, 1.0, 100 * number, 1.0, 1.0, 0, held_out, held_out, events=events)


def training(values, place, extra_seed):
    place.mkdir(parents=True)
    for part in range(1, PARTS + 1):
        yield step(part, loss_of(values, part, extra_seed))


def sweep(folder, *space, **options):
    return Sweep(folder, space or (RATE, WORD), OWN if not space else {}, **options)


def tried(study):
    return [(o.values, o.loss, o.state) for o in study.outcomes() if o.state != "interrupted"]


def run(study, number):
    while study.concluded() < number:
        study.try_next(training)
    return study


@pytest.mark.slow
def test_the_valley_is_found_and_the_recipes_own_settings_come_first(tmp_path):
    study = run(sweep(tmp_path, pruner="none"), 16)
    assert study.outcomes()[0].values == OWN
    best = study.best()
    assert 5e-4 < best.values["train.learning_rate"] < 2e-2
    assert best.values["train.optimizer"] == "muon"
    assert best.loss == pytest.approx(loss_of(best.values, PARTS))
    importances = study.importances()
    assert sum(importances.values()) == pytest.approx(1.0)
    assert importances["train.learning_rate"] > importances["train.optimizer"]


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_lagging_trials_are_ended_early(tmp_path, pruner):
    study = run(sweep(tmp_path, sampler="random", pruner=pruner), 12)
    pruned = [outcome for outcome in study.outcomes() if outcome.state == "pruned"]
    assert pruned
    assert all(len(outcome.curve) < PARTS for outcome in pruned)
    assert all(outcome.loss > study.best().loss for outcome in pruned)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_interrupted_and_resumed_tries_what_a_straight_sweep_tries(tmp_path, sampler):
    straight = tried(run(sweep(tmp_path / "straight", sampler=sampler), 6))

    def cut_off(values, place, extra_seed):
        yield step(1, loss_of(values, 1))
        raise KeyboardInterrupt

    def stopped(values, place, extra_seed):
        place.mkdir(parents=True)
        yield step(1, loss_of(values, 1), events=("interrupted",))

    study = run(sweep(tmp_path / "cut", sampler=sampler), 3)
    with pytest.raises(KeyboardInterrupt):
        study.try_next(cut_off)
    assert study.try_next(stopped).state == "interrupted"
    study.close()
    study = run(sweep(tmp_path / "cut", sampler=sampler), 6)
    assert tried(study) == straight
    cut = [outcome for outcome in study.outcomes() if outcome.state == "interrupted"]
    assert len(cut) == 2
    assert not any((tmp_path / "cut" / f"trial-{outcome.number:03d}").exists() for outcome in cut)
    assert study.seconds() == pytest.approx(sum(outcome.seconds for outcome in study.outcomes()))


def test_a_trial_whose_process_was_killed_is_marked(tmp_path):
    first = run(sweep(tmp_path), 2)
    first._ask()  # and the power fails
    again = sweep(tmp_path)
    assert again.outcomes()[-1].note == "killed"
    assert again.concluded() == 2
    assert [trial.state.name for trial in again.study.trials] == ["COMPLETE", "COMPLETE", "FAIL"]


def test_another_seed_tries_other_settings(tmp_path):
    one, other = (tried(run(sweep(tmp_path / str(seed), seed=seed), 3)) for seed in (0, 1))
    assert one[0] == other[0]  # the recipe's own
    assert one[1:] != other[1:]


def test_a_study_under_other_terms_is_refused(tmp_path):
    sweep(tmp_path, terms={"seed": 0}).close()
    with pytest.raises(MalmoiError, match="its seed was 0, and is 1 now"):
        sweep(tmp_path, terms={"seed": 1})


def test_a_damaged_study_is_one_clear_error(tmp_path):
    (tmp_path / "study.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(MalmoiError, match="cannot be opened as a study"):
        sweep(tmp_path)


def test_a_handful_of_choices_is_not_trained_twice(tmp_path):
    trained = []

    def counted(values, place, extra_seed):
        trained.append(values["train.optimizer"])
        yield from training({**values, "train.learning_rate": 1e-3}, place, extra_seed)

    study = sweep(tmp_path, WORD)
    while not study.exhausted():
        study.try_next(counted)
    assert sorted(trained) == ["adamw", "muon"]
    assert study.outcomes()[-1].note.startswith("the same as trial")


def test_a_grid_has_an_end(tmp_path):
    study = sweep(tmp_path, sampler="grid", pruner="none")
    while not study.exhausted():
        study.try_next(training)
    assert len(study.outcomes()) == 6
    assert len({str(outcome.values) for outcome in study.outcomes()}) == 6


def test_divergence_and_refusal_are_outcomes_and_a_full_disk_is_an_error(tmp_path):
    def diverging(values, place, extra_seed):
        yield step(1, 3.0)
        raise DivergedError("Training diverged: 5 of the last 10 steps. Try half the learning_rate.")

    def refused(values, place, extra_seed):
        raise MalmoiError("96 does not divide into 5 heads.")

    def full(values, place, extra_seed):
        yield step(1, 3.0)
        raise MalmoiError("No space left on the disk.")

    def not_a_number(values, place, extra_seed):
        for part in range(1, PARTS + 1):
            yield step(part, math.nan)

    study = sweep(tmp_path)
    assert study.try_next(diverging).state == "diverged"
    assert study.try_next(refused).note == "96 does not divide into 5 heads."
    assert study.try_next(not_a_number).state == "diverged"
    with pytest.raises(MalmoiError, match="No space left"):
        study.try_next(full)
    assert study.outcomes()[-1].state == "interrupted"
    assert study.best() is None
    assert study.importances() == {}


def test_a_sweep_without_a_single_finished_trial_gives_up(tmp_path):
    def refused(values, place, extra_seed):
        raise MalmoiError("It cannot be.")

    study = sweep(tmp_path)
    with pytest.raises(MalmoiError, match=r"Not one of 10 trials.*It cannot be"):
        for _ in range(11):
            study.try_next(refused)


def test_the_best_is_repeated_with_other_seeds_and_remembered(tmp_path):
    study = run(sweep(tmp_path), 3)
    for extra in range(1, REPEATS + 1):
        assert study.repeat_best(training).extra_seed == extra
    study.close()
    again = sweep(tmp_path)
    best = again.best()
    assert [repeat.loss for repeat in again.repeats()] == pytest.approx([best.loss + 0.01, best.loss + 0.02])
    assert len(again.outcomes()) == 3  # repetitions are no trials


@pytest.mark.parametrize(("keeps_best", "expected"), [(True, 2.0), (False, 2.5)])
def test_a_trial_counts_by_what_the_run_would_keep(tmp_path, keeps_best, expected):
    def turning(values, place, extra_seed):
        for part, loss in enumerate((3.0, 2.0, 2.5), 1):
            yield step(part, loss)

    assert sweep(tmp_path, keeps_best=keeps_best).try_next(turning).loss == expected


def test_gaussian_processes_propose_as_well(tmp_path):
    pytest.importorskip("scipy")
    study = run(sweep(tmp_path, RATE, sampler="gp", pruner="none", seed=3), 0)

    def valley(values, place, extra_seed):
        yield from training({**values, "train.optimizer": "muon"}, place, extra_seed)

    while study.concluded() < 7:
        study.try_next(valley)
    assert study.best().state == "finished"


def test_the_length_of_a_trial():
    share = length(3600, 1e-4, 1000, 2)  # 20 trials and 2 repetitions
    assert share.tokens == int(0.97 * 3600 / 1e-4 / 22)
    assert share.seconds == pytest.approx(share.tokens * 1e-4)
    assert length(3600, 1e-4, 1000, 2, trials=6).tokens == int(0.97 * 3600 / 1e-4 / 8)
    assert length(3600, 1e-4, 1000, 2, own_tokens=50_000).tokens == 50_000  # no longer than the run itself
    assert length(60, 1e-4, 1000, 3).tokens == LEAST_STEPS * 1000  # fewer trials before shorter ones
    assert length(3600, 1e-4, 1000, 2, tokens=77_000).tokens == 77_000
    assert length(None, 1e-4, 1000, 2, own_tokens=5000, trials=4).tokens == 5000


def test_a_budget_that_cannot_hold_five_trials_says_what_would():
    with pytest.raises(MalmoiError, match=rf"too short: {FEWEST} trials of 40,000 tokens.*--budget 1min"):
        length(5, 1e-4, 1000, 2)
    with pytest.raises(MalmoiError, match="30 trials of"):
        length(60, 1e-4, 1000, 2, trials=30)
    with pytest.raises(MalmoiError, match="needs an end"):
        length(None, 1e-4, 1000, 2, own_tokens=5000)
