"""From files of answers to the server on which a person judges them."""

from collections.abc import Sequence
from pathlib import Path

from cpuft.evaluate.result import read_result
from cpuft.evaluate.side_by_side import Page, content_policy, make_page, page_html, read_page
from cpuft.feedback.review import Reviewed, ReviewServer, listen
from cpuft.feedback.verdicts import Verdict, VerdictStore
from cpuft.machine.cache import key_of


def open_review(files: Sequence[Path], store: Path, port: int = 0, seed: int = 0) -> ReviewServer:
    """A server of the pages of these files, in their blind mode, which listens already.

    files: results of `cpuft eval compare` with answers, or pages of `cpuft eval samples`. seed: shuffles the sides of
    results. store: the SQLite file of verdicts. Raises ConfigError for a file that is neither, for a taken port,
    and as `VerdictStore`.
    """
    pages = {key_of(samples=page.samples): _reviewed(page) for page in (_page(path, seed) for path in files)}
    listener = listen(port)
    try:
        return ReviewServer(pages, VerdictStore(store), listener)
    except BaseException:
        listener.close()
        raise


def _page(path: Path, seed: int) -> Page:
    """The page that a file holds, or that its result makes."""
    if path.suffix.lower() in (".html", ".htm"):
        return read_page(path)
    return make_page(read_result(path).document(), seed=seed)


def _reviewed(page: Page) -> Reviewed:
    blind = Page({**page.data, "blind": True}, page.rivals)

    def html(verdicts: Sequence[Verdict], store: str) -> str:
        return page_html(blind, verdicts=verdicts, store=store)

    return Reviewed(str(page.data["title"]), page.rivals, frozenset(page.samples), html, content_policy(served=True))
