"""Arithmetic word problems of one or two operations, with their solution in two steps."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

NAMES: Final = (
    "Ada", "Bilal", "Chiara", "Dmitri", "Esra", "Femi", "Greta", "Hiro", "Ines", "Jonas", "Kavya", "Liam", "Mina",
    "Noor", "Otto", "Priya", "Quentin", "Rosa", "Sven", "Tariq", "Uma", "Viktor", "Wanda", "Ximena", "Yusuf", "Zoe",
)  # fmt: skip
THINGS: Final = (
    "apples", "badges", "beads", "biscuits", "blocks", "books", "buttons", "candles", "cards", "chestnuts", "coins",
    "crayons", "cupcakes", "daisies", "envelopes", "flowers", "games", "keys", "lemons", "marbles", "muffins",
    "notebooks", "oranges", "paintings", "peaches", "pencils", "photos", "plants", "plates", "postcards", "puzzles",
    "ribbons", "seeds", "shells", "shirts", "songs", "stamps", "stickers", "tickets", "toys",
)  # fmt: skip
HOLDERS: Final = ("bags", "baskets", "boxes", "cases", "drawers", "jars", "packs", "pages", "rows", "shelves", "tables")
PLACES: Final = ("a library", "a bakery", "a school", "a museum", "a garden centre", "a farm", "a theatre", "a cafe")


@dataclass(frozen=True, slots=True)
class WordProblem:
    """A word problem and its solution.

    Attributes:
        question: the problem.
        steps: the two steps of the solution.
        result: the number asked for.
    """

    question: str
    steps: tuple[str, str]
    result: int


@dataclass(frozen=True, slots=True)
class _Draw:
    """Words and numbers of one problem; the numbers differ."""

    rng: random.Random
    name: str
    other: str
    thing: str
    holder: str
    place: str

    def number(self, low: int, high: int) -> int:
        return self.rng.randint(low, high)

    def said(self, *texts: str) -> str:
        """One of several ways to say the same."""
        return self.rng.choice(texts)


def _listed(numbers: Sequence[int]) -> str:
    *before, last = map(str, numbers)
    return f"The numbers are {', '.join(before)} and {last}."


def _one(question: str, left: int, sign: str, right: int, result: int) -> WordProblem:
    return WordProblem(question, (_listed((left, right)), f"So {left} {sign} {right} = {result}."), result)


def _two(question: str, first: tuple[str, str, int], second: tuple[str, str, int]) -> WordProblem:
    """A problem of two operations, each with words for its result, its formula and its result."""
    steps = [f"{words} {formula} = {result}." for words, formula, result in (first, second)]
    return WordProblem(question, (f"First, {steps[0]}", f"Then, {steps[1]}"), second[2])


def _gain(draw: _Draw) -> WordProblem:
    a, b = draw.number(2, 60), draw.number(2, 50)
    n, t, o = draw.name, draw.thing, draw.other
    question = draw.said(
        f"{n} has {a} {t} and finds {b} more. How many {t} does {n} have now?",
        f"There were {a} {t} on the desk. Then {o} put {b} more there. How many {t} are on the desk?",
        f"{n} collected {a} {t} and {o} collected {b}. How many {t} did they collect together?",
        f"In spring {draw.place} sold {a} {t}, and in summer it sold {b}. How many {t} were sold in all?",
        f"{n} needs {b} more {t} to reach a goal and has {a} already. How many {t} is the goal?",
        f"{n} walked {a} steps to the bridge and {b} steps home. How many steps did {n} walk altogether?",
        f"A bus with {a} people picks up {b} more. How many people are on the bus now?",
        f"{n} spent {a} dollars on {t} and {b} dollars on lunch. How many dollars did {n} spend?",
        f"After giving {b} {t} to {o}, {n} still has {a}. How many {t} did {n} have at first?",
    )
    return _one(question, a, "+", b, a + b)


def _loss(draw: _Draw) -> WordProblem:
    a = draw.number(8, 80)
    b = draw.number(2, a - 2)
    n, t, o = draw.name, draw.thing, draw.other
    question = draw.said(
        f"{n} had {a} {t} and gave {b} of them to {o}. How many {t} are left?",
        f"There are {a} {t}. {b} of them are broken. How many {t} are not broken?",
        f"{n} has {a} {t} and {o} has {b}. How many more {t} does {n} have than {o}?",
        f"{n} wants {a} {t} and has {b} so far. How many more {t} does {n} need?",
        f"Of {a} {t} in {draw.place}, {b} were sold. How many {t} remained?",
        f"{n} and {o} have {a} {t} altogether. {b} belong to {o}. How many {t} belong to {n}?",
        f"{n} had {a} dollars and spent {b} on {t}. How many dollars are left?",
        f"A book has {a} pages. {n} has read {b} of them. How many pages are still to be read?",
        f"{a} people were in the hall. Then {b} went home. How many people stayed?",
        f"{n} is {a} years old and {o} is {b}. How many years older is {n}?",
    )
    return _one(question, a, "-", b, a - b)


def _repeat(draw: _Draw) -> WordProblem:
    a, b = draw.number(2, 12), draw.number(2, 12)
    n, t, h = draw.name, draw.thing, draw.holder
    question = draw.said(
        f"{n} has {a} {h} with {b} {t} in each. How many {t} does {n} have?",
        f"There are {a} {h}, and each holds {b} {t}. How many {t} are there in total?",
        f"{n} makes {b} {t} every day. How many {t} does {n} make in {a} days?",
        f"One of the {t} costs {b} dollars. How many dollars do {a} {t} cost?",
        f"Each of {a} children brought {b} {t}. How many {t} did they bring?",
        f"{n} earns {b} dollars an hour. How many dollars does {n} earn in {a} hours?",
        f"A ticket costs {b} dollars. How much do {a} tickets cost?",
        f"{n} planted {a} rows of {t} with {b} in each row. How many {t} did {n} plant?",
        f"Every week {n} reads {b} books. How many books will {n} have read after {a} weeks?",
    )
    return _one(question, a, "*", b, a * b)


def _share(draw: _Draw) -> WordProblem:
    b, result = draw.number(2, 10), draw.number(2, 12)
    a = b * result
    n, t, h = draw.name, draw.thing, draw.holder
    question = draw.said(
        f"{n} shares {a} {t} equally among {b} friends. How many {t} does each friend get?",
        f"{n} puts {a} {t} into {h} of {b}. How many {h} does {n} fill?",
        f"{a} {t} lie in {b} equal {h}. How many {t} are in each?",
        f"{b} {t} fit on one tray. How many trays does {n} need for {a} {t}?",
        f"It took {n} {b} days to make {a} {t}, the same number each day. How many {t} were made each day?",
        f"{n} has {a} dollars. Each of the {t} costs {b} dollars. How many {t} can {n} buy?",
        f"{n} earned {a} dollars in {b} hours. How many dollars is that an hour?",
        f"A class of {a} children is split into groups of {b}. How many groups are there?",
        f"{n} reads {b} pages a day. How many days does {n} need for {a} pages?",
    )
    return _one(question, a, "/", b, result)


def _left_then_grouped(draw: _Draw) -> WordProblem:
    size, groups, gone = draw.number(2, 9), draw.number(2, 10), draw.number(2, 30)
    rest, start = size * groups, size * groups + gone
    n, t, o, h = draw.name, draw.thing, draw.other, draw.holder
    question = draw.said(
        f"{n} had {start} {t} and gave {gone} to {o}. The rest went into {h} of {size}. How many {h} did {n} fill?",
        f"{draw.place.capitalize()} had {start} {t} and used {gone}. If {size} {t} fit in each of the {h}, how many "
        f"{h} are needed for the others?",
        f"Of {start} {t}, {gone} were lost. {n} shares the others equally among {size} friends. How many {t} does each "
        f"get?",
        f"{n} had {start} dollars and spent {gone} on lunch. How many {t} for {size} dollars each can {n} still buy?",
        f"A team had {start} players and {gone} stayed at home. The others rode in cars of {size}. How many cars "
        f"did they need?",
        f"{n} had {start} exercises to do and finished {gone} at school. At {size} exercises an hour, how many "
        f"hours will the rest take?",
        f"{start} guests were invited, but {gone} did not come. Each table seats {size}. How many tables were used?",
        f"A shelf held {start} {t}. {n} threw {gone} away and put the others into {size} equal {h}. How many {t} "
        f"are in each of the {h}?",
        f"{n} saved {start} dollars, gave {gone} to {o}, and shared what was left among {size} friends. How many "
        f"dollars did each friend get?",
    )
    return _two(
        question, ("what is left is", f"{start} - {gone}", rest), ("the rest makes", f"{rest} / {size}", groups)
    )


def _joined_then_grouped(draw: _Draw) -> WordProblem:
    size, groups = draw.number(2, 9), draw.number(2, 10)
    total = size * groups
    a = draw.number(1, total - 1)
    n, t, o, h = draw.name, draw.thing, draw.other, draw.holder
    question = draw.said(
        f"{n} brought {a} {t} and {o} brought {total - a}. They put them into {h} of {size}. How many {h} are there?",
        f"{n} has {a} old {t} and {total - a} new ones. If {size} fit in each of the {h}, how many {h} will {n} need?",
        f"{n} and {o} picked {a} and {total - a} {t} and shared them equally among {size} children. How many {t} did "
        f"each child get?",
        f"{n} earned {a} dollars on Saturday and {total - a} on Sunday. If {n} spends {size} dollars a day, how "
        f"many days will the money last?",
        f"A school sent {a} boys and {total - a} girls on a trip, {size} in each van. How many vans did they need?",
        f"{n} washed {a} red shirts and {total - a} blue shirts, {size} in each load. How many loads were there?",
        f"{n} has {a} pages of one book and {total - a} of another to read. At {size} pages a day, how many days "
        f"will that take?",
        f"{n} had {a} {t} and bought {total - a} more. They were laid out on {size} tables, equally many on each. "
        f"How many {t} lay on each table?",
        f"For every {size} bottles you get one point. {n} brought {a} bottles and {o} brought {total - a}. How "
        f"many points did they get together?",
    )
    return _two(
        question,
        ("together there are", f"{a} + {total - a}", total),
        ("in equal parts that is", f"{total} / {size}", groups),
    )


def _each_then_joined(draw: _Draw) -> WordProblem:
    a, b, c = draw.number(2, 10), draw.number(2, 10), draw.number(2, 30)
    n, t, o, h = draw.name, draw.thing, draw.other, draw.holder
    question = draw.said(
        f"{n} bought {a} {h} with {b} {t} in each, and {o} gave {n} {c} more. How many {t} does {n} have?",
        f"There are {a} {h} of {b} {t} and {c} loose ones. How many {t} are there in total?",
        f"{n} earned {b} dollars for each of {a} jobs and found {c} dollars. How many dollars does {n} have?",
        f"{n} works {a} hours for {b} dollars an hour and gets {c} dollars as a gift. How many dollars does {n} "
        f"have then?",
        f"A train has {a} wagons with {b} seats each and a bar with {c} seats. How many seats are there altogether?",
        f"{n} bought {a} tickets for {b} dollars each and a drink for {c} dollars. How many dollars did {n} pay?",
        f"{n} had {c} {t} already and then filled {a} pages with {b} {t} on each. How many {t} does {n} have now?",
        f"In a game {n} won {a} rounds for {b} points each and got {c} extra points. How many points does {n} have?",
    )
    return _two(
        question, ("all of them hold", f"{a} * {b}", a * b), ("in total there are", f"{a * b} + {c}", a * b + c)
    )


def _each_then_left(draw: _Draw) -> WordProblem:
    a, b = draw.number(3, 10), draw.number(3, 10)
    c = draw.number(2, a * b - 2)
    n, t, o, h = draw.name, draw.thing, draw.other, draw.holder
    question = draw.said(
        f"{n} bought {a} {h} with {b} {t} in each and gave {c} {t} to {o}. How many {t} are left?",
        f"There were {a} {h} of {b} {t} in {draw.place}. {c} of the {t} were sold. How many {t} were not sold?",
        f"{n} bakes {b} {t} an hour for {a} hours, and {c} are eaten. How many {t} remain?",
        f"{n} worked {a} hours for {b} dollars an hour and spent {c} dollars. How many dollars does {n} have left?",
        f"A theatre has {a} rows of {b} seats. {c} seats are taken. How many seats are free?",
        f"{n} has {a} bags of {b} {t}. {o} took {c} of the {t}. How many {t} does {n} still have?",
        f"{n} must read {a} chapters of {b} pages and has read {c} pages. How many pages are left?",
        f"{n} won {a} rounds for {b} points each and then lost {c} points. How many points did {n} end with?",
    )
    return _two(question, ("all of them hold", f"{a} * {b}", a * b), ("what is left is", f"{a * b} - {c}", a * b - c))


def _left_then_each(draw: _Draw) -> WordProblem:
    kept, gone, each = draw.number(2, 10), draw.number(2, 9), draw.number(2, 10)
    start = kept + gone
    n, t, h = draw.name, draw.thing, draw.holder
    question = draw.said(
        f"{n} bought {start} {h} of {t} and gave {gone} of the {h} away. Each holds {each} {t}. How many {t} does {n} "
        f"still have?",
        f"A quiz has {start} questions worth {each} points each. {n} missed {gone} of them. How many points did {n} "
        f"score?",
        f"{n} had {start} {t} for sale at {each} dollars each and sold all but {gone}. How many dollars did {n} make?",
        f"{n} has {start} shifts this week at {each} dollars each and misses {gone} of them. How many dollars does "
        f"{n} earn?",
        f"A baker made {start} trays of {each} rolls and dropped {gone} of the trays. How many rolls are left?",
        f"Each of the {t} sold for {each} dollars. {n} began with {start} and had {gone} left in the evening. How "
        f"many dollars did {n} take in?",
        f"{n} promised to mow {start} lawns for {each} dollars each but forgot {gone} of them. How many dollars "
        f"did {n} get?",
        f"Of {start} {h} with {each} {t} in each, {gone} were lost. How many {t} are left?",
        f"{start} friends went to a fair. {gone} of them stayed outside, and the others paid {each} dollars each. "
        f"How much did they pay altogether?",
    )
    return _two(
        question, ("what counts is", f"{start} - {gone}", kept), ("in total that is", f"{kept} * {each}", kept * each)
    )


def _joined_then_each(draw: _Draw) -> WordProblem:
    a, b, each = draw.number(2, 10), draw.number(2, 10), draw.number(2, 9)
    n, t, o, h = draw.name, draw.thing, draw.other, draw.holder
    question = draw.said(
        f"{n} has {a} {h} and {o} has {b}. Each holds {each} {t}. How many {t} do they have together?",
        f"For a party {n} ordered {a} {h} of {t} and later {b} more, with {each} {t} in each. How many {t} were "
        f"ordered?",
        f"{n} solved {a} puzzles on Monday and {b} on Tuesday, and got {each} points for each. How many points "
        f"is that?",
        f"{n} sold {a} small {t} and {b} large ones for {each} dollars each. How many dollars did {n} earn?",
        f"{n} worked {a} hours on Friday and {b} hours on Saturday for {each} dollars an hour. How many dollars "
        f"did {n} earn?",
        f"Each cage holds {a} canaries and {b} finches. How many birds are in {each} cages?",
        f"{n} has {a} stacks of red {t} and {b} stacks of green {t}, with {each} in each stack. How many {t} is "
        f"that in all?",
        f"{a} adults and {b} children each paid {each} dollars for the boat. How many dollars did they pay together?",
        f"{n} needs {a} eggs and {b} lemons for one cake. How many things does {n} need for {each} cakes?",
    )
    total = a + b
    return _two(
        question, ("together there are", f"{a} + {b}", total), ("in total that is", f"{total} * {each}", total * each)
    )


def _left_then_joined(draw: _Draw) -> WordProblem:
    a = draw.number(12, 80)
    b, c = draw.number(2, a - 2), draw.number(2, 50)
    n, t, o = draw.name, draw.thing, draw.other
    question = draw.said(
        f"{n} had {a} {t}, sold {b} and then bought {c} more. How many {t} does {n} have now?",
        f"A bus carried {a} people. At a stop {b} got off and {c} got on. How many people are on the bus?",
        f"{n} had {a} dollars, spent {b} on {t} and got {c} from {o}. How many dollars does {n} have?",
        f"A club had {a} members. In winter {b} left, and in spring {c} joined. How many members does it have?",
        f"{n} had {a} {t}. {o} took {b} of them, and then {n} found {c} more. How many {t} does {n} have?",
        f"A kitchen had {a} {t}. The cook used {b} and then bought {c}. How many {t} are in the kitchen?",
        f"{n} had {a} points, lost {b} in the next round and won {c} in the last. How many points did {n} end with?",
        f"{n} gave away {b} of {a} {t} and later got {c} for a birthday. How many {t} does {n} have at the end?",
    )
    return _two(question, ("what is left is", f"{a} - {b}", a - b), ("with the new ones", f"{a - b} + {c}", a - b + c))


def _joined_then_left(draw: _Draw) -> WordProblem:
    a, b = draw.number(5, 60), draw.number(5, 60)
    c = draw.number(2, a + b - 2)
    n, t, o = draw.name, draw.thing, draw.other
    question = draw.said(
        f"{n} picked {a} {t} and {o} picked {b}. They ate {c} of them. How many {t} are left?",
        f"{draw.place.capitalize()} got {a} {t} on Monday and {b} on Friday, and sold {c}. How many {t} does it have?",
        f"{n} has to sort {a} red and {b} blue {t} and has sorted {c}. How many {t} are still to be sorted?",
        f"{n} scored {a} points in the first round and {b} in the second, then lost {c}. How many points are that "
        f"at the end?",
        f"{n} had {a} dollars and got {b} from {o}. Then {n} spent {c}. How many dollars are left?",
        f"{n} bought {a} {t} at one shop and {b} at another. {c} of them did not work. How many good {t} did {n} get?",
        f"{n} has {a} short letters and {b} long letters to answer and has answered {c}. How many are still to be "
        f"answered?",
        f"{a} boys and {b} girls were at the party, and {c} of the children went home early. How many stayed?",
    )
    total = a + b
    return _two(question, ("together there are", f"{a} + {b}", total), ("what is left is", f"{total} - {c}", total - c))


_ONE: Final[tuple[Callable[[_Draw], WordProblem], ...]] = (_gain, _loss, _repeat, _share)
_TWO: Final[tuple[Callable[[_Draw], WordProblem], ...]] = (
    _left_then_grouped, _joined_then_grouped, _each_then_joined, _each_then_left, _left_then_each, _joined_then_each,
    _left_then_joined, _joined_then_left,
)  # fmt: skip


def word_problems(count: int, seed: int) -> list[WordProblem]:
    """Draw problems, no question twice; a quarter have one operation, the others two.

    Args:
        count: number of problems.
        seed: draws kinds, words and numbers.
    """
    rng = random.Random(f"word problems {seed}")
    found: dict[str, WordProblem] = {}
    while len(found) < count:
        kinds = _ONE if len(found) % 4 == 0 else _TWO
        name, other = rng.sample(NAMES, 2)
        draw = _Draw(rng, name, other, rng.choice(THINGS), rng.choice(HOLDERS), rng.choice(PLACES))
        problem = rng.choice(kinds)(draw)
        found.setdefault(problem.question, problem)
    return list(found.values())
