"""Valid scenarios survive JSON, and invalid ones are refused."""

from typing import Any

import pytest

from langchain_batch_embed.simulator import FAULTS, BatchApi, Scenario


def test_a_scenario_survives_json() -> None:
    """A scenario that is written and read again is equal to itself."""
    scenario = Scenario(
        tier=1, models=(), faults={"429": 0.1, "reset": 0.2}, script=("ok", "500"), api_key="k"
    )

    assert Scenario.from_json(scenario.to_json()) == scenario


@pytest.mark.parametrize(
    "options",
    [
        {"fixed_window_seconds": 10.0, "used_of": "bucket", "refusal_hint": "date"},
        {"workers": 2, "seconds_per_text": 0.5, "seconds_per_request": 1, "notices_leaving": True},
        {"max_in_flight": 8, "busy_status": 429},
        {"outages": ((0, 1.5), (10.0, 5)), "outage": "hang"},
        {"slow_periods": ((1, 2, 3.5),), "stall_factor": 5, "stall_probability": 0.1},
        {"firewall_marker": "<script>", "refuse_marker": "m", "marker_status": 500},
        {"text_limit_words": "input should not be larger than 10"},
        {"faults": {"status_424": 0.5}, "script": ("status_599", "short_one")},
        {
            "batch_api": BatchApi(
                fates=("expires", "stuck"),
                creations=("lost",),
                line_faults={"nan": 0.1, "status_500": 0.2},
                outages=((1, 2.5),),
                max_enqueued_tokens=7,
            )
        },
    ],
)
def test_every_option_survives_json(options: dict[str, Any]) -> None:
    """Options for which JSON has no type, such as tuples, come back unchanged."""
    scenario = Scenario(**options)

    assert Scenario.from_json(scenario.to_json()) == scenario
    assert all(getattr(scenario, name) == value for name, value in options.items())


@pytest.mark.parametrize(
    ("options", "quotas"),
    [
        ({}, (None, None)),
        ({"tier": 1}, (3_000, 1_000_000)),
        ({"tier": 5}, (10_000, 10_000_000)),
        ({"tier": 5, "tokens_per_minute": 7}, (10_000, 7)),
        ({"tier": 5, "requests_per_minute": 7}, (7, 10_000_000)),
    ],
)
def test_a_tier_sets_the_quotas_that_are_not_given(
    options: dict[str, Any], quotas: tuple[int | None, int | None]
) -> None:
    """A quota that is given takes precedence over the tier's."""
    assert Scenario(**options).quotas == quotas


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dimensions": 0}, "dimensions must be"),
        ({"batch_api": 1}, "batch_api must be an object"),
        ({"batch_api": {"days": 1}}, r"unknown options \['days'\]"),
        ({"batch_api": {"day": 0}}, "day must be"),
        ({"batch_api": {"max_lines": 0}}, "max_lines must be"),
        ({"batch_api": {"exists": 1}}, "exists must be"),
        ({"batch_api": {"fates": ["odd"]}}, r"unknown fates \['odd'\]"),
        ({"batch_api": {"empty_ids": "odd"}}, "empty_ids must be"),
        ({"batch_api": {"call_faults": {"odd": 0.1}}}, r"unknown call_faults \['odd'\]"),
        ({"batch_api": {"call_faults": {"lost": 2}}}, "between 0 and 1"),
        ({"batch_api": {"line_faults": {"odd": 0.1}}}, r"unknown line_faults \['odd'\]"),
        ({"max_inputs": 1.5}, "max_inputs must be"),
        ({"tokens_per_minute": 0}, "tokens_per_minute must be"),
        ({"latency": -1}, "latency must be"),
        ({"latency": "fast"}, "latency must be a number of at least 0, not 'fast'"),
        ({"bucket_seconds": True}, "bucket_seconds must be a number above 0"),
        ({"faults": {"429": "often"}}, "must be between 0 and 1"),
        ({"batch_api": {"day": 0}}, "day must be a number above 0, not 0"),
        ({"batch_api": {"running": "long"}}, "running must be a number of at least 0"),
        ({"batch_api": {"max_lines": None}}, "max_lines must be a whole number"),
        ({"batch_api": {"expired_share": 2}}, "shares must be between 0 and 1"),
        ({"hang_seconds": float("inf")}, "hang_seconds must be"),
        ({"bucket_seconds": 0}, "bucket_seconds must be"),
        ({"tier": 6}, r"tier must be one of \[1, 2, 3, 4, 5\]"),
        ({"request_tokens_by": "words"}, "request_tokens_by must be"),
        ({"refuse_marker": ""}, "refuse_marker must be text"),
        ({"refused_share": 1.1}, "refused_share must be"),
        ({"faults": {"429": -0.1}}, "must be between 0 and 1"),
        ({"faults": {"429": 0.6, "500": 0.6}}, "add up to more than 1"),
        ({"faults": {"ok": 0.5}}, "unknown faults"),
        ({"models": "text-embedding-3-small"}, "tuples of strings"),
        ({"fixed_window_seconds": 0}, "fixed_window_seconds must be a number above 0"),
        ({"used_of": "hour"}, "used_of must be one of"),
        ({"refusal_hint": "maybe"}, "refusal_hint must be one of"),
        ({"workers": 0}, "workers must be"),
        ({"workers": True}, "workers must be"),
        ({"seconds_per_text": -1}, "seconds_per_text must be"),
        ({"seconds_per_request": float("nan")}, "seconds_per_request must be"),
        ({"notices_leaving": "no"}, "notices_leaving must be True or False"),
        ({"max_in_flight": 0}, "max_in_flight must be"),
        ({"busy_status": 500}, r"busy_status must be one of \[429, 503\]"),
        ({"outage": "502"}, "outage must be one of"),
        ({"outages": (1, 2)}, r"outages must be a tuple of \(start, seconds\)"),
        ({"outages": ((1, 0),)}, "seconds above 0"),
        ({"outages": ((-1, 1),)}, "at least 0"),
        ({"outages": (("now", 1),)}, "outages must be"),
        ({"slow_periods": ((1, 2),)}, r"\(start, seconds, factor\)"),
        ({"slow_periods": ((0, float("inf"), 2),)}, "slow_periods must be"),
        ({"stall_factor": -1}, "stall_factor must be"),
        ({"firewall_marker": ""}, "firewall_marker must be text"),
        ({"text_limit_words": ""}, "text_limit_words must be text"),
        ({"marker_status": 200}, "marker_status must be 400 to 599"),
        ({"faults": {"status_200": 0.1}}, "unknown faults"),
        ({"script": ("status_4000",)}, "unknown faults"),
        ({"script": (500,)}, "unknown faults"),
    ],
)
def test_a_value_out_of_range_is_refused(options: dict[str, Any], message: str) -> None:
    """A value out of range is an error that names the option."""
    with pytest.raises(ValueError, match=message):
        Scenario(**options)


@pytest.mark.parametrize("options", [{"faults": {"4290": 0.1}}, {"script": ("ok", "4290")}])
def test_an_unknown_fault_is_refused_with_the_known_ones(options: dict[str, Any]) -> None:
    """An unknown fault is an error that lists all known ones."""
    with pytest.raises(ValueError, match="4290") as caught:
        Scenario(**options)

    assert all(name in str(caught.value) for name in FAULTS)


@pytest.mark.parametrize("text", ["[]", '{"latencies": 1}', "{", '{"latency": "fast"}'])
def test_json_that_is_no_scenario_is_refused(text: str) -> None:
    """JSON with a misspelt option or a wrong type is a ValueError."""
    with pytest.raises(ValueError, match=r".+"):
        Scenario.from_json(text)
