"""The counts of a call in progress, and the report made from them."""

from langchain_batch_embed.report import Account, Report, Tally

SERVERS = ["http://one", "http://two"]


def report_of(tally: Tally) -> Report:
    """Return the report of a call with these counts."""
    return Report.of(tally, texts=3, unique=2, done=3, seconds=1.0, dollars=None)


def test_an_answer_that_names_no_tokens_counts_by_the_estimate() -> None:
    """An answer's own tokens are counted, and without them the estimate."""
    tally = Tally()
    tally.answered(7, 10)
    tally.answered(None, 10)
    assert tally.tokens == 17


def test_one_deployment_has_no_part_of_its_own() -> None:
    """With one deployment the report lists no deployments, as that one did everything."""
    tally = Tally(requests=2)
    tally.count(0, requests=2)
    assert report_of(tally).deployments == ()


def test_the_counts_of_several_calls_add_up_for_each_deployment() -> None:
    """The counts of several calls are added up for each deployment and in total."""
    total = Tally()
    for _ in range(2):
        tally = Tally()
        tally.share_among(SERVERS)
        tally.requests += 3
        tally.count(0, requests=1)
        tally.count(1, requests=2, throttled=1)
        tally.answered(50, 0, number=1)
        total.add(tally)
    report = report_of(total)
    assert report.requests == 6
    assert report.tokens == 100
    assert [part.server for part in report.deployments] == SERVERS
    assert [part.requests for part in report.deployments] == [2, 4]
    assert [part.throttled for part in report.deployments] == [0, 2]
    assert [part.tokens for part in report.deployments] == [0, 100]


def test_an_account_holds_what_runs_and_other_calls_have_sent() -> None:
    """An account adds the requests of its runs and of other calls.

    Its failures are the texts that were tried and have no vector, as often as they were announced.
    Texts without a vector that nobody requested are counted separately.
    """
    account = Account(started=10.0, texts=5, unique=3)
    account.runs += [Tally(requests=1), Tally(requests=2)]
    account.calls.requests = 4
    account.missing.update(a=2, b=1, c=1)
    account.try_all(["a", "b", "other"])
    account.has_vector("b")
    report = account.report(now=12.5, dollars=0.5)
    assert report.requests == 7
    assert (report.texts, report.unique, report.failures, report.not_requested) == (5, 3, 2, 1)
    assert report.seconds == 2.5
    assert report.dollars == 0.5
