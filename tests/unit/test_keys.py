"""Ids and keys."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bananas import InvalidName
from bananas.keys import ID_LENGTH, QueueKeys, birth_priority, id_suffix, new_id, parse_public_id, task_tag

names = st.text("abcXYZ019_-", min_size=1, max_size=64)


@given(st.text(min_size=1, max_size=50), st.integers(0, 1000))
def test_an_id_carries_the_tag_of_its_task_and_its_birth_priority(task: str, priority: int) -> None:
    job_id = new_id(id_suffix(task, priority))
    assert (len(job_id), job_id[32:40], birth_priority(job_id)) == (ID_LENGTH, task_tag(task), priority)


def test_ids_grow_strictly_within_a_process() -> None:
    ids = [new_id(id_suffix("task", 500)) for _ in range(10_000)]
    assert ids == sorted(set(ids))


@given(names, names, st.none() | st.integers(0, 9999))
def test_a_public_id_finds_its_keys_from_the_text_alone(namespace: str, queue: str, shard: int | None) -> None:
    keys = QueueKeys(namespace, queue, shard)
    job_id = new_id(id_suffix("task", 500))
    found = parse_public_id(keys.public(job_id))
    assert found == (queue, shard, job_id)
    assert QueueKeys(namespace, found.queue, found.shard) == keys


def test_every_key_of_a_queue_has_its_hash_tag() -> None:
    keys = QueueKeys("shop", "email", 3)
    every = [*keys.fixed, keys.cron, keys.seen("aa"), keys.seen("aa", "claim"), keys.result("0" * 43)]
    assert {key.partition("}")[0] for key in every} == {"{shop:email:3"}
    assert len(set(every)) == len(every)


@pytest.mark.parametrize(
    "text", ["", "email", "email.", "email.0199", "a b." + "0" * 43, "email." + "g" * 43, "{x}." + "0" * 43, "a\0." + "0" * 43]
)
def test_what_is_no_public_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidName, match="job id"):
        parse_public_id(text)
