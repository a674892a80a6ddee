"""The error table: codes are unique, an answer comes back as the class it was raised with, nothing leaks."""

from chalicelib import errors


def test_every_code_names_one_class_or_a_specialisation_of_it():
    for code, cls in errors.table().items():
        assert cls.code == code
        assert 400 <= cls.status < 600
        assert cls.default.endswith(".")


def test_codes_are_unique():
    seen: dict[str, type] = {}

    def walk(cls: type[errors.DepotError]) -> None:
        assert seen.setdefault(cls.code, cls) is cls, f"{cls.__name__} repeats {cls.code}"
        for sub in cls.__subclasses__():
            walk(sub)

    walk(errors.DepotError)


def test_an_answer_comes_back_as_the_class_it_was_raised_with():
    for cls in errors.table().values():
        body = cls("Told so.").to_body("request-1")
        back = errors.from_body(body, cls.status)
        assert type(back) is cls
        assert back.message == "Told so."


def test_an_answer_that_is_not_ours_says_where_to_look():
    for body in (None, "<html>", {"error": "text"}, {"error": {"code": "no_such_code"}}):
        error = errors.from_body(body, 502)
        assert isinstance(error, errors.ServicesUnavailable)
        assert "502" in error.message


def test_missing_files_and_bad_paths_are_the_builtin_kinds_too():
    assert issubclass(errors.FileMissing, FileNotFoundError)
    assert issubclass(errors.Forbidden, PermissionError)
    assert issubclass(errors.InvalidPath, ValueError)
    assert str(errors.FileMissing()) == errors.FileMissing.default
