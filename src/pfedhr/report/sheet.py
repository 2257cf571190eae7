"""A table of text, and how it is written: on a terminal, as Markdown, as LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from pfedhr.report.console import LAYOUT

_LATEX = str.maketrans(
    {
        **{letter: f"\\{letter}" for letter in "%_&#${}"},
        **{"±": r"$\pm$", "\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"},
        **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
    }
)
_MARKDOWN = str.maketrans({"|": r"\|", "<": "&lt;", "\\": r"\\", "&": "&amp;"})
"""What names may hold and would end a cell or vanish in Markdown, whose emphasis cells may have."""


@dataclass(frozen=True)
class Sheet:
    """A titled table; each row has a cell a heading."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]

    def only(self, *headings: str) -> Sheet:
        """Return the table with these columns alone."""
        places = [list(self.headings).index(heading) for heading in headings]
        return Sheet(self.title, headings, [[row[place] for place in places] for row in self.rows])

    def filled(self) -> Sheet:
        """Return the table without columns in which no row has anything."""
        return self.only(*(heading for place, heading in enumerate(self.headings) if any(row[place] for row in self.rows)))

    def console(self) -> Table:
        """Return the table for a terminal: the first column to the left, all others to the right."""
        table = Table(title=escape(self.title), **LAYOUT)
        for place, heading in enumerate(self.headings):
            table.add_column(heading, justify="right" if place else "left")
        for row in self.rows:
            table.add_row(*map(escape, row))
        return table

    def markdown(self) -> str:
        """Return the table as GitHub's Markdown under its title."""

        def line(cells: Sequence[str]) -> str:
            return f"| {' | '.join(cell.translate(_MARKDOWN) for cell in cells)} |\n"

        marks = ["---", *(["---:"] * (len(self.headings) - 1))]
        return f"**{self.title.translate(_MARKDOWN)}**\n\n" + "".join(map(line, [self.headings, marks, *self.rows]))

    def latex(self) -> str:
        """Return the table in LaTeX, its title as the caption (booktabs)."""

        def line(cells: Sequence[str]) -> str:
            return " & ".join(cell.translate(_LATEX) for cell in cells) + r" \\"

        columns = "l" + "r" * (len(self.headings) - 1)
        head = [
            r"\begin{table}",
            rf"\caption{{{self.title.translate(_LATEX)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
        ]
        body = [line(self.headings), r"\midrule", *map(line, self.rows)]
        return "\n".join([*head, *body, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"
