"""A page as a parser sees it that forgives nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree.ElementTree import Element

import html5lib

SVG = "{http://www.w3.org/2000/svg}"


def parse(page: str) -> Element:
    """Parse a page; whatever is no HTML5 is an error."""
    root: Element = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(page)
    return root


def text(element: Element) -> str:
    """Give all text in an element, blanks squeezed; what begins a line is a word of its own."""
    return " ".join("".join(_pieces(element)).replace("\N{SOFT HYPHEN}", "").split())


def _pieces(element: Element) -> Iterator[str]:
    if element.tag in {"br", "li", "p", "pre", "td", "th", "h1", "h2", "h3"}:
        yield " "
    yield element.text or ""
    for child in element:
        yield from _pieces(child)
        yield child.tail or ""


def table(page: Element, caption: str) -> list[dict[str, str]]:
    """Give the rows in the body of the table with this caption, by heading."""
    [found] = [
        each for each in page.iter("table") if (title := each.find("caption")) is not None and caption in text(title)
    ]
    headings = [text(cell) for cell in found.iterfind("thead/tr/th")]
    return [
        dict(zip(headings, [text(cell) for cell in row], strict=True))
        for row in found.iterfind("tbody/tr")
        if len(row) == len(headings)
    ]


def section(page: Element, name: str) -> Element:
    """Give a section by its id."""
    [found] = [each for each in page.iter("section") if each.get("id") == name]
    return found


def labelled(page: Element) -> Iterator[tuple[Element, str]]:
    """Give what names itself by another element, and that one's id."""
    for element in page.iter():
        for attribute in ("aria-labelledby", "aria-describedby"):
            for name in (element.get(attribute) or "").split():
                yield element, name


def drawn(page: Element) -> str:
    """Give what the charts say in letters."""
    return " ".join(" ".join(each.itertext()) for each in page.iter(f"{SVG}text"))


def figures(value: str) -> list[float]:
    """Give the numbers in a text."""
    return [float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?:\.\d+)?", value)]
