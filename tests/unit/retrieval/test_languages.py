import pytest

from services.retrieval.languages import is_known


@pytest.mark.parametrize(
    ("text", "languages", "known"),
    [
        ("How does it work?", ("en",), True),
        ("Как это работает?", ("en",), False),
        ("这是怎么工作的？", ("en",), False),
        ("Как это работает?", ("en", "ru"), True),
        ("这是怎么工作的？", ("zh-Hans",), True),
        ("Как настроить Envoy, чтобы он не рвал поток?", ("en",), False),
        ("The Russian word мир means peace and world", ("en",), True),
        ("Как это работает?", (), True),
        ("2 + 2 = 4", ("en",), True),
        ("", ("en",), True),
        ("Πώς λειτουργεί;", ("en",), False),
    ],
)
def test_known_by_script(text: str, languages: tuple[str, ...], known: bool) -> None:
    assert is_known(text, languages) is known
