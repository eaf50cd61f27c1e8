import hashlib

from mlxtune.core.hashing import sha256_file, sha256_json, unit_interval


def test_json_hash_ignores_key_order():
    assert sha256_json({"b": [1, "é"], "a": None}) == hashlib.sha256(b'{"a":null,"b":[1,"\\u00e9"]}').hexdigest()
    assert sha256_json({"a": 1, "b": 2}) == sha256_json({"b": 2, "a": 1})
    assert sha256_json(["a", "b"]) != sha256_json(["b", "a"])
    assert sha256_json("\ud800")  # a lone surrogate has a hash too


def test_file_hash_is_of_its_bytes(tmp_path):
    (tmp_path / "f").write_bytes(b"x" * 3_000_000)
    assert sha256_file(tmp_path / "f") == hashlib.sha256(b"x" * 3_000_000).hexdigest()


def test_unit_interval_is_stable_and_uniform():
    expected = int(hashlib.sha256(b"7\x1fabc").hexdigest()[:14], 16) / 2**56
    assert unit_interval(7, "abc") == expected
    assert unit_interval(7, "abc") != unit_interval(8, "abc")
    draws = [unit_interval(1, number) for number in range(4000)]
    assert all(0 <= draw < 1 for draw in draws)
    for tenth in range(10):
        count = sum(tenth / 10 <= draw < (tenth + 1) / 10 for draw in draws)
        assert abs(count - 400) < 100  # more than five standard deviations
