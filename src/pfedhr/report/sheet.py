"""A table of text, and how it is written: on a terminal, as Markdown, as LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from pfedhr.report.console import LAYOUT

_LATEX = {"%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "±": r"$\pm$"}


@dataclass(frozen=True)
class Sheet:
    """A titled table; each row has a cell a heading."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]

    def console(self) -> Table:
        """Return the table for a terminal: the first column to the left, all others to the right."""
        table = Table(title=self.title, **LAYOUT)
        for place, heading in enumerate(self.headings):
            table.add_column(heading, justify="right" if place else "left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """Return the table as GitHub's Markdown under its title."""
        lines = [list(self.headings), ["---", *(["---:"] * (len(self.headings) - 1))], *self.rows]
        return f"**{self.title}**\n\n" + "".join(
            f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines
        )

    def latex(self) -> str:
        """Return the table as a LaTeX tabular (booktabs)."""

        def line(cells: Sequence[str]) -> str:
            return " & ".join("".join(_LATEX.get(letter, letter) for letter in cell) for cell in cells) + r" \\"

        head = [f"% {self.title}", rf"\begin{{tabular}}{{l{'r' * (len(self.headings) - 1)}}}", r"\toprule", line(self.headings)]
        return "\n".join([*head, r"\midrule", *map(line, self.rows), r"\bottomrule", r"\end{tabular}"]) + "\n"

    def only(self, *headings: str) -> Sheet:
        """Return the table with these columns alone."""
        places = [list(self.headings).index(heading) for heading in headings]
        return Sheet(self.title, headings, [[row[place] for place in places] for row in self.rows])
