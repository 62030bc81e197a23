"""The mutation run makes one mistake at a time, and finds those that once passed."""

import ast
import importlib.util

import pytest

from surgrad.runs.record import REPO


def script():
    spec = importlib.util.spec_from_file_location("mutation_run", REPO / "scripts" / "mutation_run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_mistake_is_one_change_that_can_be_parsed():
    module = script()
    for file in ("surgrad/neurons/surrogate.py", "surgrad/analysis/verdicts.py"):
        correct = ast.dump(ast.parse((REPO / file).read_text()))
        mistakes = [module.mistake_at(file, place) for place in module.places(file)[:40]]
        assert len(mistakes) > 10
        assert all(ast.dump(ast.parse(mistake.source)) != correct for mistake in mistakes)
        assert len({mistake.source for mistake in mistakes}) == len(mistakes)


def test_named_mistakes_are_still_in_the_code_and_their_tests_exist():
    module = script()
    for mistake in module.named():
        assert (REPO / mistake.tests[0]).exists()
    for file, tests in module.TARGETS.items():
        assert (REPO / file).exists()
        assert all((REPO / test).exists() for test in tests if test.startswith("tests/"))


@pytest.mark.slow
def test_mistakes_that_once_passed_are_found():
    script().main(["--number", "0"])
