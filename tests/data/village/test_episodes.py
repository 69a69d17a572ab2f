"""An episode's books agree with what was told, whatever happens in it."""

from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.data.village.episodes import Episode
from malmoi.data.village.held_out import has_held_out
from malmoi.data.village.meaning import Event
from malmoi.data.village.scenes import Draw


def replayed(lines: list) -> tuple[dict, dict, dict]:
    """Where everybody is, who has what and what lies where, read from the lines alone."""
    at, holder, lies = {}, {}, {}
    for line in lines:
        if not isinstance(line, Event):
            continue
        if line.verb in ("go", "come", "run"):
            at[line.agent.name] = line.place
        elif line.verb in ("buy", "find", "make"):
            holder[line.object.noun] = line.agent.name
        elif line.verb == "give":
            holder[line.object.noun] = line.recipient.name
        elif line.verb == "put":
            del holder[line.object.noun]
            lies[line.object.noun] = line.place
    return at, holder, lies


def live(draw: Draw, moves: int) -> Episode:
    """A chain of random moves, each by one of three children."""
    episode = Episode(draw)
    names = episode.people(3)
    for _ in range(moves):
        name, other = draw.some(names, 2)
        mine = [noun for noun, holder in episode.holder.items() if holder == name]
        move = draw.pick(("go", "get", "give", "put", "do", "feel", "weather"))
        if move in ("go", "get", "do", "feel"):
            getattr(episode, move)(name)
        elif move == "weather":
            episode.weather()
        elif mine and move == "give":
            episode.give(name, mine[0], other)
        elif mine and name in episode.at:
            episode.put(name, mine[0], episode.at[name])
    return episode


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), held_out=st.booleans(), moves=st.integers(0, 30))
def test_the_books_are_what_the_lines_say(seed: int, held_out: bool, moves: int):
    episode = live(Draw(seed, held_out), moves)
    assert replayed(episode.lines) == (episode.at, episode.holder, episode.lies)
    assert set(episode.holder) | set(episode.lies) == set(episode.things)
    assert not set(episode.holder) & set(episode.lies)
    if not held_out:
        assert not any(has_held_out(line) for line in episode.lines)


def test_nobody_goes_where_they_are():
    for seed in range(20):
        episode = Episode(Draw(seed, held_out=True))
        (name,) = episode.people(1)
        assert episode.go(name, "forest")
        assert not episode.go(name, "forest")
        assert len(episode.lines) == 1
        assert episode.go(name, "market")
        assert episode.at == {name: "market"}
