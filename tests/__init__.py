"""Tests are grouped by what they prove: a file says in its first line which promises are its own."""

import pytest

pytest.register_assert_rewrite("tests.metric_tester", "tests.source")  # they assert, and are no test files themselves
